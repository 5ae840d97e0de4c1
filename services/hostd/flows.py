"""What may come in by a container's port: frames from its own MAC and IPv4 address, and nothing else.

Anti-spoofing as OpenFlow rules, pure data. Table 0 of the cluster's bridge:

    120  from the port, its MAC and address, UDP source port 67 (a DHCP server)   drop
    110  from the port, its MAC, ARP with its MAC and address as the sender's     normal
    110  from the port, its MAC, IPv4 with its address as the source              normal
    100  from the port                                                            drop (so all IPv6: no RA, no ND)
      0  from anywhere else (uplinks)                                             normal

The cookie of a port's rules is OWNER_COOKIE with the port's number in its lower half, so that rules of a port that is
no more can be told and removed without reading their matches.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from services.hostd.model import SwitchPort

OWNER_COOKIE = 0x47414E5400000000
OWNER_MASK = 0xFFFFFFFF00000000

ETH_ARP, ETH_IPV4 = 0x0806, 0x0800
UDP, DHCP_SERVER_PORT = 17, 67
PRIORITY_NO_DHCP, PRIORITY_ALLOW, PRIORITY_DROP, PRIORITY_DEFAULT = 120, 110, 100, 0


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule looks at; None matches anything."""

    in_port: int | None = None
    eth_src: str | None = None
    eth_type: int | None = None
    ip_proto: int | None = None
    ipv4_src: str | None = None
    udp_src: int | None = None
    arp_spa: str | None = None
    arp_sha: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One flow; `normal` forwards as a learning switch does, otherwise the frame is dropped."""

    cookie: int
    priority: int
    match: Match
    normal: bool


DEFAULT_RULE = Rule(OWNER_COOKIE, PRIORITY_DEFAULT, Match(), normal=True)


def rules_of(port: SwitchPort) -> tuple[Rule, ...]:
    """The rules of one port."""
    cookie = OWNER_COOKIE | port.ofport
    arp = Match(port.ofport, port.mac, ETH_ARP, arp_spa=port.ip, arp_sha=port.mac)
    ipv4 = Match(port.ofport, port.mac, ETH_IPV4, ipv4_src=port.ip)
    dhcp = Match(port.ofport, port.mac, ETH_IPV4, UDP, port.ip, DHCP_SERVER_PORT)
    return (
        Rule(cookie, PRIORITY_NO_DHCP, dhcp, normal=False),
        Rule(cookie, PRIORITY_ALLOW, arp, normal=True),
        Rule(cookie, PRIORITY_ALLOW, ipv4, normal=True),
        Rule(cookie, PRIORITY_DROP, Match(port.ofport), normal=False),
    )


def stale_cookies(present: Iterable[int], ports: Iterable[SwitchPort]) -> tuple[int, ...]:
    """Cookies of ours in the switch that belong to none of the ports, sorted."""
    wanted = {OWNER_COOKIE | port.ofport for port in ports} | {OWNER_COOKIE}
    return tuple(sorted({c for c in present if c & OWNER_MASK == OWNER_COOKIE} - wanted))


def announcement(port: SwitchPort) -> bytes:
    """A gratuitous ARP request (RFC 5227, section 2.3) for the port's address, as an Ethernet frame."""
    sender, address = bytes.fromhex(port.mac.replace(":", "")), socket.inet_aton(port.ip)
    header = struct.pack("!6s6sH", b"\xff" * 6, sender, ETH_ARP)
    body = struct.pack("!HHBBH", 1, ETH_IPV4, 6, 4, 1)
    return header + body + sender + address + b"\0" * 6 + address
