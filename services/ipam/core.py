"""ipam's decisions. Pure: what to do with what is stored, given the time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from libs.common.events import Event
from libs.common.events import model as ev
from services.ipam.model import (
    Address,
    Claim,
    Claimed,
    Reported,
    Shown,
    State,
    allocated,
    released,
    unit_of,
)


def closed_to(address: Address, claim: Claim, now: float) -> str:
    """Why the claim may not have this very address, which it asks for or had before; "" when it may."""
    if address.reserved is not None:
        asked = claim.reservation == address.reserved.name or claim.requested == address.address
        if not address.reserved.owned_by(claim.instance, claim.app) or not (
            asked or address.reserved.bu
        ):
            return "is reserved"
    shown = address.shown(now)
    if shown is Shown.HELD and address.sticky_key != claim.sticky_key:
        return "is held for somebody else"
    return "" if address.state is State.RELEASED else f"is {shown}"


def rests_s(address: Address, claim: Claim, now: float) -> float:
    """How long the address rests yet for this claim, seconds. Peers may still have its last holder in their tables.

    For who had it last there is no need: the same sticky key, or the same app; nor for whom it is reserved.
    """
    if address.shown(now) is not Shown.COOLING:
        return 0.0
    again = address.app != "" and address.app == claim.app
    return 0.0 if again else address.free_at - now


def give(
    address: Address, claim: Claim, now: float, bu: str
) -> tuple[Address, tuple[ev.IpAllocated]]:
    """The address as the claim's, and the event."""
    taken = allocated(address, claim, now, bu)
    return taken, (allocation(taken),)


FORGOTTEN = 2**20
"""So many generations of an address a store that has gone back in time may lack."""


def take_back(
    address: Address, now: float, reason: str, cooldown_s: float, hold_s: float = 0.0
) -> tuple[Address, tuple[ev.IpReleased]]:
    """An allocated address, released, and the event."""
    event = ev.IpReleased(
        network=address.network,
        address=address.address,
        generation=address.generation,
        attachment=address.attachment,
        reason=reason,
    )
    return released(address, now, cooldown_s, hold_s), (event,)


@dataclass(frozen=True, slots=True)
class Release:
    """What becomes of a request to release: the address to save (or None), and the events."""

    address: Address | None
    events: tuple[Event, ...] = ()


def release(
    current: Address | None,
    generation: int,
    now: float,
    *,
    reason: str,
    actor: str,
    cooldown_s: float,
    hold_s: float,
) -> Release:
    """Release only what the asker means: an older generation's release is a no-op, and audited.

    A stale release that frees an address which belongs to somebody else by now is how every IPAM breaks.
    """
    if current is None or current.state is not State.ALLOCATED:
        return Release(None)
    if current.generation != generation:
        refused = ev.AuditRecorded(
            actor=actor,
            action="address.release",
            target=current.id,
            allowed=False,
            detail=f"generation {generation} is not the current {current.generation}",
        )
        return Release(None, (refused,))
    return Release(*take_back(current, now, reason, cooldown_s, hold_s))


def meant(
    current: Sequence[Address], generation: int, generation6: int | None
) -> Sequence[tuple[Address, int]]:
    """An attachment's addresses (IPv4 first), each with the generation that a release means for it.

    `generation` is the first one's. Who doesn't say that of the other means whichever there is, if the first is right.
    """
    if not current:
        return ()
    first = current[0]
    if first.family == 6 and generation6 is not None:
        return ((first, generation6),)
    rest = [
        (
            each,
            generation6
            if generation6 is not None
            else each.generation
            if first.generation == generation
            else generation,
        )
        for each in current[1:]
    ]
    return ((first, generation), *rest)


@dataclass(frozen=True, slots=True)
class Leaks:
    """After a host's report: those seen missing for the first time, those found again, those to release."""

    missing: tuple[Address, ...]
    found: tuple[Address, ...]
    leaked: tuple[Address, ...]


