"""What may come in by a container's port: frames from its own MAC and addresses, and of those nothing that only a
router or a DHCP server says.

Anti-spoofing as OpenFlow rules, pure data. Table 0 of the cluster's bridge says who; "own" is the port's address, for
IPv6 also the link-local one that is made of its MAC:

    120  from the port, neighbour solicitation from an own address, with its MAC as the option    normal
    120  the same from ::, without an option, for an own address (duplicate detection)            normal
    120  from the port, neighbour advertisement from an own address for the same, MAC its or none normal
    110  from the port, ARP with its MAC and address as the sender's                              normal
    110  from the port, IPv4 or IPv6 from an own address                                          table 1
    100  from the port                                                                            drop
      0  from anywhere else (uplinks)                                                             normal

All of these but the last two ask for the port's MAC and for a frame without a VLAN tag. Table 1 says what nobody may:

    100  UDP from port 67 (a DHCP server), IPv6: 547, or 0                                        drop
    100  ICMPv6 of type 0, of neighbour discovery, redirect, multicast listener query             drop
    100  IPv6 whose upper protocol can't be told                                                  drop
      0  all else                                                                                 normal

A first fragment that hides its upper header behind extension headers (RFC 7113) looks to the switch as protocol 0, or
with ports and type 0: that is why zeroes are dropped. Without table 1 nothing passes, so a lost rule opens no door.

The cookie of a port's rules is OWNER_COOKIE with the port's number in its lower half; those of nobody have number 0.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address

from services.hostd.model import PortView, Probe, SwitchPort

OWNER_COOKIE = 0x47414E5400000000
OWNER_MASK = 0xFFFFFFFF00000000

ETH_ARP, ETH_IPV4, ETH_IPV6 = 0x0806, 0x0800, 0x86DD
UDP, ICMPV6 = 17, 58
DHCP_SERVER_PORT, DHCPV6_SERVER_PORT = 67, 547
MLD_QUERY, ROUTER_SOLICIT, ROUTER_ADVERT, SOLICIT, ADVERT, REDIRECT = 130, 133, 134, 135, 136, 137
NO_MAC, ANY6 = "00:00:00:00:00:00", "::"
ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
OVERRIDE = 0x20000000  # of an advertisement: it replaces what the cache has
PRIORITY_ND, PRIORITY_ALLOW, PRIORITY_DROP, PRIORITY_DEFAULT = 120, 110, 100, 0
PRIORITY_PROBE = 90  # below all rules of containers' ports: only what comes by an uplink gets there
WHO, WHAT = 0, 1  # tables
# Rules that are there while an address is asked for; they end by themselves.
PROBE_COOKIE = 0x47414E5500000000
ARP_REPLY = 2


class Verdict(StrEnum):
    """What becomes of a frame."""

    NORMAL = "normal"  # forwarded as a learning switch does
    CHECK = "check"  # table 1 says
    DROP = "drop"
    TELL = "tell"  # as normal, and hostd is told


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule looks at; None matches anything."""

    in_port: int | None = None
    eth_src: str | None = None
    untagged: bool | None = None
    eth_type: int | None = None
    ip_proto: int | None = None
    ipv4_src: str | None = None
    ipv6_src: str | None = None
    udp_src: int | None = None
    icmpv6_type: int | None = None
    icmpv6_code: int | None = None
    nd_target: str | None = None
    nd_sll: str | None = None
    nd_tll: str | None = None
    arp_spa: str | None = None
    arp_sha: str | None = None
    vlan: int | None = None
    arp_op: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One flow."""

    cookie: int
    priority: int
    match: Match
    verdict: Verdict
    table: int = WHO
    hard_s: int = 0  # it ends by itself after so many seconds; 0: never


def _forbidden() -> tuple[Match, ...]:
    kinds = (0, MLD_QUERY, ROUTER_SOLICIT, ROUTER_ADVERT, SOLICIT, ADVERT, REDIRECT)
    return (
        Match(eth_type=ETH_IPV4, ip_proto=UDP, udp_src=DHCP_SERVER_PORT),
        *(Match(eth_type=ETH_IPV6, ip_proto=UDP, udp_src=p) for p in (0, DHCPV6_SERVER_PORT)),
        *(Match(eth_type=ETH_IPV6, ip_proto=ICMPV6, icmpv6_type=kind) for kind in kinds),
        Match(eth_type=ETH_IPV6, ip_proto=0),
    )


SHARED_RULES = (
    *(Rule(OWNER_COOKIE, PRIORITY_DROP, each, Verdict.DROP, WHAT) for each in _forbidden()),
    Rule(OWNER_COOKIE, PRIORITY_DEFAULT, Match(), Verdict.NORMAL, WHAT),
    Rule(OWNER_COOKIE, PRIORITY_DEFAULT, Match(), Verdict.NORMAL),
)
"""The rules that belong to no port, in the order to give them: what lets most pass comes last."""


def link_local(mac: str) -> str:
    """The link-local address that is made of a MAC (RFC 4291, appendix A)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 0x02
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + octets[:3] + b"\xff\xfe" + octets[3:]))


