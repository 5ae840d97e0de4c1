"""Allocation by compare-and-set: any number of replicas, no locks.

An attachment's claim is idempotent (a unique index on the attachment, a family), an address is one document, so two
replicas can't give the same one twice: the loser of a race tries the next. Claims that come together are one batch:
a handful of calls to the store for all of them, whatever they are told one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from libs.common.clock import Clock
from libs.common.errors import Conflict, GantryError, NotFound, Unavailable
from libs.common.store.base import Outcome
from services.ipam import core
from services.ipam.catalogue import Catalogue
from services.ipam.jobs import (
    Allocation,
    Asked,
    Job,
    Resting,
    Try,
    UsedUp,
    answer,
    own,
    same_job,
    untried,
    wanted,
)
from services.ipam.model import Address, unit_of
from services.ipam.pools import Pool, canonical
from services.ipam.quotas import Quotas, Wish
from services.ipam.recovery import Recoveries
from services.ipam.stock import Stock
from services.ipam.store import Change, IpamStore
from services.ipam.telling import Telling

MAX_TRIES = 64


class Allocator:
    """One replica's."""

    def __init__(
        self,
        store: IpamStore,
        catalogue: Catalogue,
        stock_of: Callable[[Pool], Stock],
        quotas: Quotas,
        recovery: Recoveries,
        telling: Telling,
        clock: Clock,
        cooldown_s: float,
        hold_s: float,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._stock_of = stock_of
        self._quotas = quotas
        self._recovery = recovery
        self._telling = telling
        self._clock = clock
        self._cooldown_s = cooldown_s
        self._hold_s = hold_s
        self._units: frozenset[str] = frozenset()  # business units that are known by name

    async def allocate_many(self, asked: Sequence[Asked]) -> list[Allocation | GantryError]:
        """What each claim gets, or why it gets nothing. Raises Unavailable: then any of them may have got theirs."""
        rules = await self._quotas.rules.current()
        named = {bu for network in self._catalogue for bu in network.config.bus}
        self._units = frozenset({*rules, *named})
        jobs: dict[str, Job] = {}
        results: list[Job | GantryError] = []
        for each in asked:
            known = jobs.get(each.claim.attachment)
            try:
                results.append(same_job(known, each) if known else await self._job(each))
            except GantryError as error:
                results.append(error)
                self._telling.failed(each.claim.network, error)
                continue
            jobs.setdefault(each.claim.attachment, results[-1])  # type: ignore[arg-type]
        await self._allocate(list(jobs.values()))
        return [each if isinstance(each, GantryError) else answer(each) for each in results]

    async def _job(self, asked: Asked) -> Job:
        """Raises NotFound: no such network, or not for this one."""
        claim = asked.claim
        network = await self._catalogue.find(claim.network)
        why = f"there is no network {claim.network!r}"
        if network is None or (network.config.bus and network.refusal(claim)):
            open_to = sorted(each.name for each in self._catalogue if not each.refusal(claim))
            raise NotFound(f"{why}; there are: {', '.join(open_to) or 'none'}")
        if refusal := network.refusal(claim):
            raise NotFound(f"network {network.name} {refusal}, and {claim.instance} is not of it")
        needs = claim.families or network.families
        job = Job(asked, network, unit_of(claim, self._units), tuple(needs))
        job.pools = {family: network.pools_for(claim, family) for family in needs}
        for family, pools in job.pools.items():
            if not pools:
                raise NotFound(
                    f"network {network.name} has no pool of IPv{family} for {claim.instance}"
                )
        return job

    async def _allocate(self, jobs: Sequence[Job]) -> None:
        await self._look_up(jobs)
        open_jobs = [job for job in jobs if job.missing()]
        if not open_jobs:
            return
        await self._bury(open_jobs)
        if why := self._recovery.waiting():
            for job in open_jobs:
                job.fail(Unavailable(why))
        await self._choose([job for job in open_jobs if job.missing()])
        for _ in range(MAX_TRIES):
            tries = await self._candidates(open_jobs)
            if not tries:
                break
            await self._take_within_quotas(tries)
        for job in open_jobs:
            if job.missing():
                job.fail(
                    Unavailable(
                        f"network {job.network.name}: lost {MAX_TRIES} races for an address"
                    )
                )
        # One that was released while we were at it: that release found nothing to free.
        await self._bury([job for job in open_jobs if job.fresh and job.failure is None])
        await self._undo([job for job in open_jobs if job.failure is not None and job.fresh])
        for job in open_jobs:
            self._telling.settled(job.network.name, len(job.fresh), job.failure)

    async def _look_up(self, jobs: Iterable[Job]) -> None:
        """What attachments have already. Those that a report has missed are not lost: their host asks for them."""
        by_name = {job.claim.attachment: job for job in jobs}
        for _ in range(MAX_TRIES):
            if not by_name:
                return
            held = await self._store.of_attachments(list(by_name), self._catalogue.families())
            missed: list[tuple[Job, Address]] = []
            for name, job in by_name.items():
                job.have.clear()
                for address in held.get(name, ()):
                    try:
                        job.have[address.family] = own(address, job.claim)
                    except Conflict as error:
                        job.fail(error)
                        continue
                    if address.missing_since is not None:
                        missed.append((job, address))
            by_name = await self._found_again(missed)
        for job in by_name.values():
            job.fail(Unavailable(f"{job.claim.attachment}: lost {MAX_TRIES} races with reports"))

    async def _found_again(self, missed: Sequence[tuple[Job, Address]]) -> dict[str, Job]:
        """Say that these are in use; the attachments of those that were changed, or released, meanwhile."""
        if not missed:
            return {}
        found = [replace(address, missing_since=None) for _, address in missed]
        outcomes = await self._store.save_many([Change(each) for each in found], self._clock.now())
        again: dict[str, Job] = {}
        for (job, _), address, outcome in zip(missed, found, outcomes, strict=True):
            if outcome is Outcome.OK:
                job.have[address.family] = replace(address, version=address.version + 1)
            else:
                self._telling.tried(outcome)
                again[job.claim.attachment] = job
        return again

    async def _bury(self, jobs: Sequence[Job]) -> None:
        """Attachments that are over get nothing any more."""
        if not jobs:
            return
        over = await self._store.buried([(job.claim.attachment, job.claim.host) for job in jobs])
        for job in jobs:
            if job.claim.attachment in over:
                name = job.claim.attachment
                job.fail(Conflict(f"attachment {name} is over; it gets no address any more"))

    # -- which address

    async def _choose(self, jobs: Sequence[Job]) -> None:
        """Addresses that claims ask for, or had before."""
        asking = [job for job in jobs if job.claim.requested]
        ids = {job: f"{job.network.name}/{canonical(job.claim.requested)}" for job in asking}
        known = await self._store.get_many(sorted(set(ids.values()))) if ids else {}
        for job in asking:
            self._requested(job, known.get(ids[job]))
        for job in jobs:
            if job.claim.reservation:
                await self._reserved(job)
        sticky: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            if job.claim.sticky_key and not job.only:
                sticky[job.network.name].append(job)
        for network, those in sticky.items():
            keys = sorted({job.claim.sticky_key for job in those})
            found = await self._store.sticky(network, keys)
            for job in those:
                self._had_before(job, found)

    def _requested(self, job: Job, known: Address | None) -> None:
        claim, network = job.claim, job.network
        wanted = canonical(claim.requested)
        pool = network.pool_of(wanted)
        if pool is None:
            return job.fail(
                Conflict(f"{claim.requested} is not an address that {network.name} gives out")
            )
        if pool not in job.pools.get(pool.family, ()):
            return job.fail(
                Conflict(
                    f"{claim.requested} is of pool {pool.name}, which is not for this instance"
                )
            )
        if pool.family not in job.missing():
            return None
        offset = pool.offset(wanted)
        assert offset is not None
        address = known or Address(network.name, wanted, offset, pool=pool.name)
        self._only(job, address)
        return None

    async def _reserved(self, job: Job) -> None:
        name, network = job.claim.reservation, job.network
        address = await self._store.reserved(network.name, name)
        if address is None:
            job.fail(NotFound(f"network {network.name} has no reservation {name!r}"))
        elif address.family in job.missing():
            self._only(job, address)

    def _only(self, job: Job, address: Address) -> None:
        now = self._clock.now()
        if why := core.closed_to(address, job.claim, now):
            job.fail(Conflict(f"{address.address} {why}"))
        if rest_s := core.rests_s(address, job.claim, now):
            job.fail(Resting(address.address, rest_s))
        job.rather[address.family] = [address]
        job.only |= {address.family}

    def _had_before(self, job: Job, found: Sequence[Address]) -> None:
        now = self._clock.now()
        for address in found:
            pool = job.network.pool_of(address.address)
            mine = address.sticky_key == job.claim.sticky_key
            if (
                mine
                and pool is not None
                and pool in job.pools.get(pool.family, ())
                and not core.closed_to(address, job.claim, now)
            ):
                job.rather.setdefault(pool.family, []).append(address)

    async def _candidates(self, jobs: Sequence[Job]) -> list[Try]:
        """One for each address that is missing; a job for which there is none fails."""
        tries: list[Try] = []
        wanting: list[tuple[Job, int]] = []
        used: set[str] = set()
        for job in jobs:
            for family in job.missing():
                rather = job.rather.get(family, [])
                address = next((each for each in rather if each.id not in used), None)
                if address is not None:
                    rather.remove(address)
                    used.add(address.id)
                    tries.append(Try(job, family, address, None))
                elif family in job.only:
                    job.fail(Conflict(f"{wanted(job.claim)} has just been taken"))
                else:
                    wanting.append((job, family))
        try:
            await self._from_stock(wanting, tries)
        except BaseException:
            untried(tries)
            raise
        # What a claim asks for, or had before, may be the stock's next candidate, too.
        left = [each for each in tries if each.job.failure is None]
        asked = {each.address.id for each in left if each.stock is None}
        good = [each for each in left if each.stock is None or each.address.id not in asked]
        kept = set(good)
        untried([each for each in tries if each not in kept])
        return good

    async def _from_stock(self, wanting: list[tuple[Job, int]], tries: list[Try]) -> None:
        """From each one's first pool that has any."""
        level = 0
        while wanting:
            by_pool: dict[str, list[tuple[Job, int]]] = defaultdict(list)
            stocks: dict[str, Stock] = {}
            for job, family in wanting:
                pools = job.pools[family]
                if level >= len(pools):
                    job.fail(UsedUp(pools))
                else:
                    by_pool[pools[level].id].append((job, family))
                    stocks[pools[level].id] = self._stock_of(pools[level])
            wanting = []
            for name, those in by_pool.items():
                picked = await stocks[name].pick(len(those))
                for (job, family), address in zip(those, picked, strict=False):
                    tries.append(Try(job, family, address, stocks[name]))
                wanting += those[len(picked) :]
            level += 1

    # -- taking it

    async def _take_within_quotas(self, tries: Sequence[Try]) -> None:
        now, turn = self._clock.now(), self._quotas.turn()
        wishes = {
            each: Wish(
                each.job.bu, each.job.network.name, each.job.claim.attachment, each.family, turn
            )
            for each in tries
            if not each.address.counts_for(each.job.bu, now)
        }
        try:
            refused = await self._quotas.admit(list(wishes.values()))
        except BaseException:
            untried(tries)
            raise
        for each, wish in wishes.items():
            if wish in refused:
                each.job.fail(refused[wish])
        left = [each for each in tries if each.job.failure is None]
        untried([each for each in tries if each.job.failure is not None])
        # If it raises, nobody knows what has been written: the tickets stay until they are found out about.
        taken = await self._take(left) if left else set()
        settled = [(wish, each in taken) for each, wish in wishes.items() if wish not in refused]
        await self._quotas.settle(settled)

    async def _take(self, tries: Sequence[Try]) -> set[Try]:
        """Those of the tries that came off."""
        now = self._clock.now()
        changes = []
        for each in tries:
            claim = each.job.claim
            given, events = core.give(each.address, claim, now, each.job.bu)
            changes.append(Change(given, events, each.job.asked.traceparent))
        try:
            outcomes = await self._store.save_many(changes, now)
        except BaseException:
            untried(tries)
            raise
        doubled: list[Job] = []
        taken: set[Try] = set()
        for each, change, outcome in zip(tries, changes, outcomes, strict=True):
            self._telling.tried(outcome)
            if outcome is Outcome.DUPLICATE:
                doubled.append(each.job)  # the same claim raced with itself, and one of the two won
                untried([each])
                continue
            if each.stock is not None:
                each.stock.tried(each.address, outcome)
            if outcome is Outcome.OK:
                taken.add(each)
                stored = replace(change.address, version=change.address.version + 1)
                each.job.have[each.family] = stored
                each.job.fresh.append(stored)
        if doubled:
            await self._look_up(doubled)
        self._telling.kick()
        return taken

    async def _undo(self, jobs: Sequence[Job]) -> None:
        """All or nothing."""
        if not jobs:
            return
        now = self._clock.now()
        changes = []
        for job in jobs:
            for address in job.fresh:
                why = f"not to be had: {job.failure}"
                freed, events = core.take_back(address, now, why, self._cooldown_s, self._hold_s)
                changes.append(Change(freed, events, before=address, why=why))
            job.have.clear()
        await self._store.save_many(changes, now)  # one that fails is found as a leak
        self._telling.kick()
