"""The bus in an SQLite file: durable topics, partitions, groups and offsets for the processes of one machine.

Consumers in the publisher's process are woken at once, those of other processes look every POLL_S. Membership,
generations and fencing are rows; a dead process loses its partitions at once, a silent member after its max_poll_s.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from libs.common.bus import sqlite_log as log
from libs.common.bus.base import (
    Consumer,
    Delivered,
    Offsets,
    Record,
    TopicPartition,
    TopicSpec,
    check_records,
)
from libs.common.bus.groups import Member, quiet, settle
from libs.common.bus.retention import Retention
from libs.common.bus.sqlite_group import ProcessLock, dead_members, load_group, save_group
from libs.common.bus.waiting import Bell
from libs.common.clock import Clock
from libs.common.errors import Fenced, Unavailable
from libs.common.sqlite import SqliteThread, Watch

PARTITION_BYTES = 256 * 1024 * 1024
TOTAL_BYTES = 2 * 1024 * 1024 * 1024
_RETAIN_EVERY_S = 10.0
_READ_RECORDS = 500


class SqliteBus:
    """A `Bus` in an SQLite file."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        retention: Retention,
        partition_bytes: int,
        total_bytes: int,
    ) -> None:
        self.clock = clock
        self.directory = path.parent
        self.bell = Bell()
        self.known_topics: log.Topics = {}
        self._path = path
        self._retention = retention
        self._partition_bytes = partition_bytes
        self._total_bytes = total_bytes
        self._retain_at = 0.0
        self._serial = itertools.count(1)
        self._closed = False
        self.writer: SqliteThread
        self.reader: SqliteThread
        self._lock: ProcessLock

    @classmethod
    async def open(
        cls,
        path: str | Path,
        clock: Clock,
        *,
        retention: Retention | None = None,
        partition_bytes: int = PARTITION_BYTES,
        total_bytes: int = TOTAL_BYTES,
    ) -> SqliteBus:
        """Open or make the file. `retention` is for topics that name none. Raises Unavailable."""
        bus = cls(Path(path), clock, retention or Retention(), partition_bytes, total_bytes)
        watch = Watch(bus.bell.ring, clock.monotonic)
        bus.writer = await SqliteThread.open(bus._path, write=True)
        try:
            await bus.writer.run(log.make_schema)
            bus.known_topics = await bus.writer.run(log.load_topics)
            bus._lock = await asyncio.to_thread(ProcessLock, bus._path)
            bus.reader = await SqliteThread.open(bus._path, write=False, watch=watch)
        except BaseException:
            await bus.writer.close()
            raise
        return bus

    async def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        """See Bus."""
        if all(spec.name in self.known_topics for spec in topics):
            return self.check_open()
        self.known_topics = await self.writer.run(lambda connection: log.ensure(connection, topics))
        self.bell.ring()

    async def topics(self) -> list[str]:
        """See Bus."""
        return sorted(await self.reader.run(log.load_topics))

    async def known(self, names: Iterable[str]) -> list[log.Topic]:
        """These topics, made if need be."""
        await self.ensure_topics([TopicSpec(name) for name in names])
        return [self.known_topics[name] for name in sorted(set(names))]

    async def publish(self, records: Sequence[Record]) -> None:
        """See Bus."""
        check_records(records)
        self.check_open()
        if not records:
            return
        names = {record.topic for record in records}
        if not names <= self.known_topics.keys():
            await self.known(names)
        topics, now = self.known_topics, self.clock.now()
        await self.writer.run(lambda connection: log.append(connection, topics, records, now))
        self.bell.ring(names)
        if now >= self._retain_at:
            self._retain_at = now + _RETAIN_EVERY_S
            await self.retain()

    async def retain(self) -> None:
        """Drop what is older or more than the retention allows; a publish does it now and then."""
        topics = tuple(self.known_topics.values())
        more = await self.writer.run(
            lambda connection: log.retain(
                connection,
                topics,
                now=self.clock.now(),
                age_s=self._retention.of,
                partition_bytes=self._partition_bytes,
                total_bytes=self._total_bytes,
            )
        )
        if more:
            self._retain_at = 0.0

    async def truncate(self, place: TopicPartition, before: int) -> None:
        """Drop the records of a partition before an offset, as retention would."""
        number = self.known_topics[place[0]].place(place[1])
        await self.writer.run(lambda connection: log.truncate(connection, number, before))

    @asynccontextmanager
    async def consumer(
        self, group: str, topics: Sequence[str], *, max_poll_s: float = 300.0
    ) -> AsyncIterator[Consumer]:
        """See Bus."""
        await self.known(topics)
        name = f"{self._lock.name}.{next(self._serial)}"
        member = Member(
            frozenset(topics), self.clock.monotonic(), max_poll_s, process=self._lock.name
        )
        with self.bell.listen(topics) as news:
            consumer = SqliteConsumer(self, group, name, member, news)
            await consumer.settle()
            try:
                yield consumer
            finally:
                with suppress(Unavailable):  # then the lock's end says that we left
                    await consumer.leave()

    async def read(
        self, topics: Sequence[str], start: Offsets | None = None
    ) -> AsyncGenerator[Delivered, None]:
        """See Bus."""
        wanted = start or {}
        ends = await self.end_offsets(topics)
        positions = {place: wanted.get(place, end) for place, end in ends.items()}
        with self.bell.listen(topics) as news:
            while True:
                news.clear()
                self.check_open()
                for each in await self.read_from(positions, _READ_RECORDS):
                    positions[each.place] = each.offset + 1
                    yield each
                    news.set()
                await news.wait()

    async def read_from(self, positions: Offsets, limit: int) -> list[Delivered]:
        """What is at and after the positions now."""
        topics, wanted = self.known_topics, dict(positions)
        return await self.reader.run(
            lambda connection: log.read_from(connection, topics, wanted, limit)
        )

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See Bus."""
        known = await self.known(topics)
        return await self.reader.run(lambda connection: log.end_offsets(connection, known))

    async def lag(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See Bus."""
        known = await self.known(topics)
        return await self.reader.run(lambda connection: log.lag(connection, group, known))

    async def close(self) -> None:
        """See Bus. Consumers of this process lose their partitions."""
        if self._closed:
            return
        self._closed = True
        await self.reader.close()
        await self.writer.close()
        self._lock.release()
        self.bell.ring()

    def check_open(self) -> None:
        """Raise Unavailable after close."""
        if self._closed:
            raise Unavailable("the bus is closed")


