"""Releases by compare-and-set, many at a time; and those by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from libs.common.clock import Clock
from libs.common.errors import Conflict, NotFound, Unavailable
from libs.common.events import model as ev
from libs.common.store.base import Outcome
from services.ipam import core
from services.ipam.model import Address, IpamConfig, Shown, State, released
from services.ipam.store import Change, IpamStore
from services.ipam.telling import Telling

MAX_TRIES = 64


@dataclass(frozen=True, slots=True)
class Ending:
    """That an attachment is over, and what it gives back.

    `host` says whose attachment it is, "" that of every host. `seen` are its addresses' ids with the versions on which
    somebody concluded that it is lost: it is over only while they are still these, and may come again.
    """

    attachment: str
    generation: int
    reason: str
    actor: str
    host: str = ""
    generation6: int | None = None
    traceparent: str = ""
    seen: tuple[tuple[str, int], ...] = ()

    def as_seen(self, addresses: Sequence[Address]) -> bool:
        """Are these, the attachment's, still as they were seen."""
        return {*self.seen} <= {(each.id, each.version) for each in addresses}


@dataclass(eq=False)
class _Job:
    ending: Ending
    buried: bool = False
    over: bool = False
    freed: bool = False


class Releases:
    """One replica's."""

    def __init__(
        self, store: IpamStore, config: IpamConfig, telling: Telling, clock: Clock
    ) -> None:
        self._store = store
        self._config = config
        self._telling = telling
        self._clock = clock

    async def release_many(self, endings: Sequence[Ending]) -> list[bool]:
        """Free what is of the generations meant; the attachments are over then.

        False: there was nothing to free, or it is of another generation, which is audited and changes nothing. Raises
        Unavailable.
        """
        jobs = [_Job(each) for each in endings]
        for _ in range(MAX_TRIES):
            left = [job for job in jobs if not job.over]
            if not left:
                return [job.freed for job in jobs]
            await self._round(left)
        raise Unavailable(f"releases lost {MAX_TRIES} races")

    async def _round(self, jobs: Sequence[_Job]) -> None:
        names = sorted({job.ending.attachment for job in jobs})
        current = await self._store.of_attachments(names)
        decided: list[tuple[_Job, Change]] = []
        for job in jobs:
            addresses = current.get(job.ending.attachment, ())
            job.over = not job.ending.as_seen(addresses)
            if not job.over:
                decided += self._decide(job, addresses)
        now = self._clock.now()
        # First the tombstone, then another look: a claim under way sees the one or is seen by the other.
        ending = [job for job in jobs if not job.over and not job.buried and not job.ending.seen]
        if ending:
            await self._store.bury(
                ((job.ending.attachment, job.ending.host) for job in ending), now
            )
        done = {job for job, change in decided if change.before is not None}
        for job in jobs:
            # Nothing to free, and buried before this look: nothing will come any more.
            job.over = job.over or (job.buried and job not in done)
            job.buried = True
        await self._save(decided, now)

    def _decide(self, job: _Job, current: Sequence[Address]) -> list[tuple[_Job, Change]]:
        ending, changes = job.ending, []
        stale = 0
        for address, generation in core.meant(current, ending.generation, ending.generation6):
            decision = core.release(
                address,
                generation,
                self._clock.now(),
                reason=ending.reason,
                actor=ending.actor,
                cooldown_s=self._config.cooldown_s,
                hold_s=self._config.hold_s,
            )
            if decision.address is None:
                stale += 1
                self._telling.stale()
                # The address does not change, but what was tried is told.
                changes.append(Change(address, decision.events, ending.traceparent))
            else:
                changes.append(
                    Change(
                        decision.address,
                        decision.events,
                        ending.traceparent,
                        before=address,
                        why=ending.reason,
                    )
                )
        job.over = bool(current) and stale == len(changes)
        return [(job, change) for change in changes]

    async def _save(self, decided: Sequence[tuple[_Job, Change]], now: float) -> None:
        first: dict[str, tuple[_Job, Change]] = {}
        for job, change in decided:
            first.setdefault(change.address.id, (job, change))  # twice in a batch: the next round
        if not first:
            return
        outcomes = await self._store.save_many([change for _, change in first.values()], now)
        lost: set[int] = set()
        for (job, change), outcome in zip(first.values(), outcomes, strict=True):
            if change.before is None:
                continue
            self._telling.tried(outcome)
            if outcome is Outcome.OK:
                job.freed = True
                self._telling.released(change.address.network)
            else:
                lost.add(id(job))
        for job, change in first.values():
            if change.before is not None and id(job) not in lost:
                job.over = True
        self._telling.kick()

    # -- by hand

    async def by_hand(self, network: str, address: str, actor: str, gone: str = "") -> Address:
        """Let an address go that is quarantined or held, or allocated on a host that is `gone` for good; it cools down.

        Should that host come back with it, its word puts the address into quarantine. Raises NotFound (never used),
        Conflict (in another state, or on another host), Unavailable.
        """
        for _ in range(MAX_TRIES):
            stored = await self._store.get(network, address)
            if stored is None:
                raise NotFound(f"{address} of network {network} has never been used")
            now = self._clock.now()
            shown = stored.shown(now)
            config = self._config
            if gone and stored.host != gone:
                raise Conflict(f"{address} is not on host {gone}")
            if gone and shown is Shown.ALLOCATED:
                # Who keeps its address gets it again, elsewhere.
                after = released(stored, now, config.cooldown_s, config.hold_s)
            elif shown in (Shown.QUARANTINED, Shown.HELD):
                after = released(replace(stored, sticky_key=""), now, config.cooldown_s, 0.0)
            else:
                raise Conflict(
                    f"{address} is {shown}; released are quarantined and held ones, and those of a host that is gone"
                )
            audit = ev.AuditRecorded(
                actor=actor,
                action="address.release",
                target=stored.id,
                allowed=True,
                detail=f"was {shown}" + (f" on {gone}, which is gone" if gone else ""),
            )
            why = f"released by {actor}"
            freed = ev.IpReleased(
                network=network,
                address=address,
                generation=stored.generation,
                attachment=stored.attachment,
                reason=why,
            )
            events = (audit,) if stored.state is State.RELEASED else (freed, audit)
            if await self._store.save(Change(after, events, before=stored, why=why), now):
                self._telling.kick()
                return replace(after, version=stored.version + 1)
        raise Unavailable(f"{address}: lost {MAX_TRIES} races")
