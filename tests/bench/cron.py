"""cron_*: how late runs start, what a run costs the scheduler, and what many jobs cost it.

The world is that of `path.py`: minimesos with virtual tasks, `python -m services.scheduler` on SQLite files, each in a
process of its own, and this one, which publishes `job.requested` as the gateway does. A run is late by the time of its
`job.run.started`, which the scheduler writes when it has heard that the task runs, less its target; MOST_P99_MS was
promised. The peer for 500 jobs each 10 s is dkron 4 on this kind of machine.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from libs.common.bus.base import Bus, TopicSpec
from libs.common.clock import SystemClock
from libs.common.events.base import EventTypes, seal, to_record
from libs.common.events.model import JobRequested, JobRunFinished, JobRunMissed, JobRunStarted
from libs.common.jobs import JobSpec
from libs.common.keys import open_secret
from libs.common.proofs import ServiceProofs
from libs.common.runtime import open_bus, open_store
from libs.common.spec import Resources
from libs.common.store.base import eq
from services.scheduler.jobs.store import JOBS
from tests.bench.path import AT_ONCE, POLL_S, _mesos, _peak_gib, _scheduler, cpu_s
from tests.bench.report import Report
from tests.pins import pins

AGENTS = 200
DKRON_P99_MS = 1444.0
MOST_P99_MS = {"10k": 250, "500": 100}
TOLD = (JobRunStarted, JobRunFinished, JobRunMissed)
RUNS = EventTypes.of(TOLD)
TAKES_S = 0.2  # what a run does: nothing, for so long
PATIENCE_S = 600.0
MINUTE_S = 60.0
REST_S = 15.0  # after the last target: the last runs end


@dataclass
class Seen:
    """What the bus told of runs: how late each started, seconds; starts by job and target; ends; misses."""

    late_s: list[float] = field(default_factory=list)
    starts: Counter[tuple[str, float]] = field(default_factory=Counter)
    finished: int = 0
    missed: list[str] = field(default_factory=list)


async def measure(report: Report) -> None:
    """All figures of cron."""
    many = await run(10_000, lambda n, at: f"R1/{_iso(at + n * MINUTE_S / 10_000)}/PT1H", MINUTE_S)
    _lateness(report, many, "10k", 10_000, note="10,000 jobs due within one minute")
    each = f"{many.cpu_s:.1f} s for {many.seen.finished} runs"
    report.add("cron_cpu_s_per_1k_runs", 1000 * many.cpu_s / many.seen.finished, "s", note=each)
    few = await run(500, lambda n, at: f"R7/{_iso(at + n * 3.0 / 500)}/PT10S", 70.0)
    note = "500 jobs each 10 s, due within 3 s of each other; peer: dkron"
    _lateness(report, few, "500", 3_500, note, DKRON_P99_MS)
    at_once = await run(500, lambda _n, at: f"R7/{_iso(at)}/PT10S", 70.0)
    _lateness(report, at_once, "500_at_once", 3_500, "500 jobs each 10 s, all due at one instant")
    idle = await run(50_000, lambda n, at: f"R/{_iso(at + 86_400 + n)}/P1D", 20.0)
    report.add(
        "cron_50k_jobs_gib", idle.gib, "GiB", note="the scheduler's peak with 50,000 jobs defined"
    )
    report.add(
        "cron_50k_jobs_idle_cpu", idle.cpu_s / (20.0 + REST_S), "cores", note="none of them due"
    )


@dataclass
class Took:
    """Of one run: what was seen, the scheduler's CPU meanwhile, seconds, and its peak memory, GiB."""

    seen: Seen
    cpu_s: float
    gib: float


