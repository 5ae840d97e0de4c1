"""As much of OpenFlow 1.3 as hostd needs: rules in and out, frames out, barriers. Sans-I/O codec and a client.

Wire format: ONF TS-006, OpenFlow Switch Specification 1.3.1. The client talks to the bridge's management socket; Open
vSwitch serves any number of clients there and keeps no controller session, so losing it costs the switch nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from libs.common.errors import TimedOut, Unavailable
from services.hostd.flows import Match, Rule

VERSION = 4
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY = 0, 1, 2, 3
PACKET_OUT, FLOW_MOD, MULTIPART_REQUEST, MULTIPART_REPLY = 13, 14, 18, 19
BARRIER_REQUEST, BARRIER_REPLY = 20, 21

ADD, DELETE = 0, 3
MULTIPART_FLOW, REPLY_MORE = 1, 0x0001
ANY, NO_BUFFER, TABLE_ALL = 0xFFFFFFFF, 0xFFFFFFFF, 0xFF
PORT_NORMAL, PORT_TABLE = 0xFFFFFFFA, 0xFFFFFFF9
APPLY_ACTIONS = 4
ALL_BITS = 0xFFFFFFFFFFFFFFFF

# Fields of OXM class 0x8000 (OpenFlow basic).
IN_PORT, ETH_SRC, ETH_TYPE, IP_PROTO, IPV4_SRC = 0, 4, 5, 10, 11
UDP_SRC, ARP_SPA, ARP_SHA = 15, 22, 24

_HEADER = struct.Struct("!BBHI")  # version, type, length, transaction
_FLOW_MOD = struct.Struct("!QQBBHHHIIIH2x")
_FLOW_STATS = struct.Struct("!HBxIIHHHH4xQQQ")  # length, table, …, cookie at [8]
MAX_MESSAGE_BYTES = 65535

CALL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: type, transaction id, and what follows the header."""

    kind: int
    xid: int
    body: bytes


def encode(kind: int, xid: int, body: bytes = b"") -> bytes:
    """A message with its header."""
    return _HEADER.pack(VERSION, kind, _HEADER.size + len(body), xid) + body


class FrameReader:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Messages that are complete with `data`. Raises ValueError when the stream is not OpenFlow."""
        self._buffer += data
        found = []
        while len(self._buffer) >= _HEADER.size:
            _version, kind, size, xid = _HEADER.unpack_from(self._buffer)
            if size < _HEADER.size:
                raise ValueError(f"an OpenFlow message of {size} bytes")
            if len(self._buffer) < size:
                break
            found.append(Frame(kind, xid, bytes(self._buffer[_HEADER.size : size])))
            del self._buffer[:size]
        return found


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _oxm(field: int, value: bytes) -> bytes:
    return struct.pack("!HBB", 0x8000, field << 1, len(value)) + value


def encode_match(match: Match) -> bytes:
    """An OXM match; fields stand in the order their prerequisites ask for."""
    fields = b""
    if match.in_port is not None:
        fields += _oxm(IN_PORT, struct.pack("!I", match.in_port))
    if match.eth_type is not None:
        fields += _oxm(ETH_TYPE, struct.pack("!H", match.eth_type))
    if match.eth_src is not None:
        fields += _oxm(ETH_SRC, _mac(match.eth_src))
    if match.ip_proto is not None:
        fields += _oxm(IP_PROTO, bytes([match.ip_proto]))
    if match.ipv4_src is not None:
        fields += _oxm(IPV4_SRC, socket.inet_aton(match.ipv4_src))
    if match.udp_src is not None:
        fields += _oxm(UDP_SRC, struct.pack("!H", match.udp_src))
    if match.arp_spa is not None:
        fields += _oxm(ARP_SPA, socket.inet_aton(match.arp_spa))
    if match.arp_sha is not None:
        fields += _oxm(ARP_SHA, _mac(match.arp_sha))
    size = 4 + len(fields)
    return struct.pack("!HH", 1, size) + fields + b"\0" * (-size % 8)


def _output(port: int) -> bytes:
    return struct.pack("!HHIH6x", 0, 16, port, 0)


def add_rule(rule: Rule) -> bytes:
    """The body of a FLOW_MOD that adds a rule, or replaces the one with the same match and priority."""
    head = _FLOW_MOD.pack(rule.cookie, 0, 0, ADD, 0, 0, rule.priority, NO_BUFFER, ANY, ANY, 0)
    actions = _output(PORT_NORMAL) if rule.normal else b""
    instruction = struct.pack("!HH4x", APPLY_ACTIONS, 8 + len(actions)) + actions
    return head + encode_match(rule.match) + (instruction if actions else b"")


def delete_rules(cookie: int) -> bytes:
    """The body of a FLOW_MOD that deletes all rules with exactly this cookie."""
    head = _FLOW_MOD.pack(cookie, ALL_BITS, TABLE_ALL, DELETE, 0, 0, 0, NO_BUFFER, ANY, ANY, 0)
    return head + encode_match(Match())


def packet_out(in_port: int, frame: bytes) -> bytes:
    """The body of a PACKET_OUT: the frame goes through the tables as if it had come in by `in_port`."""
    action = _output(PORT_TABLE)
    return struct.pack("!IIH6x", NO_BUFFER, in_port, len(action)) + action + frame


def flow_request() -> bytes:
    """The body of a MULTIPART_REQUEST for all flows."""
    head = struct.pack("!HH4x", MULTIPART_FLOW, 0)
    body = struct.pack("!B3xII4xQQ", TABLE_ALL, ANY, ANY, 0, 0)
    return head + body + encode_match(Match())


def flow_cookies(body: bytes) -> tuple[list[int], bool]:
    """The cookies in a MULTIPART_REPLY's body, and whether more replies follow."""
    _kind, flags = struct.unpack_from("!HH", body)
    at, cookies = 8, []
    while at + _FLOW_STATS.size <= len(body):
        values = _FLOW_STATS.unpack_from(body, at)
        cookies.append(values[8])
        if values[0] < _FLOW_STATS.size:
            raise ValueError("a flow of impossible length")
        at += values[0]
    return cookies, bool(flags & REPLY_MORE)


