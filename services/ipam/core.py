"""ipam's decisions. Pure: what to do with what is stored, given the time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from libs.common.events import Event
from libs.common.events import model as ev
from services.ipam.model import Address, State, released


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
    event = ev.IpReleased(
        network=current.network,
        address=current.address,
        generation=current.generation,
        attachment=current.attachment,
        reason=reason,
    )
    return Release(released(current, now, cooldown_s, hold_s), (event,))


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
