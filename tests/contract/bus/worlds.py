"""One bus of each kind, and what its contract needs beyond the protocol: second processes, crashes, gaps, loss."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

from aiokafka import AIOKafkaProducer

from libs.common.bus.base import Bus, TopicPartition
from libs.common.bus.faults import BusFaults, BusPoint
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.kafka_url import parse_url
from libs.common.bus.memory import MemoryBus
from libs.common.bus.sqlite import SqliteBus
from libs.common.clock import SystemClock
from tests.servers import MARK


class World(Protocol):
    """One log and the ways to it."""

    url: str

    async def open(self) -> Bus:
        """A handle such as another process would have."""
        ...

    async def truncate(self, place: TopicPartition, before: int) -> None:
        """Let retention take the records before an offset."""
        ...

    async def make_gap(self, place: TopicPartition) -> None:
        """Use up an offset of a partition without a record."""
        ...

    async def fetch_and_die(self, group: str, topic: str, count: int) -> None:
        """A process joins, fetches at least `count` records and dies before it commits."""
        ...


class _Gaps(BusFaults):
    def __init__(self) -> None:
        self.pending = 0

    def draw(self, point: BusPoint, what: str) -> float:
        if point is BusPoint.OFFSET_GAP and self.pending:
            gap, self.pending = self.pending, 0
            return gap
        return 0.0


class MemoryWorld:
    """The memory bus; a crash is a handle that closes."""

    url = ""

    def __init__(self) -> None:
        self._gaps = _Gaps()
        self._bus = MemoryBus(SystemClock(), self._gaps)

    async def open(self) -> Bus:
        return self._bus.share(self._gaps)

    async def truncate(self, place: TopicPartition, before: int) -> None:
        self._bus.truncate(place, before)

    async def make_gap(self, place: TopicPartition) -> None:
        self._gaps.pending += 1

    async def fetch_and_die(self, group: str, topic: str, count: int) -> None:
        bus = self._bus.share()
        seen = 0
        async with bus.consumer(group, [topic]) as consumer:
            while seen < count:
                seen += len(await consumer.fetch(100, 1.0))
            await bus.close()


class SqliteWorld:
    """The SQLite bus; other processes are real ones."""

    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self.path = path
        self.url = f"sqlite://{path}"
        self._stack = stack

    async def open(self) -> SqliteBus:
        bus = await SqliteBus.open(self.path, SystemClock())
        self._stack.push_async_callback(bus.close)
        return bus

    async def truncate(self, place: TopicPartition, before: int) -> None:
        bus = await self.open()
        await bus.truncate(place, before)

    async def make_gap(self, place: TopicPartition) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        sql = "UPDATE logs SET end = end + 1 WHERE place % 1024 = ? AND place / 1024 ="
        connection.execute(f"{sql} (SELECT id FROM topics WHERE name = ?)", (place[1], place[0]))
        connection.close()

    async def fetch_and_die(self, group: str, topic: str, count: int) -> None:
        await die_after_fetch(self.url, group, topic, count)


class KafkaWorld:
    """A real Kafka; names are prefixed, so that tests share a broker."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self._stack = stack

    async def open(self) -> KafkaBus:
        bus = await KafkaBus.open(self.url, SystemClock())
        self._stack.push_async_callback(bus.close)
        return bus

    async def truncate(self, place: TopicPartition, before: int) -> None:
        await (await self.open()).truncate(place, before)

    async def make_gap(self, place: TopicPartition) -> None:
        """A transaction's marker takes an offset."""
        settings = parse_url(self.url)
        producer = AIOKafkaProducer(
            **settings.connection(), transactional_id=f"{settings.prefix}gap"
        )
        await producer.start()
        try:
            async with producer.transaction():
                topic = settings.prefix + place[0]
                await producer.send_and_wait(topic, b"in a transaction", b"", partition=place[1])
        finally:
            await producer.stop()

    async def fetch_and_die(self, group: str, topic: str, count: int) -> None:
        await die_after_fetch(self.url, group, topic, count)


async def die_after_fetch(url: str, group: str, topic: str, count: int) -> None:
    """Run tests/contract/bus/member.py until it has fetched, then kill -9 it."""
    arguments = ["-m", "tests.contract.bus.member", url, group, topic, str(count)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        assert line == b"fetched\n", line
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()


_prefixes = itertools.count(1)


def kafka_world_url(kafka_url: str) -> str:
    """The broker with names of one's own, and a session as short as brokers take unless told, to see a crash soon."""
    joint = "&" if "?" in kafka_url else "?"
    return f"{kafka_url}{joint}prefix={MARK}-{next(_prefixes)}.&session_s=6"


@asynccontextmanager
async def open_world(kind: str, directory: Path, kafka_url: str) -> AsyncIterator[World]:
    """The world of one test."""
    async with AsyncExitStack() as stack:
        if kind == "memory":
            yield MemoryWorld()
        elif kind == "sqlite":
            yield SqliteWorld(directory / "bus.db", stack)
        else:
            yield KafkaWorld(kafka_world_url(kafka_url), stack)
