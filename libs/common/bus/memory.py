"""The bus in memory: deterministic, on one loop, without threads.

Records are bytes in partitions; groups, offsets, redelivery and fencing are real. Faults that Kafka knows are drawn
from a `BusFaults`. `share` gives another handle on the same log, with its own faults and its own close: closing it
is the death of a process, whose members lose their partitions at once.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from libs.common.bus.base import (
    Consumer,
    Delivered,
    Offsets,
    Record,
    TopicPartition,
    TopicSpec,
    check_records,
    partition_of,
)
from libs.common.bus.faults import NO_FAULTS, BusFaults, BusPoint
from libs.common.bus.groups import Group, Member, quiet, quiet_until, settle
from libs.common.bus.waiting import Bell
from libs.common.clock import Clock
from libs.common.errors import Fenced, TimedOut, Unavailable


@dataclass
class _Partition:
    """A log: offsets grow, with gaps; the oldest records go."""

    offsets: list[int] = field(default_factory=list)
    records: list[Delivered] = field(default_factory=list)
    end: int = 0

    def append(self, record: Record, number: int, timestamp: float, gap: int) -> None:
        offset = self.end + gap
        self.offsets.append(offset)
        self.records.append(Delivered(record, number, offset, timestamp))
        self.end = offset + 1

    def truncate(self, before: int) -> None:
        keep = bisect_left(self.offsets, before)
        del self.offsets[:keep], self.records[:keep]

    @property
    def oldest(self) -> int:
        return self.offsets[0] if self.offsets else self.end

    def slice(self, start: int, limit: int) -> list[Delivered]:
        at = bisect_left(self.offsets, start)
        return self.records[at : at + limit]


@dataclass
class _Topic:
    partitions: list[_Partition]
    retention_s: float | None


_EMPTY = Group()


@dataclass
class _Log:
    """What all handles share."""

    topics: dict[str, _Topic] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    committed: dict[str, dict[TopicPartition, int]] = field(default_factory=dict)
    bell: Bell = field(default_factory=Bell)
    serial: int = 0

    def ensure(self, spec: TopicSpec) -> _Topic:
        topic = self.topics.get(spec.name)
        if topic is None:
            logs = [_Partition() for _ in range(spec.partitions)]
            topic = self.topics[spec.name] = _Topic(logs, spec.retention_s)
        return topic

    def partition(self, place: TopicPartition) -> _Partition:
        return self.topics[place[0]].partitions[place[1]]

    def places(self, topics: Iterable[str]) -> list[TopicPartition]:
        return [
            (name, n)
            for name in sorted(topics)
            for n in range(len(self.ensure(TopicSpec(name)).partitions))
        ]

    def counts(self) -> dict[str, int]:
        return {name: len(topic.partitions) for name, topic in self.topics.items()}

    def group(self, name: str) -> Group:
        return self.groups.get(name, _EMPTY)

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial


class MemoryBus:
    """A `Bus` in memory."""

    def __init__(
        self, clock: Clock, faults: BusFaults | None = None, log: _Log | None = None
    ) -> None:
        self._clock = clock
        self.faults = faults or NO_FAULTS
        self.log = log or _Log()
        self._process = f"p{self.log.next_serial()}"
        self.closed = False

    def share(self, faults: BusFaults | None = None) -> MemoryBus:
        """Another handle on the same log."""
        return MemoryBus(self._clock, faults, self.log)

    async def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        """See Bus."""
        self.check_open()
        for spec in topics:
            self.log.ensure(spec)
        self.log.bell.ring()

    async def topics(self) -> list[str]:
        """See Bus."""
        self.check_open()
        return sorted(self.log.topics)

    async def publish(self, records: Sequence[Record]) -> None:
        """See Bus."""
        check_records(records)
        if not records:
            return
        draw, what = self.faults.draw, records[0].topic
        await asyncio.sleep(draw(BusPoint.PUBLISH_DELAY, what))
        self.check_open()
        if draw(BusPoint.PUBLISH_FAILS, what) > 0:
            raise Unavailable("the bus can't be reached")
        cut = int(draw(BusPoint.PUBLISH_CUT, what))
        self._append(records[: cut - 1] if cut > 0 else records)
        if cut > 0 or draw(BusPoint.REPLY_LOST, what) > 0:
            raise TimedOut("no answer from the bus")

    def _append(self, records: Sequence[Record]) -> None:
        now = self._clock.now()
        for record in records:
            topic = self.log.ensure(TopicSpec(record.topic))
            number = partition_of(record.key, len(topic.partitions))
            partition = topic.partitions[number]
            gap = int(self.faults.draw(BusPoint.OFFSET_GAP, record.topic))
            partition.append(record, number, now, gap)
            self._retain(topic, partition, record.topic, now)
        self.log.bell.ring({record.topic for record in records})

    def _retain(self, topic: _Topic, partition: _Partition, name: str, now: float) -> None:
        lost = int(self.faults.draw(BusPoint.RETENTION, name))
        if topic.retention_s is not None:
            lost = max(
                lost,
                bisect_left(
                    partition.records, now - topic.retention_s, key=lambda each: each.timestamp
                ),
            )
        if lost > 0:
            partition.truncate(
                partition.offsets[lost] if lost < len(partition.offsets) else partition.end
            )

    def truncate(self, place: TopicPartition, before: int) -> None:
        """Drop the records of a partition before an offset, as retention would."""
        self.log.partition(place).truncate(before)

    @asynccontextmanager
    async def consumer(
        self, group: str, topics: Sequence[str], *, max_poll_s: float = 300.0
    ) -> AsyncIterator[Consumer]:
        """See Bus."""
        self.check_open()
        self.log.places(topics)  # topics that nobody has made yet
        name = f"{self._process}-{self.log.next_serial()}"
        member = Member(frozenset(topics), self._clock.monotonic(), max_poll_s, self._process)
        with self.log.bell.listen(topics) as news:
            consumer = MemoryConsumer(self, self._clock, group, name, member, news)
            consumer.join()
            try:
                yield consumer
            finally:
                self.leave(group, [name])

    def leave(self, group: str, members: Sequence[str]) -> None:
        """Take members out of a group and hand their partitions on."""
        self.log.groups[group] = settle(
            self.log.group(group), self.log.counts(), now=self._clock.monotonic(), leaving=members
        )
        self.log.bell.ring()

    async def read(
        self, topics: Sequence[str], start: Offsets | None = None
    ) -> AsyncGenerator[Delivered, None]:
        """See Bus."""
        self.check_open()
        wanted = start or {}
        positions = {
            place: wanted.get(place, self.log.partition(place).end)
            for place in self.log.places(topics)
        }
        with self.log.bell.listen(topics) as news:
            while True:
                news.clear()
                for place in positions:
                    for each in self.log.partition(place).slice(positions[place], 500):
                        positions[place] = each.offset + 1
                        yield each
                        news.set()
                await news.wait()
                self.check_open()

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See Bus."""
        self.check_open()
        return {place: self.log.partition(place).end for place in self.log.places(topics)}

    async def lag(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See Bus."""
        self.check_open()
        committed = self.log.committed.get(group, {})
        lag = {}
        for place in self.log.places(topics):
            partition = self.log.partition(place)
            lag[place] = partition.end - max(committed.get(place, 0), partition.oldest)
        return lag

    async def close(self) -> None:
        """See Bus. Consumers of this handle lose their partitions."""
        if self.closed:
            return
        self.closed = True
        for group, state in list(self.log.groups.items()):
            mine = [name for name, each in state.members.items() if each.process == self._process]
            if mine:
                self.leave(group, mine)
        self.log.bell.ring()

    def check_open(self) -> None:
        """Raise Unavailable after close."""
        if self.closed:
            raise Unavailable("the bus is closed")


class MemoryConsumer:
    """A `Consumer` of a MemoryBus."""

    def __init__(
        self,
        bus: MemoryBus,
        clock: Clock,
        group: str,
        name: str,
        member: Member,
        news: asyncio.Event,
    ) -> None:
        self._bus = bus
        self._log = bus.log
        self._clock = clock
        self._group = group
        self._name = name
        self._member = member
        self._news = news
        self._positions: dict[TopicPartition, int] = {}
        self._generation = -1
        self._calm: tuple[Group, float] = (_EMPTY, 0.0)  # nothing to do for this group until then
        self._held_back: dict[TopicPartition, float] = {}  # until, by the loop's time

    def assignment(self) -> frozenset[TopicPartition]:
        """See Consumer; as of the last fetch."""
        return frozenset(self._positions)

    def join(self) -> None:
        """Become a member (again), and take up what the group gives: nothing of ours is in hand now."""
        now, before = self._clock.monotonic(), self._state()
        if before is self._calm[0] and now < self._calm[1]:
            return
        topics, every_s = self._log.topics, self._member.max_poll_s / 4
        mine = {topic: len(topics[topic].partitions) for topic in self._member.topics}
        me, after = {self._name: replace(self._member, polled_at=now)}, before
        if quiet(before, mine, now=now, fetching=self._name):
            if now - before.members[self._name].polled_at >= every_s:
                after = replace(before, members={**before.members, **me})
            poll_by = after.members[self._name].polled_at + every_s
            self._calm = (after, min(poll_by, quiet_until(after, fetching=self._name)))
        else:
            counts = self._log.counts()
            after = settle(before, counts, now=now, joining=me, fetching=self._name)
        self._log.groups[self._group] = after
        if after.generation != self._generation:
            self._take_up(before, after)
        if after.generation != before.generation:
            self._log.bell.ring()

    def _take_up(self, before: Group, after: Group) -> None:
        self._generation = after.generation
        if self._name not in before.members:
            self._positions.clear()
        held = after.held(self._name)
        kept = {place: at for place, at in self._positions.items() if place in held}
        committed = self._log.committed.get(self._group, {})
        new = {place: committed.get(place, 0) for place in sorted(held) if place not in kept}
        self._positions = kept | new

    def _state(self) -> Group:
        return self._log.group(self._group)

    async def fetch(self, max_records: int, timeout_s: float) -> Sequence[Delivered]:
        """See Consumer."""
        if timeout_s <= 0 or self._unread():
            await asyncio.sleep(0)  # else it yields where it waits for news
        self._bus.check_open()
        if self._bus.faults.draw(BusPoint.FETCH_FAILS, self._group) > 0:
            raise Unavailable("the bus can't be reached")
        if self._bus.faults.draw(BusPoint.REDELIVER, self._group) > 0:
            committed = self._log.committed.get(self._group, {})
            self._positions = {place: committed.get(place, 0) for place in self._positions}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            self._news.clear()
            self._bus.check_open()
            self.join()
            now, unread = loop.time(), self._unread()
            batch = self._take(unread, max_records, now) if unread else []
            if batch:
                self._strike_rebalance()
                return batch
            if now >= deadline:
                return []
            if self._held_back:
                held_back = {place: at for place, at in self._held_back.items() if at > now}
                self._held_back = {p: at for p, at in held_back.items() if p in self._positions}
            wake = loop.call_at(min([deadline, *self._held_back.values()]), self._news.set)
            try:
                await self._news.wait()
            finally:
                wake.cancel()

    def _take(
        self, unread: Sequence[TopicPartition], max_records: int, now: float
    ) -> list[Delivered]:
        batch: list[Delivered] = []
        for place in unread:
            room = max_records - len(batch)
            if room <= 0:
                break
            found = self._log.partition(place).slice(self._positions[place], room)
            if found and not self._is_held_back(place, now):
                batch.extend(found)
                # The one served moves to the end, so that a busy partition starves no other.
                del self._positions[place]
                self._positions[place] = found[-1].offset + 1
        return batch

    def _unread(self) -> list[TopicPartition]:
        topics = self._log.topics
        return [
            (topic, number)
            for (topic, number), at in self._positions.items()
            if at < topics[topic].partitions[number].end
        ]

    def _is_held_back(self, place: TopicPartition, now: float) -> bool:
        until = self._held_back.get(place)
        if until is None:
            delay_s = self._bus.faults.draw(BusPoint.FETCH_DELAY, place[0])
            if delay_s <= 0:
                return False
            until = self._held_back[place] = now + delay_s
        if now < until:
            return True
        del self._held_back[place]
        return False

    def _strike_rebalance(self) -> None:
        if self._bus.faults.draw(BusPoint.REBALANCE, self._group) > 0:
            self._bus.leave(self._group, [self._name])

    async def commit(self, offsets: Offsets) -> None:
        """See Consumer."""
        await asyncio.sleep(0)
        self._bus.check_open()
        draw = self._bus.faults.draw
        if draw(BusPoint.COMMIT_FAILS, self._group) > 0:
            raise Unavailable("the bus can't be reached")
        held = self._state().held(self._name)
        lost = sorted(place for place in offsets if place not in held)
        if lost:
            raise Fenced(f"group {self._group}: {lost} no longer belong to this member")
        self._log.committed.setdefault(self._group, {}).update(offsets)
        if draw(BusPoint.COMMIT_LOST, self._group) > 0:
            raise TimedOut("no answer from the bus")
