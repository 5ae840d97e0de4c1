"""task_start_ms, task_start_p99_ms, task_start_cpu_ratio, storm_*, first_start_ms: runs in a container that is there.

The executor's own service, on a real engine, gets a LAUNCH and tells TASK_RUNNING: `task_start_ms` lies between.
The peers are `docker run` (create and start answered) and `docker exec` of the same command on the same engine. CPU is
that of the executor's process, the engine's processes and, for ours alone, the shared container with all that runs in
it: for one run from LAUNCH to its end, against create, start and delete of a container.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiodocker

from infra.images.build import SAMPLES, build_images
from infra.provision import engine as open_engine
from libs.common.clock import RngIds, SystemClock, system_rng
from libs.common.delivery import Delivery
from libs.common.disk import measure as measure_disk
from libs.common.spec import HealthCheck, InstanceSpec, Resources
from libs.common.task import Ahead, MakeReady, RunPayload, TaskPayload
from libs.common.telemetry import Telemetry, make_log
from libs.mesos import events as mesos
from libs.mesos.messages import TaskInfo, TaskStatus, UpdateCall
from services.executor.config import ExecutorConfig
from services.executor.docker import DockerEngine
from services.executor.janitor import Janitor
from services.executor.journal import FileJournal
from services.executor.ledger import FileLedger
from services.executor.model import (
    Attachment,
    AttachmentSpec,
    AttemptId,
    ContainerName,
    Identity,
    ProbeResult,
    ProbeTarget,
)
from services.executor.runs.inits import SocketInits
from services.executor.service import ExecutorService
from services.hostd.model import Namespace
from services.hostd.registry import FileRegistry
from tests.bench.report import Report

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "sample-web:v1"
TRUE = ("/bin/true",)
RUNS, PEERS, FIRSTS = 300, 40, 10
STORM, STORM_S = 2000, 60.0
_HOST_INODE = os.stat("/proc/self/ns/net").st_ino


class Namespaces:
    """hostd's part without wires: a namespace a container, and leave to start in it."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._count = 0
        self._made: dict[ContainerName, Namespace] = {}
        self._ids: dict[ContainerName, str] = {}
        self._registry = FileRegistry(Path("/run/gantry", cluster, "netns-reg"))

    async def attach(self, spec: AttachmentSpec) -> Attachment:
        """See Network."""
        if spec.container not in self._made:
            self._count += 1
            name = f"{self._cluster}-{self._count}"
            await asyncio.to_thread(subprocess.run, ["ip", "netns", "add", name], check=True)
            path = f"/run/netns/{name}"
            self._made[spec.container] = Namespace(name, path, Path(path).stat().st_ino)
        made = self._made[spec.container]
        return Attachment(
            ip="10.0.0.1", namespace=made.path, inode=made.inode, host_inode=_HOST_INODE
        )

    async def register(self, container: ContainerName, container_id: str, generation: int) -> None:
        """See Network."""
        self._ids[container] = container_id
        await self._registry.register(container_id, self._made[container])

    async def revoke(self, container: ContainerName) -> None:
        """See Network."""
        if container in self._ids:
            await self._registry.revoke(self._ids.pop(container), self._made[container].name)

    async def detach(self, container: ContainerName) -> None:
        """See Network."""
        made = self._made.pop(container, None)
        if made is not None:
            subprocess.run(["ip", "netns", "del", made.name], check=True)


class Nothing:
    """Deliveries and Prober of tasks that have neither secrets nor checks."""

    async def of_attempt(self, attempt: AttemptId) -> Delivery:
        """See Deliveries."""
        return Delivery()

    async def probe(self, target: ProbeTarget, check: HealthCheck) -> ProbeResult:
        """See Prober."""
        return ProbeResult(True)


