"""Sockets around `HttpApp`: the aiohttp server, and the client that calls peers by name.

A peer that lives in this process is called directly with the same bytes (`LocalServices`); one elsewhere by HTTP
over TCP or a unix socket. Both carry the trace, and the caller's token if it has one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

import aiohttp
from aiohttp import web

from libs.common.errors import TimedOut, Unavailable
from libs.common.http import MAX_BODY_BYTES, Dispatcher, Response
from libs.common.telemetry import current_traceparent
from libs.common.tokens import TokenSigner

SHUTDOWN_S = 5.0
READER_LOOK_S = 0.5


@asynccontextmanager
async def serve(app: Dispatcher, address: str) -> AsyncIterator[str]:
    """Serve `app` at `host:port` (port 0: a free one) or `unix:/path` (mode 0600); yields the base URL."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = await app.dispatch(
            request.method, request.raw_path, request.headers, await request.read()
        )
        return await _send(request, response, readers)

    readers: set[_Reader] = set()

    async def dismiss(_server: web.Application) -> None:
        for reader in tuple(readers):
            reader.dismiss()

    server = web.Application(client_max_size=MAX_BODY_BYTES)
    server.router.add_route("*", "/{tail:.*}", handle)
    server.on_shutdown.append(dismiss)
    runner = web.AppRunner(server, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            yield await _listen_unix(runner, path)
        else:
            host, _, port = address.rpartition(":")
            site = web.TCPSite(runner, host, int(port), reuse_address=True)
            await site.start()
            bound = runner.addresses[0]
            yield f"http://{bound[0]}:{bound[1]}"
    finally:
        await runner.cleanup()


async def _listen_unix(runner: web.AppRunner, path: str) -> str:
    if os.path.exists(path):
        os.unlink(path)
    # Closed to everybody else from its first moment on, not only after a chmod.
    mask = os.umask(0o177)
    try:
        await web.UnixSite(runner, path).start()
    finally:
        os.umask(mask)
    return f"unix:{path}"


class _Reader:
    """Whoever reads an answer that goes on: noticed when gone though nothing is written, dismissed at shutdown.

    Otherwise an idle stream would be kept for a reader who left, and a stop would wait for readers that stay.
    """

    def __init__(self, request: web.Request) -> None:
        self.gone = False
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._look = self._loop.call_later(READER_LOOK_S, self._check)

    def _check(self) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            self.dismiss()
        else:
            self._look = self._loop.call_later(READER_LOOK_S, self._check)

    def dismiss(self) -> None:
        """End the answer: by cancelling the task that sends it, which `gone` tells from being cancelled."""
        if not self.gone and self._task is not None:
            self.gone = True
            self._task.cancel()

    def close(self) -> None:
        """Look no more; take the cancellation back if it was ours."""
        self._look.cancel()
        if self.gone and self._task is not None:
            self._task.uncancel()


async def _send(
    request: web.Request, response: Response, readers: set[_Reader]
) -> web.StreamResponse:
    headers = {"Content-Type": response.content_type, **response.headers}
    if response.stream is None:
        return web.Response(status=response.status, body=response.body, headers=headers)
    answer = web.StreamResponse(status=response.status, headers=headers)
    await answer.prepare(request)
    reader = _Reader(request)
    readers.add(reader)
    try:
        async for chunk in response.stream:
            await answer.write(chunk)
    except ConnectionResetError:
        pass  # the reader left
    except asyncio.CancelledError:
        if not reader.gone:
            raise
    finally:
        readers.discard(reader)
        reader.close()
        close = getattr(response.stream, "aclose", None)
        if close is not None:
            await close()
    return answer


@dataclass
class LocalServices:
    """The services of this process, by name."""

    apps: dict[str, Dispatcher] = field(default_factory=dict)


class PeerClient:
    """The `ServiceClient` of one party; see the module's docstring.

    `signer` None sends no token: for a unix socket whose file mode already says who may call.
    """

    def __init__(
        self,
        signer: TokenSigner | None,
        peers: Mapping[str, str],
        local: LocalServices | None = None,
    ) -> None:
        self._signer = signer
        self._peers = dict(peers)
        self._local = local or LocalServices()
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """Call `service` (or a base URL given in its place); see `ServiceClient.call`."""
        sent = self._headers(headers)
        traceparent = current_traceparent()
        if traceparent:
            sent["traceparent"] = traceparent
        try:
            async with asyncio.timeout(timeout_s):
                app = self._local.apps.get(service)
                if app is not None:
                    return await app.dispatch(method, path, sent, body)
                return await self._remote(service, method, path, sent, body)
        except TimeoutError:
            raise TimedOut(f"{service} did not answer {method} within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{service} can't be reached: {type(error).__name__}") from None

    async def stream(
        self, service: str, path: str, *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[bytes]:
        """The chunks of a streaming GET; ends when the peer ends it. Raises Unavailable."""
        sent = self._headers(headers)
        app = self._local.apps.get(service)
        if app is not None:
            response = await app.dispatch("GET", path, sent)
            if response.stream is None:
                yield response.body
                return
            async for chunk in response.stream:
                yield chunk
            return
        session, base = self._session(service)
        try:
            async with session.get(base + path, headers=sent) as answer:
                async for chunk in answer.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{service} can't be reached: {type(error).__name__}") from None

    async def open(
        self,
        service: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """A GET whose answer may go on for ever; see `StreamClient.open`."""
        sent = self._headers(headers)
        try:
            async with asyncio.timeout(timeout_s):
                app = self._local.apps.get(service)
                if app is not None:
                    return await app.dispatch("GET", path, sent)
                session, base = self._session(service)
                answer = await session.get(base + path, headers=sent)
        except TimeoutError:
            raise TimedOut(f"{service} did not answer GET within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{service} can't be reached: {type(error).__name__}") from None
        kept = {name.lower(): value for name, value in answer.headers.items()}
        return Response(
            answer.status,
            headers=kept,
            content_type=answer.content_type,
            stream=_Chunks(service, answer),
        )

    def _headers(self, given: Mapping[str, str] | None) -> dict[str, str]:
        own = self._signer.headers() if self._signer is not None else {}
        return {**own, **(given or {})}

    async def _remote(
        self, service: str, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        session, base = self._session(service)
        async with session.request(
            method, base + path, data=body or None, headers=headers
        ) as answer:
            return Response(
                answer.status,
                await answer.read(),
                {name.lower(): value for name, value in answer.headers.items()},
                answer.content_type,
            )

    def _session(self, service: str) -> tuple[aiohttp.ClientSession, str]:
        url = (
            service if "://" in service or service.startswith("unix:") else self._peers.get(service)
        )
        if url is None:
            raise Unavailable(f"no address is configured for {service}")
        base = "http://localhost" if url.startswith("unix:") else url.rstrip("/")
        session = self._sessions.get(url)
        if session is None or session.closed:
            connector = (
                aiohttp.UnixConnector(url.removeprefix("unix:"), limit=0)
                if url.startswith("unix:")
                else aiohttp.TCPConnector(limit=0)
            )
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
            session = aiohttp.ClientSession(connector=connector, timeout=timeout)
            self._sessions[url] = session
        return session, base

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()


class _Chunks:
    """The body of an open answer; a class, so that closing it works before the first chunk too."""

    def __init__(self, service: str, answer: aiohttp.ClientResponse) -> None:
        self._service = service
        self._answer = answer

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._answer.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            name = type(error).__name__
            raise Unavailable(f"{self._service} broke off: {name}") from None
        if not chunk:
            self._answer.release()
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Give the connection up."""
        self._answer.close()


def segment(value: str) -> str:
    """`value` as one path segment."""
    return quote(value, safe="")
