"""What is wrong with a host's network, and what to do about it: a pure diagnosis of what was looked at.

Whatever hostd's reconcile would mend by itself within `reconcile_s` is told all the same: it may be what somebody is
looking for right now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from services.hostd import core, flows
from services.hostd.model import (
    Attachment,
    FamilyAddress,
    LinkState,
    PendingRelease,
    Phase,
    PortView,
    Probe,
    SwitchReport,
    WireView,
)

RELEASE_LATE_S = 300.0  # ipam is asked every ten seconds by then
MENDS = "hostd mends this at its next reconcile; if it comes back, look for what changes it"
ADD_AGAIN = "restart the instance, or bring it in order by hand inside its namespace"


class Finding(BaseModel):
    """One thing that is wrong. `attachment` and what names its container are empty when it concerns the host."""

    model_config = ConfigDict(frozen=True)

    check: str = Field(
        description="what was found wrong, a fixed word: port-missing, wrong-vlan, …"
    )
    what: str
    evidence: str = Field("", description="what is there, and what should be")
    advice: str = ""
    attachment: str = Field("", description="hostd's id of it, also its namespace's name")
    container: str = ""
    instance: str = ""


class Diagnosis(BaseModel):
    """All findings of one host; none: what was looked at is as it should be."""

    host: str
    at: float
    attachments: int = Field(description="how many were looked at")
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Examined:
    """What hostd wants, and what it found when it looked. None or an error's text: it could not look."""

    owner: str
    now: float
    attachments: Sequence[Attachment]
    releases: Sequence[PendingRelease] = ()
    switch: SwitchReport | str = "not looked at"
    wires: Mapping[str, WireView] = field(default_factory=dict)  # by attachment
    uplinks: Mapping[str, LinkState | None] = field(default_factory=dict)  # the configured ones
    claims: Mapping[Probe, str] = field(default_factory=dict)  # who else answers for an address
    ipam: Mapping[str, frozenset[tuple[str, int]]] | str = "not asked"  # by ipam key


def diagnose(seen: Examined) -> tuple[Finding, ...]:
    """Everything that is wrong, of the host first, then by attachment."""
    addressed = [each for each in seen.attachments if each.phase is Phase.ADDRESSED]
    found = [*_switch(seen), *_uplinks(seen, addressed), *_ipam_away(seen)]
    for each in addressed:
        about = _about(each)
        found += [about(*fault) for fault in _of_attachment(seen, each)]
    return tuple(found)


Fault = tuple[str, str, str, str]  # check, what, evidence, advice


def _about(attachment: Attachment) -> Callable[[str, str, str, str], Finding]:
    def make(check: str, what: str, evidence: str, advice: str) -> Finding:
        return Finding(
            check=check,
            what=what,
            evidence=evidence,
            advice=advice,
            attachment=attachment.id,
            container=attachment.container,
            instance=attachment.spec.instance,
        )

    return make


def _of_attachment(seen: Examined, each: Attachment) -> Iterator[Fault]:
    if isinstance(seen.switch, SwitchReport) and each.wired:
        yield from _port(seen.owner, each, seen.switch)
    view = seen.wires.get(each.id)
    if view is not None:
        yield from _wire(seen.owner, each, view)
    yield from _claimed(each, seen.claims)
    if not isinstance(seen.ipam, str) and each.ipam_key:
        yield from _believed(each, seen.ipam)


# -- the host -----------------------------------------------------------------------------------------


def _switch(seen: Examined) -> Iterator[Finding]:
    if isinstance(seen.switch, str):
        yield Finding(
            check="switch-down",
            what="Open vSwitch can't be reached: nothing new is wired, and traffic may have ended",
            evidence=seen.switch,
            advice="start ovsdb-server and ovs-vswitchd, and see their logs; hostd gives the flows back by itself",
        )
        return
    if flows.OWNER_COOKIE in seen.switch.missing:
        yield Finding(
            check="flows-missing",
            what="rules that all ports need are missing or changed",
            evidence=f"{seen.switch.missing.count(flows.OWNER_COOKIE)} of {len(flows.SHARED_RULES)}",
            advice=MENDS,
        )
    for check, what, texts, advice in (
        ("flows-stale", "rules of ports that are no more", seen.switch.surplus, MENDS),
        (
            "flows-foreign",
            "rules that are not hostd's, and may let through what its own forbid",
            seen.switch.foreign,
            "remove them with ovs-ofctl, or move what needs them to a bridge of its own",
        ),
    ):
        if texts:
            more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
            yield Finding(check=check, what=what, evidence=f"{texts[0]}{more}", advice=advice)


def _uplinks(seen: Examined, addressed: Iterable[Attachment]) -> Iterator[Finding]:
    largest = max((core.mtu_of(each) for each in addressed), default=0)
    for name, state in sorted(seen.uplinks.items()):
        fault = _of_uplink(name, state, seen.switch, largest)
        if fault is not None:
            check, what, evidence, advice = fault
            what = f"the uplink {name} {what}"
            yield Finding(check=check, what=what, evidence=evidence, advice=advice)


def _of_uplink(
    name: str, state: LinkState | None, switch: SwitchReport | str, largest: int
) -> Fault | None:
    if state is None:
        return (
            "uplink-missing",
            "does not exist",
            "no such interface",
            "make it, or correct hostd.uplinks",
        )
    if not state.up:
        advice = f"ip link set {name} up"
        return "uplink-down", "is down: by it no other host is reached", "set down", advice
    if isinstance(switch, SwitchReport) and name not in switch.uplinks:
        advice = "restart hostd, which adds its uplinks; see ovs-vsctl show"
        evidence = "no port without a tag and an error is of its name"
        return "uplink-missing", "is no trunk of the bridge", evidence, advice
    if state.mtu < largest:
        evidence = f"its MTU is {state.mtu}, the largest instance's {largest}"
        advice = f"ip link set {name} mtu {largest}, or give the network a smaller MTU"
        return "mtu-mismatch", "carries smaller frames than instances send", evidence, advice
    return None


