"""The client that calls peers by name.

A peer that lives in this process is called directly with the same bytes (`LocalServices`); one elsewhere by HTTP
over TCP or a unix socket. Both carry the caller's token and trace. A peer may have several replicas: one is used for as
long as it answers, then the next; what was sent already is sent again only when doing it twice is doing it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import aiohttp

from libs.common.errors import TimedOut, Unavailable
from libs.common.http import WAITING, Dispatcher, Response
from libs.common.telemetry import current_traceparent
from libs.common.tokens import TokenSigner

CONNECT_S = 5.0
REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})


@dataclass
class LocalServices:
    """The services of this process, by name."""

    apps: dict[str, Dispatcher] = field(default_factory=dict)


class PeerClient:
    """The `ServiceClient` of one party; see the module's docstring.

    `peers` has the URL of each service, or several with commas between. `signer` None sends no token: for a unix socket
    whose file mode already says who may call.
    """

    def __init__(
        self,
        signer: TokenSigner | None,
        peers: Mapping[str, str],
        local: LocalServices | None = None,
    ) -> None:
        self._signer = signer
        self._replicas = {name: _urls(given) for name, given in peers.items()}
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
        try:
            async with asyncio.timeout(timeout_s):
                app = self._local.apps.get(service)
                if app is not None:
                    return await app.dispatch(method, path, sent, body)
                answer = await self._ask(service, method, path, sent, body, timeout_s)
                async with answer:
                    return _response(answer, await answer.read())
        except TimeoutError:
            raise TimedOut(f"{service} did not answer {method} within {timeout_s:g} s") from None
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
                answer = await self._ask(service, "GET", path, sent, b"", timeout_s)
        except TimeoutError:
            raise TimedOut(f"{service} did not answer GET within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{service} can't be reached: {type(error).__name__}") from None
        return _response(answer, stream=_Chunks(service, answer))

    def _headers(self, given: Mapping[str, str] | None) -> dict[str, str]:
        sent = dict(given or {})
        # Who is called with credentials of a narrower kind must not get ours beside them.
        if self._signer is not None and "authorization" not in sent:
            sent = {**self._signer.headers(), **sent}
        traceparent = current_traceparent()
        if traceparent:
            sent["traceparent"] = traceparent
        return sent

    async def _ask(
        self,
        service: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        timeout_s: float,
    ) -> aiohttp.ClientResponse:
        """The answer of the first replica that gives one, the last one's failure otherwise."""
        replicas = self._urls_of(service)
        twice = method in REPEATABLE and not any(name.lower() == "if-match" for name in headers)
        order = list(replicas)
        for url in order[:-1]:
            patience_s = timeout_s / len(order) if twice else None
            try:
                async with asyncio.timeout(patience_s):
                    answer = await self._send(url, method, path, headers, body)
                if WAITING not in answer.headers:
                    return answer
                answer.release()
            except aiohttp.ClientConnectorError:
                pass  # it has not heard of it
            except (aiohttp.ClientError, OSError, TimeoutError):
                if not twice:
                    raise
            replicas.remove(url)
            replicas.append(url)
        return await self._send(order[-1], method, path, headers, body)

    async def _send(
        self, url: str, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        base = "http://localhost" if url.startswith("unix:") else url.rstrip("/")
        return await self._session(url).request(
            method, base + path, data=body or None, headers=headers
        )

    def _urls_of(self, service: str) -> list[str]:
        if "://" in service or service.startswith("unix:"):
            return [service]
        replicas = self._replicas.get(service)
        if not replicas:
            raise Unavailable(f"no address is configured for {service}")
        return replicas

    def _session(self, url: str) -> aiohttp.ClientSession:
        session = self._sessions.get(url)
        if session is None or session.closed:
            connector = (
                aiohttp.UnixConnector(url.removeprefix("unix:"), limit=0)
                if url.startswith("unix:")
                else aiohttp.TCPConnector(limit=0)
            )
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
            session = aiohttp.ClientSession(connector=connector, timeout=timeout)
            self._sessions[url] = session
        return session

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()


def _urls(given: str) -> list[str]:
    return [each.strip() for each in given.split(",") if each.strip()]


def _response(
    answer: aiohttp.ClientResponse, body: bytes = b"", stream: AsyncIterator[bytes] | None = None
) -> Response:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Response(answer.status, body, headers, answer.content_type, stream)


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