class SqliteConsumer:
    """A `Consumer` of an SqliteBus."""

    def __init__(
        self, bus: SqliteBus, group: str, name: str, member: Member, news: asyncio.Event
    ) -> None:
        self._bus = bus
        self._group = group
        self._name = name
        self._member = member
        self._news = news
        self._positions: dict[TopicPartition, int] = {}
        self._generation = -1

    def assignment(self) -> frozenset[TopicPartition]:
        """See Consumer; as of the last fetch."""
        return frozenset(self._positions)

    async def fetch(self, max_records: int, timeout_s: float) -> Sequence[Delivered]:
        """See Consumer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            self._news.clear()
            self._bus.check_open()
            batch = await self._look(max_records)
            if batch is None:
                await self.settle()
                continue
            for each in batch:
                # The ones served move to the end, so that a busy partition starves no other.
                self._positions.pop(each.place, None)
                self._positions[each.place] = each.offset + 1
            if batch or loop.time() >= deadline:
                return batch
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _look(self, max_records: int) -> list[Delivered] | None:
        """What there is to read; None when the group has to be settled first."""
        topics, positions = self._bus.known_topics, dict(self._positions)
        now = self._bus.clock.monotonic()
        fresh = now - self._member.polled_at < self._member.max_poll_s / 4
        counts = {name: topics[name].partitions for name in self._member.topics}

        def job(connection: sqlite3.Connection) -> list[Delivered] | None:
            group = load_group(connection, self._group)
            if (
                not fresh
                or group.generation != self._generation
                or not quiet(group, counts, now=now, fetching=self._name)
                or dead_members(self._bus.directory, group, self._member.process)
            ):
                return None
            return log.read_from(connection, topics, positions, max_records)

        return await self._bus.reader.run(job)

    async def settle(self) -> None:
        """Become a member (again), and take up what the group gives: nothing of ours is in hand now."""
        now = self._bus.clock.monotonic()
        self._member = replace(self._member, polled_at=now)
        topics, me = self._bus.known_topics, {self._name: self._member}
        counts = {topic.name: topic.partitions for topic in topics.values()}

        def job(connection: sqlite3.Connection) -> tuple[bool, int, dict[TopicPartition, int]]:
            before = load_group(connection, self._group)
            dead = dead_members(self._bus.directory, before, self._member.process)
            after = settle(before, counts, now=now, joining=me, leaving=dead, fetching=self._name)
            save_group(connection, self._group, after)
            mine = [topics[name] for name in sorted(self._member.topics)]
            done = log.committed(connection, self._group, mine)
            held = {place: done.get(place, 0) for place in sorted(after.held(self._name))}
            return self._name in before.members, after.generation, held

        was_member, generation, held = await self._bus.writer.run(job)
        if not was_member:
            self._positions.clear()
        kept = {place: at for place, at in self._positions.items() if place in held}
        self._positions = kept | {place: at for place, at in held.items() if place not in kept}
        if generation != self._generation:
            self._generation = generation
            self._bus.bell.ring(self._member.topics)

    async def leave(self) -> None:
        """Hand the partitions on."""
        topics = self._bus.known_topics
        counts = {topic.name: topic.partitions for topic in topics.values()}
        now = self._bus.clock.monotonic()

        def job(connection: sqlite3.Connection) -> None:
            group = load_group(connection, self._group)
            save_group(
                connection, self._group, settle(group, counts, now=now, leaving=[self._name])
            )

        await self._bus.writer.run(job)
        self._bus.bell.ring(self._member.topics)

    async def commit(self, offsets: Offsets) -> None:
        """See Consumer."""
        topics, wanted = self._bus.known_topics, dict(offsets)

        def job(connection: sqlite3.Connection) -> None:
            held = load_group(connection, self._group).held(self._name)
            lost = sorted(place for place in wanted if place not in held)
            if lost:
                raise Fenced(f"group {self._group}: {lost} no longer belong to this member")
            log.commit(connection, topics, self._group, wanted)

        await self._bus.writer.run(job)
