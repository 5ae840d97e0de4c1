"""As much of OpenFlow 1.3 as hostd needs: rules in and out, frames out, barriers. A codec without I/O.

Wire format: ONF TS-006, OpenFlow Switch Specification 1.3.1.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from services.hostd.flows import (
    OWNER_COOKIE,
    OWNER_MASK,
    PROBE_COOKIE,
    WHAT,
    Match,
    Rule,
    Verdict,
    mac_bytes,
)

VERSION = 4
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY = 0, 1, 2, 3
SET_CONFIG, PACKET_IN = 9, 10
PACKET_OUT, FLOW_MOD, MULTIPART_REQUEST, MULTIPART_REPLY = 13, 14, 18, 19
BARRIER_REQUEST, BARRIER_REPLY = 20, 21

ADD, DELETE, DELETE_STRICT = 0, 3, 4
MULTIPART_FLOW, REPLY_MORE = 1, 0x0001
ANY, NO_BUFFER, TABLE_ALL = 0xFFFFFFFF, 0xFFFFFFFF, 0xFF
PORT_NORMAL, PORT_TABLE, PORT_CONTROLLER = 0xFFFFFFFA, 0xFFFFFFF9, 0xFFFFFFFD
WHOLE_FRAME, VLAN_PRESENT, ETH_VLAN = 0xFFFF, 0x1000, 0x8100
GOTO_TABLE, APPLY_ACTIONS = 1, 4
ALL_BITS = 0xFFFFFFFFFFFFFFFF
BASIC = 0x8000  # the OXM class of all fields of ours

_HEADER = struct.Struct("!BBHI")  # version, type, length, transaction
_FLOW_MOD = struct.Struct("!QQBBHHHIIIH2x")
# length, table, duration s and ns, priority, idle, hard, flags, cookie, packets, bytes
_FLOW_STATS = struct.Struct("!HBxIIHHHH4xQQQ")
MAX_MESSAGE_BYTES = 65535


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


def _short(value: int) -> bytes:
    return struct.pack("!H", value)


def _ipv6(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


# Name in Match -> (OXM field, encoder), in the order their prerequisites ask for. No VLAN is OFPVID_NONE, 0.
_FIELDS: dict[str, tuple[int, Callable[[Any], bytes]]] = {
    "in_port": (0, lambda value: struct.pack("!I", value)),
    "eth_type": (5, _short),
    "eth_src": (4, mac_bytes),
    "untagged": (6, lambda _true: _short(0)),
    "vlan": (6, lambda value: _short(VLAN_PRESENT | value)),
    "ip_proto": (10, lambda value: bytes([value])),
    "ipv4_src": (11, socket.inet_aton),
    "ipv6_src": (26, _ipv6),
    "udp_src": (15, _short),
    "icmpv6_type": (29, lambda value: bytes([value])),
    "icmpv6_code": (30, lambda value: bytes([value])),
    "nd_target": (31, _ipv6),
    "nd_sll": (32, mac_bytes),
    "nd_tll": (33, mac_bytes),
    "arp_op": (21, _short),
    "arp_spa": (22, socket.inet_aton),
    "arp_sha": (24, mac_bytes),
}


def _oxm(match: Match) -> list[bytes]:
    fields = []
    for name, (number, encode_value) in _FIELDS.items():
        value = getattr(match, name)
        if value is not None:
            data = encode_value(value)
            fields.append(struct.pack("!HBB", BASIC, number << 1, len(data)) + data)
    return fields


def encode_match(match: Match) -> bytes:
    """An OXM match."""
    return _whole_match(b"".join(_oxm(match)))


def _whole_match(fields: bytes) -> bytes:
    size = 4 + len(fields)
    return struct.pack("!HH", 1, size) + fields + b"\0" * (-size % 8)


def _output(port: int, most: int = 0) -> bytes:
    return struct.pack("!HHIH6x", 0, 16, port, most)


def _instructions(verdict: Verdict) -> bytes:
    if verdict is Verdict.CHECK:
        return struct.pack("!HHB3x", GOTO_TABLE, 8, WHAT)
    if verdict in (Verdict.NORMAL, Verdict.TELL):
        actions = _output(PORT_NORMAL)
        if verdict is Verdict.TELL:
            actions = _output(PORT_CONTROLLER, WHOLE_FRAME) + actions
        return struct.pack("!HH4x", APPLY_ACTIONS, 8 + len(actions)) + actions
    return b""


def add_rule(rule: Rule) -> bytes:
    """The body of a FLOW_MOD that adds a rule, or replaces the one with the same match and priority."""
    head = _FLOW_MOD.pack(
        rule.cookie, 0, rule.table, ADD, 0, rule.hard_s, rule.priority, NO_BUFFER, ANY, ANY, 0
    )
    return head + encode_match(rule.match) + _instructions(rule.verdict)


def delete_rules(cookie: int) -> bytes:
    """The body of a FLOW_MOD that deletes all rules with exactly this cookie."""
    head = _FLOW_MOD.pack(cookie, ALL_BITS, TABLE_ALL, DELETE, 0, 0, 0, NO_BUFFER, ANY, ANY, 0)
    return head + encode_match(Match())


def packet_out(in_port: int, frame: bytes) -> bytes:
    """The body of a PACKET_OUT: the frame goes through the tables as if it had come in by `in_port`."""
    action = _output(PORT_TABLE)
    return struct.pack("!IIH6x", NO_BUFFER, in_port, len(action)) + action + frame


def tagged_out(vlan: int, ports: Iterable[int], frame: bytes) -> bytes:
    """The body of a PACKET_OUT: the frame leaves by these ports, tagged, past all tables."""
    vid = struct.pack("!HBBH", BASIC, 6 << 1, 2, VLAN_PRESENT | vlan)
    actions = struct.pack("!HHH2x", 17, 8, ETH_VLAN)  # push a tag, and set its VLAN
    actions += struct.pack("!HH", 25, 16) + vid + b"\0" * 6
    actions += b"".join(_output(port) for port in ports)
    return struct.pack("!IIH6x", NO_BUFFER, PORT_CONTROLLER, len(actions)) + actions + frame


def whole_frames() -> bytes:
    """The body of a SET_CONFIG after which a client of the management socket is told what rules tell."""
    return struct.pack("!HH", 0, WHOLE_FRAME)


def told_frame(body: bytes) -> bytes:
    """The frame in a PACKET_IN's body; empty when it is cut short."""
    if len(body) < 20:
        return b""
    size = struct.unpack_from("!HH", body, 16)[1]
    return body[16 + size + (-size % 8) + 2 :]


