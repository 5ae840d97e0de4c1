"""bus_events_per_s_<adapter>: events published by one producer and consumed by one group, at 500 bytes each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from infra import provision
from libs.common.bus.base import Bus, Record, TopicSpec
from libs.common.clock import SystemClock
from libs.common.runtime import open_bus
from tests.bench.report import Report

EVENTS = 20_000
BATCH = 500
KEYS = 200
TOPIC = "bench.events"


async def measure(report: Report) -> None:
    """All adapters, one after the other."""
    for adapter in ("memory", "sqlite", "kafka"):
        async with _bus(adapter) as bus:
            published, consumed = await _throughput(bus)
        note = f"published {published:.0f}/s, consumed {consumed:.0f}/s, batches of {BATCH}"
        both = 1 / (1 / published + 1 / consumed)
        report.add(f"bus_events_per_s_{adapter}", both, "events/s", note=note)


@asynccontextmanager
async def _bus(adapter: str) -> AsyncIterator[Bus]:
    with tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp") as directory:
        if adapter == "kafka":
            async with provision.kafka(Path(directory)) as server:
                bus = await open_bus(server.url, SystemClock())
                try:
                    yield bus
                finally:
                    await bus.close()
            return
        url = "memory:" if adapter == "memory" else f"sqlite://{directory}/bus.db"
        bus = await open_bus(url, SystemClock())
        try:
            yield bus
        finally:
            await bus.close()


async def _throughput(bus: Bus) -> tuple[float, float]:
    await bus.ensure_topics([TopicSpec(TOPIC)])
    value = b"x" * 500
    records = [Record(TOPIC, f"key-{n % KEYS}", value) for n in range(EVENTS)]
    started = time.perf_counter()
    for first in range(0, EVENTS, BATCH):
        await bus.publish(records[first : first + BATCH])
    published = EVENTS / (time.perf_counter() - started)
    seen = 0
    async with bus.consumer("bench", [TOPIC]) as consumer:
        started = 0.0
        while seen < EVENTS:
            batch = await consumer.fetch(BATCH, 1.0)
            # Joining the group is not what is measured.
            started = started or time.perf_counter()
            seen += len(batch)
            if batch:
                await consumer.commit({each.place: each.offset + 1 for each in batch})
        consumed = EVENTS / (time.perf_counter() - started)
    return published, consumed
