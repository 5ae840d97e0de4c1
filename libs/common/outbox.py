"""The relay: publishes what writes left in their outboxes, in order per document, and clears it.

Several replicas may run it: a lease lets one work at a time, and the events' ids and sequence numbers make the
odd double harmless. A writer calls `kick()` after a save, so that nothing waits for the poll; events that must not wait
for the bus either go to their reader directly besides (direct.py). Who is the only one to write to a collection hands
over what it has saved (`hand()`), so that it need not be read again.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
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

BATCH = 500  # documents whose events are read and published at once…
HANDED_BATCH = 2000  # …or only published: a relay that falls behind has to read again
LEASE_TTL_S = 4.0  # two at work for a moment do no harm, a dead one at work for long does
POLL_S = 2.0
READ_S = 60.0
"""So often the store is read even of what is handed over: there, an insert of a writer from before may come late."""
HANDED = 20_000
"""Documents whose events may wait in memory, too; with more of them, all is read from the store."""

Outboxes = Mapping[str, Sequence[OutboxEvent]]
"""Events by document, in order."""


class Kick(Protocol):
    """Says that events were saved; see Relay.kick."""

    def __call__(self, events: Sequence[OutboxEvent] = ()) -> None: ...


class _Source:
    """The outboxes of a collection: read from the store, or as they were handed over by who alone writes there."""

    def __init__(self, collection: Collection, mine: bool) -> None:
        self.collection = collection
        self._mine = mine
        self._handed: deque[tuple[str, Sequence[OutboxEvent]]] = deque()
        self._complete = False  # nothing unsent is in the store that was not handed over
        self._lost = 0  # how often it was not, any more
        self._read_at = 0.0

    def hand(self, outboxes: Outboxes) -> None:
        """These were appended, and are in the store."""
        if self._mine:
            self._handed.extend(outboxes.items())
            if len(self._handed) > HANDED:
                self.lose_track()

    def lose_track(self) -> None:
        """What is unsent must be read from the store."""
        self._complete = False
        self._lost += 1
        self._handed.clear()

    async def next(self, now: float) -> tuple[Outboxes, bool]:
        """What is to be published next, and whether there may be more."""
        due_s = READ_S if self._handed else POLL_S
        if not self._complete or now - self._read_at >= due_s:
            return await self._read(now)
        found: dict[str, list[OutboxEvent]] = {}
        while self._handed and len(found) < HANDED_BATCH:
            doc_id, events = self._handed.popleft()
            found.setdefault(doc_id, []).extend(events)
        return found, bool(self._handed)

    async def _read(self, now: float) -> tuple[Outboxes, bool]:
        self.lose_track()
        lost = self._lost
        found = await self.collection.unsent(BATCH)
        more = len(found) >= BATCH
        if self._mine and not more and lost == self._lost:
            # What was handed over meanwhile may have been saved before the store was read.
            self._handed = deque(each for each in self._handed if not _has(found, *each))
            self._complete, self._read_at = True, now
        return found, more


def _has(found: Outboxes, doc_id: str, events: Sequence[OutboxEvent]) -> bool:
    return events[-1].id in {each.id for each in found.get(doc_id, ())}


class Relay:
    """Publishes the outboxes of some collections of one service.

    `mine` are those of them to which nobody else writes while this relay runs, and of which all is handed over; what
    a writer from before may yet get in (store/mongo.py) is found within READ_S.
    """

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
        mine: Sequence[Collection] = (),
    ) -> None:
        self._sign = sign or (lambda record: record)
        self._courier = courier
        self._lease = f"relay:{name}"
        self._holder = holder
        self._store = store
        self._sources = [_Source(each, each in mine) for each in collections]
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._log = log
        self._wake = asyncio.Event()
        self._leased_until = 0.0
        self._epoch = 0

    def kick(self, events: Sequence[OutboxEvent] = ()) -> None:
        """Say that there is something to publish; of `events`, just saved, those that go directly go now."""
        self._wake.set()
        if self._courier is not None:
            self._courier.post(events)

    def hand(self, collection: Collection, outboxes: Outboxes) -> None:
        """These events were just saved in the outboxes of a collection that is ours alone."""
        for source in self._sources:
            if source.collection is collection:
                source.hand(outboxes)
        self.kick([*chain.from_iterable(outboxes.values())])

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
                self._lose_track()
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
        epoch = lease.epoch if lease else 0
        if epoch != self._epoch:  # another one may have published meanwhile
            self._lose_track()
        self._epoch = epoch
        return lease is not None

    def _lose_track(self) -> None:
        for source in self._sources:
            source.lose_track()

    async def publish_once(self) -> bool:
        """Publish one batch of each collection; True when there may be more."""
        more = False
        for source in self._sources:
            outboxes, goes_on = await source.next(self._clock.now())
            if outboxes:
                await self._publish(source.collection, outboxes)
            more = more or goes_on
        return more

    async def _publish(self, collection: Collection, outboxes: Outboxes) -> None:
        # Signed now, not when sealed: then what waited here carries the secrets that are good today.
        records = [self._sign(to_record(event)) for events in outboxes.values() for event in events]
        await self._bus.publish(records)
        sent = {doc_id: [event.id for event in events] for doc_id, events in outboxes.items()}
        await collection.mark_sent(sent)
