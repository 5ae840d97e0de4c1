"""A process that fills a log, or works a backlog off as a service does, and tells what it took.

    python -m tests.contract.bus.backlog fill|drain URL COUNT [BYTES]

It prints a JSON object: seconds, how far its memory grew at the worst, and (of a drain) batches and commits.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from libs.common.bus.base import Bus, Consumer, Delivered, Offsets, Record, TopicPartition
from libs.common.clock import SystemClock
from libs.common.consume import Subscription
from libs.common.events import Envelope, seal, to_record
from libs.common.events import model as ev
from libs.common.runtime import open_bus
from libs.common.telemetry import Telemetry, make_log

GROUP = "backlog"
TOPIC = ev.NodeJoined.TOPIC
PUBLISHERS = 4
KEYS = 500


@dataclass
class Took:
    """What a run took. `batches` are fetches that brought something."""

    seconds: float = 0.0
    grown_mib: float = 0.0
    events: int = 0
    batches: int = 0
    commits: int = 0
    largest_batch: int = 0


async def run_child(
    verb: str, url: str, count: int, size: int = 0, timeout_s: float = 280.0
) -> Took:
    """Run this module in a process of its own. Events have `size` bytes more than they need."""
    arguments = ["-m", "tests.contract.bus.backlog", verb, url, str(count), str(size)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{verb} ended with {process.returncode}"
    return Took(**json.loads(out.splitlines()[-1]))


@dataclass
class Counted:
    """A Consumer that counts."""

    inner: Consumer
    took: Took

    async def fetch(self, max_records: int, timeout_s: float) -> Sequence[Delivered]:
        """See Consumer."""
        batch = await self.inner.fetch(max_records, timeout_s)
        self.took.batches += bool(batch)
        self.took.largest_batch = max(self.took.largest_batch, len(batch))
        return batch

    async def commit(self, offsets: Offsets) -> None:
        """See Consumer."""
        self.took.commits += 1
        await self.inner.commit(offsets)

    def assignment(self) -> frozenset[TopicPartition]:
        """See Consumer."""
        return self.inner.assignment()


class CountedSubscription(Subscription):
    """A subscription whose consumer counts."""

    took: Took

    async def _step(self, consumer: Consumer) -> None:
        await super()._step(Counted(consumer, self.took))


def _records(size: int) -> list[Record]:
    more = {"more": "x" * size} if size else {}
    events = [
        ev.NodeJoined(agent=f"agent-{n}", hostname=f"host-{n}", attributes=more)
        for n in range(KEYS if not size else 8)
    ]
    return [
        to_record(seal([each], source="monitor", sequence=n, now=1.75e9)[0])
        for n, each in enumerate(events)
    ]


async def fill(bus: Bus, count: int, took: Took, size: int) -> None:
    """Publish as fast as the bus takes it, some publishers side by side."""
    records = _records(size)
    batches = iter(range(0, count, len(records)))

    async def publish() -> None:
        for first in batches:
            some = records[: min(len(records), count - first)]
            await bus.publish(some)
            took.events += len(some)

    async with asyncio.TaskGroup() as group:
        for _ in range(PUBLISHERS):
            group.create_task(publish())


async def drain(bus: Bus, count: int, took: Took) -> None:
    """Consume as a service does, until everything has been handled and committed."""
    done = asyncio.Event()

    async def handle(_event: ev.NodeJoined, _envelope: Envelope) -> None:
        took.events += 1
        if took.events >= count:
            done.set()

    clock = SystemClock()
    telemetry = Telemetry(GROUP, make_log(GROUP))
    group = CountedSubscription(
        GROUP, {ev.NodeJoined: handle}, bus, clock, random.Random(1), telemetry
    )
    group.took = took
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(group.run())
        await done.wait()
        while any((await bus.lag(GROUP, [TOPIC])).values()):
            await asyncio.sleep(0.02)
        running.cancel()


def _mib(name: str) -> float:
    """VmRSS, or VmHWM: its highest so far. (What getrusage calls so is that of the parent, if higher.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


async def main(verb: str, url: str, count: int, size: int = 0) -> Took:
    """Do it, measured from when the bus is open."""
    bus = await open_bus(url, SystemClock())
    took = Took()
    await bus.end_offsets([TOPIC])
    before_mib, started = _mib("VmRSS"), time.perf_counter()
    await (fill(bus, count, took, size) if verb == "fill" else drain(bus, count, took))
    took.seconds = time.perf_counter() - started
    took.grown_mib = _mib("VmHWM") - before_mib
    await bus.close()
    return took


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[3:]]
    print(json.dumps(asdict(asyncio.run(main(sys.argv[1], sys.argv[2], *numbers)))))
