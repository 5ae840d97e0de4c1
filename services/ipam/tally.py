"""How many addresses of each pool are in which state.

Counting takes the store time for every address, so a count is kept for a while: the longer it took, the longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from libs.common.clock import Clock
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


class Tally:
    """One replica's counts."""

    def __init__(self, store: IpamStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, tuple[Pool, float, Count]] = {}  # with when it is to be done again

    async def now(self, pool: Pool) -> Mapping[str, int]:
        """How many are in each state but free, counted now. Raises Unavailable."""
        return await self._store.counts(pool, self._clock.now())

    async def of(self, pool: Pool) -> Count:
        """A pool's count, of a moment ago or older. Raises Unavailable."""
        known = self._known.get(pool.id)
        began = self._clock.monotonic()
        if known is not None and known[0] == pool and began < known[1]:
            return known[2]
        states = await self._store.counts(pool, self._clock.now())
        ended = self._clock.monotonic()
        taken = sum(states.values())
        count = Count(pool.usable, max(0, pool.usable - taken), pool.size - pool.usable, states)
        again_at = ended + PART * (ended - began)
        self._known[pool.id] = (pool, again_at, count)
        return count
