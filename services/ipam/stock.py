"""Candidates for allocations from one pool: never-used addresses from leased blocks, then the longest rested.

In a vast pool, which never runs out of the former, those that have rested for long come first: each address that was
ever used has a document, and there must not be ever more of them.

What it costs does not depend on the pool's size or fill: a block is leased by one compare-and-set and looked through
by its ids, and rested addresses come a page at a time in the order of an index. A candidate is tried by one claim of
this process at a time; between processes compare-and-set decides, and who loses chooses more at random for a while.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from libs.common.clock import Clock
from libs.common.store.base import Collection, Outcome, Write
from services.ipam.model import NEVER, Address, State
from services.ipam.pools import Pool, Span, merged
from services.ipam.store import Change, IpamStore
from services.ipam.territory import (
    Territory,
    block_size,
    fitted,
    from_body,
    given_back,
    lease,
    to_body,
)

PAGE = 128  # rested addresses read at a time
WIDEST = 64  # from so many of the longest rested is chosen when there are many replicas at it
MAX_WALK = 2048  # offsets looked through at a time where most are used
WALKS = 4
VAST, LONG_REST_S = 1 << 16, 86_400.0
TRIES = 16


class Territories:
    """The documents of `ipam_pools`."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    async def get(self, pool: Pool) -> Territory:
        """What is known of a pool, as it is defined now."""
        doc = await self._collection.get(pool.id)
        return fitted(from_body(doc.version, doc.body), pool) if doc else Territory.of(pool)

    async def forget(self, pool: Pool) -> None:
        """A pool that is gone."""
        doc = await self._collection.get(pool.id)
        if doc is not None:
            await self._collection.delete(doc.id, doc.version)

    async def save(self, pool: Pool, territory: Territory) -> bool:
        """Compare-and-set."""
        write = Write(pool.id, territory.version, to_body(territory))
        (result,) = await self._collection.replace_many([write])
        return result.ok