class OpenFlowClient:
    """One connection. When it breaks, every call raises Unavailable and `closed` is set."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._xid = 0
        self._waiting: dict[int, asyncio.Future[list[Frame]]] = {}
        self._partial: dict[int, list[Frame]] = {}
        self._errors: list[str] = []
        self.closed = asyncio.Event()

    @classmethod
    async def connect(cls, path: str, timeout_s: float = CALL_TIMEOUT_S) -> OpenFlowClient:
        """Connect and exchange versions. Raises Unavailable. `read_forever` must run for calls to be answered."""
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_unix_connection(path)
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"no OpenFlow switch at {path}: {error}") from error
        client = cls(reader, writer)
        client._send(HELLO)
        return client

    async def read_forever(self) -> None:
        """Take in what the switch sends until the connection ends; never raises for that."""
        frames = FrameReader()
        try:
            while data := await self._reader.read(65536):
                for frame in frames.feed(data):
                    self._take(frame)
        except (OSError, ValueError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Close; whoever waits gets Unavailable."""
        self.closed.set()
        self._writer.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the OpenFlow connection was lost"))
        self._waiting.clear()

    async def apply(
        self, deletes: Iterable[int], adds: Iterable[Rule], frames: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        """Delete by cookie, then add, then send frames; done when the switch has done it.

        Raises Unavailable, also when the switch refused any of it.
        """
        self._errors.clear()
        for cookie in deletes:
            self._send(FLOW_MOD, delete_rules(cookie))
        for rule in adds:
            self._send(FLOW_MOD, add_rule(rule))
        for in_port, frame in frames:
            self._send(PACKET_OUT, packet_out(in_port, frame))
        await self._call(BARRIER_REQUEST)
        if self._errors:
            raise Unavailable(f"the switch refused a rule: {self._errors[0]}")

    async def cookies(self) -> list[int]:
        """The cookies of all rules there are. Raises Unavailable."""
        found: list[int] = []
        for frame in await self._call(MULTIPART_REQUEST, flow_request()):
            found += flow_cookies(frame.body)[0]
        return found

    def _send(self, kind: int, body: bytes = b"", xid: int | None = None) -> int:
        if self.closed.is_set():
            raise Unavailable("the OpenFlow connection was lost")
        if xid is None:
            self._xid = xid = (self._xid + 1) & 0x7FFFFFFF
        self._writer.write(encode(kind, xid, body))
        return xid

    async def _call(self, kind: int, body: bytes = b"") -> list[Frame]:
        future: asyncio.Future[list[Frame]] = asyncio.get_running_loop().create_future()
        xid = self._send(kind, body)
        self._waiting[xid] = future
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._writer.drain()
                return await future
        except TimeoutError:
            raise TimedOut("the switch did not answer in time") from None
        except OSError as error:
            raise Unavailable(f"the OpenFlow connection was lost: {error}") from error
        finally:
            self._waiting.pop(xid, None)
            self._partial.pop(xid, None)

    def _take(self, frame: Frame) -> None:
        if frame.kind == ECHO_REQUEST:
            with contextlib.suppress(Unavailable):
                self._send(ECHO_REPLY, frame.body, frame.xid)
            return
        if frame.kind == ERROR and len(frame.body) >= 4:
            kind, code = struct.unpack_from("!HH", frame.body)
            self._errors.append(f"error type {kind} code {code}")
        # The switch numbers its own messages (its HELLO, notifications) as it likes.
        answers = (BARRIER_REPLY, MULTIPART_REPLY, ERROR)
        future = self._waiting.get(frame.xid) if frame.kind in answers else None
        if future is None or future.done():
            return
        if frame.kind == ERROR:
            future.set_exception(Unavailable(f"the switch refused: {self._errors[-1]}"))
            return
        partial = self._partial.setdefault(frame.xid, [])
        partial.append(frame)
        if frame.kind != MULTIPART_REPLY or not flow_cookies(frame.body)[1]:
            future.set_result(partial)
