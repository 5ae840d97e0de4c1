"""A backlog is worked off within bounds: batches, a commit each, memory that does not grow with it; producers wait."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from infra.provision import Server
from libs.common.bus.base import Bus
from libs.common.clock import SystemClock
from libs.common.consume import FETCH_RECORDS
from libs.common.runtime import open_bus
from tests.contract.bus.backlog import run_child
from tests.contract.bus.helpers import DEADLINE_S, ONE, numbered
from tests.contract.bus.worlds import kafka_world_url

EVENTS = 100_000  # some 75 MB on their way; a million in tests/bench
MOST_MIB = 40.0
LONG_BYTES = 500_000
LONG_EVENTS = 320  # 160 MB
PUBLISHERS = 4

Act = Callable[[], Awaitable[None]]


@pytest.fixture(params=["sqlite", "kafka"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A log of its own on disk."""
    if request.param == "kafka":
        return kafka_world_url(request.getfixturevalue("kafka_url"))
    return f"sqlite://{tmp_path}/bus.db"


async def test_a_backlog_is_drained_in_batches_with_a_commit_each_and_bounded_memory(
    url: str,
) -> None:
    filled = await run_child("fill", url, EVENTS)
    assert filled.events == EVENTS and filled.grown_mib < MOST_MIB, filled
    drained = await run_child("drain", url, EVENTS)
    assert drained.events == EVENTS and drained.grown_mib < MOST_MIB, drained
    assert drained.largest_batch == FETCH_RECORDS
    # A batch may be a short one at the end of what was fetched of a partition.
    assert EVENTS / FETCH_RECORDS <= drained.batches < 2 * EVENTS / FETCH_RECORDS, drained
    assert drained.commits == drained.batches


async def test_of_long_events_fewer_are_in_hand(url: str) -> None:
    filled = await run_child("fill", url, LONG_EVENTS, LONG_BYTES)
    drained = await run_child("drain", url, LONG_EVENTS)
    assert filled.events == drained.events == LONG_EVENTS
    assert filled.grown_mib < MOST_MIB and drained.grown_mib < MOST_MIB, (filled, drained)
    assert drained.largest_batch < 100


async def _hold_back(bus: Bus, pause: Act, resume: Act) -> None:
    """Producers that never rest: nothing is taken from them while the bus takes nothing, and then it goes on."""
    done: list[int] = []
    numbers = itertools.count()

    async def publish() -> None:
        for n in numbers:
            await bus.publish(numbered(f"k{n % 7}", [n]))
            done.append(n)

    async def progress(count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(done) < count:
                await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(publish()) for _ in range(PUBLISHERS)]
        await progress(50)
        await pause()
        try:
            before = len(done)
            await asyncio.wait(tasks, timeout=1.0)  # the time in which nothing may happen
            held = len(done)
            # What was under way at that moment may have been taken; nothing was begun beside it.
            assert held - before <= 2 * PUBLISHERS
            assert next(numbers) - held <= 2 * PUBLISHERS
        finally:
            await resume()
        await progress(held + 50)
        for task in tasks:
            task.cancel()
    ends = await bus.end_offsets([ONE.name])
    assert sum(ends.values()) >= len(done)


async def test_a_producer_waits_for_a_database_that_is_locked(tmp_path: Path) -> None:
    bus = await open_bus(f"sqlite://{tmp_path}/bus.db", SystemClock())
    await bus.ensure_topics([ONE])
    other = sqlite3.connect(tmp_path / "bus.db", isolation_level=None, timeout=10.0)

    async def lock() -> None:
        other.execute("BEGIN IMMEDIATE")

    async def unlock() -> None:
        other.execute("ROLLBACK")

    await _hold_back(bus, lock, unlock)
    other.close()
    await bus.close()


async def test_a_producer_waits_for_a_broker_that_is_frozen(own_kafka: Server) -> None:
    bus = await open_bus(kafka_world_url(own_kafka.url), SystemClock())
    await bus.ensure_topics([ONE])
    await _hold_back(bus, own_kafka.pause, own_kafka.resume)
    await bus.close()
