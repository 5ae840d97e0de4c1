"""Ethernet frames as an attacker would build them, and raw sockets inside network namespaces to send and see them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import TypeVar

from tests.network.places import being_in

ETH_ALL, ARP, IPV4, IPV6, QTAG, STAG = 0x0003, 0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8
UDP, TCP, ICMPV6, FRAGMENT, OPTIONS = 17, 6, 58, 44, 60
SOL_PACKET, PACKET_AUXDATA = 263, 8

T = TypeVar("T")


def within(namespace: str, job: Callable[[], T]) -> T:
    """The job's result, done inside a network namespace; sockets it opens stay there."""
    with being_in(namespace):
        return job()


def raw_socket(namespace: str, ifname: str = "eth0") -> socket.socket:
    """A socket that sends frames by an interface of a namespace, and sees all that arrive there."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL))
        made.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        made.bind((ifname, ETH_ALL))
        made.settimeout(0.1)
        return made

    return within(namespace, make)


def receive(sock: socket.socket) -> tuple[bytes, int] | None:
    """A frame without its VLAN tag, and the VLAN (0: none); None when none came within the socket's time-out."""
    try:
        data, ancillary, _, _ = sock.recvmsg(65536, 256)
    except TimeoutError:
        return None
    vlan = 0
    for level, kind, content in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            vlan = struct.unpack("=IIIHHHH", content[:20])[5] & 0xFFF
    return data, vlan


def answers(server: str, client: str, address: str, port: int = 7) -> bool:
    """Does a TCP server at `address` inside the one namespace answer from the other?"""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with within(server, lambda: socket.create_server((address, port), family=family)):
        try:
            within(client, lambda: socket.create_connection((address, port), 3.0)).close()
        except OSError:
            return False
    return True


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(source: str, kind: int, payload: bytes) -> bytes:
    """What follows the destination of a frame."""
    return mac(source) + struct.pack("!H", kind) + payload


def tagged(tpid: int, vlan: int, rest: bytes) -> bytes:
    """The same with a VLAN tag behind its source."""
    return rest[:6] + struct.pack("!HH", tpid, vlan) + rest[6:]


def arp(operation: int, sender_mac: str, sender: str, target: str) -> bytes:
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    return head + mac(sender_mac) + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)


def ipv4(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    def head(summed: int) -> bytes:
        return struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, summed,
            socket.inet_aton(source), socket.inet_aton(to),
        )  # fmt: skip

    return head(checksum(head(0))) + payload


def ipv6(source: str, to: str, following: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 0x60000000, len(payload), following, 255)
    return head + IPv6Address(source).packed + IPv6Address(to).packed + payload


def udp(source: int, to: int, payload: bytes = b"x") -> bytes:
    return struct.pack("!HHHH", source, to, 8 + len(payload), 0) + payload


def icmpv6(source: str, to: str, kind: int, body: bytes) -> bytes:
    """The message with its checksum, without the IPv6 header."""
    ends = IPv6Address(source).packed + IPv6Address(to).packed
    pseudo = ends + struct.pack("!II", 4 + len(body), ICMPV6)
    summed = checksum(pseudo + struct.pack("!BBH", kind, 0, 0) + body)
    return struct.pack("!BBH", kind, 0, summed) + body


def discovery(kind: int, source: str, to: str, target: str, option: str = "") -> bytes:
    """A neighbour solicitation (135) or advertisement (136) in IPv6; `option` is the MAC in its option."""
    body = (b"\x60\0\0\0" if kind == 136 else bytes(4)) + IPv6Address(target).packed
    if option:
        body += bytes((1 if kind == 135 else 2, 1)) + mac(option)
    return ipv6(source, to, ICMPV6, icmpv6(source, to, kind, body))


def fragment(following: int, offset: int, payload: bytes, *, more: bool) -> bytes:
    """A fragment header and its payload; the offset is in bytes."""
    return struct.pack("!BBHI", following, 0, offset | more, 77) + payload


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)
