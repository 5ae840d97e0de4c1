"""The relay: publishes what writes left in their outboxes, in order per document, and clears it.

Several replicas may run it: a lease lets one work at a time, and the events' ids and sequence numbers make the
odd double harmless. A writer calls `kick()` after a save, so that nothing waits for the poll; events that must not wait
for the bus either go to their reader directly besides (direct.py).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from libs.common.backoff import Backoff
from libs.common.bus.base import Bus, Record
from libs.common.clock import Clock
from libs.common.direct import Courier
from libs.common.errors import GantryError
from libs.common.events.base import to_record
from libs.common.leader import drop_lease
from libs.common.store.base import Collection, OutboxEvent, Store
from libs.common.telemetry import Log
from libs.common.waiting import TaskGroup, lasting, set_or_due

BATCH = 500
LEASE_TTL_S = 4.0  # two at work for a moment do no harm, a dead one at work for long does
POLL_S = 2.0


class Kick(Protocol):
    """Says that events were saved; see Relay.kick."""

    def __call__(self, events: Sequence[OutboxEvent] = ()) -> None: ...


class Relay:
    """Publishes the outboxes of some collections of one service."""

    def __init__(
        self,
        name: str,
        holder: str,
        store: Store,
        collections: Sequence[Collection],
        bus: Bus,
        *,
        clock: Clock,
        rng: random.Random,
        log: Log,
        sign: Callable[[Record], Record] | None = None,
        courier: Courier | None = None,
    ) -> None:
        self._sign = sign or (lambda record: record)
        self._courier = courier
        self._lease = f"relay:{name}"
        self._holder = holder
        self._store = store
        self._collections = tuple(collections)
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._log = log
        self._wake = asyncio.Event()
        self._leased_until = 0.0

    def kick(self, events: Sequence[OutboxEvent] = ()) -> None:
        """Say that there is something to publish; of `events`, just saved, those that go directly go now."""
        self._wake.set()
        if self._courier is not None:
            self._courier.post(events)

    async def run(self) -> None:
        """Publish until cancelled; then another replica may go on at once."""
        try:
            async with TaskGroup() as group:
                if self._courier is not None:
                    group.create_task(lasting(self._courier.run()))
                await self._publish_for_ever()
        finally:
            if self._leased_until > 0:
                await drop_lease(self._store, self._lease, self._holder)

    async def _publish_for_ever(self) -> None:
        backoff = Backoff()
        failures = 0
        while True:
            try:
                self._wake.clear()
                more = await self._leased() and await self.publish_once()
                failures = 0
            except GantryError as error:
                failures += 1
                self._log.warning("relay failed", relay=self._lease, error=str(error))
                await self._clock.sleep(backoff.delay_s(failures, self._rng))
                continue
            if not more:
                await set_or_due(self._wake, POLL_S)

    async def _leased(self) -> bool:
        now = self._clock.now()
        if now < self._leased_until - LEASE_TTL_S / 2:
            return True
        lease = await self._store.take_lease(self._lease, self._holder, now, LEASE_TTL_S)
        self._leased_until = lease.until if lease else 0.0
        return lease is not None

    async def publish_once(self) -> bool:
        """Publish one batch of each collection; True when there may be more."""
        more = False
        for collection in self._collections:
            outboxes = await collection.unsent(BATCH)
            if outboxes:
                await self._publish(collection, outboxes)
            more = more or len(outboxes) >= BATCH
        return more

    async def _publish(
        self, collection: Collection, outboxes: Mapping[str, Sequence[OutboxEvent]]
    ) -> None:
        # Signed now, not when sealed: then what waited here carries the secrets that are good today.
        records = [self._sign(to_record(event)) for events in outboxes.values() for event in events]
        await self._bus.publish(records)
        sent = {doc_id: [event.id for event in events] for doc_id, events in outboxes.items()}
        await collection.mark_sent(sent)
