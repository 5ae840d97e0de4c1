"""failover_*: from the moment that a scheduler leads until it is subscribed, with 100,000 instances that run.

They are put into a store, an SQLite file or the MongoDB-wire server that tests use: of a thousand apps, on 5,000
agents, and with 20,000 that have ended. This process holds the lease while `python -m services.scheduler` stands by,
lets it go once that is warm, and asks `/readyz`, which says yes to who is subscribed. Then the same with a lease that
nobody holds: who was not warm loads everything. The clock begins when it leads, by its log: the lease's own time is
not in it. CPU is the scheduler's own, from the lease's end on, or from its start when it was not warm. Of RUNS the
medians.

`failover_100k_s` is as good as the machine is idle; `_cpu_s` is what was promised, and `_standing`, cores of a standby.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from socket import socket
from statistics import median
from typing import Any

import orjson
import yaml

from infra import provision
from infra.local.stack import answers
from libs.common.runtime import open_store
from libs.common.spec import HealthCheck, InstanceSpec, Resources
from libs.common.store.base import Store, Write
from services.scheduler.documents import to_body
from services.scheduler.model import AgentId, Instance, InstanceId, State
from services.scheduler.store import INSTANCES
from tests.bench.path import _mesos, _process, cpu_s
from tests.bench.report import Report

MANY, ENDED, APPS, AGENTS = 100_000, 20_000, 1_000, 5_000
RUNS = 3
AT_ONCE = 2_000
POLL_S = 0.02
PATIENCE_S = 900.0
LEASE_S = 9.0
STOOD_S = 30.0
"""So long the CPU of a warm standby is measured."""
MOST_CPU_S, MOST_STANDING = 4, 0.1


@dataclass(frozen=True)
class Took:
    """Seconds: the clock's and the process' own until it was ready, how many of the clock's loading took, and of CPU a
    standby a second of standing by (0: it did not)."""

    clock_s: float
    cpu_s: float
    load_s: float
    standing: float = 0.0


async def measure(
    report: Report, instances: int = MANY, adapters: Sequence[str] = ("sqlite", "mongo")
) -> None:
    """SQLite, then MongoDB's protocol; warm, and cold."""
    key = f"failover_{instances // 1000}k"
    for adapter in adapters:
        async with _stored(adapter, instances) as (directory, url):
            warm = [await lead(directory, url, warm=True) for _ in range(RUNS)]
            cold = await lead(directory, url, warm=False)
        of = "" if adapter == "sqlite" else f"_{adapter}"
        cpu = median(each.cpu_s for each in warm)
        note = f"{instances} instances; load {median(each.load_s for each in warm):.1f} s; "
        note += f"one that was not warm: {cold.clock_s:.1f} s, load {cold.load_s:.1f} s, "
        note += f"CPU {cold.cpu_s:.1f} s"
        report.add(f"{key}{of}_s", median(each.clock_s for each in warm), "s", note=note)
        report.add(f"{key}{of}_cpu_s", cpu, "s", note="the scheduler's", most=MOST_CPU_S)
        share = median(each.standing for each in warm)
        report.add(
            f"{key}{of}_standing", share, "cores", note="of a warm standby", most=MOST_STANDING
        )


