"""Calls over connections of their own: a tenth of what a general HTTP client spends on each.

A scheduler acknowledges every update by a call of its own; at thousands a second that is most of what it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

import aiohttp

from libs.mesos.answers import Answers, head_of
from libs.mesos.errors import CallTimeout, ProtocolError, TransportError
from libs.mesos.http import AiohttpTransport
from libs.mesos.ports import ByteStream, Request, Response

MAX_IDLE = 32
"""Connections kept for later, to one address."""


class KeepAliveTransport(AiohttpTransport):
    """`Transport` whose calls share kept connections, one at a time on each; streams, and TLS, go by the session.

    As many connections are open as calls have been under way at a time, until a stream ends: then its peer may be gone.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        super().__init__(session)
        self._idle: dict[str, list[_Connection]] = {}

    async def request(self, request: Request, *, timeout_s: float) -> Response:
        """See `Transport.request`."""
        parts = urlsplit(request.url)
        if parts.scheme != "http":
            return await super().request(request, timeout_s=timeout_s)
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = self._kept(parts.netloc)
                if connection is None:
                    address = (parts.hostname or "", parts.port or 80)
                    loop = asyncio.get_running_loop()
                    _, connection = await loop.create_connection(_Connection, *address)
                answer = await connection.ask(head_of(request, parts) + (request.body or b""))
        except BaseException as error:
            if connection is not None:
                connection.close()  # its answer may still come, and belongs to nobody
            if isinstance(error, TimeoutError):
                raise CallTimeout(f"no answer within {timeout_s} s") from error
            if isinstance(error, OSError):
                raise TransportError(f"{request.method} failed: {error!r}") from error
            raise
        self._keep(parts.netloc, connection)
        return answer

    @asynccontextmanager
    async def stream(self, request: Request, *, timeout_s: float) -> AsyncIterator[ByteStream]:
        """See `Transport.stream`."""
        async with super().stream(request, timeout_s=timeout_s) as opened:
            try:
                yield opened
            finally:
                self._close_idle()

    def _close_idle(self) -> None:
        for connections in self._idle.values():
            for each in connections:
                each.close()
        self._idle.clear()

    def _kept(self, netloc: str) -> _Connection | None:
        waiting = self._idle.get(netloc, [])
        while waiting:
            connection = waiting.pop()
            if connection.usable:
                return connection
        return None

    def _keep(self, netloc: str, connection: _Connection) -> None:
        waiting = self._idle.setdefault(netloc, [])
        if connection.usable and len(waiting) < MAX_IDLE:
            waiting.append(connection)
        else:
            connection.close()


class _Connection(asyncio.Protocol):
    """One connection, on which one call is under way at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answers = Answers()
        self._waiting: asyncio.Future[Response] | None = None
        self.usable = True

    async def ask(self, data: bytes) -> Response:
        """Send a request and wait for its answer. Raises OSError, ProtocolError."""
        if self._transport is None or not self.usable:
            raise ConnectionResetError("the connection is closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._waiting

    def close(self) -> None:
        """Cut it."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        try:
            self._take(self._answers.feed(data))
        except ProtocolError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        try:
            self._take(self._answers.end())
        except ProtocolError as error:
            self._fail(exc or ConnectionResetError(str(error)))

    def _take(self, answer: Response | None) -> None:
        if answer is None:
            return
        if self._waiting is None or self._waiting.done():
            self.close()  # nobody asked
            return
        self.usable = self.usable and self._answers.goes_on
        self._waiting.set_result(answer)

    def _fail(self, error: Exception) -> None:
        self.usable = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