class Agent:
    """The executor API of an agent whose scheduler acknowledges at once; notes when what was told."""

    shutdown_grace_s = 5.0

    def __init__(self) -> None:
        self._events: asyncio.Queue[mesos.ExecutorEvent] = asyncio.Queue()
        self._ids = RngIds(system_rng())
        self.asked: dict[str, float] = {}
        self.running: dict[str, float] = {}
        self.ended: dict[str, tuple[float, str]] = {}
        self.news = asyncio.Event()

    @asynccontextmanager
    async def subscribe(
        self, tasks: Sequence[TaskInfo], updates: Sequence[UpdateCall]
    ) -> AsyncIterator[AsyncIterator[mesos.ExecutorEvent]]:
        """See ExecutorDriver."""
        yield self._stream()

    async def _stream(self) -> AsyncIterator[mesos.ExecutorEvent]:
        while True:
            yield await self._events.get()

    def make_status(self, task_id: str, state: str, fields: Mapping[str, Any]) -> TaskStatus:
        """See ExecutorDriver."""
        status: TaskStatus = {"task_id": {"value": task_id}, "state": state}
        status["uuid"] = self._ids.uuid()
        status.update(fields)  # type: ignore[typeddict-item]
        return status

    async def update(self, status: TaskStatus) -> None:
        """See ExecutorDriver."""
        task, now = status["task_id"]["value"], time.perf_counter()
        if status["state"] == "TASK_RUNNING":
            self.running.setdefault(task, now)
        elif status["state"] != "TASK_STARTING":
            self.ended[task] = (now, f"{status['state']} {status.get('message', '')}")
        self.news.set()
        self._events.put_nowait(mesos.Acknowledged(task, status["uuid"]))

    def foretell(self, user: str) -> None:
        """A MESSAGE: a run of that user's is about to be due."""
        spec = InstanceSpec(image=IMAGE, network="bench", resources=Resources(), user=user)
        told = MakeReady(ahead=(Ahead(bu="bench", spec=spec),))
        self._events.put_nowait(mesos.Message(told.model_dump_json().encode()))

    def launch(self, cluster: str, name: str, user: str | None = None) -> None:
        """A LAUNCH of a run of `true`; of users' runs each has a container of its own."""
        payload = TaskPayload(
            cluster=cluster,
            app="bench/true",
            instance=name,
            attempt=f"{name}.1",
            generation=1,
            release=0,
            spec=InstanceSpec(
                image=IMAGE, network="bench", command=TRUE, resources=Resources(), user=user
            ),
            run=RunPayload(job="bench/true", run=name, target=0.0),
        )
        self.asked[payload.attempt] = time.perf_counter()
        data = b64encode(payload.model_dump_json().encode()).decode()
        task: TaskInfo = {
            "name": name,
            "task_id": {"value": payload.attempt},
            "agent_id": {"value": "S0"},
            "resources": [],
            "data": data,
        }
        self._events.put_nowait(mesos.Launch(task))

    async def until_ended(self, count: int) -> None:
        """Wait until so many have ended, well."""
        async with asyncio.timeout(120):
            while len(self.ended) < count:
                self.news.clear()
                await self.news.wait()
        bad = {task: why for task, (_, why) in self.ended.items() if "FINISHED" not in why}
        if bad:
            raise RuntimeError(f"runs failed: {bad}")

    def start_ms(self, tasks: Sequence[str]) -> list[float]:
        """From LAUNCH to RUNNING, sorted."""
        return sorted((self.running[each] - self.asked[each]) * 1000 for each in tasks)

    def turn_ms(self, tasks: Sequence[str]) -> list[float]:
        """From LAUNCH to the end that was told, sorted."""
        return sorted((self.ended[each][0] - self.asked[each]) * 1000 for each in tasks)