def _ipam_away(seen: Examined) -> Iterator[Finding]:
    if isinstance(seen.ipam, str):
        yield Finding(
            check="ipam-away",
            what="ipam can't be asked: addresses could not be compared, and no new one is given",
            evidence=seen.ipam,
            advice="see whether ipam runs, and common.peers of this host",
        )
    late = [each for each in seen.releases if seen.now - each.since > RELEASE_LATE_S]
    if late:
        oldest = min(late, key=lambda each: each.since)
        yield Finding(
            check="releases-late",
            what=f"{len(late)} addresses are free, and ipam has not been told",
            evidence=f"{oldest.ipam_key} for {seen.now - oldest.since:.0f} s",
            advice="hostd tells it as soon as ipam answers; see ipam's log for why it does not",
        )


# -- an attachment ------------------------------------------------------------------------------------


def _port(owner: str, attachment: Attachment, switch: SwitchReport) -> Iterator[Fault]:
    wanted = core.port_of(owner, attachment)
    view: PortView | None = next((each for each in switch.ports if each.name == wanted.name), None)
    if view is None:
        yield "port-missing", "the switch has no port for it", f"{wanted.name} is not there", MENDS
        return
    if view.error is not None or view.ofport != wanted.ofport:
        evidence = view.error or f"its number is {view.ofport}, not {wanted.ofport}"
        yield "port-broken", "the switch did not take its port", evidence, MENDS
    if view.vlan != wanted.vlan:
        evidence = f"{wanted.name} has the tag {view.vlan}, not {wanted.vlan}"
        yield "wrong-vlan", "its port is in another VLAN", evidence, MENDS
    if view.bandwidth != wanted.bandwidth:
        evidence = f"{view.bandwidth} instead of {wanted.bandwidth}"
        yield "wrong-limit", "its bandwidth is limited otherwise than asked for", evidence, MENDS
    missing = switch.missing.count(flows.OWNER_COOKIE | wanted.ofport)
    if missing:
        evidence = f"{missing} of {len(flows.rules_of(wanted))}"
        yield "flows-missing", "rules of its port are missing or changed", evidence, MENDS


def _wire(owner: str, attachment: Attachment, view: WireView) -> Iterator[Fault]:
    wire = core.wire_of(owner, attachment)
    if view.outer is None:
        yield "link-missing", "the host's end of its link is gone", wire.link, MENDS
    elif not view.outer.up:
        yield (
            "link-down",
            "the host's end of its link is down",
            wire.link,
            MENDS,
        )
    if view.inner is None:
        where = f"{wire.ifname} in {wire.namespace}"
        yield "interface-missing", "its namespace or its interface is gone", where, MENDS
        return
    if not view.inner.up:
        yield "interface-down", "its interface is down", wire.ifname, ADD_AGAIN
    if view.inner.mac != wire.mac:
        evidence = f"{view.inner.mac}, not {wire.mac}: the flows drop what it sends"
        yield "wrong-mac", "its interface has another MAC", evidence, ADD_AGAIN
    ends = {"inside": view.inner, "on the host": view.outer}
    for where, end in ends.items():
        if end is not None and end.mtu != wire.mtu:
            evidence = f"{end.mtu} {where}, not {wire.mtu}"
            yield "mtu-mismatch", "an end of its link has another MTU", evidence, ADD_AGAIN
    wanted = [f"{part.address}/{part.prefix_len}" for part in _parts(attachment)]
    for text in wanted:
        if text not in view.addresses:
            evidence = f"{text} is not among {', '.join(sorted(view.addresses)) or 'none'}"
            yield "address-missing", "its interface lacks an address", evidence, ADD_AGAIN
    for gateway in (wire.gateway, wire.ip6.gateway if wire.ip6 else None):
        if gateway and gateway not in view.gateways:
            yield "route-missing", "it has no default route", f"by {gateway}", ADD_AGAIN


def _parts(attachment: Attachment) -> tuple[FamilyAddress, ...]:
    return attachment.address.parts() if attachment.address else ()


def _claimed(attachment: Attachment, claims: Mapping[Probe, str]) -> Iterator[Fault]:
    for probe in core.probes_of(attachment):
        if probe in claims:
            yield (
                "address-conflict",
                "another station answers for its address",
                f"{probe.address} in VLAN {probe.vlan} is claimed by {claims[probe]}",
                "find that station by its MAC, and take the address from it",
            )


def _believed(
    attachment: Attachment, ipam: Mapping[str, frozenset[tuple[str, int]]]
) -> Iterator[Fault]:
    mine = {(part.address, part.generation) for part in _parts(attachment)}
    theirs = ipam.get(attachment.ipam_key, frozenset())
    if mine != theirs:
        said = ", ".join(f"{address} generation {n}" for address, n in sorted(theirs)) or "nothing"
        has = ", ".join(f"{address} generation {n}" for address, n in sorted(mine))
        yield (
            "ipam-disagrees",
            "ipam believes it to have another address, or generation",
            f"ipam: {said}; here: {has}",
            "restart the instance: it gets what ipam says; see the address' history for who has it",
        )
