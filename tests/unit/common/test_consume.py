"""Consumer groups at work, in virtual time on the memory bus: nothing skipped, nothing in the way for ever."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import pytest

from libs.common.bus.base import MAX_RECORD_BYTES, Record, TopicSpec
from libs.common.bus.faults import BusFaults, BusPoint
from libs.common.bus.memory import MemoryBus
from libs.common.consume import FETCH_RECORDS, Handlers, Subscription, Together
from libs.common.errors import Fenced, Poison, Unavailable
from libs.common.events import Envelope, seal, to_record
from libs.common.events import model as ev
from libs.common.telemetry import Telemetry
from tests.simulation.loop import World, run, virtual
from tests.unit.common.helpers import Lines

Handle = Callable[[ev.NodeJoined, Envelope], Awaitable[None]]


def joined(agent: str, sequence: int) -> Record:
    """An event of one agent."""
    event = ev.NodeJoined(agent=agent, hostname="h")
    return to_record(seal([event], source="test", sequence=sequence, now=0.0)[0])


def subscription(
    world: World, bus: MemoryBus, handlers: Handlers, together: Together | None = None
) -> Subscription:
    """Group `g`."""
    telemetry = Telemetry("test", Lines())
    clock, rng = world.clock, world.rng
    return Subscription("g", handlers, bus, clock, rng, telemetry, together=together or {})


async def consume(
    world: World,
    bus: MemoryBus,
    handle: Handle,
    for_s: float = 60.0,
    together: Together | None = None,
) -> Subscription:
    """Let a subscription work for a while."""
    made = subscription(world, bus, {ev.NodeJoined: handle}, together)
    task = asyncio.create_task(made.run())
    await world.clock.sleep(for_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return made


def dead(bus: MemoryBus) -> list[Record]:
    """What lies in the dead-letter topic."""
    return [each.record for log in bus.log.topics["dead.g"].partitions for each in log.records]


async def lag(bus: MemoryBus) -> int:
    """Records that the group has not committed."""
    return sum((await bus.lag("g", ["node.joined"])).values())


@virtual
async def test_events_are_handled_in_order_and_committed(world: World) -> None:
    bus = MemoryBus(world.clock)
    for n in range(20):
        await bus.publish([joined(f"a{n % 3}", n)])
    seen: dict[str, list[int]] = defaultdict(list)

    async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
        await world.clock.sleep(world.rng.random() / 10)
        seen[event.agent].append(envelope.sequence)

    await consume(world, bus, handle)
    assert seen == {f"a{k}": list(range(k, 20, 3)) for k in range(3)}
    assert await lag(bus) == 0 and dead(bus) == []


@virtual
async def test_what_can_be_handled_at_once_is(world: World) -> None:
    bus = MemoryBus(world.clock)
    await bus.ensure_topics([TopicSpec("node.joined", partitions=1)])
    await bus.publish([joined(f"a{n % 3}", n) for n in range(20)])
    waves: list[list[int]] = []

    async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
        raise AssertionError("they come together")

    async def handle_all(events: Sequence[tuple[ev.NodeJoined, Envelope]]) -> None:
        waves.append([envelope.sequence for _, envelope in events])

    made = await consume(world, bus, handle, together={ev.NodeJoined: handle_all})
    assert waves == [list(range(20))]
    assert await lag(bus) == 0 and dead(bus) == []
    counted = b'gantry_events_handled_total{outcome="ok",topic="node.joined"} 20.0'
    assert counted in made.telemetry.exposition()


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("wrong"), TimeoutError()])
def test_what_fails_together_is_handled_one_by_one(error: Exception) -> None:
    async def main(world: World) -> None:
        bus = MemoryBus(world.clock)
        await bus.ensure_topics([TopicSpec("node.joined", partitions=1)])
        await bus.publish([joined("a", 1), Record("node.joined", "a", b"{}"), joined("b", 1)])
        seen: list[str] = []

        async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
            if event.agent == "b":
                raise ValueError("this one never")
            seen.append(event.agent)

        async def handle_all(events: Sequence[tuple[ev.NodeJoined, Envelope]]) -> None:
            assert [event.agent for event, _ in events] == ["a", "b"]  # what can be read
            raise error

        await consume(world, bus, handle, together={ev.NodeJoined: handle_all})
        assert seen == ["a"]
        assert len(dead(bus)) == 2  # the one that can't be read, and the one that always fails
        assert await lag(bus) == 0

    run(main)


@virtual
async def test_what_cannot_be_read_goes_to_the_dead_letters_with_its_reason(world: World) -> None:
    bus = MemoryBus(world.clock)
    good = joined("a", 1)
    bad = Record("node.joined", "a", b"not JSON", good.headers)
    await bus.publish([bad, good])
    seen = []

    async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
        seen.append(envelope.sequence)

    made = await consume(world, bus, handle)
    assert seen == [1]
    (letter,) = dead(bus)
    headers = dict(letter.headers)
    assert (letter.key, letter.value) == ("a", b"not JSON")
    assert (
        headers["ce_id"] == dict(good.headers)["ce_id"]
    )  # with its own headers it can be replayed
    assert headers["gantry_dead_topic"] == b"node.joined"
    assert b"Invalid JSON" in headers["gantry_dead_reason"]
    assert await lag(bus) == 0
    assert b'outcome="dead",topic="node.joined"} 1.0' in made.telemetry.exposition()


@pytest.mark.parametrize(("error", "tries"), [(Poison("never"), 1), (ValueError("a bug"), 5)])
def test_a_handler_that_always_fails_is_tried_a_bounded_number_of_times(
    error: Exception, tries: int
) -> None:
    async def main(world: World) -> None:
        bus = MemoryBus(world.clock)
        await bus.publish([joined("bad", 1), joined("bad", 2), joined("good", 3)])
        seen: list[int] = []

        async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
            seen.append(envelope.sequence)
            if envelope.sequence == 1:
                raise error

        await consume(world, bus, handle)
        assert sorted(seen) == [1] * tries + [2, 3]
        assert [dict(each.headers)["ce_sequence"] for each in dead(bus)] == [b"1"]
        assert await lag(bus) == 0

    run(main)


@pytest.mark.parametrize("error", [Unavailable("the store is away"), Fenced("a newer leader")])
def test_while_a_peer_is_away_the_group_waits_and_skips_nothing(error: Exception) -> None:
    async def main(world: World) -> None:
        bus = MemoryBus(world.clock)
        await bus.publish([joined("a", n) for n in range(5)])
        back_at, seen = 300.0, []

        async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
            if world.clock.monotonic() < back_at and envelope.sequence >= 2:
                raise error
            seen.append(envelope.sequence)

        await consume(world, bus, handle, back_at)
        # What was handled before the peer went is committed.
        assert seen == [0, 1] and await lag(bus) == 3
        await consume(world, bus, handle, 20.0)
        assert seen == [0, 1, 2, 3, 4] and dead(bus) == [] and await lag(bus) == 0

    run(main)


@virtual
async def test_a_commit_stops_at_what_is_not_handled_yet(world: World) -> None:
    bus = MemoryBus(world.clock)
    await bus.ensure_topics([TopicSpec("node.joined", partitions=1)])
    await bus.publish([joined("waits", 1), joined("goes", 2), joined("waits", 3)])
    seen: list[int] = []

    async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
        if event.agent == "waits" and world.clock.monotonic() < 50:
            raise Unavailable("its peer is away")
        seen.append(envelope.sequence)

    await consume(world, bus, handle, 50.0)
    assert set(seen) == {2} and await lag(bus) == 3
    await consume(world, bus, handle, 60.0)
    assert list(dict.fromkeys(seen)) == [2, 1, 3] and await lag(bus) == 0


@virtual
async def test_a_handler_that_hangs_is_given_up(world: World) -> None:
    bus = MemoryBus(world.clock)
    await bus.publish([joined("stuck", 1), joined("free", 2)])
    seen = []

    async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
        if event.agent == "stuck":
            await asyncio.Event().wait()
        seen.append(event.agent)

    await consume(world, bus, handle, 600.0)
    assert seen == ["free"]
    assert [each.key for each in dead(bus)] == ["stuck"]


@virtual
async def test_a_dead_letter_that_outgrew_the_limit_is_cut(world: World) -> None:
    bus = MemoryBus(world.clock)
    big = Record("node.joined", "a", bytes(MAX_RECORD_BYTES - 1))
    await bus.publish([big, joined("a", 1)])
    seen = []

    async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
        seen.append(envelope.sequence)

    await consume(world, bus, handle)
    assert seen == [1]
    assert dict(dead(bus)[0].headers)["gantry_dead_cut"] == str(MAX_RECORD_BYTES - 1).encode()


@virtual
async def test_a_commit_that_is_fenced_does_not_end_the_consumer(world: World) -> None:
    class Rebalance(BusFaults):
        left = 3

        def draw(self, point: BusPoint, what: str) -> float:
            if point is BusPoint.REBALANCE and self.left:
                self.left -= 1
                return 1.0
            return 0.0

    bus = MemoryBus(world.clock, Rebalance())
    await bus.publish([joined("a", 1)])
    times: list[float] = []

    async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
        times.append(world.clock.monotonic())

    made = await consume(world, bus, handle, 10.0)
    assert len(times) == 4 and times[-1] < 1.0
    assert made.telemetry.log.of("warning") == ["commit fenced"] * 3  # type: ignore[attr-defined]
    assert await lag(bus) == 0


class _Trouble(BusFaults):
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.hit: set[BusPoint] = set()
        self.on = True

    def draw(self, point: BusPoint, what: str) -> float:
        # Retention would lose records for good; publishing is done by the test.
        spared = point in (BusPoint.RETENTION, BusPoint.PUBLISH_CUT, BusPoint.PUBLISH_FAILS)
        if not self.on or spared or self.rng.random() > 0.1:
            return 0.0
        self.hit.add(point)
        return 2 * self.rng.random() if point.value.endswith("delay") else 1.0


async def _storm(world: World) -> set[BusPoint]:
    faults = _Trouble(world.rng)
    bus = MemoryBus(world.clock, faults)
    await bus.ensure_topics([TopicSpec("node.joined", partitions=4)])
    first: dict[str, list[int]] = defaultdict(list)

    async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
        await world.clock.sleep(world.rng.random() / 20)
        if world.rng.random() < 0.05:
            raise Unavailable("now and then")
        if envelope.sequence not in first[event.agent]:
            first[event.agent].append(envelope.sequence)

    async with asyncio.TaskGroup() as group:
        workers = [
            group.create_task(subscription(world, bus.share(faults), {ev.NodeJoined: handle}).run())
            for _ in range(3)
        ]
        for n in range(100):
            try:
                await bus.publish([joined(f"a{n % 7}", n)])
            except Unavailable:
                pass  # the answer was lost, not the record
            await world.clock.sleep(world.rng.random() / 2)
        await world.clock.sleep(60)
        faults.on = False
        await world.clock.sleep(60)
        for worker in workers:
            worker.cancel()
    assert first == {f"a{k}": list(range(k, 100, 7)) for k in range(7)}
    assert await lag(bus) == 0 and dead(bus) == []
    return faults.hit


def test_a_storm_loses_nothing_and_keeps_the_order_of_each_key() -> None:
    hit: set[BusPoint] = set().union(*(run(_storm, seed) for seed in range(10)))
    spared = {BusPoint.RETENTION, BusPoint.PUBLISH_CUT, BusPoint.PUBLISH_FAILS}
    assert hit == set(BusPoint) - spared


@virtual
async def test_how_far_a_group_is_behind_is_told_also_while_its_handler_hangs(world: World) -> None:
    bus = MemoryBus(world.clock)
    await bus.ensure_topics([TopicSpec("node.joined", partitions=1)])
    await bus.publish([joined("stuck", n) for n in range(700)])
    free = asyncio.Event()

    async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
        await free.wait()

    made = subscription(world, bus.share(), {ev.NodeJoined: handle})
    task = asyncio.create_task(made.run())
    await world.clock.sleep(11)
    assert made.telemetry.lags == {"g": 700}
    assert b'gantry_consumer_lag{group="g"} 700.0' in made.telemetry.exposition()
    free.set()
    await world.clock.sleep(11)
    assert made.telemetry.lags == {"g": 0}
    assert b'gantry_consumer_lag_largest{group="g"} 0.0' in made.telemetry.exposition()
    await made.bus.close()
    await world.clock.sleep(60)  # the bus is away, and all that happens is that nobody knows better
    assert not task.done() and made.telemetry.lags == {"g": 0}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@virtual
async def test_a_slow_handler_is_handed_a_batch_and_no_more(world: World) -> None:
    bus = MemoryBus(world.clock)
    await bus.publish([joined(f"a{n}", n) for n in range(4 * FETCH_RECORDS)])
    begun = 0

    async def handle(event: ev.NodeJoined, envelope: Envelope) -> None:
        nonlocal begun
        begun += 1
        await world.clock.sleep(45)

    await consume(world, bus, handle, 40.0)
    assert begun == FETCH_RECORDS and await lag(bus) == 4 * FETCH_RECORDS
    begun = 0
    await consume(world, bus, handle, 100.0)
    assert begun == 3 * FETCH_RECORDS and await lag(bus) == 2 * FETCH_RECORDS
