"""The aiohttp face of this package."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp

from libs.mesos.errors import CallTimeout, MesosError, TransportError
from libs.mesos.ports import ByteStream, Credentials, Request, Response, Transport


def basic_auth(credentials: Credentials | None) -> dict[str, str]:
    """The Authorization header of basic authentication, or none."""
    if credentials is None:
        return {}
    pair = f"{credentials.principal}:{credentials.secret}".encode()
    return {"Authorization": f"Basic {b64encode(pair).decode()}"}


class _AiohttpStream:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._closed = asyncio.Event()

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return {name.lower(): value for name, value in self._response.headers.items()}

    async def read(self) -> bytes:
        if self._closed.is_set():
            raise TransportError("the stream was closed on this side")
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(f"stream broken: {error!r}") from error

    def close(self) -> None:
        self._closed.set()
        self._response.close()


class AiohttpTransport:
    """`Transport` over one aiohttp session, which belongs to the caller.

    The session should have no limit of connections per host below two: a stream holds one.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, request: Request, *, timeout_s: float) -> Response:
        """See `Transport.request`."""
        try:
            async with self._session.request(
                request.method,
                request.url,
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as answer:
                body = await answer.read()
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return Response(answer.status, headers, body)
        except TimeoutError as error:
            raise CallTimeout(f"no answer within {timeout_s} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(f"{request.method} failed: {error!r}") from error

    async def request_all(
        self, request: Request, bodies: Sequence[bytes], *, timeout_s: float
    ) -> list[Response | MesosError]:
        """See `Pipeline.request_all`: side by side, each on a connection of its own."""
        return await each_alone(self, request, bodies, timeout_s)

    @asynccontextmanager
    async def stream(self, request: Request, *, timeout_s: float) -> AsyncIterator[ByteStream]:
        """See `Transport.stream`."""
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._session.request(
                    request.method,
                    request.url,
                    data=request.body,
                    headers=request.headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None),
                )
        except TimeoutError as error:
            raise CallTimeout(f"no answer within {timeout_s} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(f"{request.method} failed: {error!r}") from error
        stream = _AiohttpStream(response)
        try:
            yield stream
        finally:
            stream.close()


async def each_alone(
    transport: Transport, request: Request, bodies: Sequence[bytes], timeout_s: float
) -> list[Response | MesosError]:
    """A request with each of the bodies, side by side: what became of each, in their order."""

    async def one(body: bytes) -> Response | MesosError:
        try:
            return await transport.request(replace(request, body=body), timeout_s=timeout_s)
        except MesosError as error:
            return error

    return await asyncio.gather(*map(one, bodies))