def rules_of(port: SwitchPort) -> tuple[Rule, ...]:
    """The rules of one port."""
    cookie = OWNER_COOKIE | port.ofport
    return (
        *(_four(cookie, port) if port.ip else ()),
        *(_six(cookie, port) if port.ip6 else ()),
        silence(port.ofport),
    )


def silence(ofport: int) -> Rule:
    """The rule that lets nothing in by a port but what others of it allow."""
    return Rule(OWNER_COOKIE | ofport, PRIORITY_DROP, Match(ofport), Verdict.DROP)


def standing(found: Iterable[PortView], wanted: Iterable[SwitchPort]) -> Sequence[SwitchPort]:
    """The wanted ports without those that were leaving and have left."""
    there = {view.name for view in found}
    return [port for port in wanted if not port.leaving or port.name in there]


def strays(found: Iterable[PortView], wanted: Iterable[SwitchPort]) -> list[Rule]:
    """Rules that keep ports of ours silent that have another number than their rules name, or that nobody wants.

    Without a rule of its own a port would be taken for an uplink.
    """
    numbers = {port.name: port.ofport for port in wanted}
    lost = {v.ofport for v in found if v.ofport is not None and v.ofport != numbers.get(v.name)}
    return [silence(number) for number in sorted(lost - set(numbers.values()))]


def _four(cookie: int, port: SwitchPort) -> tuple[Rule, ...]:
    arp = Match(port.ofport, port.mac, True, ETH_ARP, arp_spa=port.ip, arp_sha=port.mac)
    ipv4 = Match(port.ofport, port.mac, True, ETH_IPV4, ipv4_src=port.ip)
    return (
        Rule(cookie, PRIORITY_ALLOW, arp, Verdict.NORMAL),
        Rule(cookie, PRIORITY_ALLOW, ipv4, Verdict.CHECK),
    )


def _six(cookie: int, port: SwitchPort) -> tuple[Rule, ...]:
    def nd(kind: int, source: str, target: str | None, **option: str) -> Rule:
        match = Match(
            port.ofport,
            port.mac,
            True,
            ETH_IPV6,
            ICMPV6,
            ipv6_src=source,
            icmpv6_type=kind,
            icmpv6_code=0,
            nd_target=target,
            nd_sll=option.get("sll"),
            nd_tll=option.get("tll"),
        )
        return Rule(cookie, PRIORITY_ND, match, Verdict.NORMAL)

    rules = []
    for own in (port.ip6, link_local(port.mac)):
        source = Match(port.ofport, port.mac, True, ETH_IPV6, ipv6_src=own)
        rules += [
            nd(SOLICIT, own, None, sll=port.mac),
            nd(SOLICIT, ANY6, own, sll=NO_MAC),
            nd(ADVERT, own, own, tll=port.mac),
            nd(ADVERT, own, own, tll=NO_MAC),  # Linux answers a neighbour that checks on it so
            Rule(cookie, PRIORITY_ALLOW, source, Verdict.CHECK),
        ]
    return tuple(rules)


def catching(probe: Probe, hard_s: int) -> Rule:
    """The rule that tells of answers to a probe: an ARP reply from its address, an advertisement of it."""
    if ":" in probe.address:
        match = Match(
            eth_type=ETH_IPV6,
            ip_proto=ICMPV6,
            icmpv6_type=ADVERT,
            icmpv6_code=0,
            nd_target=probe.address,
            vlan=probe.vlan,
        )
    else:
        match = Match(eth_type=ETH_ARP, arp_op=ARP_REPLY, arp_spa=probe.address, vlan=probe.vlan)
    return Rule(PROBE_COOKIE, PRIORITY_PROBE, match, Verdict.TELL, hard_s=hard_s)


