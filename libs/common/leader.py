"""Leadership by a lease in the store: one leads, the others wait, warm.

The lease only keeps two from working at the same time for long; what makes a paused leader harmless is the epoch in
its writes (`Fence`). A lease of 0 seconds means that there is no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from libs.common.clock import Clock
from libs.common.errors import Fenced, Unavailable
from libs.common.store.base import Store


class Candidate(Protocol):
    """What of a Runtime is needed here."""

    @property
    def instance(self) -> str: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def store(self) -> Store: ...


class LeaseLost(Fenced):
    """The store has been away for too long to go on leading; whether another leads, nobody knows."""


DROP_S = 1.0


@asynccontextmanager
async def leadership(rt: Candidate, name: str, ttl_s: float) -> AsyncIterator[None]:
    """Entered when this replica is the leader; whatever it did must have ended when it is left.

    A leader that goes in good order gives its lease up, so that the next one need not wait for its end.
    """
    await wait_for_lease(rt, name, ttl_s)
    try:
        yield
    finally:
        if ttl_s > 0:
            await drop_lease(rt.store, name, rt.instance)


async def drop_lease(store: Store, name: str, holder: str) -> None:
    """Give a lease up, if that can be done in a moment; it would end by itself."""
    try:
        async with asyncio.timeout(DROP_S):
            await store.drop_lease(name, holder)
    except (Unavailable, TimeoutError):
        pass


async def wait_for_lease(rt: Candidate, name: str, ttl_s: float) -> None:
    """Return when this replica is the leader."""
    while ttl_s > 0:
        try:
            if await rt.store.take_lease(name, rt.instance, rt.clock.now(), ttl_s):
                return
        except Unavailable:
            pass  # without the store nobody leads; look again
        await rt.clock.sleep(ttl_s / 3)


async def hold_lease(rt: Candidate, name: str, ttl_s: float) -> None:
    """Renew until cancelled. Raises Fenced when another leads, or the store has been away for too long."""
    renewed = rt.clock.monotonic()
    while ttl_s > 0:
        await rt.clock.sleep(ttl_s / 3)
        try:
            if await rt.store.take_lease(name, rt.instance, rt.clock.now(), ttl_s) is None:
                raise Fenced(f"another {name} leads")
            renewed = rt.clock.monotonic()
        except Unavailable:
            if rt.clock.monotonic() - renewed > ttl_s:
                message = f"the store is away: the lease of {name} could not be renewed"
                raise LeaseLost(message) from None
