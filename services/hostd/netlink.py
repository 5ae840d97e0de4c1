"""The few rtnetlink messages that hostd sends, as bytes, and a socket that sends them.

A dozen kinds of message do not need a library: encoding one of ours takes microseconds, and a plain blocking socket
has no event loop that gets in the way of threads which change namespaces.
Layouts: rtnetlink(7), linux/rtnetlink.h, linux/if_link.h. Integers are in the host's byte order, addresses in network
order.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 20, 22, 24, 26
RTM_NEWQDISC, RTM_DELQDISC = 36, 37

NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

IFF_UP = 0x1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_LINKINFO, IFLA_STATS64, IFLA_NET_NS_FD = 18, 23, 28
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
VETH_INFO_PEER = 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
IFA_F_NODAD = 0x02
RTA_OIF, RTA_GATEWAY = 4, 5
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_BURST = 1, 6
TC_H_ROOT, LINKLAYER_ETHERNET, TIME_UNITS_PER_S = 0xFFFFFFFF, 1, 15_625_000
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 4, 0, 1

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_IFINFO = struct.Struct("=BxHiII")  # family, device type, index, flags, change mask
_IFADDR = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_ROUTE = struct.Struct(
    "=BBBBBBBBI"
)  # family, dst len, src len, tos, table, proto, scope, type, flags
_TC = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_RATE = struct.Struct("=BBHhHI")  # cell log, link layer, overhead, cell align, mpu, bytes a second
_ERRNO = struct.Struct("=i")
_NUMBER = struct.Struct("=I")
_STATS64 = struct.Struct("=8Q")  # rx/tx packets, rx/tx bytes, rx/tx errors, rx/tx dropped

RECEIVE_BYTES = 65536
MAX_BATCH = 64


@dataclass(frozen=True, slots=True)
class Message:
    """A message without its header, and the errnos that mean it was done already."""

    kind: int
    body: bytes
    flags: int = NLM_F_ACK
    forgiven: frozenset[int] = frozenset()
    what: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel tells it. Counters are (rx, tx) packets, bytes, errors, dropped in a row.

    `peer` is the index of a veth's other end, in the namespace where that is.
    """

    index: int
    name: str
    up: bool
    mtu: int = 0
    mac: str = ""
    stats: tuple[int, ...] = field(default=(0,) * 8)
    peer: int = 0


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + b"\0" * (-size % 4)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _ifinfo(index: int = 0, *, up: bool = False) -> bytes:
    flags = IFF_UP if up else 0
    return _IFINFO.pack(socket.AF_UNSPEC, 0, index, flags, flags)


def add_veth(link: str, peer: str, peer_namespace_fd: int, peer_mac: str, mtu: int) -> Message:
    """A veth pair, this end up, whose peer is made in the other namespace from the start."""
    size = struct.pack("=I", mtu)
    # The peer can't be made up: it is configured before the kernel has joined the two (ENOTCONN).
    inner = _ifinfo() + b"".join(
        (
            attribute(IFLA_IFNAME, _text(peer)),
            attribute(IFLA_ADDRESS, _mac(peer_mac)),
            attribute(IFLA_MTU, size),
            attribute(IFLA_NET_NS_FD, struct.pack("=I", peer_namespace_fd)),
        )
    )
    data = attribute(IFLA_INFO_DATA | NLA_F_NESTED, attribute(VETH_INFO_PEER | NLA_F_NESTED, inner))
    info = attribute(IFLA_INFO_KIND, b"veth") + data
    body = _ifinfo(up=True) + b"".join(
        (
            attribute(IFLA_IFNAME, _text(link)),
            attribute(IFLA_MTU, size),
            attribute(IFLA_LINKINFO | NLA_F_NESTED, info),
        )
    )
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return Message(RTM_NEWLINK, body, flags, what=f"make the link {link}")


def set_up(index: int, mtu: int | None = None) -> Message:
    """Bring an interface up, and give it an MTU."""
    size = attribute(IFLA_MTU, struct.pack("=I", mtu)) if mtu is not None else b""
    return Message(RTM_NEWLINK, _ifinfo(index, up=True) + size, what="bring an interface up")


