"""path_*: the whole path of a task, from the wish on the bus to a running task that is saved and acknowledged.

Three processes: minimesos with agents whose tasks are virtual, `python -m services.scheduler` as it is run everywhere,
on SQLite files, and this one, which publishes `instance.requested` as the deployer does. The clock runs from the first
wish until the bus has told of each instance that it runs and Mesos has an acknowledgement of each update that it sent:
by then there were offers, launches and two updates a task, what each step changed was saved with its events, and these
were published. Both are asked then: the store has each instance as running, and Mesos has each task so.

`path_100k_s`, `_gib`, `path_ratio` and `path_cpu_ratio` are bound by what was promised. `_gib` is the scheduler's own
peak; `path_100k_all_gib` has minimesos' peak besides, with its virtual agents, and the same bound. CPU times are the
processes' own, as other work on the machine doesn't change them much; of few tasks the clock sees mostly latency
(offers come once a second), so that `path_cpu_ratio` is the sharper of the two.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket

import aiohttp
import orjson
import yaml

from infra.local.stack import answers
from libs.common.bus.base import TopicSpec
from libs.common.clock import SystemClock
from libs.common.events.base import seal, to_record
from libs.common.events.model import ContainerStarted, InstanceRequested
from libs.common.runtime import open_bus, open_store
from libs.common.spec import InstanceSpec, Resources
from libs.common.store.base import eq
from libs.common.task import TaskReport
from services.scheduler.store import INSTANCES
from tests.bench.report import Report

SIZES = ((1_000, 1_000), (5_000, 100_000))
"""Agents and tasks."""
MANY_S, MANY_GIB, RATIO = 60, 4, 1.5
UPDATES = 2
"""Of each task: STARTING and RUNNING."""
PATIENCE_S = 900.0
POLL_S = 0.1
AT_ONCE = 5_000
READY_S = 120.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Took:
    """Seconds of the clock, and how many of them after the last event; seconds of CPU of scheduler and Mesos, and
    the peaks of both in GiB."""

    clock_s: float
    later_s: float
    scheduler_s: float
    mesos_s: float
    gib: float
    mesos_gib: float


async def measure(report: Report) -> None:
    """The path of few tasks, and of many."""
    took = {}
    for agents, tasks in SIZES:
        each = took[tasks] = await run(agents, tasks)
        name = f"path_{tasks // 1000}k"
        note = f"{tasks} tasks, {agents} agents; the last update acknowledged {each.later_s:.1f} s "
        note += "after the last event; "
        note += f"CPU: scheduler {each.scheduler_s:.1f} s, Mesos {each.mesos_s:.1f} s"
        most = MANY_S if tasks == SIZES[-1][1] else None
        report.add(f"{name}_s", each.clock_s, "s", note=note, most=most)
        report.add(f"{name}_us", 1e6 * each.clock_s / tasks, "µs", note="a task")
        report.add(f"{name}_cpu_us", 1e6 * each.scheduler_s / tasks, "µs", note="a task")
    few, many = (tasks for _, tasks in SIZES)
    note = "of the scheduler's own process, at its peak"
    report.add("path_100k_gib", took[many].gib, "GiB", note=note, most=MANY_GIB)
    gib, all_gib = took[many].mesos_gib, took[many].gib + took[many].mesos_gib
    note = f"the scheduler's peak and Mesos' ({gib:.2f}), which may not be at one time"
    report.add("path_100k_all_gib", all_gib, "GiB", note=note, most=MANY_GIB)
    ratio = (took[many].clock_s / many) / (took[few].clock_s / few)
    note = f"time a task at {many} by that at {few}"
    report.add("path_ratio", ratio, "", note=note, most=RATIO)
    cpu = (took[many].scheduler_s / many) / (took[few].scheduler_s / few)
    note = f"the scheduler's CPU a task at {many} by that at {few}"
    report.add("path_cpu_ratio", cpu, "", note=note, most=RATIO)


async def run(agents: int, tasks: int) -> Took:
    """One run on a cluster of its own. Raises TimeoutError."""
    async with AsyncExitStack() as stack:
        found = stack.enter_context(tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp"))
        directory = Path(found)
        mesos, master = await stack.enter_async_context(_mesos(agents))
        scheduler = await stack.enter_async_context(_scheduler(directory, master))
        before = cpu_s(scheduler), cpu_s(mesos)
        began = time.perf_counter()
        await _ask(directory, tasks)
        await _all_run(directory, tasks, began)
        told_s = time.perf_counter() - began
        await _all_acknowledged(master, tasks, began)
        took_s = time.perf_counter() - began
        spent = cpu_s(scheduler) - before[0], cpu_s(mesos) - before[1]
        await _check(directory, master, tasks)
        peaks = _peak_gib(scheduler), _peak_gib(mesos)
        return Took(took_s, took_s - told_s, *spent, *peaks)


@asynccontextmanager
async def _mesos(agents: int) -> AsyncIterator[tuple[int, str]]:
    """Its process and where it listens, as host:port."""
    flags = (
        f"--agents={agents}",
        *("--virtual=true", "--port=0", "--agent_port=0"),
        "--resources=cpus:64;mem:262144;disk:1000000",
    )
    async with _process("libs.minimesos", "all", *flags, out=asyncio.subprocess.PIPE) as process:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), READY_S)
        yield process.pid, str(orjson.loads(line)["master"]).removeprefix("http://")


@asynccontextmanager
async def _scheduler(
    directory: Path, master: str, peers: Mapping[str, str] | None = None
) -> AsyncIterator[int]:
    """Its process, subscribed; `peers` are URLs of services that it may ask."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    config = directory / "scheduler.yaml"
    common = {
        "data_dir": str(directory),
        "listen": {"scheduler": listen},
        "peers": dict(peers or {}),
    }
    config.write_text(yaml.safe_dump({"common": common, "scheduler": {"masters": [master]}}))
    log = (directory / "scheduler.log").open("wb")
    with log:
        async with _process("services.scheduler", "--config", str(config), err=log) as process:
            async with asyncio.timeout(READY_S):
                while not await answers(f"http://{listen}/readyz"):
                    await asyncio.sleep(POLL_S)
            yield process.pid


