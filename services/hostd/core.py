"""Pure decisions of hostd: names, what an attachment needs, and what to mend when things differ.

**Invariant**: nothing here looks at the world or the clock; a plan is data.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from services.hostd.model import (
    DEFAULT_MTU,
    MIN_MTU6,
    Actual,
    Address,
    Address6,
    Attachment,
    AttachmentSpec,
    Caller,
    ContainerView,
    Hop,
    Life,
    Owner,
    PendingRelease,
    Phase,
    PortView,
    Probe,
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


def mac_of(ip: str) -> str:
    """A locally administered MAC made of the address: whoever gets it next keeps neighbours' ARP caches right.

    An IPv6 address does not fit: 40 bits of its hash do, with which 10,000 of them in a VLAN collide once in 22,000.
    """
    address = ipaddress.ip_address(ip)
    if address.version == 4:
        octets = bytes((0x0A, 0x67)) + address.packed
    else:
        octets = bytes((0x0E,)) + hashlib.sha256(address.packed).digest()[:5]
    return octets.hex(":")


def mac_for(address: Address) -> str:
    """The MAC of an attachment with this address: ipam's, or made of the primary one."""
    return address.mac or mac_of(address.parts()[0].address)


def mtu_of(attachment: Attachment) -> int:
    """The attachment's own, its network's, or the usual one."""
    network = attachment.address.mtu if attachment.address else None
    return attachment.spec.mtu or network or DEFAULT_MTU


def unfit(attachment: Attachment) -> str | None:
    """Why the address can't be used as the attachment asks, or None."""
    address, mtu = attachment.address, mtu_of(attachment)
    if address is not None and address.ip6 is not None and mtu < MIN_MTU6:
        return f"is {mtu}, and IPv6 needs an MTU of {MIN_MTU6}"
    return None


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
    caller = attachment.caller or Caller(conf="")
    return Wire(
        namespace=attachment.id,
        link=link_name(owner, attachment.id),
        ifname=attachment.ifname,
        mac=caller.mac or mac_for(address),
        ip=address.ip,
        prefix=address.prefix,
        gateway=address.gateway if caller.default_route else None,
        mtu=mtu_of(attachment),
        ip6=_ip6_of(address, caller),
        egress_kbit=attachment.spec.bandwidth.egress_kbit,
        netns=caller.netns,
        inode=caller.inode,
        routes=tuple(_led(hop, address) for hop in caller.routes),
    )


def _ip6_of(address: Address, caller: Caller) -> Address6 | None:
    """The IPv6 part as it is wired: with a default route, unless the caller wants none."""
    if address.ip6 is None or caller.default_route:
        return address.ip6
    return address.ip6.model_copy(update={"gateway": None})


def _led(hop: Hop, address: Address) -> Hop:
    """The route with the gateway of its family's address, if it has no other."""
    family = 6 if ":" in hop.dst else 4
    gateways = [part.gateway for part in address.parts() if part.family == family]
    return hop if hop.gw or not gateways else Hop(dst=hop.dst, gw=gateways[0])


def port_of(owner: str, attachment: Attachment) -> SwitchPort:
    """The switch port an attachment with an address needs."""
    address = attachment.address
    if address is None or attachment.ofport is None:
        raise ValueError(f"attachment {attachment.id} has no address")
    return SwitchPort(
        name=link_name(owner, attachment.id),
        vlan=address.vlan,
        ofport=attachment.ofport,
        mac=wire_of(owner, attachment).mac,
        ip=address.ip,
        attachment=attachment.id,
        container=attachment.container,
        ip6=address.ip6.ip if address.ip6 else "",
        bandwidth=attachment.spec.bandwidth,
        leaving=attachment.phase is Phase.RELEASING,
        netns=attachment.caller.netns if attachment.caller else attachment.id,
        generation=",".join(str(part.generation) for part in address.parts()),
    )


