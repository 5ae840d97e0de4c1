"""The memory adapters fail on purpose: every point does what it says, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.bus.base import Record, TopicSpec
from libs.common.bus.faults import BusFaults, BusPoint
from libs.common.bus.memory import MemoryBus
from libs.common.errors import Fenced, TimedOut, Unavailable
from libs.common.store.base import CollectionSpec, OutboxEvent, Write
from libs.common.store.faults import StoreFaults, StorePoint
from libs.common.store.memory import MemoryStore
from tests.simulation.loop import World, virtual

PLACE = ("t", 0)


class OneBus(BusFaults):
    """Strikes once, where it is told."""

    def __init__(self) -> None:
        self.next: dict[BusPoint, float] = {}

    def draw(self, point: BusPoint, what: str) -> float:
        return self.next.pop(point, 0.0)


class OneStore(StoreFaults):
    """Strikes once, where it is told."""

    def __init__(self) -> None:
        self.next: dict[StorePoint, float] = {}

    def draw(self, point: StorePoint, what: str) -> float:
        return self.next.pop(point, 0.0)


def records(*values: int) -> list[Record]:
    """Records of one partition."""
    return [Record("t", "k", str(value).encode()) for value in values]


async def make_bus(world: World) -> tuple[MemoryBus, OneBus]:
    """A bus with one partition."""
    faults = OneBus()
    bus = MemoryBus(world.clock, faults)
    await bus.ensure_topics([TopicSpec("t", 1)])
    return bus, faults


def values(bus: MemoryBus) -> list[int]:
    """What the log holds."""
    return [int(each.record.value) for each in bus.log.partition(PLACE).records]


@virtual
async def test_publish_points(world: World) -> None:
    bus, faults = await make_bus(world)
    faults.next = {BusPoint.PUBLISH_FAILS: 1}
    with pytest.raises(Unavailable):
        await bus.publish(records(1))
    faults.next = {BusPoint.PUBLISH_CUT: 2}
    with pytest.raises(TimedOut):
        await bus.publish(records(2, 3, 4))
    faults.next = {BusPoint.REPLY_LOST: 1}
    with pytest.raises(TimedOut):
        await bus.publish(records(5, 6))
    faults.next = {BusPoint.PUBLISH_DELAY: 2.5}
    await bus.publish(records(7))
    assert values(bus) == [2, 5, 6, 7] and world.clock.monotonic() == 2.5
    faults.next = {BusPoint.OFFSET_GAP: 3}
    await bus.publish(records(8))
    assert bus.log.partition(PLACE).offsets == [0, 1, 2, 3, 7]
    faults.next = {BusPoint.RETENTION: 4}
    await bus.publish(records(9))
    assert values(bus) == [8, 9] and await bus.end_offsets(["t"]) == {PLACE: 9}
    faults.next = {BusPoint.RETENTION: 99}
    await bus.publish(records(10))
    assert values(bus) == [] and await bus.lag("g", ["t"]) == {PLACE: 0}


@virtual
async def test_consumer_points(world: World) -> None:
    bus, faults = await make_bus(world)
    await bus.publish(records(1, 2, 3))
    async with bus.consumer("g", ["t"]) as consumer:
        faults.next = {BusPoint.FETCH_FAILS: 1}
        with pytest.raises(Unavailable):
            await consumer.fetch(10, 1.0)
        faults.next = {BusPoint.FETCH_DELAY: 1.5}
        assert await consumer.fetch(10, 1.0) == []
        assert len(await consumer.fetch(2, 1.0)) == 2 and world.clock.monotonic() == 1.5
        faults.next = {BusPoint.REDELIVER: 1}
        assert [each.offset for each in await consumer.fetch(10, 1.0)] == [0, 1, 2]
        faults.next = {BusPoint.COMMIT_FAILS: 1}
        with pytest.raises(Unavailable):
            await consumer.commit({PLACE: 1})
        assert await bus.lag("g", ["t"]) == {PLACE: 3}
        faults.next = {BusPoint.COMMIT_LOST: 1}
        with pytest.raises(TimedOut):
            await consumer.commit({PLACE: 1})
        assert await bus.lag("g", ["t"]) == {PLACE: 2}
        faults.next = {BusPoint.REDELIVER: 1, BusPoint.REBALANCE: 1}
        assert len(await consumer.fetch(10, 1.0)) == 2
        with pytest.raises(Fenced):
            await consumer.commit({PLACE: 3})
        assert [each.offset for each in await consumer.fetch(10, 1.0)] == [1, 2]
        await consumer.commit({PLACE: 3})
    assert await bus.lag("g", ["t"]) == {PLACE: 0}


@virtual
async def test_retention_by_age(world: World) -> None:
    bus = MemoryBus(world.clock)
    await bus.ensure_topics([TopicSpec("t", 1, retention_s=60.0)])
    for n in range(5):
        await bus.publish(records(n))
        await world.clock.sleep(25)
    assert values(bus) == [2, 3, 4]


@virtual
async def test_a_handle_that_closes_takes_only_its_own_members(world: World) -> None:
    bus, _ = await make_bus(world)
    process = bus.share()
    async with bus.consumer("g", ["t"]) as stays:
        async with process.consumer("g", ["t"]) as dies:
            held = stays.assignment() | dies.assignment()
            assert held == {PLACE}
            await process.close()
            with pytest.raises(Unavailable):
                await dies.fetch(1, 1.0)
        await stays.fetch(1, 0.1)
        assert stays.assignment() == {PLACE}
        await bus.publish(records(1))
        assert len(await stays.fetch(1, 0.1)) == 1


@virtual
async def test_store_points(world: World) -> None:
    faults = OneStore()
    store = MemoryStore(faults)
    things = await store.collection(CollectionSpec("things"))

    def write(doc_id: str, version: int = 0, **body: Any) -> Write:
        return Write(doc_id, version, body, (OutboxEvent(doc_id, "t", "k", b""),))

    faults.next = {StorePoint.CALL_FAILS: 1}
    with pytest.raises(Unavailable):
        await things.replace_many([write("a")])
    assert await things.get("a") is None
    faults.next = {StorePoint.BATCH_CUT: 2}
    with pytest.raises(TimedOut):
        await things.replace_many([write("a"), write("b")])
    assert list(await things.get_many(["a", "b"])) == ["a"]
    faults.next = {StorePoint.REPLY_LOST: 1}
    with pytest.raises(TimedOut):
        await things.replace_many([write("b")])
    assert list(await things.get_many(["a", "b"])) == ["a", "b"]
    faults.next = {StorePoint.CALL_DELAY: 2.0}
    await things.get("a")
    assert world.clock.monotonic() == 2.0
    faults.next = {StorePoint.REPLY_LOST: 1}
    with pytest.raises(TimedOut):
        await store.raise_epoch("leader")
    assert await store.raise_epoch("leader") == 2
    other = store.share()
    await store.close()
    with pytest.raises(Unavailable):
        await things.get("a")
    assert await (await other.collection(CollectionSpec("things"))).get("a") is not None