def set_down(index: int) -> Message:
    """Take an interface down; what it is otherwise stays."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, IFF_UP)
    return Message(RTM_NEWLINK, body, what="take an interface down")


def delete_link(name: str) -> Message:
    """Delete an interface by name, and with a veth its peer; one that is not there is no error."""
    body = _ifinfo() + attribute(IFLA_IFNAME, _text(name))
    return Message(RTM_DELLINK, body, forgiven=frozenset({errno.ENODEV}), what=f"delete {name}")


def add_address(index: int, ip: str, prefix: int) -> Message:
    """An address on an interface; the same one twice is no error.

    An IPv6 one is good at once: ipam gives it to one station only, and the flows let no other use it.
    """
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    what, done = f"add {ip}/{prefix}", frozenset({errno.EEXIST})
    if ":" in ip:
        packed = socket.inet_pton(socket.AF_INET6, ip)
        body = _IFADDR.pack(socket.AF_INET6, prefix, IFA_F_NODAD, 0, index)
        both = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
        return Message(RTM_NEWADDR, body + both, flags, done, what)
    packed = socket.inet_aton(ip)
    host_bits = (1 << (32 - prefix)) - 1
    broadcast = struct.pack("!I", struct.unpack("!I", packed)[0] | host_bits)
    body = _IFADDR.pack(socket.AF_INET, prefix, 0, 0, index) + b"".join(
        (
            attribute(IFA_LOCAL, packed),
            attribute(IFA_ADDRESS, packed),
            attribute(IFA_BROADCAST, broadcast) if prefix < 31 else b"",
        )
    )
    return Message(RTM_NEWADDR, body, flags, done, what)


def add_default_route(index: int, gateway: str) -> Message:
    """The default route of the gateway's family; it replaces another one."""
    family = _family(gateway)
    body = _ROUTE.pack(
        family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0
    ) + b"".join(
        (
            attribute(RTA_GATEWAY, socket.inet_pton(family, gateway)),
            attribute(RTA_OIF, struct.pack("=I", index)),
        )
    )
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return Message(RTM_NEWROUTE, body, flags, what=f"route by {gateway}")


def _family(ip: str) -> int:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def shape(index: int, kbit: int, mtu: int) -> Message:
    """Let an interface send at most so much (tc-tbf), whatever it was shaped to before.

    The bucket holds an eighth of a second and at least ten frames; what waits longer than a twentieth is dropped.
    """
    rate = kbit * 125
    burst = max(rate // 8, 10 * (mtu + 14))
    spec = _RATE.pack(0, LINKLAYER_ETHERNET, 0, 0, 0, rate)
    backlog = burst + rate // 20
    ticks = min(burst * TIME_UNITS_PER_S // rate, 2**32 - 1)
    parameters = spec + _RATE.pack(0, 0, 0, 0, 0, 0) + struct.pack("=III", backlog, ticks, 0)
    options = attribute(TCA_TBF_PARMS, parameters) + attribute(
        TCA_TBF_BURST, struct.pack("=I", burst)
    )
    body = _TC.pack(socket.AF_UNSPEC, index, 0x10000, TC_H_ROOT, 0) + b"".join(
        (
            attribute(TCA_KIND, _text("tbf")),
            attribute(TCA_OPTIONS | NLA_F_NESTED, options),
        )
    )
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return Message(RTM_NEWQDISC, body, flags, what=f"limit an interface to {kbit} kbit/s")


def unshape(index: int) -> Message:
    """Take the limit away; none there is no error."""
    body = _TC.pack(socket.AF_UNSPEC, index, 0, TC_H_ROOT, 0)
    none = frozenset({errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP})
    return Message(RTM_DELQDISC, body, forgiven=none, what="lift an interface's limit")


def dump_addresses() -> Message:
    """Ask for all addresses."""
    return Message(
        RTM_GETADDR, _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0), NLM_F_DUMP, what="list addresses"
    )


def dump_routes() -> Message:
    """Ask for all routes."""
    body = _ROUTE.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)
    return Message(RTM_GETROUTE, body, NLM_F_DUMP, what="list routes")


def parse_address(body: bytes) -> tuple[int, str]:
    """An RTM_NEWADDR's body as (interface index, "address/prefix")."""
    family, prefix, _flags, _scope, index = _IFADDR.unpack_from(body)
    found = dict(attributes(body[_IFADDR.size :]))
    packed = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    return index, f"{socket.inet_ntop(family, packed)}/{prefix}"


def parse_default_route(body: bytes) -> tuple[int, str] | None:
    """An RTM_NEWROUTE's body as (interface index, gateway); None when it is no default route by a gateway."""
    family, size, *_ = _ROUTE.unpack_from(body)
    found = dict(attributes(body[_ROUTE.size :]))
    if size != 0 or RTA_GATEWAY not in found or RTA_OIF not in found:
        return None
    index: int = struct.unpack("=I", found[RTA_OIF])[0]
    return index, socket.inet_ntop(family, found[RTA_GATEWAY])


