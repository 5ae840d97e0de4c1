"""Leadership: one leads, the others wait, warm. Who leads is elected by a lease in the store, or by ZooKeeper.

An election only keeps two from working at the same time for long. What makes a paused leader harmless is the epoch
in its writes (`Fence`), and that it asks `certain()` before it acts on anything else. A lease of 0 seconds means
that there is no other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from libs.common.clock import Clock
from libs.common.errors import Fenced, Unavailable
from libs.common.store.base import Store
from libs.common.telemetry import Telemetry


class Candidate(Protocol):
    """What of a Runtime is needed here."""

    @property
    def instance(self) -> str: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def store(self) -> Store: ...
    @property
    def rng(self) -> random.Random: ...
    @property
    def telemetry(self) -> Telemetry: ...


class LeaseLost(Fenced):
    """What elects has been away for too long to go on leading; whether another leads, nobody knows."""

    def __init__(self, message: str, electorate: str) -> None:
        super().__init__(message)
        self.electorate = electorate  # "store" or "zookeeper"


class Leadership(Protocol):
    """One replica's time as the leader."""

    def certain(self) -> bool:
        """Can nobody else have been elected yet, by this process' own clock, which a pause does not stop.

        To be asked before each act that no fence guards.
        """
        ...

    async def hold(self) -> None:
        """Lead until cancelled. Raises Fenced when another leads or may, LeaseLost when what elects is away."""
        ...


class Election(Protocol):
    """Elects one of the replicas that ask."""

    def lead(
        self, rt: Candidate, name: str, ttl_s: float
    ) -> AbstractAsyncContextManager[Leadership]:
        """Entered when this replica is the leader; whatever it did must have ended when it is left.

        Who leaves in good order is followed at once, who dies within about `ttl_s`.
        """
        ...


class Elector(Candidate, Protocol):
    """A Runtime, with the election that its configuration names."""

    @property
    def election(self) -> Election: ...


def leadership(rt: Elector, name: str, ttl_s: float) -> AbstractAsyncContextManager[Leadership]:
    """See Election."""
    return rt.election.lead(rt, name, ttl_s)


# -- by the store ----------------------------------------------------------------------------------


DROP_S = 1.0


class StoreElection:
    """A lease in the store: nothing else has to run."""

    @asynccontextmanager
    async def lead(self, rt: Candidate, name: str, ttl_s: float) -> AsyncIterator[Leadership]:
        """See Election."""
        lease = _Lease(rt, name, ttl_s)
        await lease.wait()
        try:
            yield lease
        finally:
            if ttl_s > 0:
                await drop_lease(rt.store, name, rt.instance)


class _Lease:
    """The lease, while we have it."""

    def __init__(self, rt: Candidate, name: str, ttl_s: float) -> None:
        self._rt = rt
        self._name = name
        self._ttl_s = ttl_s
        self._renewed = 0.0

    async def wait(self) -> None:
        """Return when this replica is the leader."""
        while self._ttl_s > 0:
            try:
                if await self._take():
                    return
            except Unavailable:
                pass  # without the store nobody leads; look again
            await self._rt.clock.sleep(self._ttl_s / 3)

    async def _take(self) -> bool:
        asked, now = self._rt.clock.monotonic(), self._rt.clock.now()
        if await self._rt.store.take_lease(self._name, self._rt.instance, now, self._ttl_s):
            self._renewed = asked
            return True
        return False

    def certain(self) -> bool:
        """See Leadership."""
        return self._ttl_s <= 0 or self._left_s() >= 0

    def _left_s(self) -> float:
        return self._renewed + self._ttl_s - self._rt.clock.monotonic()

    async def hold(self) -> None:
        """See Leadership."""
        while self._ttl_s > 0:
            await self._rt.clock.sleep(self._ttl_s / 3)
            try:
                async with asyncio.timeout(
                    max(self._left_s(), 0.01)
                ):  # a driver may try for longer
                    if not await self._take():
                        raise Fenced(f"another {self._name} leads")
            except (Unavailable, TimeoutError):
                if not self.certain():
                    message = f"the store is away: the lease of {self._name} could not be renewed"
                    raise LeaseLost(message, "store") from None


async def drop_lease(store: Store, name: str, holder: str) -> None:
    """Give a lease up, if that can be done in a moment; it would end by itself."""
    try:
        async with asyncio.timeout(DROP_S):
            await store.drop_lease(name, holder)
    except (Unavailable, TimeoutError):
        pass
