"""Pure decisions of hostd: names, what an attachment needs, and what to mend when things differ.

**Invariant**: nothing here looks at the world or the clock; a plan is data.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from services.hostd.model import (
    DEFAULT_MTU,
    Actual,
    Attachment,
    AttachmentSpec,
    ContainerView,
    Owner,
    Phase,
    PortView,
    SwitchPort,
    Wire,
)

# OVS takes 1..65279; the lower thousand is left to ports that others add without asking for a number.
FIRST_OFPORT = 1000
LAST_OFPORT = 65_000
LINK_PREFIX = "g"


def owner_tag(owner: str) -> str:
    """Four characters that stand for a cluster's host in names that have no room for it."""
    return hashlib.sha256(owner.encode()).hexdigest()[:4]


def link_name(owner: str, attachment: str) -> str:
    """The host's end of an attachment's veth pair: 15 characters, all that Linux allows."""
    return f"{LINK_PREFIX}{owner_tag(owner)}{attachment}"[:15]


def is_link_of(owner: str, name: str) -> bool:
    """Was this interface made by this hostd? (No other cluster's or host's has the prefix.)"""
    return len(name) == 15 and name.startswith(f"{LINK_PREFIX}{owner_tag(owner)}")


def ipam_key(container: str, ifname: str) -> str:
    """What ipam knows a new attachment by."""
    return f"{container}.{ifname}"


def mac_of(ip: str) -> str:
    """A locally administered MAC made of the address: whoever gets it next keeps neighbours' ARP caches right."""
    octets = (0x0A, 0x67, *ipaddress.IPv4Address(ip).packed)
    return ":".join(f"{octet:02x}" for octet in octets)


def pick_ofport(used: Collection[int], start: int = FIRST_OFPORT) -> int:
    """The lowest free OpenFlow port number from `start`. Raises LookupError when there is none."""
    for number in range(start, LAST_OFPORT + 1):
        if number not in used:
            return number
    raise LookupError("all port numbers are in use")


def wire_of(owner: str, attachment: Attachment) -> Wire:
    """The namespace and link an attachment with an address needs."""
    address = attachment.address
    if address is None:
        raise ValueError(f"attachment {attachment.id} has no address")
    return Wire(
        namespace=attachment.id,
        link=link_name(owner, attachment.id),
        ifname=attachment.ifname,
        mac=address.mac or mac_of(address.ip),
        ip=address.ip,
        prefix=address.prefix,
        gateway=address.gateway,
        mtu=attachment.spec.mtu or address.mtu or DEFAULT_MTU,
    )


def port_of(owner: str, attachment: Attachment) -> SwitchPort:
    """The switch port an attachment with an address needs."""
    address = attachment.address
    if address is None or attachment.ofport is None:
        raise ValueError(f"attachment {attachment.id} has no address")
    return SwitchPort(
        name=link_name(owner, attachment.id),
        vlan=address.vlan,
        ofport=attachment.ofport,
        mac=address.mac or mac_of(address.ip),
        ip=address.ip,
        attachment=attachment.id,
        container=attachment.container,
    )


def differs(known: AttachmentSpec, asked: AttachmentSpec) -> str | None:
    """Why a repeated ADD can't be the same attachment: the field that differs, or None."""
    if known.network != asked.network:
        return "network"
    if known.instance != asked.instance:
        return "instance"
    if asked.ip is not None and known.ip is not None and known.ip != asked.ip:
        return "ip"
    return None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do so that the host has what is desired and nothing else of this cluster. Tuples are sorted."""

    revoke: tuple[tuple[str, str], ...] = ()  # (container id, namespace) that nobody wants
    remove_ports: tuple[str, ...] = ()
    remove_links: tuple[str, ...] = ()
    remove_namespaces: tuple[str, ...] = ()
    wire: tuple[str, ...] = ()  # attachments whose namespace or link is missing
    ports: tuple[str, ...] = ()  # attachments whose port is missing or wrong
    finish: tuple[str, ...] = ()  # attachments in the middle of a DEL

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)


def plan(owner: str, desired: Iterable[Attachment], actual: Actual) -> Plan:
    """Compare. `desired` must have been read after `actual`, or a new attachment would look stale."""
    every = sorted(desired, key=lambda each: each.id)
    wanted = [each for each in every if each.phase is Phase.ADDRESSED]
    links = {link_name(owner, each.id) for each in every}
    ports = {view.name: view for view in actual.ports}
    namespaces = {each.id for each in wanted}
    return Plan(
        revoke=tuple(sorted(pair for pair in actual.registered if pair[1] not in namespaces)),
        remove_ports=_sorted(set(ports) - links),
        remove_links=_sorted(actual.network.links - links),
        remove_namespaces=_sorted(actual.network.namespaces - {each.id for each in every}),
        wire=tuple(each.id for each in wanted if not _is_wired(owner, each, actual)),
        ports=tuple(each.id for each in wanted if not _has_port(owner, each, ports)),
        finish=tuple(each.id for each in every if each.phase is Phase.RELEASING),
    )


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _is_wired(owner: str, attachment: Attachment, actual: Actual) -> bool:
    view = actual.network
    return attachment.id in view.namespaces and link_name(owner, attachment.id) in view.links


def _has_port(owner: str, attachment: Attachment, ports: Mapping[str, PortView]) -> bool:
    wanted = port_of(owner, attachment)
    view = ports.get(wanted.name)
    return (
        view is not None
        and view.error is None
        and (view.vlan, view.ofport) == (wanted.vlan, wanted.ofport)
        and (view.attachment, view.container) == (wanted.attachment, wanted.container)
    )


def orphans(
    desired: Iterable[Attachment], containers: Iterable[ContainerView], now: float, grace_s: float
) -> frozenset[str]:
    """Attachments whose container the engine does not know, and that are older than the grace.

    The caller collects one only when two looks a grace apart both had it.
    """
    known = {name for each in containers for name in (each.id, each.name)}
    return frozenset(
        each.id
        for each in desired
        if each.spec.owner is Owner.DOCKER
        and each.container not in known
        and now - each.created_at > grace_s
    )


@dataclass(frozen=True, slots=True)
class Intruder:
    """A running container of ours that must not run, and why. `at_once`: there is no innocent explanation."""

    container: str
    reason: str
    at_once: bool


def intruders(
    containers: Iterable[ContainerView],
    inodes: Mapping[str, int | None],
    host_inode: int,
    runtime: str,
) -> tuple[Intruder, ...]:
    """Running containers that are not in the namespace of their attachment.

    `inodes` maps the containers with an attachment, by name, to their namespace's inode (None: not known now).
    """
    found = []
    for each in sorted(containers, key=lambda view: view.id):
        if not each.running or each.netns_inode is None:
            continue
        if each.netns_inode == host_inode:
            found.append(Intruder(each.id, "it runs in the host's network namespace", True))
        elif each.runtime != runtime:
            found.append(Intruder(each.id, f"it runs under the runtime {each.runtime!r}", False))
        elif each.name not in inodes:
            found.append(Intruder(each.id, "it has no attachment", False))
        elif inodes[each.name] not in (None, each.netns_inode):
            found.append(Intruder(each.id, "it runs in a namespace that is not its own", False))
    return tuple(found)
