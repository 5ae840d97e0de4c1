"""How many addresses of each pool are in which state.

Counting takes the store time for every address, so a count is kept for a while: the longer it took, the longer.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from services.ipam.pools import Pool
from services.ipam.store import IpamStore

PART = 50.0  # of the time, at most one part in so many goes into counting a pool


@dataclass(frozen=True, slots=True)
class Count:
    """Of one pool."""

    usable: int
    free: int
    excluded: int
    states: Mapping[str, int]

    @property
    def used_ratio(self) -> float:
        """Of the addresses that may be given out, those that nobody can get now."""
        return 1.0 - self.free / self.usable if self.usable else 1.0

    def view(self) -> dict[str, int]:
        """For readers."""
        return {
            "usable": self.usable,
            "free": self.free,
            **self.states,
            "excluded": self.excluded,
        }


@dataclass(frozen=True, slots=True)
class _Known:
    """A count of `pool` as it was then, made at `at` and good until `again_at`; seconds of a monotonic clock."""

    pool: Pool
    count: Count
    at: float
    again_at: float


class Tally:
    """One replica's counts."""

    def __init__(self, store: IpamStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._given_up: dict[str, float] = {}  # by pool, until when nobody waits for a count

    async def now(self, pool: Pool) -> Mapping[str, int]:
        """How many are in each state but free, counted now. Raises Unavailable."""
        return await self._store.counts(pool, self._clock.now())

    async def of(self, pool: Pool) -> Count:
        """A pool's count, of a moment ago or older. Raises Unavailable."""
        async with self._locks[pool.id]:  # who waits here has the count of who counts
            known, began = self._known.get(pool.id), self._clock.monotonic()
            if known is not None and known.pool == pool and began < known.again_at:
                return known.count
            states = await self._store.counts(pool, self._clock.now())
            ended = self._clock.monotonic()
            taken = sum(states.values())
            count = Count(pool.usable, max(0, pool.usable - taken), pool.size - pool.usable, states)
            again_at = ended + PART * (ended - began)
            self._known[pool.id] = _Known(pool, count, ended, again_at)
            return count

    async def soon(self, pool: Pool, wait_s: float) -> tuple[Count, float] | None:
        """A pool's count and its age in seconds: the last one when counting takes longer. None: there is none."""
        if self._clock.monotonic() >= self._given_up.get(pool.id, 0.0):
            try:
                async with asyncio.timeout(wait_s):
                    await self.of(pool)
            except Unavailable:
                pass  # what was counted before will do
            except TimeoutError:
                self._given_up[pool.id] = self._clock.monotonic() + PART * wait_s
        known = self._known.get(pool.id)
        return (known.count, self._clock.monotonic() - known.at) if known else None
