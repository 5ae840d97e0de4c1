"""From the bus to handlers: validate → handle → commit, poison to `dead.<group>`.

Handlers load, decide and save, or just add a key to a reconcile queue; they must be idempotent. A handler that
raises Unavailable is tried again until the peer is back (the group waits, nothing is skipped); any other error is
tried `MAX_TRIES` times, then the record goes to the dead-letter topic with its reason.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from libs.common.backoff import Backoff
from libs.common.bus.base import Bus, Consumer, Delivered, Record, TopicPartition, TopicSpec
from libs.common.clock import Clock
from libs.common.deadletters import bury, dead_topic
from libs.common.errors import Fenced, Poison, Unavailable
from libs.common.events import EVENT_TYPES, Envelope, Event
from libs.common.telemetry import Telemetry
from libs.common.waiting import TaskGroup, contained, lasting

# The table below is keyed by class, so a handler's parameter is the very class it is registered for.
EventHandler = Callable[[Any, Envelope], Awaitable[None]]
Handlers = Mapping[type[Event], EventHandler]
ManyHandler = Callable[[Sequence[tuple[Any, Envelope]]], Awaitable[None]]
Together = Mapping[type[Event], ManyHandler]
Position = tuple[TopicPartition, int]
"""A partition and an offset in it."""
T = TypeVar("T")

MAX_TRIES = 5
FETCH_RECORDS = 1000
FETCH_S = 1.0
HANDLE_S = 60.0
LAG_EVERY_S = 10.0


@dataclass
class Subscription:
    """A consumer group and what it does with each event.

    All events of a batch that `together` has a handler for go to it at once, in their order, and count as handled when
    it returns. When it raises, each is handled alone.
    """

    group: str
    handlers: Handlers
    bus: Bus
    clock: Clock
    rng: random.Random
    telemetry: Telemetry
    max_tries: int = MAX_TRIES
    together: Together = field(default_factory=dict)

    async def run(self) -> None:
        """Consume until cancelled; comes back from every loss of the bus."""
        async with TaskGroup() as group:
            group.create_task(lasting(self._watch_lag()))
            await self._consume()

    @property
    def topics(self) -> list[str]:
        """What it reads."""
        return sorted({event.TOPIC for event in self.handlers})

    async def _watch_lag(self) -> None:
        """Beside the handlers, so that it is told of those that hang, too."""
        while True:
            await self.clock.sleep(LAG_EVERY_S)
            try:
                lag = await self.bus.lag(self.group, self.topics)
            except (
                Exception
            ) as error:  # whatever it is: a figure must not cost the group its consumer
                self.telemetry.log.info("lag unknown", group=self.group, error=str(error))
                continue
            self.telemetry.lagging(self.group, lag.values())

    async def _consume(self) -> None:
        topics = self.topics
        backoff = Backoff()
        failures = 0
        while True:
            try:
                specs = [TopicSpec(topic) for topic in (*topics, self.dead_topic)]
                await self.bus.ensure_topics(specs)
                async with self.bus.consumer(self.group, topics) as consumer:
                    while True:
                        await self._step(consumer)
                        failures = 0
            except (Unavailable, Fenced) as error:
                failures += 1
                self.telemetry.log.warning("consumer", group=self.group, error=str(error))
                await self.clock.sleep(backoff.delay_s(failures, self.rng))

    @property
    def dead_topic(self) -> str:
        """Where this group's poison goes."""
        return dead_topic(self.group)

    async def _step(self, consumer: Consumer) -> None:
        batch = await consumer.fetch(FETCH_RECORDS, FETCH_S)
        if not batch:
            return
        handled = await self._handle_together(batch)
        by_key: dict[tuple[str, str], list[Delivered]] = {}
        for each in batch:
            if (each.place, each.offset) not in handled:
                by_key.setdefault((each.record.topic, each.record.key), []).append(each)

        async def handle(each: Delivered) -> None:
            await self._handle(each)
            handled.add((each.place, each.offset))

        failures = await side_by_side(by_key.values(), handle, (Unavailable, Fenced))
        await self._commit(consumer, _finished(batch, handled))
        if failures:
            raise failures[0]

    async def _handle_together(self, batch: Sequence[Delivered]) -> set[Position]:
        """Handle what can be handled at once; which records that were."""
        handled: set[Position] = set()
        if self.telemetry.traced:
            return handled  # a span is of one event: who wants to see them has each handled alone
        for kind, handler in self.together.items():
            events, positions = _opened(batch, kind)
            if len(events) < 2:
                continue
            try:
                async with asyncio.timeout(HANDLE_S):
                    with contained("a call was given up"):
                        await handler(events)
            except (Unavailable, Fenced, TimeoutError) as error:
                why = str(error) or type(error).__name__
                self.telemetry.log.info("handled one by one", group=self.group, error=why)
            except Exception:
                # An event that can't be handled is found out alone; this might as well be a bug that slows all down.
                self.telemetry.log.exception("handled one by one", group=self.group)
            else:
                handled.update(positions)
                self.telemetry.events_handled.labels(kind.TOPIC, "ok").inc(len(events))
        return handled

    async def _commit(self, consumer: Consumer, done: Mapping[TopicPartition, int]) -> None:
        held = consumer.assignment()
        mine = {place: offset for place, offset in done.items() if place in held}
        try:
            if mine:
                await consumer.commit(mine)
        except Fenced as error:
            # A rebalance in mid-handler: the new holder handles these again, and we go on with what we are given.
            self.telemetry.log.warning("commit fenced", group=self.group, error=str(error))

    async def _handle(self, each: Delivered) -> None:
        backoff = Backoff()
        failures = 0
        tries = 0
        while True:
            try:
                await self.handle(each.record)
                return
            except (
                Unavailable,
                Fenced,
            ) as error:  # Fenced: by the store; we are no longer the leader
                failures += 1
                if failures > 3:
                    raise  # leave the group in good order; a fresh consumer begins here again
                self.telemetry.log.warning("handler waits", group=self.group, error=str(error))
            except Poison as error:
                await self._bury(each, str(error))
                return
            except Exception as error:
                tries += 1
                self.telemetry.log.exception("handler failed", group=self.group, tries=tries)
                if tries >= self.max_tries:
                    await self._bury(each, f"{type(error).__name__}: {error}")
                    return
            await self.clock.sleep(backoff.delay_s(failures + tries, self.rng))

    async def handle(self, record: Record) -> None:
        """Have one record handled, once. Raises what the handler does, and Poison."""
        event, envelope = EVENT_TYPES.open(record)
        handler = self.handlers.get(type(event))
        if handler is None:
            return
        with self.telemetry.span(f"{self.group} {event.TOPIC}", envelope.cause.traceparent):
            async with asyncio.timeout(HANDLE_S):
                await handler(event, envelope)
        self.telemetry.events_handled.labels(event.TOPIC, "ok").inc()

    async def _bury(self, each: Delivered, reason: str) -> None:
        record = each.record
        self.telemetry.events_handled.labels(record.topic, "dead").inc()
        self.telemetry.log.error(
            "poison", group=self.group, topic=record.topic, key=record.key, reason=reason
        )
        await self.bus.publish([bury(each, self.group, reason)])