class Stock:
    """One replica's candidates of one pool."""

    def __init__(
        self,
        pool: Pool,
        store: IpamStore,
        territories: Territories,
        holder: str,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.pool = pool
        self._store = store
        self._territories = territories
        self._holder = holder
        self._clock = clock
        self._rng = rng
        self._leased: list[Span] = []
        self._unspent: deque[int] = deque()
        self._unseen: list[Span] = []  # leased, and not looked through yet
        self._rested: deque[Address] = deque()
        self._trying: dict[str, Address] = {}
        self._just_read = False  # the rested ones, in the last pick
        self._spread = 1
        self._walked_out = False  # when last looked, nothing was left that was never used
        self._lock = asyncio.Lock()

    async def pick(self, wanted: int) -> list[Address]:
        """Up to `wanted` candidates, each of which must be handed to `tried` or `untried`. None: the pool is used up.

        Raises Unavailable.
        """
        picked: list[Address] = []
        try:
            async with self._lock:
                self._just_read = False
                self._from_unspent(picked, wanted)
                if len(picked) < wanted and self.pool.size > VAST:
                    await self._from_rested(picked, wanted, LONG_REST_S)
                if len(picked) < wanted and not self._walked_out:
                    await self._walk(wanted - len(picked))
                    self._from_unspent(picked, wanted)
                if len(picked) < wanted:
                    await self._from_rested(picked, wanted)
                while len(picked) < wanted:
                    # The last resort: what others have leased and may never use.
                    before = len(picked)
                    await self._walk(wanted - before, steal=True)
                    self._from_unspent(picked, wanted)
                    if len(picked) == before:
                        break
        except BaseException:
            self.untried(picked)
            raise
        return picked

    def tried(self, address: Address, outcome: Outcome) -> None:
        """What became of a candidate."""
        self._trying.pop(address.id, None)
        if address.version == 0:
            return  # taken now, or by whoever asked for this very address
        if outcome is Outcome.OK:
            self._spread = max(1, self._spread - 1)
        elif outcome is Outcome.CONFLICT:
            # What was read a while ago is out of date; what was read just now was lost in a race.
            if self._just_read:
                self._spread = min(WIDEST, 2 * self._spread)
            self._rested.clear()

    def untried(self, addresses: Iterable[Address]) -> None:
        """Nothing came of it, or nobody knows what."""
        for each in reversed(list(addresses)):
            self._trying.pop(each.id, None)
            if each.version == 0:
                self._unspent.appendleft(each.offset)
            else:
                self._rested.appendleft(each)

    async def give_back(self) -> None:
        """This replica goes: others may have what it has not spent."""
        for _ in range(TRIES):
            territory = await self._territories.get(self.pool)
            after = given_back(territory, self._holder, self._leased, self._mine())
            if after == territory or await self._territories.save(self.pool, after):
                return

    def _from_unspent(self, picked: list[Address], wanted: int) -> None:
        while self._unspent and len(picked) < wanted:
            address = self._fresh(self._unspent.popleft())
            if address.id not in self._trying:  # leased twice, when others had it in between
                self._try(picked, address)

    def _try(self, picked: list[Address], address: Address) -> None:
        self._trying[address.id] = address
        picked.append(address)

    def _fresh(self, offset: int) -> Address:
        pool = self.pool
        return Address(pool.network, pool.address(offset), offset, pool=pool.name)

    # -- never used

    def _mine(self) -> list[Span]:
        trying = (each.offset for each in self._trying.values() if each.version == 0)
        spans = [(offset, offset) for offset in (*self._unspent, *trying)]
        return list(merged([*spans, *self._unseen]))

    async def _walk(self, wanted: int, *, steal: bool = False) -> None:
        """Lease until something never used is found, for a few times: territory that is all used goes by fast."""
        size = max(wanted, block_size(self.pool))
        for _ in range(WALKS):
            if not self._unseen:
                self._unseen = await self._lease(size, steal)
            if not self._unseen:
                self._walked_out = True
                return
            await self._look_through()
            if self._unspent:
                self._walked_out = False
                return
            size = min(MAX_WALK, 2 * size)

    async def _lease(self, wanted: int, steal: bool) -> list[Span]:
        for _ in range(TRIES):
            territory = await self._territories.get(self.pool)
            mine = self._mine()
            after, spans = lease(
                territory,
                self.pool,
                self._holder,
                self._leased,
                mine,
                wanted,
                self._clock.now(),
                steal=steal,
            )
            if not spans:
                return []
            if await self._territories.save(self.pool, after):
                self._leased = [*mine, *spans]
                return spans
        return []  # too many at it: whoever asks will come again

    async def _look_through(self) -> None:
        """Which of the leased offsets have no document yet."""
        pool = self.pool
        offsets = [
            offset
            for first, last in self._unseen
            for offset in range(first, last + 1)
            if pool.usable_from(offset) == offset
        ]
        fresh = {f"{pool.network}/{pool.address(each)}": each for each in offsets}
        known = await self._store.get_many(list(fresh))
        strangers = [each for each in known.values() if each.pool != pool.name]
        if strangers:  # the pool has been given another name, or is part of one that was
            now = self._clock.now()
            moved = [
                Change(replace(each, pool=pool.name, offset=fresh[each.id])) for each in strangers
            ]
            await self._store.save_many(moved, now)
        self._unseen = []
        self._unspent.extend(
            each for name, each in fresh.items() if name not in known and name not in self._trying
        )

    # -- rested

    async def _from_rested(self, picked: list[Address], wanted: int, rest_s: float = 0.0) -> None:
        excluded: list[Address] = []
        for _ in range(WALKS):
            if len(self._rested) < wanted - len(picked):
                await self._refill(wanted, rest_s)
            while self._rested and len(picked) < wanted:
                at = self._rng.randrange(min(self._spread, len(self._rested)))
                address = self._rested[at]
                del self._rested[at]
                if self.pool.offset(address.address) is None:
                    excluded.append(replace(address, free_at=NEVER))
                else:
                    self._try(picked, address)
            if not excluded:
                return
            # They would stand first in line for ever.
            changes = [Change(each) for each in excluded]
            await self._store.save_many(changes, self._clock.now())
            excluded.clear()

    async def _refill(self, wanted: int, rest_s: float) -> None:
        rested_at = self._clock.now() - rest_s
        page = await self._store.rested(self.pool, rested_at, max(PAGE, 2 * wanted))
        self._just_read = True
        # Whatever the store says: what is not free is nobody's to give.
        self._rested = deque(
            each for each in page if each.state is State.RELEASED and each.id not in self._trying
        )

    async def readmit(self) -> None:
        """Addresses that were kept back since they were excluded, and no longer are."""
        now = self._clock.now()
        found: Sequence[Address] = await self._store.kept_back(self.pool, PAGE)
        back = [
            Change(replace(each, free_at=now))
            for each in found
            if each.reserved is None and self.pool.offset(each.address) is not None
        ]
        if back:
            await self._store.save_many(back, now)