async def run(jobs: int, schedule: Callable[[int, float], str], lasts_s: float) -> Took:
    """So many jobs on a cluster of its own. Raises TimeoutError, AssertionError when a run is missing or doubled."""
    async with AsyncExitStack() as stack:
        found = stack.enter_context(tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp"))
        directory = Path(found)
        _, master = await stack.enter_async_context(_mesos(AGENTS))
        peers = {"deployer": await stack.enter_async_context(pins())}
        scheduler = await stack.enter_async_context(_scheduler(directory, master, peers))
        bus = await open_bus(f"sqlite://{directory}/bus.db", SystemClock())
        stack.push_async_callback(bus.close)
        topics = (JobRequested.TOPIC, *(each.TOPIC for each in TOLD))
        await bus.ensure_topics([TopicSpec(each) for each in topics])
        at = time.time() + 15 + jobs / 200
        secret = open_secret(directory / "cluster.secret")
        await _put(
            bus, ServiceProofs(secret), {f"bench/job-{n}": schedule(n, at) for n in range(jobs)}
        )
        await _all_known(directory, jobs)
        if time.time() > at:
            raise TimeoutError("the jobs were not taken before the first of them was due")
        await asyncio.sleep(at - time.time())
        before = cpu_s(scheduler)
        seen = await _look(bus, lasts_s + REST_S)
        return Took(seen, cpu_s(scheduler) - before, _peak_gib(scheduler))


def _iso(at: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    return f"{whole}.{int(at % 1 * 1000):03d}Z"


async def _put(bus: Bus, proofs: ServiceProofs, jobs: dict[str, str]) -> None:
    names = list(jobs)
    for first in range(0, len(names), AT_ONCE):
        asked = (
            JobRequested(
                job=name,
                action="put",
                actor="bench",
                request=f"put-{name}",
                spec=JobSpec(
                    schedule=jobs[name],
                    image="bench/job@sha256:" + "0" * 64,
                    network="bench",
                    resources=Resources(cpus=0.1, mem_mib=16),
                    env={"VIRTUAL": f" sleep={TAKES_S}"},
                ).model_dump(mode="json", by_alias=True, exclude_defaults=True),
            )
            for name in names[first : first + AT_ONCE]
        )
        sealed = seal(asked, source="gateway", sequence=1, now=time.time())
        await bus.publish([proofs.sign(to_record(each)) for each in sealed])


async def _all_known(directory: Path, jobs: int) -> None:
    store = await open_store(f"sqlite://{directory}/store.db")
    try:
        known = await store.collection(JOBS)
        async with asyncio.timeout(PATIENCE_S):
            while await known.count((eq("bu", "bench"),)) < jobs:
                await asyncio.sleep(1.0)
    finally:
        await store.close()


async def _look(bus: Bus, for_s: float) -> Seen:
    seen, until = Seen(), time.monotonic() + for_s
    topics = [each.TOPIC for each in TOLD]
    async with bus.consumer("bench", topics) as consumer:
        while time.monotonic() < until:
            for each in await consumer.fetch(AT_ONCE, POLL_S):
                event, envelope = RUNS.open(each.record)
                match event:
                    case JobRunStarted():
                        seen.late_s.append(envelope.time - event.target)
                        seen.starts[event.job, event.target] += 1
                    case JobRunFinished():
                        seen.finished += 1
                    case JobRunMissed():
                        seen.missed.append(f"{event.job}: {event.reason}")
    return seen


def _lateness(
    report: Report, took: Took, name: str, runs: int, note: str, peer: float | None = None
) -> None:
    """Raises AssertionError when a run is missing, doubled, or began before its time."""
    seen = took.seen
    doubled = [each for each, times in seen.starts.items() if times > 1]
    if seen.missed or doubled or seen.finished != runs or min(seen.late_s) < 0:
        raise AssertionError(
            f"{seen.finished} of {runs} runs have finished, {len(doubled)} were doubled, {len(seen.missed)} missed "
            f"({seen.missed[:1]}), the earliest start was {min(seen.late_s, default=0):.3f} s after its target"
        )
    late = sorted(seen.late_s)
    for key, at in (
        ("p50", len(late) // 2),
        ("p99", len(late) * 99 // 100),
        ("max", len(late) - 1),
    ):
        report.add(
            f"cron_jitter_{key}_ms_{name}",
            1000 * late[at],
            "ms",
            peer if key == "p99" else None,
            note,
            MOST_P99_MS.get(name) if key == "p99" else None,
        )
