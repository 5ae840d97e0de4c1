"""Reading from a bus until something is there, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing

from libs.common.bus.base import (
    Bus,
    Consumer,
    Delivered,
    Offsets,
    Record,
    TopicPartition,
    TopicSpec,
)

DEADLINE_S = 30.0
ONE = TopicSpec("things", partitions=1)
FOUR = TopicSpec("things", partitions=4)


def numbered(key: str, numbers: Iterable[int], topic: str = "things") -> list[Record]:
    """Records whose value says key and number."""
    return [Record(topic, key, f"{key}:{n}".encode()) for n in numbers]


def texts(found: Iterable[Delivered]) -> list[str]:
    """The values."""
    return [each.record.value.decode() for each in found]


def after(found: Iterable[Delivered]) -> Offsets:
    """What to commit when all of these are done."""
    return {each.place: each.offset + 1 for each in found}


async def take(consumer: Consumer, count: int, *, commit: bool = False) -> list[Delivered]:
    """Fetch until there are `count` records."""
    found: list[Delivered] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            batch = await consumer.fetch(count - len(found), 0.5)
            found += batch
            if commit and batch:
                await consumer.commit(after(batch))
    return found


async def silence(consumer: Consumer, for_s: float = 0.5) -> list[Delivered]:
    """What comes although nothing should."""
    return list(await consumer.fetch(100, for_s))


async def hold(consumer: Consumer, count: int) -> frozenset[TopicPartition]:
    """Fetch until the consumer holds `count` partitions (nothing may come meanwhile)."""
    async with asyncio.timeout(DEADLINE_S):
        while len(consumer.assignment()) != count:
            assert not await consumer.fetch(100, 0.05)
    return consumer.assignment()


async def share(members: Sequence[Consumer], counts: Sequence[int]) -> None:
    """Fetch with all members until they hold that many partitions each (nothing may come meanwhile)."""
    async with asyncio.timeout(DEADLINE_S):
        while [len(each.assignment()) for each in members] != list(counts):
            batches = await asyncio.gather(*(each.fetch(100, 0.05) for each in members))
            assert not any(batches)


async def follow(
    bus: Bus, topics: Sequence[str], start: Offsets | None, count: int
) -> list[Delivered]:
    """The first `count` records that a follower gets."""
    found: list[Delivered] = []
    async with asyncio.timeout(DEADLINE_S), aclosing(bus.read(topics, start)) as records:
        async for each in records:
            found.append(each)
            if len(found) >= count:
                break
    return found
