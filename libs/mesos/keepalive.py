"""Calls over connections of their own: a tenth of what a general HTTP client spends on each.

A scheduler acknowledges every update by a call of its own; at thousands a second that is most of what it does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import SplitResult, urlsplit

import aiohttp

from libs.mesos.answers import Answers, written
from libs.mesos.errors import CallTimeout, MesosError, ProtocolError, TransportError
from libs.mesos.http import AiohttpTransport
from libs.mesos.ports import ByteStream, Request, Response

CONNECTIONS = 16
"""Open to one address at most; with more calls under way, several share a connection."""


class KeepAliveTransport(AiohttpTransport):
    """`Transport` whose calls go over kept connections; streams, and TLS, go by the session.

    A call gets a connection that is idle, or a new one; when there are CONNECTIONS it follows another call without
    waiting for its answer, as HTTP/1.1 allows and Mesos' own clients do. One call without an answer in time takes its
    connection down, and those behind it fail as well: it may have been carried out, or not. Connections are closed
    when a stream ends: its peer may be gone.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        super().__init__(session)
        self._connections: dict[str, list[_Connection]] = {}

    async def request(self, request: Request, *, timeout_s: float) -> Response:
        """See `Transport.request`."""
        (answer,) = await self.request_all(request, [request.body or b""], timeout_s=timeout_s)
        if isinstance(answer, MesosError):
            raise answer
        return answer

    async def request_all(
        self, request: Request, bodies: Sequence[bytes], *, timeout_s: float
    ) -> list[Response | MesosError]:
        """See `Pipeline.request_all`: all on one connection."""
        parts = urlsplit(request.url)
        if parts.scheme != "http":
            return await super().request_all(request, bodies, timeout_s=timeout_s)
        lot = _Lot(len(bodies))
        connection, is_new = self._connection(parts.netloc)
        try:
            async with asyncio.timeout(timeout_s):
                connection.ask(written(request, parts, bodies), lot)
                if is_new:
                    await connection.open(parts)
                await lot.done
        except BaseException as error:
            connection.close()  # answers may still come, and would be taken for the next ones
            return [*lot.answers, *[_failure(error, timeout_s)] * lot.missing]
        return [*lot.answers]

    @asynccontextmanager
    async def stream(self, request: Request, *, timeout_s: float) -> AsyncIterator[ByteStream]:
        """See `Transport.stream`."""
        async with super().stream(request, timeout_s=timeout_s) as opened:
            try:
                yield opened
            finally:
                for connections in self._connections.values():
                    for each in connections:
                        each.close()
                self._connections.clear()

    def _connection(self, netloc: str) -> tuple[_Connection, bool]:
        """The one with the fewest calls; another one when that is not idle and there may be more. Is it new?"""
        known = self._connections.setdefault(netloc, [])
        if not all(each.usable for each in known):
            known[:] = [each for each in known if each.usable]
        least = min(known, key=_calls, default=None)
        if least is not None and (not least.calls or len(known) >= CONNECTIONS):
            return least, False
        fresh = _Connection()
        known.append(fresh)
        return fresh, True


class _Lot:
    """Calls that follow each other, and the answers that there are so far."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.answers: list[Response] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def missing(self) -> int:
        """So many have no answer yet."""
        return self.calls - len(self.answers)

    def fail(self, error: Exception) -> None:
        """No more answers will come."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # whoever opened the connection has an error of its own by now


class _Connection(asyncio.Protocol):
    """One connection, whose answers come in the order of its calls."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answers = Answers()
        self._waiting: deque[_Lot] = deque()
        self._unsent: list[bytes] = []  # until it is there
        self.usable = True

    @property
    def calls(self) -> int:
        """How many are under way."""
        return sum(each.missing for each in self._waiting)

    async def open(self, address: SplitResult) -> None:
        """Connect to a URL's host. Raises OSError."""
        host, port = address.hostname or "", address.port or 80
        await asyncio.get_running_loop().create_connection(lambda: self, host, port)

    def ask(self, data: bytes, lot: _Lot) -> None:
        """Send the requests of a lot, as soon as it is open. What becomes of it, `lot.done` tells."""
        self._waiting.append(lot)
        if self._transport is None:
            self._unsent.append(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Cut it; calls under way fail."""
        if self._transport is not None:
            self._transport.abort()
        self._fail(ConnectionResetError("the connection was closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        if not self.usable:
            self._transport.abort()
        elif self._unsent:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        try:
            answer = self._answers.feed(data)
            while answer is not None:
                self._take(answer)
                if not self._answers.goes_on:
                    self.close()
                    return
                answer = self._answers.feed(b"")
        except ProtocolError as error:
            self._fail(error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            answer = self._answers.end() if self._waiting else None
        except ProtocolError as error:
            self._fail(exc or ConnectionResetError(str(error)))
            return
        if answer is not None:
            self._take(answer)
        self._fail(exc or ConnectionResetError("the connection ended"))

    def _take(self, answer: Response) -> None:
        if not self._waiting:
            raise ProtocolError("an answer that nobody asked for")
        lot = self._waiting[0]
        lot.answers.append(answer)
        if not lot.missing:
            self._waiting.popleft()
            if not lot.done.done():
                lot.done.set_result(None)

    def _fail(self, error: Exception) -> None:
        self.usable = False
        while self._waiting:
            self._waiting.popleft().fail(error)


def _failure(error: BaseException, timeout_s: float) -> MesosError:
    """What a call failed with, as its caller knows it. Raises what is none of its failures."""
    match error:
        case MesosError():
            return error
        case TimeoutError():
            return CallTimeout(f"no answer within {timeout_s} s")
        case OSError():
            return TransportError(f"failed: {error!r}")
    raise error


def _calls(connection: _Connection) -> int:
    return connection.calls
