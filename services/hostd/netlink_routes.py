"""Addresses and routes as the kernel has them, and routes that are not the default one.

Layouts: rtnetlink(7), linux/rtnetlink.h, linux/if_addr.h; see `netlink.py`.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass

from services.hostd.netlink import (
    IFA_ADDRESS,
    IFA_LOCAL,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTA_GATEWAY,
    RTA_OIF,
    RTM_NEWROUTE,
    RTN_UNICAST,
    RTPROT_STATIC,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
)

RTM_GETADDR, RTM_GETROUTE = 22, 26
RTA_DST = 1
RT_SCOPE_LINK = 253

_IFADDR = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_ROUTE = struct.Struct("=8BI")  # family, dst len, src len, tos, table, proto, scope, type, flags
_INDEX = struct.Struct("=I")

DEFAULTS = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table: a network, by a gateway ("": none), by the interface of that index."""

    dst: str
    gw: str
    index: int


def add_route(index: int, dst: str, gw: str | None) -> Message:
    """A route by an interface. The same one twice is no error, nor is another one to the same network."""
    network = ipaddress.ip_network(dst)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    scope = RT_SCOPE_UNIVERSE if gw else RT_SCOPE_LINK
    head = (family, network.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0)
    body = _ROUTE.pack(*head) + attribute(RTA_OIF, _INDEX.pack(index))
    if network.prefixlen:
        body += attribute(RTA_DST, network.network_address.packed)
    if gw:
        body += attribute(RTA_GATEWAY, ipaddress.ip_address(gw).packed)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return Message(RTM_NEWROUTE, body, flags, frozenset({errno.EEXIST}), f"route to {dst}")


def addresses_of(netlink: NetlinkSocket, index: int) -> frozenset[str]:
    """The addresses of an interface, as address/prefix length."""
    (bodies,) = netlink.run([Message(RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0), NLM_F_DUMP)])
    found = set()
    for body in bodies:
        _family, prefix, _flags, _scope, at = _IFADDR.unpack_from(body)
        values = dict(attributes(body[_IFADDR.size :]))
        packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
        if at == index and packed is not None:
            found.add(f"{ipaddress.ip_address(packed)}/{prefix}")
    return frozenset(found)


def routes_of(netlink: NetlinkSocket) -> frozenset[Route]:
    """The unicast routes of the namespace's main table."""
    (bodies,) = netlink.run([Message(RTM_GETROUTE, _ROUTE.pack(*(0,) * 9), NLM_F_DUMP)])
    found = set()
    for body in bodies:
        family, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
        values = dict(attributes(body[_ROUTE.size :]))
        if table != RT_TABLE_MAIN or kind != RTN_UNICAST or RTA_OIF not in values:
            continue
        empty = b"\0" * (4 if family == socket.AF_INET else 16)
        network = ipaddress.ip_address(values.get(RTA_DST, empty))
        gateway = values.get(RTA_GATEWAY)
        found.add(
            Route(
                f"{network}/{length}",
                str(ipaddress.ip_address(gateway)) if gateway else "",
                _INDEX.unpack_from(values[RTA_OIF])[0],
            )
        )
    return frozenset(found)
