"""The HTTP face of a core: aiohttp behind a door for calls, one future a request, one queue a stream."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from urllib.parse import parse_qsl

from aiohttp import web

from libs.common.clock import Clock
from libs.minimesos.door import Door
from libs.minimesos.effects import (
    CloseStream,
    Effect,
    HttpRequest,
    Input,
    OpenStream,
    Respond,
    Send,
    StreamClosed,
)

MAX_BODY_BYTES = 256 << 20
# A reader this far behind is cut off: nothing else bounds the memory it would take.
MAX_BUFFERED_BYTES = 256 << 20


class _Stream:
    """One streaming response: records wait here until written."""

    __slots__ = ("buffered_bytes", "ended", "records", "wake")

    def __init__(self) -> None:
        self.records: deque[bytes] = deque()
        self.buffered_bytes = 0
        self.ended = False
        self.wake = asyncio.Event()

    def put(self, record: bytes) -> None:
        self.records.append(record)
        self.buffered_bytes += len(record)
        if self.buffered_bytes > MAX_BUFFERED_BYTES:
            self.ended = True
        self.wake.set()

    def end(self) -> None:
        self.ended = True
        self.wake.set()


class Face:
    """Turns requests into inputs and effects into answers."""

    def __init__(self, feed: Callable[[Input], None], room: Callable[[], Awaitable[None]]) -> None:
        self._feed = feed
        self._room = room
        self._waiting: dict[str, asyncio.Future[Respond | OpenStream]] = {}
        self._streams: dict[str, _Stream] = {}
        self._numbers = count(1)

    def perform(self, effect: Effect) -> bool:
        """Do what concerns HTTP; False for other effects."""
        if isinstance(effect, Send):
            stream = self._streams.get(effect.stream)
            if stream is not None and not stream.ended:
                stream.put(b"%d\n%b" % (len(effect.data), effect.data))
        elif isinstance(effect, Respond | OpenStream):
            if isinstance(effect, OpenStream):
                self._streams[effect.stream] = _Stream()
            future = self._waiting.pop(effect.conn, None)
            if future is not None and not future.done():
                future.set_result(effect)
            elif isinstance(effect, OpenStream):
                del self._streams[effect.stream]
                self._feed(StreamClosed(effect.stream))
        elif isinstance(effect, CloseStream):
            found = self._streams.get(effect.stream)
            if found is not None:
                found.end()
        else:
            return False
        return True

    def close(self) -> None:
        """End all streams (the process stops)."""
        for stream in self._streams.values():
            stream.end()

    def ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> asyncio.Future[Respond | OpenStream]:
        """Put a request to the core; header names are lower case. Whoever waits no longer cancels the answer."""
        conn = str(next(self._numbers))
        path, _, query = target.partition("?")
        parsed = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
        answer: asyncio.Future[Respond | OpenStream] = asyncio.get_running_loop().create_future()
        self._waiting[conn] = answer
        self._feed(HttpRequest(conn, method, path, parsed, headers, body))
        return answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request of the general server's."""
        body = await request.read()
        await self._room()
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = await self.ask(request.method, request.raw_path, headers, body)
        if isinstance(answer, Respond):
            return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        return await self._stream(request, answer)

    async def _stream(self, request: web.Request, answer: OpenStream) -> web.StreamResponse:
        stream = self._streams[answer.stream]
        response = web.StreamResponse(headers=answer.headers)
        response.enable_chunked_encoding()
        try:
            await response.prepare(request)
            while True:
                while stream.records:
                    record = stream.records.popleft()
                    stream.buffered_bytes -= len(record)
                    await response.write(record)
                if stream.ended:
                    break
                stream.wake.clear()
                await stream.wake.wait()
            await response.write_eof()
        except ConnectionError:
            pass
        finally:
            self._streams.pop(answer.stream, None)
            self._feed(StreamClosed(answer.stream))
        return response


async def _strip(_request: web.Request, response: web.StreamResponse) -> None:
    # Mesos names no server, and sends no content type with an empty answer.
    response.headers.pop("Server", None)
    if isinstance(response, web.Response) and not response.body and response.status == 202:
        response.headers.pop("Content-Type", None)


@contextmanager
def free_port(ip: str, port: int) -> Iterator[socket.socket]:
    """A bound socket, so that the port is known before anything is built on it. 0: a free one."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ip, port))
        yield sock


@asynccontextmanager
async def serve(
    face: Face, sock: socket.socket, extra: list[web.RouteDef], clock: Clock
) -> AsyncIterator[None]:
    """Listen on a bound socket; `extra` routes come first."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.add_routes(extra)
    app.router.add_route("*", "/{path:.*}", face.handle)
    app.on_response_prepare.append(_strip)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    general, doors = runner.server, set[Door]()
    assert general is not None, "it is there once it is set up"
    loop = asyncio.get_running_loop()
    try:
        listening = await loop.create_server(
            lambda: Door(face.ask, general, clock, doors), sock=sock, backlog=1024
        )
        try:
            yield
        finally:
            face.close()
            listening.close()
            for door in list(doors):
                door.close()
    finally:
        await runner.cleanup()