def ports_of(owner: str, attachments: Iterable[Attachment]) -> list[SwitchPort]:
    """The ports whose flows must be there: of all that have an address, until they are taken down."""
    return [port_of(owner, each) for each in attachments if each.wired and each.ofport is not None]


def probes_of(attachment: Attachment) -> tuple[Probe, ...]:
    """The questions whether another station has an address of the attachment's."""
    address = attachment.address
    if address is None:
        return ()
    mac = mac_for(address)
    return tuple(Probe(address.vlan, mac, part.address) for part in address.parts())


def unaddressed(attachment: Attachment) -> Attachment:
    """The same as before it was given an address."""
    changes = {"address": None, "ofport": None}
    return attachment.moved(Phase.ADDRESSING).model_copy(update=changes)


def release_of(attachment: Attachment, now: float) -> PendingRelease | None:
    """What ipam must be told when the attachment is gone; None when it never knew of it."""
    if not attachment.ipam_key:
        return None
    address = attachment.address
    primary, second = address.generations() if address else (None, None)
    return PendingRelease(
        ipam_key=attachment.ipam_key,
        spec=attachment.spec,
        generation=primary,
        generation6=second,
        since=now,
    )


def is_parkable(attachment: Attachment) -> bool:
    """May its wiring wait for an heir, once its container is gone? Not a second time."""
    return (
        bool(attachment.spec.sticky_key and attachment.ipam_key)
        and attachment.spec.owner is Owner.DOCKER
        and attachment.caller is None
        and attachment.address is not None
        and attachment.ofport is not None
    )


def are_kin(one: AttachmentSpec, other: AttachmentSpec) -> bool:
    """Do both keep the same address, one after the other?"""
    mine = one.network, one.sticky_key, one.owner
    return bool(one.sticky_key) and mine == (other.network, other.sticky_key, other.owner)


def is_over(known: Attachment, spec: AttachmentSpec, life: Life, had_leave: bool) -> bool:
    """Is the container of an attachment done for, now that an ADD with `spec` of the same key comes?

    One that is not there may be one that is still to be made, unless it once had leave to start.
    """
    if life is Life.RUNNING:
        return False
    mine = known.spec
    older = mine.instance == spec.instance and mine.generation < spec.generation
    return older or life is Life.ENDED or (life is Life.ABSENT and had_leave)


def may_inherit(parked: Attachment, newcomer: Attachment) -> bool:
    """Is the parked wiring what `newcomer` needs? What may differ (MTU, limits) is set by making it again."""
    return (parked.ifname, _place(parked.address)) == (newcomer.ifname, _place(newcomer.address))


def _place(address: Address | None) -> Address | None:
    """The address without what changes each time it is given, and what can be changed in place."""
    if address is None:
        return None
    ip6 = address.ip6.model_copy(update={"generation": 0}) if address.ip6 is not None else None
    return address.model_copy(update={"generation": 0, "mtu": None, "ip6": ip6})


def shares_address(one: Attachment, other: Attachment) -> bool:
    """Have both an address in common?"""
    mine, theirs = one.address, other.address
    if mine is None or theirs is None or mine.vlan != theirs.vlan:
        return False
    return bool({part.address for part in mine.parts()} & {p.address for p in theirs.parts()})


def heir_of(parked: Attachment, newcomer: Attachment) -> Attachment:
    """The parked attachment as `newcomer`'s."""
    changes = {
        "container": newcomer.container,
        "ipam_key": newcomer.ipam_key,
        "spec": newcomer.spec,
        "created_at": newcomer.created_at,
        "address": newcomer.address,
        "parked_at": None,
    }
    return parked.moved(Phase.ADDRESSED).model_copy(update=changes)


def ipam_key(id_: str, container: str, ifname: str, caller: Caller | None) -> str:
    """What ipam knows an attachment by. It gives nothing to one that is over, and a caller of CNI may come again with
    the name of a container (which means something on this host only): hence the id."""
    if caller is None:
        return f"{container}.{ifname}"
    return "" if caller.given is not None else f"{container}.{ifname}.{id_}"


