"""Namespaces that a caller of CNI brought: nothing of what is in them is ours, save one interface."""

from __future__ import annotations

from libs.common.errors import Conflict
from services.hostd.model import Wire
from services.hostd.netlink import Link, NetlinkSocket
from services.hostd.netlink_routes import DEFAULTS, addresses_of, routes_of


def refuse_strangers(wire: Wire, host: NetlinkSocket, inner: NetlinkSocket) -> None:
    """Raises Conflict when the interface's name, or the default route, is somebody else's."""
    present = inner.link(wire.ifname)
    if present is not None and not _joined(present, host.link(wire.link)):
        raise Conflict(f"{wire.netns} has an interface {wire.ifname} already")
    index = present.index if present is not None else 0
    gateways = (wire.gateway, wire.ip6.gateway if wire.ip6 else None)
    ours = [dst for dst, gateway in zip(DEFAULTS, gateways, strict=True) if gateway is not None]
    for route in routes_of(inner):
        if route.dst in ours and route.index != index:
            raise Conflict(
                f'{wire.netns} has a default route by another interface; say "defaultRoute": false'
            )


def _joined(end: Link, other: Link | None) -> bool:
    """Are these the two ends of one pair."""
    return other is not None and (end.peer, other.peer) == (other.index, end.index)


def complaints(wire: Wire, host: NetlinkSocket, inner: NetlinkSocket) -> tuple[str, ...]:
    """What is not as it was wired. More addresses and routes than ours are nobody's fault: plugins are chained."""
    present = inner.link(wire.ifname)
    if present is None:
        return (f"the interface {wire.ifname} is missing",)
    found = []
    if not _joined(present, host.link(wire.link)):
        found.append(f"{wire.ifname} is not the interface that was made")
    if present.mac != wire.mac:
        found.append(f"{wire.ifname} has the MAC {present.mac}; the switch takes {wire.mac} only")
    if not present.up:
        found.append(f"{wire.ifname} is down")
    addresses = [f"{wire.ip}/{wire.prefix}"] if wire.ip else []
    wanted = [(each.dst, each.gw or "") for each in wire.routes]
    if wire.gateway is not None:
        wanted.append((DEFAULTS[0], wire.gateway))
    if wire.ip6 is not None:
        addresses.append(f"{wire.ip6.ip}/{wire.ip6.prefix}")
        wanted += [(DEFAULTS[1], wire.ip6.gateway)] if wire.ip6.gateway else []
    has = addresses_of(inner, present.index)
    found += [
        f"{wire.ifname} does not have the address {each}" for each in addresses if each not in has
    ]
    there = {(each.dst, each.gw) for each in routes_of(inner) if each.index == present.index}
    found += [
        f"the route to {dst} by {gw} is missing" for dst, gw in wanted if (dst, gw) not in there
    ]
    return tuple(found)