@asynccontextmanager
async def _process(
    module: str, *args: str, out: int = asyncio.subprocess.DEVNULL, err: object = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *args),
        stdout=out,
        stderr=err or asyncio.subprocess.DEVNULL,  # type: ignore[arg-type]
        limit=1 << 24,  # minimesos says in one line where each agent is
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def _ask(directory: Path, tasks: int) -> None:
    """The wishes, as the deployer's relay publishes them."""
    said = b64encode(TaskReport(address="10.0.0.1").model_dump_json().encode()).decode()
    spec = InstanceSpec(
        image="bench/app@sha256:" + "0" * 64,
        network="bench",
        resources=Resources(cpus=0.25, mem_mib=512),
        env={"VIRTUAL": f"says={said}"},
    )
    bus = await open_bus(f"sqlite://{directory}/bus.db", SystemClock())
    try:
        await bus.ensure_topics([TopicSpec(InstanceRequested.TOPIC)])
        for at in range(0, tasks, AT_ONCE):
            names = (f"bench-{n}" for n in range(at, min(at + AT_ONCE, tasks)))
            wishes = (
                InstanceRequested(
                    instance=name, app="bench/app", release=1, deployment="d", spec=spec
                )
                for name in names
            )
            sealed = seal(wishes, source="deployer", sequence=1, now=time.time())
            await bus.publish([to_record(each) for each in sealed])
    finally:
        await bus.close()


async def _all_run(directory: Path, tasks: int, began: float) -> None:
    """Until the bus has told of that many that they run. Raises TimeoutError."""
    told: set[str] = set()
    bus = await open_bus(f"sqlite://{directory}/bus.db", SystemClock())
    try:
        await bus.ensure_topics([TopicSpec(ContainerStarted.TOPIC)])
        async with bus.consumer("bench", [ContainerStarted.TOPIC]) as consumer:
            while len(told) < tasks:
                _patiently(began)
                told.update(each.record.key for each in await consumer.fetch(AT_ONCE, POLL_S))
    finally:
        await bus.close()


async def _all_acknowledged(master: str, tasks: int, began: float) -> None:
    """Until Mesos has an acknowledgement of each update, and of each that it sent again. Raises TimeoutError."""
    while not acknowledged(await _metrics(master), tasks):
        _patiently(began)
        await asyncio.sleep(POLL_S)


def acknowledged(metrics: Mapping[str, float], tasks: int) -> bool:
    """Were all updates of so many tasks sent, and each acknowledged."""
    sent = metrics["master/valid_status_updates"]
    return UPDATES * tasks <= sent <= metrics["master/valid_status_update_acknowledgements"]


async def _check(directory: Path, master: str, tasks: int) -> None:
    """Raises AssertionError unless the store and Mesos say of all that they run, and of no other."""
    store = await open_store(f"sqlite://{directory}/store.db")
    try:
        instances = await store.collection(INSTANCES)
        saved = await instances.count((eq("state", "running"),))
        all_saved = await instances.count()
    finally:
        await store.close()
    if wrong := amiss(saved, all_saved, await _metrics(master), tasks):
        raise AssertionError("; ".join(wrong))


def amiss(saved: int, all_saved: int, metrics: Mapping[str, float], tasks: int) -> list[str]:
    """What store and Mesos should not say when so many tasks run, in words."""
    running = metrics["master/tasks_running"]
    launched = sum(value for key, value in metrics.items() if key.startswith("master/tasks_"))
    refused = metrics["master/invalid_status_update_acknowledgements"]
    found = []
    if (saved, all_saved) != (tasks, tasks):
        found.append(f"{saved} of {all_saved} instances are saved as running, not {tasks}")
    if (running, launched) != (tasks, tasks):
        found.append(f"of Mesos' {launched:g} tasks {running:g} run, not {tasks}")
    if refused:
        found.append(f"{refused:g} acknowledgements were for nothing")
    return found


async def _metrics(master: str) -> dict[str, float]:
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.get(f"http://{master}/metrics/snapshot") as answer,
    ):
        found: dict[str, float] = await answer.json()
        return found


def _patiently(began: float) -> None:
    if time.perf_counter() - began > PATIENCE_S:
        raise TimeoutError(f"{PATIENCE_S:g} s are not enough")


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def _peak_gib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = next(int(each.split()[1]) for each in lines if each.startswith("VmHWM:"))
    return kib / 2**20