async def lead(directory: Path, url: str, *, warm: bool) -> Took:
    """Have a scheduler lead, and measure. Raises TimeoutError."""
    async with AsyncExitStack() as stack:
        _, master = await stack.enter_async_context(_mesos(1))
        store = await open_store(url)
        stack.push_async_callback(store.close)
        # Whoever led before is dead, and its lease ends by itself.
        while not await store.take_lease("scheduler", "bench", time.time(), PATIENCE_S):
            await asyncio.sleep(LEASE_S / 9)
        if not warm:
            await store.drop_lease("scheduler", "bench")
        listen, config = _configured(directory, url, master)
        log = directory / "scheduler.log"
        err = stack.enter_context(log.open("wb"))
        args = ("--config", str(config))
        scheduler = await stack.enter_async_context(_process("services.scheduler", *args, err=err))
        before = standing = 0.0
        if warm:
            await _said(log, "a standby is warm")
            began, since = cpu_s(scheduler.pid), time.perf_counter()
            await asyncio.sleep(STOOD_S)
            before = cpu_s(scheduler.pid)
            standing = (before - began) / (time.perf_counter() - since)
            await store.drop_lease("scheduler", "bench")
        async with asyncio.timeout(PATIENCE_S):
            while not await answers(f"http://{listen}/readyz"):
                await asyncio.sleep(POLL_S)
        ready, spent = time.time(), cpu_s(scheduler.pid) - before
        leads = await _said(log, "leads")
        took_s = float(leads["took_s"])
        elected = datetime.fromisoformat(leads["timestamp"]).timestamp() - took_s
        return Took(ready - elected, spent, took_s, standing)


def _configured(directory: Path, url: str, master: str) -> tuple[str, Path]:
    """Where it listens, and its file."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    config = directory / "scheduler.yaml"
    common = {"data_dir": str(directory), "store": url, "listen": {"scheduler": listen}}
    mine = {"masters": [master], "leader_lease_s": LEASE_S}
    config.write_text(yaml.safe_dump({"common": common, "scheduler": mine}))
    return listen, config


async def _said(log: Path, event: str) -> dict[str, Any]:
    """The line of the log with this event, once it is there. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for line in log.read_bytes().splitlines():
                said: dict[str, Any] = orjson.loads(line) if line.endswith(b"}") else {}
                if said.get("event") == event:
                    return said
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def _stored(adapter: str, instances: int) -> AsyncIterator[tuple[Path, str]]:
    """A directory, and the URL of a store with so many instances that run."""
    async with AsyncExitStack() as stack:
        found = stack.enter_context(tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp"))
        directory = Path(found)
        url = f"sqlite://{directory}/store.db"
        if adapter == "mongo":
            own = provision.mongo(directory / "mongo", own=True)
            url = f"{(await stack.enter_async_context(own)).url}/bench"
        store = await open_store(url)
        try:
            await fill(store, instances, instances * ENDED // MANY)
        finally:
            await store.close()
        yield directory, url


async def fill(store: Store, running: int, ended: int) -> None:
    """Put so many instances into the store."""
    collection = await store.collection(INSTANCES)
    specs = [_spec(n) for n in range(APPS)]
    for at in range(0, running + ended, AT_ONCE):
        numbers = range(at, min(at + AT_ONCE, running + ended))
        found = [
            _instance(n, specs, State.RUNNING if n < running else State.ENDED) for n in numbers
        ]
        done = await collection.replace_many([Write(each.id, 0, to_body(each)) for each in found])
        assert all(each.ok for each in done)


def _spec(app: int) -> InstanceSpec:
    return InstanceSpec(
        image=f"bench/app{app}@sha256:" + "0" * 64,
        network="bench",
        resources=Resources(cpus=0.25, mem_mib=512),
        env={f"NAME{n}": f"value {app}" for n in range(5)},
        health=(HealthCheck(type="tcp", port=80),),
    )


def _instance(n: int, specs: list[InstanceSpec], state: State) -> Instance:
    app, agent = n % APPS, n % AGENTS
    return Instance(
        id=InstanceId(f"app{app}-{n}"),
        app=f"unit{app % 20}/app{app}",
        release=1,
        deployment=f"d{app}",
        spec=specs[app],
        state=state,
        generation=1,
        agent=AgentId(f"agent-{agent}"),
        hostname=f"host-{agent}",
        address=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
        container=f"gantry-bench-{n}.1",
        healthy=True,
        since=1e9 + n,
        attributes={"zone": f"z{agent % 3}", "rack": f"r{agent % 50}"},
    )
