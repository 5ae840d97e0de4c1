"""An executor on a real engine without the rest of a host: what drives it, and what measures it."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiodocker

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

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "sample-web:v1"
COMMAND = ("/bin/echo", "x")
_HOST_INODE = os.stat("/proc/self/ns/net").st_ino


class Namespaces:
    """hostd's part without wires: a namespace a container, and leave to start in it."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._count = 0
        self._made: dict[ContainerName, Namespace] = {}
        self._ids: dict[ContainerName, str] = {}
        self.most = 0  # that were there at a time
        self._registry = FileRegistry(Path("/run/gantry", cluster, "netns-reg"))

    async def attach(self, spec: AttachmentSpec) -> Attachment:
        """See Network."""
        if spec.container not in self._made:
            self._count += 1
            name = f"{self._cluster}-{self._count}"
            await asyncio.to_thread(subprocess.run, ["ip", "netns", "add", name], check=True)
            path = f"/run/netns/{name}"
            self._made[spec.container] = Namespace(name, path, Path(path).stat().st_ino)
        self.most = max(self.most, len(self._made))
        made = self._made[spec.container]
        return Attachment(
            ip="10.0.0.1", namespace=made.path, inode=made.inode, host_inode=_HOST_INODE
        )

    @property
    def now(self) -> int:
        """How many there are."""
        return len(self._made)

    @property
    def made(self) -> int:
        """How many were made so far."""
        return self._count

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

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
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

    def launch(self, user: str | None = None) -> str:
        """A LAUNCH of a run; its task. Those of different users have different containers."""
        name = f"bench-echo-{len(self.asked) + 1}"
        payload = TaskPayload(
            cluster=self._cluster,
            app="bench/echo",
            instance=name,
            attempt=f"{name}.1",
            generation=1,
            release=0,
            spec=InstanceSpec(
                image=IMAGE, network="bench", command=COMMAND, resources=Resources(), user=user
            ),
            run=RunPayload(job="bench/echo", run=name, target=0.0),
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
        return payload.attempt

    async def until_ended(self) -> None:
        """Wait until all that was launched has ended, well."""
        async with asyncio.timeout(120):
            while len(self.ended) < len(self.asked):
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
        for each in (pid, *descendants(pid)):
            (self.place / "cgroup.procs").write_text(str(each))

    def cpu_s(self) -> float:
        """So far."""
        return cpu_of(self.place)

    def pids(self) -> list[int]:
        """The engine's processes now."""
        return [int(each) for each in (self.place / "cgroup.procs").read_text().split()]

    def close(self) -> None:
        """Let them go back."""
        for each in self.pids():
            (self.place.parent / "cgroup.procs").write_text(str(each))
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


@dataclass(frozen=True)
class Host:
    """An executor that runs, and what else there is on its host."""

    cluster: str
    agent: Agent
    docker: aiodocker.Docker
    meter: Meter
    namespaces: Namespaces
    places: Path
    """The directories of its shared containers."""

    async def containers(self) -> list[dict[str, Any]]:
        """Its shared containers, as the engine shows them, whatever state they are in."""
        labels = {"label": [f"gantry.cluster={self.cluster}"]}
        found = await self.docker.containers.list(all=True, filters=labels)
        return [dict(await each.show()) for each in found]

    async def run(self, count: int, pause_s: float = 0.0, user: str | None = None) -> list[str]:
        """Runs, one after the other; their tasks."""
        tasks = []
        for _ in range(count):
            tasks.append(self.agent.launch(user))
            await self.agent.until_ended()
            await asyncio.sleep(pause_s)
        return tasks


@asynccontextmanager
async def open_host(
    home: Path, url: str, docker: aiodocker.Docker, meter: Meter, **settings: Any
) -> AsyncIterator[Host]:
    """An executor with these settings on the engine at `url`. In the end its containers are gone."""
    home.mkdir()
    clock, rng = SystemClock(), system_rng()
    cluster = f"{home.parent.name}-{home.name}".lower().replace("_", "x")
    agent, network = Agent(cluster), Namespaces(cluster)
    config = ExecutorConfig(
        cluster=cluster,
        data_dir=home / "executor",
        init=ROOT / "build/native/gantry-init",
        **settings,
    )
    identity = Identity(cluster, "bench", "run")
    log = make_log("executor", level="error")
    engine = DockerEngine(url, identity, config.data_dir, home / "secrets")
    places = config.data_dir / cluster / "runs"
    try:
        service = ExecutorService(
            driver=agent,
            engine=engine,
            network=network,
            deliveries=Nothing(),
            prober=Nothing(),
            inits=SocketInits(places, engine.pid, log),
            journal=FileJournal(home / "journal"),
            ends=FileJournal(home / "ends"),
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
        async with asyncio.TaskGroup() as group:
            running = group.create_task(service.run())
            host = Host(cluster, agent, docker, meter, network, places)
            yield host
            for each in await host.containers():
                await docker.containers.container(each["Id"]).delete(force=True)
            async with asyncio.timeout(30):
                while service.attempts:
                    await asyncio.sleep(0.05)
            running.cancel()
    finally:
        await engine.close()
        shutil.rmtree(Path("/run/gantry", cluster), ignore_errors=True)


def pool_cpu_s(shown: Mapping[str, Any]) -> float:
    """CPU seconds of a shared container, with all that ran in it."""
    for line in Path(f"/proc/{shown['State']['Pid']}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpuacct" in controllers.split(","):
            return cpu_of(Path("/sys/fs/cgroup/cpuacct") / path.lstrip("/"))
    return cpu_of(Path("/sys/fs/cgroup") / path.lstrip("/").removesuffix("/init"))


def own_cpu_s() -> float:
    """Of this process: the executor's service, and what drives it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def percentile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def rss_kib(pid: int) -> int:
    """Resident memory of a process; 0: it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


def fds(pid: int) -> int:
    """Open descriptors of a process; 0: it is gone."""
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0
