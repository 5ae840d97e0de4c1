"""A writer with its relay is killed -9 again and again: every event is published, in order, none is lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from libs.common.bus.base import Bus
from libs.common.clock import SystemClock
from libs.common.outbox import Relay
from libs.common.runtime import open_bus, open_store
from libs.common.store.base import Collection
from libs.common.telemetry import make_log
from tests.contract.bus.worlds import kafka_world_url
from tests.contract.store.worlds import mongo_database
from tests.contract.store.writer import DOCS, SPEC, TOPIC

KILLS = 6


@pytest.fixture(params=["sqlite", "mongo-kafka"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Store and bus, as they go together."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/store.db", f"sqlite://{tmp_path}/bus.db"
    mongo = mongo_database(request.getfixturevalue("mongo_url"))
    return mongo, kafka_world_url(request.getfixturevalue("kafka_url"))


async def _run_and_kill(urls: tuple[str, str], after_s: float) -> None:
    arguments = ["-m", "tests.contract.store.writer", *urls, "1"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"running\n"
        await asyncio.sleep(after_s)  # not a wait for something: the moment of death
        assert process.returncode is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()


async def _published(bus: Bus) -> dict[str, list[int]]:
    """All events of each document, as they stand in the log."""
    ends = await bus.end_offsets([TOPIC])
    left = {place for place, end in ends.items() if end}
    found: dict[str, list[int]] = {doc_id: [] for doc_id in DOCS}
    async with asyncio.timeout(30), aclosing(bus.read([TOPIC], dict.fromkeys(ends, 0))) as records:
        async for each in records:
            found[each.record.key].append(int(each.record.value))
            if each.offset + 1 >= ends[each.place]:
                left.discard(each.place)
            if not left:
                break
    return found


async def _drain(things: Collection, relay: Relay) -> None:
    async with asyncio.timeout(60):
        while await things.unsent(1):
            await relay.publish_once()


async def test_no_event_is_lost_or_out_of_order(urls: tuple[str, str]) -> None:
    rng = random.Random(7)
    for _ in range(KILLS):
        await _run_and_kill(urls, rng.uniform(0.1, 0.6))
    clock = SystemClock()
    store, bus = await open_store(urls[0]), await open_bus(urls[1], clock)
    try:
        things = await store.collection(SPEC)
        unpublished = await things.unsent(100)
        relay = Relay("w", "w", store, [things], bus, clock=clock, rng=rng, log=make_log("test"))
        await _drain(things, relay)
        docs = await things.get_many(DOCS)
        published = await _published(bus)
    finally:
        await store.close()
        await bus.close()
    assert unpublished, "no kill fell between a save and its publication: the test shows nothing"
    for doc_id in DOCS:
        assert docs[doc_id].body["n"] == docs[doc_id].version > KILLS
        # What is left when repetitions are dropped is exactly 1, 2, 3, …
        assert list(dict.fromkeys(published[doc_id])) == list(range(1, docs[doc_id].version + 1))
