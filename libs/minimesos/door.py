"""Where connections come in: a framework's calls are read and answered here, all else goes to a general server.

A framework acknowledges each update by a call of its own, so that calls are most of what a master serves, and reading
and answering one costs a general server more than the master has to do for it. A connection stays here while it carries
nothing but whole calls; with the first other request it goes to the general server, for good.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol, cast

from libs.common.clock import Clock
from libs.minimesos.effects import OpenStream, Respond

PATH = "/api/v1/scheduler"
START = f"POST {PATH} HTTP/1.1\r\n".encode()
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 8 << 20
"""What is larger is left to the general server."""

# Only calls of a subscribed framework carry it: what opens a stream never does.
STREAM_ID = "mesos-stream-id"
_SPECIAL = frozenset({"transfer-encoding", "expect", "connection", "upgrade", "content-encoding"})


class Asked(Protocol):
    """Puts a request to a core."""

    def __call__(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> asyncio.Future[Respond | OpenStream]: ...


class Door(asyncio.Protocol):
    """One connection. `general` makes the protocol that takes over what is no call."""

    def __init__(
        self,
        ask: Asked,
        general: Callable[[], asyncio.Protocol],
        clock: Clock,
        opened: set[Door],
    ) -> None:
        self._ask = ask
        self._general = general
        self._clock = clock
        self._opened = opened
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._stuck = False
        self._answer: asyncio.Future[Respond | OpenStream] | None = None  # is being waited for

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        # A peer that is gone without a word is noticed in the end, as by the general server.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._opened.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._opened.discard(self)
        if self._answer is not None:
            self._answer.cancel()

    def close(self) -> None:
        """Cut it."""
        self._transport.abort()

    def pause_writing(self) -> None:
        self._stuck = True  # answers are not taken: no more calls then
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._stuck = False
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._answer is None:
            self._go_on([])
        elif len(self._buffer) > MAX_BODY_BYTES:
            self._transport.pause_reading()

    def _go_on(self, answers: list[bytes]) -> None:
        """Put the calls that are there to the core, one after the other, as long as they are answered at once."""
        at = 0
        general = False
        while at < len(self._buffer) and self._answer is None:
            found = call_at(self._buffer, at)
            if found is None:
                break
            headers, start, end = found
            if headers is None:
                general = True
                break
            body, at = bytes(self._buffer[start:end]), end
            answer = self._ask("POST", PATH, headers, body)
            if answer.done():
                answers.append(self._written(answer))
            else:
                self._answer = answer
                answer.add_done_callback(self._answered)
        del self._buffer[:at]
        if answers:
            self._transport.write(b"".join(answers))
        if general:
            self._hand_over()

    def _answered(self, answer: asyncio.Future[Respond | OpenStream]) -> None:
        self._answer = None
        if not answer.cancelled():
            if not self._stuck:
                self._transport.resume_reading()
            self._go_on([self._written(answer)])

    def _written(self, answer: asyncio.Future[Respond | OpenStream]) -> bytes:
        respond = answer.result()
        assert isinstance(respond, Respond), "a call with a stream's id opens none"
        lines = "".join(f"{name}: {value}\r\n" for name, value in respond.headers.items())
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (
            _status_and_date(respond.status, int(self._clock.now())),
            lines.encode("latin-1"),
            len(respond.body),
            respond.body,
        )

    def _hand_over(self) -> None:
        self._opened.discard(self)
        protocol = self._general()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(bytes(self._buffer))
        self._buffer.clear()


def call_at(buffer: bytearray, at: int) -> tuple[Mapping[str, str] | None, int, int] | None:
    """Headers (names in lower case) of the call that begins there, and where its body begins and ends.

    None while it is not all there. Without headers what begins there is no call, or none for here.
    """
    nothing = None, at, at
    if not START.startswith(buffer[at : at + len(START)]):
        return nothing
    end = buffer.find(b"\r\n\r\n", at)
    if end < 0:
        return None if len(buffer) - at <= MAX_HEAD_BYTES else nothing
    headers, length = _head(bytes(buffer[at + len(START) : end + 2]))
    if headers is None or length > MAX_BODY_BYTES:
        return nothing
    start = end + 4
    return (headers, start, start + length) if len(buffer) >= start + length else None


@lru_cache(maxsize=256)  # the calls of a framework differ in their lengths alone
def _head(raw: bytes) -> tuple[Mapping[str, str] | None, int]:
    headers: dict[str, str] = {}
    for line in raw.decode("latin-1").split("\r\n")[:-1]:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or name != name.strip() or not name or name in headers:
            return None, 0
        headers[name] = value.strip(" \t")
    length = headers.get("content-length", "")
    if STREAM_ID not in headers or headers.keys() & _SPECIAL or not length.isdecimal():
        return None, 0
    return headers, int(length)


@lru_cache(maxsize=64)
def _status_and_date(status: int, now: int) -> bytes:
    date = formatdate(now, usegmt=True)
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {date}\r\n".encode()