def differs(known: AttachmentSpec, asked: AttachmentSpec) -> str | None:
    """Why a repeated ADD can't be the same attachment: the field that differs, or None."""
    if known.owner is not asked.owner:
        return "owner"
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
    up: tuple[str, ...] = ()  # attachments whose link is only down
    finish: tuple[str, ...] = ()  # attachments in the middle of a DEL
    unpark: tuple[str, ...] = ()  # parked attachments of which something is missing

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)


def plan(owner: str, desired: Iterable[Attachment], actual: Actual) -> Plan:
    """Compare. `desired` must have been read after `actual`, or a new attachment would look stale."""
    everything = sorted(desired, key=lambda each: each.id)
    every = [each for each in everything if each.wired]
    # Without the path of its namespace nothing can be mended.
    wanted = [
        each for each in every if each.phase is Phase.ADDRESSED and each.id not in actual.absent
    ]
    gone = lost(owner, every, actual)
    links = {link_name(owner, each.id) for each in every if each.id not in gone}
    ports = {view.name: view for view in actual.ports}
    namespaces = {each.id for each in wanted}
    wired = {each.id for each in every if _is_wired(owner, each, actual)}
    plugged = {each.id for each in every if each.ofport and _has_port(owner, each, ports)}
    return Plan(
        revoke=tuple(sorted(pair for pair in actual.registered if pair[1] not in namespaces)),
        remove_ports=_sorted(set(ports) - links),
        remove_links=_sorted(actual.network.links - links),
        remove_namespaces=_sorted(actual.network.namespaces - {each.id for each in every}),
        wire=tuple(each.id for each in wanted if each.id not in wired),
        ports=tuple(each.id for each in wanted if each.id not in plugged),
        up=tuple(e.id for e in wanted if link_name(owner, e.id) in actual.network.down),
        finish=tuple(each.id for each in everything if each.phase is Phase.RELEASING),
        unpark=tuple(
            each.id
            for each in every
            if each.phase is Phase.PARKED and each.id not in wired & plugged
        ),
    )


def lost(owner: str, desired: Iterable[Attachment], actual: Actual) -> frozenset[str]:
    """Attachments that went with their caller's namespace. As long as a link is there, so is what it leads to, whatever
    became of the namespace's path."""
    return frozenset(
        each.id
        for each in desired
        if each.id in actual.absent and link_name(owner, each.id) not in actual.network.links
    )


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _is_wired(owner: str, attachment: Attachment, actual: Actual) -> bool:
    view = actual.network
    there = attachment.caller is not None or attachment.id in view.namespaces
    return there and link_name(owner, attachment.id) in view.links


def _has_port(owner: str, attachment: Attachment, ports: Mapping[str, PortView]) -> bool:
    wanted = port_of(owner, attachment)
    view = ports.get(wanted.name)
    return (
        view is not None
        and view.error is None
        and (view.vlan, view.ofport) == (wanted.vlan, wanted.ofport)
        and (view.attachment, view.container) == (wanted.attachment, wanted.container)
        # Ports of before these marks are left as they are.
        and (view.netns, view.generation) in (("", ""), (wanted.netns, wanted.generation))
        and view.bandwidth == wanted.bandwidth
    )


def orphans(
    desired: Iterable[Attachment],
    containers: Iterable[ContainerView],
    now: float,
    grace_s: Callable[[Attachment], float],
) -> frozenset[str]:
    """Attachments whose container the engine does not know, and that are older than their grace.

    The caller collects one only when two looks a grace apart both had it.
    """
    known = {name for each in containers for name in (each.id, each.name)}
    return frozenset(
        each.id
        for each in desired
        if each.spec.owner is Owner.DOCKER
        and each.parked_at is None
        and each.container not in known
        and now - each.created_at > grace_s(each)
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
