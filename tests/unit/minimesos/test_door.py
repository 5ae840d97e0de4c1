"""The door: calls are answered in their order, however they are cut, and all else reaches the general server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import SystemClock
from libs.minimesos.door import MAX_HEAD_BYTES, call_at
from libs.minimesos.effects import Effect, HttpRequest, Input, Respond
from libs.minimesos.face import Face, free_port, serve


def call(body: bytes, path: str = "/api/v1/scheduler", more: str = "") -> bytes:
    """As our own client writes it."""
    head = f"POST {path} HTTP/1.1\r\nHost: m\r\nMesos-Stream-Id: s\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


CALL = call(b"{}")


@given(st.integers(0, len(CALL) - 1))
def test_a_call_is_taken_when_it_is_whole(cut: int) -> None:
    assert call_at(bytearray(CALL[:cut]), 0) is None
    found = call_at(bytearray(b"x" + CALL), 1)
    assert found is not None and found[0] is not None
    assert (found[0]["mesos-stream-id"], found[0]["host"]) == ("s", "m")
    assert (CALL + b"x")[found[1] - 1 : found[2] - 1] == b"{}"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        call(b"", path="/api/v1"),
        call(b"", more="Transfer-Encoding: chunked\r\n"),
        call(b"", more="Connection: close\r\n"),
        call(b"", more="Content-Length: 1\r\n"),
        call(b"", more=" folded: x\r\n"),
        CALL.replace(b"Mesos-Stream-Id: s\r\n", b""),  # a SUBSCRIBE, whose answer has no end
        CALL.replace(b"Length: 2", b"Length: +2"),
        CALL.replace(b"Length: 2", b"Length: 99999999"),
        CALL[:40] + b"x" * MAX_HEAD_BYTES,
    ],
)
def test_what_is_left_to_the_general_server(data: bytes) -> None:
    assert call_at(bytearray(data), 0) == (None, 0, 0)


class Core:
    """Answers each request with its path and body; those with "late" in the body a moment later."""

    def __init__(self) -> None:
        self.perform: Callable[[Effect], object]

    def feed(self, event: Input) -> None:
        assert isinstance(event, HttpRequest)
        answer = Respond(event.conn, 200, {"Content-Type": "x/y"}, event.path.encode() + event.body)
        if b"never" in event.body:
            return
        if b"late" in event.body:
            asyncio.get_running_loop().call_later(0.01, self.perform, answer)
        else:
            self.perform(answer)


async def _room() -> None:
    pass


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a core."""
    core = Core()
    face = Face(core.feed, _room)
    core.perform = face.perform
    with free_port("127.0.0.1", 0) as sock:
        async with serve(face, sock, [], SystemClock()), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            try:
                yield reader, writer
            finally:
                writer.close()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The next one's body."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"\r\nDate: " in head, head
    return await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]))


async def test_calls_are_answered_in_their_order() -> None:
    """Also those behind one whose answer waits for the disk."""
    bodies = [b"late" if n % 7 == 3 else b"%d" % n for n in range(40)]
    data = b"".join(map(call, bodies))
    async with connected() as (reader, writer):
        for at in range(0, len(data), 333):
            writer.write(data[at : at + 333])
            await writer.drain()
            await asyncio.sleep(0)
        assert [await answer(reader) for _ in bodies] == [b"/api/v1/scheduler" + b for b in bodies]


async def test_a_connection_goes_on_with_whatever_comes() -> None:
    async with connected() as (reader, writer):
        writer.write(
            call(b"late") + call(b"a") + b"GET /b HTTP/1.1\r\nHost: m\r\n\r\n" + call(b"c")
        )
        expected = [b"/api/v1/schedulerlate", b"/api/v1/schedulera", b"/b", b"/api/v1/schedulerc"]
        assert [await answer(reader) for _ in expected] == expected


async def test_the_end_of_serving_cuts_who_waits() -> None:
    async with connected() as (reader, writer):
        writer.write(call(b"never"))
        await writer.drain()
    assert await reader.read() == b""
