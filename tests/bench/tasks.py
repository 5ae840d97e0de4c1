"""task_start_ms, task_start_p99_ms, task_start_cpu_ratio, storm_*, first_start_ms: runs in a container that is there.

The executor's own service, on a real engine, gets a LAUNCH and tells TASK_RUNNING: `task_start_ms` lies between.
The peers are `docker run` (create and start answered) and `docker exec` of the same command on the same engine: to the
first that it writes (`task_start_vs_exec_ms`), as the engine does not say when it runs, and to its end
(`task_turn_ms`). CPU is that of the executor's process, the engine's processes and, for ours alone, the shared
container with all that runs in it: for one run from LAUNCH to its end, against create, start and delete of a container.
START_MS of the median and CPU_RATIO were promised.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiodocker

from infra.images.build import SAMPLES, build_images
from infra.provision import engine as open_engine
from tests.bench import storm
from tests.bench.executor import (
    COMMAND,
    IMAGE,
    ROOT,
    Host,
    Meter,
    open_host,
    own_cpu_s,
    percentile,
    pool_cpu_s,
)
from tests.bench.report import Report

RUNS, PEERS, FIRSTS = 300, 200, 10
START_MS, CPU_RATIO = 15, 20
ONE = {"pool_idle_s": 1000, "pool_uses": 100_000}
"""The same shared container to the end, whose CPU is counted."""


async def measure(report: Report) -> None:
    """One after the other, then the storms."""
    native = ["make", "-s", "-C", str(ROOT / "services/executor/native"), "OUT=build/native"]
    subprocess.run(native, check=True)
    home = Path(tempfile.mkdtemp(prefix="gt-", dir="/tmp"))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        server = await stack.enter_async_context(open_engine(home / "engine"))
        await build_images(server.url, None, SAMPLES[:1])
        meter = Meter(f"gantry-{home.name}", int((home / "engine/dockerd.pid").read_text()))
        stack.callback(meter.close)
        docker = await stack.enter_async_context(aiodocker.Docker(url=server.url))
        async with open_host(home / "one", server.url, docker, meter, **ONE) as host:
            bench = TaskBench(report, host)
            await bench.one_by_one()
            await storm.one_container(report, host)
            await bench.first_starts()
        async with open_host(home / "many", server.url, docker, meter) as host:
            await storm.many_containers(report, host)


class TaskBench:
    """One run at a time."""

    def __init__(self, report: Report, host: Host) -> None:
        self._report = report
        self._host = host
        self._docker = host.docker

    async def first_starts(self) -> None:
        """Runs of which none came for long: with nothing there, and with a container that was made ready."""
        agent = self._host.agent
        tasks: dict[bool, list[str]] = {False: [], True: []}
        for n in range(2 * FIRSTS):
            foretold, user = n % 2 == 1, str(1000 + n)
            if foretold:
                agent.foretell(user)
                await asyncio.sleep(3.0)  # in earnest, `scheduler.jobs.warm_s`
            tasks[foretold] += await self._host.run(1, user=user)
        cold, warm = (agent.start_ms(tasks[foretold]) for foretold in (False, True))
        note = f"most {warm[-1]:.1f}; peer: nobody was told of it, most {cold[-1]:.1f}"
        median = percentile(cold, 0.5)
        self._report.add("first_start_ms", percentile(warm, 0.5), "ms", median, note)

    async def one_by_one(self) -> None:
        """Start, turn-around and CPU of one run at a time, and of the peers'."""
        agent, meter = self._host.agent, self._host.meter
        await self._host.run(5)
        (shown,) = await self._host.containers()
        before = (own_cpu_s(), meter.cpu_s(), pool_cpu_s(shown))
        tasks = await self._host.run(RUNS, 0.03)
        after = (own_cpu_s(), meter.cpu_s(), pool_cpu_s(shown))
        parts = [(b - a) / RUNS * 1000 for a, b in zip(before, after, strict=True)]
        run_ms, run_turn_ms, run_cpu_ms = await self._docker_run()
        first_ms, exec_ms = await self._docker_exec(str(shown["Id"]))
        start, turn = agent.start_ms(tasks), agent.turn_ms(tasks)
        note = f"p90 {percentile(start, 0.9):.1f}; peer docker run, create and start answered"
        add = self._report.add
        median, peer = percentile(start, 0.5), percentile(run_ms, 0.5)
        add("task_start_ms", median, "ms", peer, note, most=START_MS)
        add("task_start_p99_ms", percentile(start, 0.99), "ms", percentile(run_ms, 0.99))
        note = "peer docker exec, to the first that it writes"
        add("task_start_vs_exec_ms", median, "ms", percentile(first_ms, 0.5), note)
        add("task_start_vs_exec_p99_ms", percentile(start, 0.99), "ms", percentile(first_ms, 0.99))
        note = "LAUNCH to end; peer docker exec, its answer read to the end"
        add("task_turn_ms", percentile(turn, 0.5), "ms", percentile(exec_ms, 0.5), note)
        add("task_turn_p99_ms", percentile(turn, 0.99), "ms", percentile(exec_ms, 0.99))
        note = "executor {:.2f}, engine {:.2f}, container {:.2f}".format(*parts)
        add("task_start_cpu_ms", sum(parts), "ms", run_cpu_ms, note)
        note = f"CPU of create+start+delete / CPU of a run; turn of those {percentile(run_turn_ms, 0.5):.0f} ms"
        add("task_start_cpu_ratio", run_cpu_ms / sum(parts), "", None, note, least=CPU_RATIO)

    async def _docker_run(self) -> tuple[list[float], list[float], float]:
        """Create and start; the same until it has ended and is deleted; CPU of the engine's alone for one."""
        started, turned = [], []
        before = self._host.meter.cpu_s()
        for n in range(PEERS):
            began = time.perf_counter()
            config: dict[str, Any] = {
                "Image": IMAGE,
                "Entrypoint": list(COMMAND),
                "HostConfig": {"NetworkMode": "none"},
            }
            name = f"{self._host.cluster}-{n}"
            container = await self._docker.containers.create(config, name=name)
            await container.start()
            started.append((time.perf_counter() - began) * 1000)
            await container.wait()
            await container.delete(force=True)
            turned.append((time.perf_counter() - began) * 1000)
        cpu_ms = (self._host.meter.cpu_s() - before) / PEERS * 1000
        return sorted(started), sorted(turned), cpu_ms

    async def _docker_exec(self, container: str) -> tuple[list[float], list[float]]:
        """To the first output, and to its end."""
        first, took = [], []
        for _ in range(PEERS):
            began = time.perf_counter()
            made = await self._docker.containers.container(container).exec(list(COMMAND))
            async with made.start(detach=False) as stream:
                if await stream.read_out() is None:
                    raise RuntimeError("docker exec wrote nothing")
                first.append((time.perf_counter() - began) * 1000)
                while await stream.read_out() is not None:
                    pass
            took.append((time.perf_counter() - began) * 1000)
        return sorted(first), sorted(took)