def flow_request(cookie: int | None = None) -> bytes:
    """The body of a MULTIPART_REQUEST for all flows, or for those with exactly this cookie."""
    head = struct.pack("!HH4x", MULTIPART_FLOW, 0)
    mask = 0 if cookie is None else ALL_BITS
    body = struct.pack("!B3xII4xQQ", TABLE_ALL, ANY, ANY, cookie or 0, mask)
    return head + body + encode_match(Match())


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow as the switch has it; `fields` are its match's OXMs, in whatever order."""

    table: int
    priority: int
    cookie: int
    fields: frozenset[bytes]
    instructions: bytes
    packets: int = 0
    age_s: float = 0.0

    def __str__(self) -> str:
        names = {number: name for name, (number, _) in _FIELDS.items()}
        texts = []
        for oxm in sorted(self.fields, key=_prerequisite):
            kind, field = struct.unpack_from("!HB", oxm)
            name = names.get(field >> 1, f"field {field >> 1}") if kind == BASIC else "?"
            texts.append(f"{name}={oxm[4:].hex()}")
        match = ",".join(texts) or "any"
        return f"table={self.table},priority={self.priority},cookie={self.cookie:#x},{match}"

    @property
    def is_ours(self) -> bool:
        """Does it bear the cookie of a port, or of what is for all?"""
        return self.cookie & OWNER_MASK == OWNER_COOKIE

    @property
    def is_foreign(self) -> bool:
        """Does it bear no cookie of hostd's at all?"""
        return not self.is_ours and self.cookie != PROBE_COOKIE

    @property
    def place(self) -> tuple[int, int, frozenset[bytes]]:
        """There is one flow of this table, priority and match."""
        return self.table, self.priority, self.fields

    def is_as(self, other: Flow) -> bool:
        """The same but for its counters?"""
        mine = (self.place, self.cookie, self.instructions)
        return mine == (other.place, other.cookie, other.instructions)


def flow_of(rule: Rule) -> Flow:
    """The flow that a rule becomes."""
    fields = frozenset(_oxm(rule.match))
    return Flow(rule.table, rule.priority, rule.cookie, fields, _instructions(rule.verdict))


def difference(
    present: Iterable[Flow], wanted: Iterable[Rule]
) -> tuple[tuple[Rule, ...], tuple[Flow, ...]]:
    """The wanted rules that are missing or changed, and the flows of ours that none wants."""
    found = {flow.place: flow for flow in present}
    missing, places = [], set()
    for rule in wanted:
        flow = flow_of(rule)
        places.add(flow.place)
        there = found.get(flow.place)
        if there is None or not there.is_as(flow):
            missing.append(rule)
    surplus = [flow for flow in found.values() if flow.is_ours and flow.place not in places]
    return tuple(missing), tuple(surplus)


def delete_flow(flow: Flow) -> bytes:
    """The body of a FLOW_MOD that deletes this one flow."""
    fields = list(flow.fields)
    fields.sort(key=_prerequisite)
    head = _FLOW_MOD.pack(
        0, 0, flow.table, DELETE_STRICT, 0, 0, flow.priority, NO_BUFFER, ANY, ANY, 0
    )
    # In the order of their numbers every field comes after those it depends on.
    return head + _whole_match(b"".join(fields))


def _prerequisite(oxm: bytes) -> tuple[int, int]:
    kind, field = struct.unpack_from("!HB", oxm)
    number = field >> 1
    order = [each for each, _ in _FIELDS.values()]
    return (order.index(number) if kind == BASIC and number in order else len(order), number)


def has_more(body: bytes) -> bool:
    """Do more replies follow this MULTIPART_REPLY?"""
    return bool(struct.unpack_from("!HH", body)[1] & REPLY_MORE)


def flow_stats(body: bytes) -> list[Flow]:
    """The flows in a MULTIPART_REPLY's body. Raises ValueError when it is broken."""
    at, found = 8, []
    try:
        while at + _FLOW_STATS.size <= len(body):
            size, table, s, ns, priority, _, _, _, cookie, packets, _ = _FLOW_STATS.unpack_from(
                body, at
            )
            start = at + _FLOW_STATS.size
            length = struct.unpack_from("!HH", body, start)[1]
            end = start + length + (-length % 8)
            if size < _FLOW_STATS.size or end > at + size or at + size > len(body):
                raise ValueError("a flow of impossible length")
            fields = frozenset(_split_oxm(body[start + 4 : start + length]))
            instructions = body[end : at + size]
            found.append(Flow(table, priority, cookie, fields, instructions, packets, s + ns / 1e9))
            at += size
    except struct.error:
        raise ValueError("a flow that is cut short") from None
    return found


def _split_oxm(data: bytes) -> Iterable[bytes]:
    at = 0
    while at + 4 <= len(data):
        end = at + 4 + data[at + 3]
        yield data[at:end]
        at = end