def get_link(name: str) -> Message:
    """Ask for one interface by name; no answer when there is none."""
    body = _ifinfo() + attribute(IFLA_IFNAME, _text(name))
    return Message(RTM_GETLINK, body, forgiven=frozenset({errno.ENODEV}), what=f"look at {name}")


def dump_links() -> Message:
    """Ask for all interfaces."""
    return Message(RTM_GETLINK, _ifinfo(), NLM_F_DUMP, what="list interfaces")


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in `data`, as (type, payload). Ends at the first that is cut short."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size or at + size > len(data):
            return
        yield kind & NLA_TYPE_MASK, data[at + _ATTRIBUTE.size : at + size]
        at += size + (-size % 4)


def parse_link(body: bytes) -> Link:
    """An RTM_NEWLINK's body."""
    _family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    name, mac, mtu, peer, stats = "", "", 0, 0, (0,) * 8
    for kind, payload in attributes(body[_IFINFO.size :]):
        if kind == IFLA_IFNAME:
            name = payload.rstrip(b"\0").decode()
        elif kind == IFLA_ADDRESS:
            mac = payload.hex(":")
        elif kind == IFLA_MTU:
            (mtu,) = _NUMBER.unpack_from(payload)
        elif kind == IFLA_LINK:
            (peer,) = _NUMBER.unpack_from(payload)
        elif kind == IFLA_STATS64 and len(payload) >= _STATS64.size:
            stats = _STATS64.unpack_from(payload)
    return Link(index, name, bool(flags & IFF_UP), mtu, mac, stats, peer)


def frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The messages of one datagram, as (type, sequence, body)."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, _flags, sequence, _port = _HEADER.unpack_from(data, at)
        if size < _HEADER.size or at + size > len(data):
            raise OSError(errno.EBADMSG, "a netlink message is cut short")
        yield kind, sequence, data[at + _HEADER.size : at + size]
        at += size + (-size % 4)


class NetlinkSocket:
    """An rtnetlink socket. It belongs to the namespace it was opened in, whichever thread uses it later."""

    def __init__(self, timeout_s: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.settimeout(timeout_s)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def run(self, messages: Sequence[Message]) -> list[list[bytes]]:
        """Send in one datagram, wait for all; the answers' bodies, a list a message. Raises OSError.

        The kernel works through all of them even when one fails; the first failure is raised at the end.
        """
        assert 0 < len(messages) <= MAX_BATCH
        first = self._sequence + 1
        self._sequence += len(messages)
        data = b"".join(
            _HEADER.pack(
                _HEADER.size + len(each.body), each.kind, NLM_F_REQUEST | each.flags, first + n, 0
            )
            + each.body
            + b"\0" * (-len(each.body) % 4)
            for n, each in enumerate(messages)
        )
        self._socket.send(data)
        return self._collect(messages, first)

    def _collect(self, messages: Sequence[Message], first: int) -> list[list[bytes]]:
        answers: list[list[bytes]] = [[] for _ in messages]
        open_ones = set(range(len(messages)))
        failure: OSError | None = None
        while open_ones:
            for kind, sequence, body in frames(self._socket.recv(RECEIVE_BYTES)):
                n = sequence - first
                if n not in open_ones:
                    continue  # an answer to a call that timed out
                if kind not in (NLMSG_ERROR, NLMSG_DONE):
                    answers[n].append(body)
                    continue
                open_ones.discard(n)
                code = -_ERRNO.unpack_from(body)[0] if kind == NLMSG_ERROR else 0
                if code and code not in messages[n].forgiven:
                    text = f"cannot {messages[n].what}: {os.strerror(code)}"
                    failure = failure or OSError(code, text)
        if failure is not None:
            raise failure
        return answers

    def link(self, name: str) -> Link | None:
        """One interface of this namespace."""
        (found,) = self.run([get_link(name)])
        return parse_link(found[0]) if found else None

    def links(self) -> list[Link]:
        """All interfaces of this namespace."""
        (found,) = self.run([dump_links()])
        return [parse_link(body) for body in found]

    def addresses(self, index: int) -> frozenset[str]:
        """The addresses of one interface, as "address/prefix"."""
        (found,) = self.run([dump_addresses()])
        pairs = (parse_address(body) for body in found)
        return frozenset(text for owner, text in pairs if owner == index)

    def gateways(self, index: int) -> frozenset[str]:
        """The gateways of the default routes by one interface."""
        (found,) = self.run([dump_routes()])
        pairs = (parse_default_route(body) for body in found)
        return frozenset(pair[1] for pair in pairs if pair is not None and pair[0] == index)
