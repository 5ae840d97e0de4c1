"""Addresses that somebody else answers for: kept from everybody until they are released by hand, or for long enough."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from libs.common.clock import Clock
from libs.common.errors import Conflict, NotFound, Stale, Unavailable
from libs.common.events import model as ev
from services.ipam.catalogue import Catalogue
from services.ipam.jobs import Allocation
from services.ipam.model import Address, Claim, IpamConfig, State, released
from services.ipam.store import Change, IpamStore
from services.ipam.telling import Telling

TRIES = 64

Allocate = Callable[[Claim], Awaitable[Allocation]]


class Quarantine:
    """One replica's."""

    def __init__(
        self,
        store: IpamStore,
        config: IpamConfig,
        catalogue: Catalogue,
        telling: Telling,
        clock: Clock,
        allocate: Allocate,
    ) -> None:
        self._store = store
        self._config = config
        self._catalogue = catalogue
        self._telling = telling
        self._clock = clock
        self._allocate = allocate

    async def conflict(
        self, attachment: str, address: str, generation: int, seen_mac: str
    ) -> Allocation:
        """A host has found another station at its attachment's address: quarantine it, and allocate another one.

        Repeating it does no harm. Raises NotFound (the attachment has no such address), Stale (of another generation),
        Conflict (no other address will do: it is sticky, or was asked for), and as allocate.
        """
        for _ in range(TRIES):
            current = await self._store.of_attachment(attachment)
            stored = next((each for each in current if each.address == address), None)
            if stored is None:
                return await self._again(attachment, address, current)
            if stored.generation != generation:
                raise Stale(f"{address} is of generation {stored.generation} now")
            after = replace(
                stored,
                state=State.QUARANTINED,
                attachment="",
                bu=stored.reserved.bu if stored.reserved else "",
                since=self._clock.now(),
                missing_since=None,
                seen_mac=seen_mac,
            )
            event = ev.IpConflicted(
                network=stored.network,
                address=address,
                generation=generation,
                attachment=attachment,
                seen_mac=seen_mac,
            )
            change = Change(after, (event,), before=stored, why=f"{seen_mac} answers for it")
            if await self._store.save(change, self._clock.now()):
                self._telling.kick()
                self._telling.conflicted(stored.network)
                return await self._another(stored)
        raise Unavailable(f"{address}: lost {TRIES} races")

    async def _again(self, attachment: str, address: str, current: list[Address]) -> Allocation:
        """The same report once more: perhaps the address was quarantined, and that was all."""
        for network in self._catalogue:
            if network.pool_with(address) is None:
                continue
            stints = await self._store.history.of(network.name, address, 1)
            last = stints[0] if stints else None
            known = await self._store.get(network.name, address)
            if last and known and last.attachment == attachment and known.seen_mac:
                return await self._another(replace(known, attachment=attachment))
        if current:
            raise Conflict(f"{attachment} has {current[0].address}, not {address}")
        raise NotFound(f"{attachment} has no address")

    async def _another(self, lost: Address) -> Allocation:
        held = await self._store.of_attachment(lost.attachment)
        if (lost.pinned or lost.sticky_key) and not any(e.family == lost.family for e in held):
            kind = "was asked for" if lost.pinned else "is kept for its owner"
            raise Conflict(
                f"{lost.address} is in quarantine, {lost.seen_mac or 'somebody'} answers for it;"
                f" no other will do, for it {kind}"
            )
        claim = Claim(
            attachment=lost.attachment,
            network=lost.network,
            instance=lost.instance,
            attempt=lost.attempt,
            host=lost.host,
            environment=lost.environment,
            zone=lost.zone,
            app=lost.app,
            families=tuple(sorted({lost.family, *(each.family for each in held)})),
        )
        return await self._allocate(claim)

    async def expire(self) -> int:
        """Let those go that have been kept for long enough; how many. Raises Unavailable."""
        now = self._clock.now()
        found = await self._store.quarantined(self._catalogue.pools())
        due = [
            each
            for each in found
            if each.seen_mac and not each.claims and now - each.since >= self._config.quarantine_s
        ]
        changes = []
        for each in due:
            event = ev.IpReleased(
                network=each.network,
                address=each.address,
                generation=each.generation,
                reason="in quarantine for long enough",
            )
            after = released(replace(each, sticky_key=""), now, self._config.cooldown_s, 0.0)
            changes.append(Change(after, (event,)))
        if changes:
            await self._store.save_many(changes, now)
            self._telling.kick()
        return len(changes)