def question(probe: Probe) -> bytes:
    """The frame that asks: an ARP probe (RFC 5227), or a solicitation as of duplicate detection (RFC 4862)."""
    if ":" in probe.address:
        return solicitation(probe.mac, ANY6, probe.address)
    return arp_request(probe.mac, "0.0.0.0", probe.address)


def claimed(frame: bytes) -> tuple[str, str] | None:
    """The address that an answer claims and the MAC it came from; None for any other frame. A VLAN tag may be there."""
    body = frame[18:] if frame[12:14] == b"\x81\x00" else frame[14:]
    kind = frame[len(frame) - len(body) - 2 :][:2]
    sender = frame[6:12].hex(":")
    if kind == struct.pack("!H", ETH_ARP) and len(body) >= 28:
        return socket.inet_ntoa(body[14:18]), sender
    if kind == struct.pack("!H", ETH_IPV6) and len(body) >= 64 and body[40] == ADVERT:
        return str(IPv6Address(body[48:64])), sender
    return None


# -- frames that hostd sends for a port -------------------------------------------------------------


def announcements(port: SwitchPort) -> tuple[bytes, ...]:
    """What tells a port's neighbours where its addresses are now, as Ethernet frames.

    A gratuitous ARP request (RFC 5227, section 2.3), an unsolicited neighbour advertisement (RFC 4861, section 7.2.6).
    """
    found = []
    if port.ip:
        found.append(arp_request(port.mac, port.ip, port.ip))
    if port.ip6:
        found.append(_advertisement(port.mac, port.ip6))
    return tuple(found)


def mac_bytes(mac: str) -> bytes:
    """Six octets."""
    return bytes.fromhex(mac.replace(":", ""))


def arp_request(mac: str, sender: str, target: str) -> bytes:
    """A broadcast ARP request as an Ethernet frame; `sender` 0.0.0.0 makes it a probe (RFC 5227)."""
    header = struct.pack("!6s6sH", b"\xff" * 6, mac_bytes(mac), ETH_ARP)
    body = struct.pack("!HHBBH", 1, ETH_IPV4, 6, 4, 1)
    addresses = mac_bytes(mac), socket.inet_aton(sender), b"\0" * 6, socket.inet_aton(target)
    return header + body + b"".join(addresses)


def _advertisement(mac: str, ip6: str) -> bytes:
    option = struct.pack("!BB6s", 2, 1, mac_bytes(mac))
    body = struct.pack("!I16s", OVERRIDE, IPv6Address(ip6).packed) + option
    return icmpv6(mac, ALL_NODES_MAC, ip6, ALL_NODES, ADVERT, body)


def solicitation(mac: str, source: str, target: str) -> bytes:
    """A neighbour solicitation to all who may have `target`; `source` "::" makes it one of duplicate detection."""
    packed = IPv6Address(target).packed
    group = IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + packed[13:])
    to = "33:33:ff:" + packed[13:].hex(":")
    option = struct.pack("!BB6s", 1, 1, mac_bytes(mac)) if source != ANY6 else b""
    return icmpv6(mac, to, source, str(group), SOLICIT, b"\0" * 4 + packed + option)


def icmpv6(mac: str, to_mac: str, source: str, to: str, kind: int, body: bytes) -> bytes:
    """An ICMPv6 message (type `kind`, code 0, `body` after the checksum) as an Ethernet frame, hop limit 255."""
    ends = IPv6Address(source).packed + IPv6Address(to).packed
    size = 4 + len(body)
    summed = ends + struct.pack("!II", size, ICMPV6) + struct.pack("!BBH", kind, 0, 0) + body
    message = struct.pack("!BBH", kind, 0, checksum(summed)) + body
    header = struct.pack("!IHBB", 0x60000000, size, ICMPV6, 255) + ends
    return struct.pack("!6s6sH", mac_bytes(to_mac), mac_bytes(mac), ETH_IPV6) + header + message


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)