def leaks(on_host: Sequence[Address], live: Collection[str], now: float, grace_s: float) -> Leaks:
    """An attachment is lost when two reports a grace apart don't have it; what is unknown is valid."""
    missing, found, leaked = [], [], []
    for address in on_host:
        if address.attachment in live:
            if address.missing_since is not None:
                found.append(replace(address, missing_since=None))
        elif now - address.since < grace_s:
            continue  # its host may not have heard of it when the report was made
        elif address.missing_since is None:
            missing.append(replace(address, missing_since=now))
        elif now - address.missing_since >= grace_s:
            leaked.append(address)
    return Leaks(tuple(missing), tuple(found), tuple(leaked))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a host's word about an address leads to: the address to save (None: nothing), and the events.

    `gone_back` says that the store knows less than it once did: it has been restored.
    """

    address: Address | None = None
    events: tuple[Event, ...] = ()
    gone_back: bool = False


def heard(
    stored: Address, told: Reported, host: str, live: Collection[str], now: float, grace_s: float
) -> Verdict:
    """A host says that its attachment has the address.

    An address is given with a generation that is saved first. So a higher one than the stored means that the store has
    gone back in time: what it calls free is taken after all. An older one comes late, unless it comes for long.
    Nobody's word takes an address away from another host's attachment: where two claim it, neither loses it and nobody
    else gets it.
    """
    newer = told.generation > stored.generation
    # Whoever says more than a store can have forgotten gets nothing by it: the next holder would count from there.
    believed = newer and told.generation <= stored.generation + FORGOTTEN
    if stored.state is State.QUARANTINED:
        known = {each.who for each in stored.claims}
        if (host, told.attachment) in known:
            return Verdict()
        return quarantined(stored, told, host, now)
    if stored.state is State.ALLOCATED and (stored.host, stored.attachment) == (
        host,
        told.attachment,
    ):
        return _adopted(stored, told, host, now) if believed else Verdict()
    if believed and (
        stored.state is State.RELEASED or (stored.host == host and stored.attachment not in live)
    ):
        return _adopted(stored, told, host, now)
    given_twice = stored.state is State.ALLOCATED and told.generation == stored.generation
    if newer or given_twice or now - stored.since >= grace_s:
        return quarantined(stored, told, host, now)
    return Verdict()


def _adopted(stored: Address, told: Reported, host: str, now: float) -> Verdict:
    after = replace(
        stored,
        state=State.ALLOCATED,
        generation=told.generation,
        attachment=told.attachment,
        instance=told.instance,
        attempt=told.attempt,
        host=host,
        sticky_key=told.sticky_key,
        app=told.app or (stored.app if told.instance == stored.instance else ""),
        free_at=0.0,
        since=now,
        missing_since=None,
        claims=(),
    )
    after = replace(after, bu=unit_of(after))
    detail = f"{told.attachment} has it with generation {told.generation}, stored was {stored.generation}"
    return Verdict(after, (allocation(after), _audit(after, host, True, detail)), gone_back=True)


def claim_of(held: Address | Reported, host: str, now: float) -> Claimed:
    """That an attachment of a host has it."""
    return Claimed(
        host,
        held.attachment,
        held.generation,
        now,
        instance=held.instance,
        attempt=held.attempt,
        sticky_key=held.sticky_key,
        app=held.app,
    )


def quarantined(stored: Address, told: Reported, host: str, now: float) -> Verdict:
    """The address for nobody, until all who claim it have let it go."""
    claims = stored.claims
    if stored.state is State.ALLOCATED:
        claims = (*claims, claim_of(stored, stored.host, now))
    held = ", ".join(f"{each.attachment} on {each.host}" for each in claims) or "nobody"
    after = replace(
        stored,
        state=State.QUARANTINED,
        generation=max(stored.generation, min(told.generation, stored.generation + FORGOTTEN)),
        attachment="",
        bu=stored.reserved.bu if stored.reserved else "",
        since=now,
        missing_since=None,
        claims=(*claims, claim_of(told, host, now)),
    )
    conflicted = ev.IpConflicted(
        network=after.network,
        address=after.address,
        generation=after.generation,
        attachment=told.attachment,
    )
    detail = f"{told.attachment} has it with generation {told.generation}, by the store {held} with {stored.generation}"
    newer = told.generation > stored.generation
    return Verdict(after, (conflicted, _audit(after, host, False, detail)), gone_back=newer)


def unclaimed(
    stored: Address, host: str, live: Collection[str], now: float, grace_s: float, cooldown_s: float
) -> Verdict:
    """An address in quarantine, after a host's report: claims that two reports a grace apart don't have are over."""
    claims: list[Claimed] = []
    for each in stored.claims:
        if each.host != host or each.attachment in live:
            claims.append(replace(each, missing_since=None) if each.host == host else each)
        elif each.missing_since is None:
            claims.append(replace(each, missing_since=now))
        elif now - each.missing_since < grace_s:
            claims.append(each)
    if tuple(claims) == stored.claims:
        return Verdict()
    left = replace(stored, claims=tuple(claims))
    if stored.seen_mac:
        return Verdict(left)  # it has that against it, too
    if not claims:
        event = ev.IpReleased(
            network=left.network,
            address=left.address,
            generation=left.generation,
            reason="nobody claims it any more",
        )
        return Verdict(released(left, now, cooldown_s, 0.0), (event,))
    (first, *others) = claims
    if others or first.generation != left.generation:
        return Verdict(left)  # whoever has an older generation could not give it back
    owned = replace(
        left,
        state=State.ALLOCATED,
        attachment=first.attachment,
        host=first.host,
        instance=first.instance,
        attempt=first.attempt,
        sticky_key=first.sticky_key,
        app=first.app,
        since=now,
        claims=(),
    )
    owned = replace(owned, bu=owned.bu or unit_of(owned))
    return Verdict(owned, (allocation(owned),))


def allocation(address: Address) -> ev.IpAllocated:
    """Says that the address is its attachment's."""
    return ev.IpAllocated(
        network=address.network,
        address=address.address,
        generation=address.generation,
        attachment=address.attachment,
        instance=address.instance,
        host=address.host,
    )


def _audit(address: Address, host: str, allowed: bool, detail: str) -> ev.AuditRecorded:
    return ev.AuditRecorded(
        actor=f"host:{host}",
        action="address.adopt",
        target=address.id,
        allowed=allowed,
        detail=detail,
    )
