"""Leadership by a lease in the store: one leads, the others wait, warm.

The lease only keeps two from working at the same time for long; what makes a paused leader harmless is the epoch in
its writes (`Fence`). A lease of 0 seconds means that there is no other.
"""

from __future__ import annotations

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
