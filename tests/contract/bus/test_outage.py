"""A broker that dies: calls say so in time, and afterwards everything is there, in order."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra import provision
from infra.provision import Server
from libs.common.bus.base import Record
from libs.common.bus.kafka import KafkaBus
from libs.common.clock import SystemClock
from libs.common.errors import GantryError, Unavailable
from tests.contract.bus.helpers import ONE, after
from tests.disks import small_disk


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A broker of this test's own, to be killed."""
    directory = Path(tempfile.mkdtemp(prefix="gantry-"))
    try:
        async with provision.kafka(directory / "k", own=True) as started:
            yield started
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _publish(bus: KafkaBus, n: int, key: str = "k") -> int:
    """Publish until it is done, as the relay would; how often it failed."""
    failures = 0
    async with asyncio.timeout(120):
        while True:
            try:
                await bus.publish([Record("things", key, str(n).encode())])
                return failures
            except Unavailable:
                failures += 1
                await asyncio.sleep(0.2)


async def _consume(bus: KafkaBus, seen: list[int], until: int) -> None:
    async with asyncio.timeout(120):
        while until not in seen:
            try:
                async with bus.consumer("g", ["things"]) as consumer:
                    while until not in seen:
                        batch = await consumer.fetch(10, 0.5)
                        seen += [int(each.record.value) for each in batch]
                        await consumer.commit(after(batch))
            except GantryError:
                await asyncio.sleep(0.2)


async def test_nothing_is_lost_when_the_broker_is_killed(server: Server) -> None:
    bus = await KafkaBus.open(f"{server.url}?session_s=2", SystemClock())
    await bus.ensure_topics([ONE])
    seen: list[int] = []
    consuming = asyncio.create_task(_consume(bus, seen, 59))
    for n in range(20):
        await _publish(bus, n)
    await server.kill9()
    publishing = asyncio.create_task(_publish(bus, 20))
    with pytest.raises(Unavailable):
        await bus.end_offsets(["things"])
    await asyncio.wait([publishing], timeout=0.5)
    assert not publishing.done()
    await server.start()
    await publishing
    for n in range(21, 60):
        await _publish(bus, n)
    await consuming
    await bus.close()
    assert list(dict.fromkeys(seen)) == list(range(60))


async def test_a_broker_that_ends_on_a_full_disk_goes_on_with_all_it_acknowledged(
    tmp_path: Path,
) -> None:
    """Kafka ends itself when it can't write. Whoever supervises it starts it again, which works once there is room."""
    with small_disk(tmp_path / "d", mib=96) as disk:
        async with provision.kafka(disk.root / "k", own=True) as server:
            bus = await KafkaBus.open(f"{server.url}?session_s=2", SystemClock())
            await bus.ensure_topics([ONE])
            await _publish(bus, 0)
            disk.fill()
            publishing = asyncio.create_task(_publish(bus, 1, "k" * 200_000))
            async with asyncio.timeout(60):
                while server.pid is not None:
                    await asyncio.sleep(0.1)
            assert not publishing.done()
            disk.free()
            await server.start()
            await publishing
            await _publish(bus, 2)
            seen: list[int] = []
            await _consume(bus, seen, 2)
            await bus.close()
    assert list(dict.fromkeys(seen)) == [0, 1, 2]
