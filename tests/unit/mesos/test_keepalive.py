"""Calls over kept connections: answers go to whom they belong, however they are cut, and failures to all behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.mesos.answers import Answers
from libs.mesos.errors import CallTimeout, ProtocolError, TransportError
from libs.mesos.keepalive import CONNECTIONS, KeepAliveTransport
from libs.mesos.ports import Request, Response

WIRE = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nwrong"
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n"
    b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
)
ANSWERS = [(202, b""), (400, b"wrong"), (200, b"abcde"), (204, b"")]


@given(st.lists(st.integers(1, len(WIRE) - 1), max_size=12))
def test_answers_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    """Interim answers are passed over, and only the last one ends the connection."""
    places = [0, *sorted(set(cuts)), len(WIRE)]
    reader, found, goes_on = Answers(), [], []
    for start, end in pairwise(places):
        answer = reader.feed(WIRE[start:end])
        while answer is not None:
            found.append((answer.status, answer.body))
            goes_on.append(reader.goes_on)
            answer = reader.feed(b"")
    assert found == ANSWERS
    assert goes_on == [True, True, True, False]


@pytest.mark.parametrize(
    "wire",
    [
        b"SMTP ready\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"x" * 100_000,
    ],
)
def test_what_is_no_answer_is_refused(wire: bytes) -> None:
    """And so is what would never end."""
    with pytest.raises(ProtocolError):
        Answers().feed(wire)


def test_an_answer_that_ends_with_its_connection() -> None:
    """Without a length the end is the end; half an answer is none."""
    reader = Answers()
    assert reader.feed(b"HTTP/1.0 200 OK\r\n\r\nall of") is None
    assert reader.feed(b" it") is None
    assert reader.end() == Response(200, {"connection": "close"}, b"all of it")
    assert not reader.goes_on
    reader = Answers()
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    with pytest.raises(ProtocolError):
        reader.end()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _served(serve: Serve) -> AsyncIterator[tuple[KeepAliveTransport, str]]:
    """A transport, and where `serve` answers it."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/call"
        async with aiohttp.ClientSession() as session:
            transport = KeepAliveTransport(session)
            yield transport, url
            async with transport.stream(Request("POST", url, {}, b"end"), timeout_s=5.0):
                pass  # with a stream's end all connections end


async def _calls(serve: Serve, count: int, timeout_s: float = 5.0) -> list[object]:
    """What so many calls at once come to."""
    async with _served(serve) as (transport, url):
        requests = [Request("POST", url, {"X": "1"}, b"%d" % n) for n in range(count)]
        calls = [transport.request(each, timeout_s=timeout_s) for each in requests]
        return list(await asyncio.gather(*calls, return_exceptions=True))


async def _body(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]
    return await reader.readexactly(int(length))


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            body = await _body(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


async def test_each_call_gets_its_own_answer() -> None:
    """Many calls share a few connections."""
    peers = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        await _echo(reader, writer)

    found = await _calls(serve, 300)
    assert [each.body for each in found if isinstance(each, Response)] == [
        b"%d" % n for n in range(300)
    ]
    assert len(peers) <= CONNECTIONS + 1  # and the stream's


async def test_silence_and_a_cut_fail_all_that_wait() -> None:
    """Nobody waits for ever, and nobody gets another one's answer."""
    cut = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        body = await _body(reader)
        if body == b"end":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        elif body == b"0":
            cut += 1
        else:
            await reader.read()
        writer.close()

    found = await _calls(serve, 40, timeout_s=0.3)
    assert cut == 1
    assert all(isinstance(each, TransportError) for each in found)
    assert any(isinstance(each, CallTimeout) for each in found)


async def test_a_lot_of_calls_shares_a_connection_and_gets_what_came_before_a_cut() -> None:
    """Answers are in the order of the bodies; what was not answered failed."""
    peers = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        try:
            while (body := await _body(reader)) != b"cut":
                length = len(body)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (length, body))
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async with _served(serve) as (transport, url):
        request = Request("POST", url, {"X": "1"})
        bodies = [b"%d" % n for n in range(100)]
        whole = await transport.request_all(request, bodies, timeout_s=5.0)
        assert [each.body for each in whole if isinstance(each, Response)] == bodies
        assert len(peers) == 1
        broken = [b"0", b"1", b"cut", b"3"]
        *answered, third, last = await transport.request_all(request, broken, timeout_s=5.0)
        assert [each.body for each in answered if isinstance(each, Response)] == [b"0", b"1"]
        assert isinstance(third, TransportError) and isinstance(last, TransportError)