async def side_by_side(
    lanes: Iterable[Sequence[T]],
    handle: Callable[[T], Awaitable[None]],
    expected: tuple[type[Exception], ...],
) -> list[Exception]:
    """Handle each lane in order, up to its first failure; the `expected` failures.

    Lanes go side by side, so that handlers can share a group commit.
    """
    failures: list[Exception] = []

    async def in_order(lane: Sequence[T]) -> None:
        try:
            with contained("a call was given up"):
                for each in lane:
                    await handle(each)
        except expected as error:
            failures.append(error)

    async with TaskGroup() as group:
        for lane in lanes:
            group.create_task(in_order(lane))
    return failures


def _opened(
    batch: Sequence[Delivered], kind: type[Event]
) -> tuple[list[tuple[Event, Envelope]], list[Position]]:
    """The events of one kind, and where they lie; what can't be read is left out."""
    events: list[tuple[Event, Envelope]] = []
    positions: list[Position] = []
    for each in batch:
        if each.record.topic != kind.TOPIC:
            continue
        with suppress(Poison):
            event, envelope = EVENT_TYPES.open(each.record)
            if type(event) is kind:
                events.append((event, envelope))
                positions.append((each.place, each.offset))
    return events, positions


def _finished(batch: Sequence[Delivered], handled: set[Position]) -> dict[TopicPartition, int]:
    """The next offset of each partition, up to its first record that is not handled yet."""
    done: dict[TopicPartition, int] = {}
    stuck: set[TopicPartition] = set()
    for each in batch:
        if (each.place, each.offset) not in handled:
            stuck.add(each.place)
        elif each.place not in stuck:
            done[each.place] = each.offset + 1
    return done