class Meter:
    """CPU seconds of the engine's processes, those that came and went included, by a cgroup of their own."""

    def __init__(self, name: str, pid: int) -> None:
        root = Path("/sys/fs/cgroup")
        self._unified = not (root / "cpuacct").exists()
        self.place = (root if self._unified else root / "cpuacct") / name
        self.place.mkdir()
        self.pids = [pid, *descendants(pid)]
        for each in self.pids:
            (self.place / "cgroup.procs").write_text(str(each))

    def cpu_s(self) -> float:
        """So far."""
        return cpu_of(self.place)

    def close(self) -> None:
        """Let them go back."""
        for each in (self.place / "cgroup.procs").read_text().split():
            (self.place.parent / "cgroup.procs").write_text(each)
        self.place.rmdir()


def cpu_of(place: Path) -> float:
    """CPU seconds of a cgroup."""
    if (place / "cpuacct.usage").exists():
        return int((place / "cpuacct.usage").read_text()) / 1e9
    for line in (place / "cpu.stat").read_text().splitlines():
        if line.startswith("usage_usec"):
            return int(line.split()[1]) / 1e6
    raise RuntimeError(f"{place} does not count CPU time")


def descendants(pid: int) -> list[int]:
    """Its children and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def own_cpu_s() -> float:
    """Of this process: the executor's service, and what drives it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def percentile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def measure(report: Report) -> None:
    """One after the other, then the storm."""
    home = Path(tempfile.mkdtemp(prefix="gt-", dir="/tmp"))
    cluster = f"tasks{home.name[-4:].lower().replace('_', 'x')}"
    native = ["make", "-s", "-C", str(ROOT / "services/executor/native"), "OUT=build/native"]
    subprocess.run(native, check=True)
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        stack.callback(shutil.rmtree, Path("/run/gantry", cluster), ignore_errors=True)
        server = await stack.enter_async_context(open_engine(home / "engine"))
        await build_images(server.url, None, SAMPLES[:1])
        pid = int((home / "engine/dockerd.pid").read_text())
        meter = Meter(f"gantry-{cluster}", pid)
        stack.callback(meter.close)
        docker = await stack.enter_async_context(aiodocker.Docker(url=server.url))
        agent = Agent()
        async with asyncio.TaskGroup() as group:
            service = await stack.enter_async_context(_service(home, cluster, server.url, agent))
            running = group.create_task(service.run())
            bench = TaskBench(report, cluster, docker, agent, meter)
            await bench.one_by_one()
            await bench.storm()
            await bench.first_starts()
            await bench.clear(service)
            running.cancel()


@asynccontextmanager
async def _service(
    home: Path, cluster: str, url: str, agent: Agent
) -> AsyncIterator[ExecutorService]:
    clock, rng = SystemClock(), system_rng()
    config = ExecutorConfig(
        cluster=cluster,
        data_dir=home / "executor",
        init=ROOT / "build/native/gantry-init",
        pool_idle_s=1000,
        pool_uses=100_000,  # the same one to the end, whose CPU is counted
    )
    identity = Identity(cluster, "bench", "run")
    log = make_log("executor", level="error")
    engine = DockerEngine(url, identity, config.data_dir, home / "secrets")
    try:
        yield ExecutorService(
            driver=agent,
            engine=engine,
            network=Namespaces(cluster),
            deliveries=Nothing(),
            prober=Nothing(),
            inits=SocketInits(config.data_dir / cluster / "runs", engine.pid, log),
            journal=FileJournal(home / "journal"),
            janitor=Janitor(
                engine,
                FileLedger(home / "images.json"),
                measure_disk,
                (home,),
                clock=clock,
                log=log,
                config=config,
            ),
            clock=clock,
            rng=rng,
            telemetry=Telemetry("executor", log),
            config=config,
            identity=identity,
        )
    finally:
        await engine.close()


