"""The relay: everything saved is published, in order per document, whatever fails and whoever dies."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial

import pytest

from libs.common.bus.base import Record
from libs.common.bus.faults import BusFaults, BusPoint
from libs.common.bus.memory import MemoryBus
from libs.common.errors import Unavailable
from libs.common.outbox import LEASE_TTL_S, POLL_S, Relay
from libs.common.store.base import Collection, CollectionSpec, OutboxEvent, Write
from libs.common.store.faults import StoreFaults, StorePoint
from libs.common.store.memory import MemoryStore
from tests.simulation.loop import World, run, virtual
from tests.unit.common.helpers import Lines

SPEC = CollectionSpec("things")
DOCS = tuple(f"doc-{n}" for n in range(4))


def make_relay(
    world: World,
    holder: str,
    store: MemoryStore,
    things: Collection,
    bus: MemoryBus,
    *,
    mine: bool = False,
) -> Relay:
    """A relay of one collection, which is its own, or others write there, too."""
    own = [things] if mine else []
    return Relay(
        *("r", holder, store, [things], bus),
        clock=world.clock,
        rng=world.rng,
        log=Lines(),
        mine=own,
    )


def log_of(bus: MemoryBus) -> list[Record]:
    """All records of topic `t`, partition by partition."""
    topic = bus.log.topics.get("t")
    return [each.record for log in (topic.partitions if topic else ()) for each in log.records]


def event_of(doc_id: str, version: int) -> OutboxEvent:
    """The event of a version."""
    return OutboxEvent(f"{doc_id}:{version}", "t", doc_id, str(version).encode())


async def save(things: Collection, doc_id: str, version: int) -> None:
    """Version `version` + 1, with an event that says so."""
    write = Write(doc_id, version, {}, (event_of(doc_id, version + 1),))
    (result,) = await things.replace_many([write])
    assert result.ok


@virtual
async def test_a_kick_publishes_at_once_and_the_poll_finds_the_rest(world: World) -> None:
    store, bus = MemoryStore(), MemoryBus(world.clock)
    things = await store.collection(SPEC)
    relay = make_relay(world, "a", store, things, bus)
    task = asyncio.create_task(relay.run())
    await world.clock.sleep(0.1)
    await save(things, "doc-0", 0)
    relay.kick()
    await world.clock.sleep(0.001)
    assert [each.value for each in log_of(bus)] == [b"1"]
    await save(things, "doc-0", 1)  # nobody kicks: its process died
    await world.clock.sleep(POLL_S + 0.1)
    assert [each.value for each in log_of(bus)] == [b"1", b"2"]
    assert await things.unsent(10) == {}
    task.cancel()


@virtual
async def test_one_replica_works_and_another_takes_over(world: World) -> None:
    store, bus = MemoryStore(), MemoryBus(world.clock)
    things = await store.collection(SPEC)
    tasks = [
        asyncio.create_task(make_relay(world, holder, store.share(), things, bus).run())
        for holder in ("a", "b")
    ]
    await world.clock.sleep(1)
    lease = await store.take_lease("relay:r", "nobody", world.clock.now(), 1.0)
    assert lease is None
    await save(things, "doc-0", 0)
    await world.clock.sleep(POLL_S + 0.1)
    assert len(log_of(bus)) == 1
    tasks[0].cancel()
    await save(things, "doc-0", 1)
    await world.clock.sleep(LEASE_TTL_S + POLL_S + 0.1)
    assert [each.value for each in log_of(bus)] == [b"1", b"2"]
    tasks[1].cancel()


@virtual
async def test_what_somebody_else_got_in_is_found_even_while_much_is_handed_over(
    world: World,
) -> None:
    store, bus = MemoryStore(), MemoryBus(world.clock)
    things = await store.collection(SPEC)
    relay = make_relay(world, "a", store, things, bus, mine=True)
    task = asyncio.create_task(relay.run())
    await world.clock.sleep(0.1)
    await save(things, "late", 0)  # of a writer from before
    for version in range(130):
        await save(things, "doc-0", version)
        relay.hand(things, {"doc-0": [event_of("doc-0", version + 1)]})
        await world.clock.sleep(0.5)
    assert [each.value for each in log_of(bus) if each.key == "late"] == [b"1"]
    assert len([each for each in log_of(bus) if each.key == "doc-0"]) == 130
    task.cancel()


@virtual
async def test_what_is_handed_over_is_published_without_being_read_again(world: World) -> None:
    store, bus = MemoryStore(), MemoryBus(world.clock)
    things = await store.collection(SPEC)
    await save(things, "doc-1", 0)  # before the relay was there
    relay = make_relay(world, "a", store, things, bus, mine=True)
    reads = 0
    read = things.unsent

    async def unsent(limit: int) -> dict[str, tuple[OutboxEvent, ...]]:
        nonlocal reads
        reads += 1
        return await read(limit)

    things.unsent = unsent  # type: ignore[method-assign]
    task = asyncio.create_task(relay.run())
    await world.clock.sleep(0.1)
    for version in range(5):
        await save(things, "doc-0", version)
        relay.hand(things, {"doc-0": [event_of("doc-0", version + 1)]})
        await world.clock.sleep(0.01)
    assert reads == 1
    assert [each.value for each in log_of(bus) if each.key == "doc-0"] == [
        b"1",
        b"2",
        b"3",
        b"4",
        b"5",
    ]
    assert [each.value for each in log_of(bus) if each.key == "doc-1"] == [b"1"]
    await save(things, "doc-1", 1)  # handed over by nobody: the poll finds it
    await world.clock.sleep(2 * POLL_S + 0.1)
    assert [each.value for each in log_of(bus) if each.key == "doc-1"] == [b"1", b"2"]
    assert await read(10) == {}
    task.cancel()


class _BusTrouble(BusFaults):
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.on = True
        self.hit: set[BusPoint] = set()

    def draw(self, point: BusPoint, what: str) -> float:
        if not self.on or self.rng.random() > 0.15:
            return 0.0
        self.hit.add(point)
        if point in (BusPoint.PUBLISH_CUT, BusPoint.OFFSET_GAP):
            return self.rng.randrange(1, 5)
        return self.rng.random() if point is not BusPoint.RETENTION else 0.0


class _StoreTrouble(StoreFaults):
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.on = True
        self.hit: set[StorePoint] = set()

    def draw(self, point: StorePoint, what: str) -> float:
        if not self.on or self.rng.random() > 0.1:
            return 0.0
        self.hit.add(point)
        return self.rng.randrange(1, 3) if point is StorePoint.BATCH_CUT else self.rng.random()


async def _write(
    world: World, things: Collection, doc_id: str, count: int, hand: Callable[[str, int], None]
) -> None:
    version = 0
    while version < count:
        try:
            doc = await things.get(doc_id)
            if (
                doc.version if doc else 0
            ) == version:  # or else it was done, and the reply was lost
                await save(things, doc_id, version)
            version += 1
            hand(doc_id, version)
        except (Unavailable, AssertionError):
            await world.clock.sleep(0.1)


async def _storm(world: World, mine: bool) -> set[BusPoint | StorePoint]:
    bus_faults, store_faults = _BusTrouble(world.rng), _StoreTrouble(world.rng)
    store, bus = MemoryStore(store_faults), MemoryBus(world.clock, bus_faults)
    store_faults.on = False
    things = await store.collection(SPEC)
    store_faults.on = True
    relay = make_relay(world, "life-1", store, things, bus, mine=mine)

    def hand(doc_id: str, version: int) -> None:
        relay.hand(things, {doc_id: [event_of(doc_id, version)]})

    writers = [asyncio.create_task(_write(world, things, doc_id, 30, hand)) for doc_id in DOCS]
    for life in range(12):  # the relay dies at any moment, and another one comes
        relay = make_relay(world, f"life-{life % 2}", store, things, bus, mine=mine)
        task = asyncio.create_task(relay.run())
        await world.clock.sleep(world.rng.uniform(0.0, 4.0))
        task.cancel()
    await asyncio.gather(*writers)
    bus_faults.on = store_faults.on = False
    task = asyncio.create_task(make_relay(world, "last", store, things, bus).run())
    await world.clock.sleep(LEASE_TTL_S + 2 * POLL_S + 1)
    task.cancel()
    assert await things.unsent(10) == {}
    for doc_id in DOCS:
        values = [int(each.value) for each in log_of(bus) if each.key == doc_id]
        doc = await things.get(doc_id)
        assert doc is not None
        # With repetitions dropped: every version's event, in order.
        assert list(dict.fromkeys(values)) == list(range(1, doc.version + 1))
    return bus_faults.hit | store_faults.hit


@pytest.mark.parametrize("mine", [False, True])
def test_nothing_is_lost_or_out_of_order_in_a_storm(mine: bool) -> None:
    hit = set().union(*(run(partial(_storm, mine=mine), seed) for seed in range(20)))
    publishing = {BusPoint.PUBLISH_CUT, BusPoint.REPLY_LOST, BusPoint.PUBLISH_FAILS}
    assert publishing | set(StorePoint) <= hit  # or the storm shows nothing