class TaskBench:
    """The measurements."""

    def __init__(
        self,
        report: Report,
        cluster: str,
        docker: aiodocker.Docker,
        agent: Agent,
        meter: Meter,
    ) -> None:
        self._report = report
        self._cluster = cluster
        self._docker = docker
        self._agent = agent
        self._meter = meter
        self._launched = 0

    async def _run(self, count: int, pause_s: float = 0.0) -> list[str]:
        """One after the other; their attempts."""
        names = []
        for _ in range(count):
            self._launched += 1
            name = f"bench-true-{self._launched}"
            names.append(f"{name}.1")
            self._agent.launch(self._cluster, name)
            await self._agent.until_ended(self._launched)
            await asyncio.sleep(pause_s)
        return names

    async def first_starts(self) -> None:
        """Runs of which none came for long: with nothing there, and with a container that was made ready."""
        tasks: dict[bool, list[str]] = {False: [], True: []}
        for n in range(2 * FIRSTS):
            foretold, user = n % 2 == 1, str(1000 + n)
            if foretold:
                self._agent.foretell(user)
                await asyncio.sleep(3.0)  # in earnest, `scheduler.jobs.warm_s`
            self._launched += 1
            self._agent.launch(self._cluster, f"bench-true-{self._launched}", user)
            tasks[foretold].append(f"bench-true-{self._launched}.1")
            await self._agent.until_ended(self._launched)
        cold, warm = (self._agent.start_ms(tasks[foretold]) for foretold in (False, True))
        note = f"most {warm[-1]:.1f}; peer: nobody was told of it, most {cold[-1]:.1f}"
        median = percentile(cold, 0.5)
        self._report.add("first_start_ms", percentile(warm, 0.5), "ms", median, note)

    async def _container(self) -> dict[str, Any]:
        """The shared container, as the engine shows it."""
        (found,) = await self._docker.containers.list()
        return dict(await found.show())

    def _pool_cpu_s(self, shown: Mapping[str, Any]) -> float:
        for line in Path(f"/proc/{shown['State']['Pid']}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "cpuacct" in controllers.split(","):
                return cpu_of(Path("/sys/fs/cgroup/cpuacct") / path.lstrip("/"))
        return cpu_of(Path("/sys/fs/cgroup") / path.lstrip("/").removesuffix("/init"))

    async def one_by_one(self) -> None:
        """Start, turn-around and CPU of one run at a time, and of the peers'."""
        await self._run(5)
        shown = await self._container()
        before = (own_cpu_s(), self._meter.cpu_s(), self._pool_cpu_s(shown))
        tasks = await self._run(RUNS, 0.03)
        after = (own_cpu_s(), self._meter.cpu_s(), self._pool_cpu_s(shown))
        parts = [(b - a) / RUNS * 1000 for a, b in zip(before, after, strict=True)]
        run_ms, run_turn_ms, run_cpu_ms = await self._docker_run()
        exec_ms = await self._docker_exec(str(shown["Id"]))
        start, turn = self._agent.start_ms(tasks), self._agent.turn_ms(tasks)
        note = f"p90 {percentile(start, 0.9):.1f}; docker run p50 {percentile(run_ms, 0.5):.1f}"
        add = self._report.add
        add("task_start_ms", percentile(start, 0.5), "ms", percentile(run_ms, 0.5), note)
        add("task_start_p99_ms", percentile(start, 0.99), "ms", percentile(run_ms, 0.99))
        note = "LAUNCH to end; peer docker exec, its answer read to the end"
        add("task_turn_ms", percentile(turn, 0.5), "ms", percentile(exec_ms, 0.5), note)
        add("task_turn_p99_ms", percentile(turn, 0.99), "ms", percentile(exec_ms, 0.99))
        note = "executor {:.2f}, engine {:.2f}, container {:.2f}".format(*parts)
        add("task_start_cpu_ms", sum(parts), "ms", run_cpu_ms, note)
        note = f"CPU of create+start+delete / CPU of a run; turn of those {percentile(run_turn_ms, 0.5):.0f} ms"
        add("task_start_cpu_ratio", run_cpu_ms / sum(parts), "", None, note)

    async def _docker_run(self) -> tuple[list[float], list[float], float]:
        """Create and start; the same until it has ended and is deleted; CPU of the engine's alone for one."""
        started, turned = [], []
        before = self._meter.cpu_s()
        for n in range(PEERS):
            began = time.perf_counter()
            config: dict[str, Any] = {
                "Image": IMAGE,
                "Entrypoint": list(TRUE),
                "HostConfig": {"NetworkMode": "none"},
            }
            container = await self._docker.containers.create(config, name=f"{self._cluster}-{n}")
            await container.start()
            started.append((time.perf_counter() - began) * 1000)
            await container.wait()
            await container.delete(force=True)
            turned.append((time.perf_counter() - began) * 1000)
        cpu_ms = (self._meter.cpu_s() - before) / PEERS * 1000
        return sorted(started), sorted(turned), cpu_ms

    async def _docker_exec(self, container: str) -> list[float]:
        took = []
        for _ in range(PEERS):
            began = time.perf_counter()
            made = await self._docker.containers.container(container).exec(list(TRUE))
            async with made.start(detach=False) as stream:
                while await stream.read_out() is not None:
                    pass
            took.append((time.perf_counter() - began) * 1000)
        return sorted(took)

    async def storm(self) -> None:
        """2,000 runs in a minute: what they cost, and what is left of them."""
        await self._run(20)
        shown = await self._container()
        before = self._state(shown)
        cpu = (own_cpu_s(), self._meter.cpu_s(), self._pool_cpu_s(shown))
        began, names = time.perf_counter(), []
        for n in range(STORM):
            self._launched += 1
            name = f"bench-true-{self._launched}"
            names.append(f"{name}.1")
            self._agent.launch(self._cluster, name)
            due = began + (n + 1) * STORM_S / STORM
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await self._agent.until_ended(self._launched)
        took_s = time.perf_counter() - began
        parts = [
            (b - a) * 1000 / STORM
            for a, b in zip(cpu, (own_cpu_s(), self._meter.cpu_s(), self._pool_cpu_s(shown)), strict=True)
        ]  # fmt: skip
        await asyncio.sleep(2)
        after = self._state(shown)
        start = self._agent.start_ms(names)
        add = self._report.add
        add("storm_start_ms", percentile(start, 0.5), "ms", None, f"{STORM} in {took_s:.0f} s")
        add("storm_start_p99_ms", percentile(start, 0.99), "ms", None, f"most {start[-1]:.0f}")
        note = "a run: executor {:.2f}, engine {:.2f}, container {:.2f}".format(*parts)
        add("storm_cpu_ms", sum(parts), "ms", None, note)
        add("storm_engine_cpu_share", parts[1] * STORM / took_s / 1000, "cores")
        containers = len(await self._docker.containers.list(all=True))
        add("storm_containers", containers, "", None, "of all kinds, afterwards")
        for key, unit in (
            ("rss", "MiB"),
            ("engine_rss", "MiB"),
            ("pool_kib", "KiB"),
            ("fds", ""),
            ("left", ""),
        ):
            note = f"before {before[key]:.1f}, after {after[key]:.1f}"
            add(f"storm_{key}_growth", after[key] - before[key], unit, None, note)

    def _state(self, shown: Mapping[str, Any]) -> dict[str, float]:
        init = int(shown["State"]["Pid"])
        place = Path(
            next(m["Source"] for m in shown["Mounts"] if m["Destination"] == "/.gantry/run")
        )
        return {
            "rss": rss_kib(os.getpid()) / 1024,
            "engine_rss": sum(rss_kib(each) for each in self._meter.pids) / 1024,
            "pool_kib": rss_kib(init),
            "fds": fds(os.getpid()) + fds(init) + sum(fds(each) for each in self._meter.pids),
            "left": sum(1 for kind in ("out", "scratch") for _ in (place / kind).iterdir()),
        }

    async def clear(self, service: ExecutorService) -> None:
        """End the shared container."""
        for each in await self._docker.containers.list(all=True):
            await each.delete(force=True)
        async with asyncio.timeout(30):
            while service.attempts:
                await asyncio.sleep(0.05)


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def fds(pid: int) -> int:
    """Open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))
