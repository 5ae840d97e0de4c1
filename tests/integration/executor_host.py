"""A host at work: an agent, the executor it starts, hostd, ipam, a real engine and OVS; and a tiny scheduler."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from libs.common.clock import RngIds, SystemClock
from libs.common.spec import InstanceSpec, Resources
from libs.common.task import RunPayload, TaskPayload, TaskReport, container_name
from libs.mesos import calls, events
from libs.mesos.http import AiohttpTransport
from libs.mesos.messages import ExecutorInfo, FrameworkInfo, Offer, TaskInfo, TaskStatus
from libs.mesos.scheduler import SchedulerClient
from libs.minimesos.config import AgentConfig, MasterConfig
from libs.minimesos.embedded import EmbeddedConfig, embedded
from tests.integration.hostd_host import IMAGE, Host

AGENT = "host-1"
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Cloud:
    """The host with its scheduler. `statuses` are all updates, in order."""

    host: Host
    config: Path
    work_dir: Path
    ports: tuple[int, int]
    client: SchedulerClient
    statuses: list[TaskStatus] = field(default_factory=list)
    failures: list[events.Failure] = field(default_factory=list)
    offers: dict[str, Offer] = field(default_factory=dict)
    framework: str = ""
    _mesos: AsyncExitStack | None = None
    _revived: int = 0

    # -- Mesos -----------------------------------------------------------------------------------

    async def start_mesos(self) -> None:
        """Master and agent, from what is on their disk."""
        config = EmbeddedConfig(
            self.work_dir,
            MasterConfig(port=self.ports[0]),
            (AgentConfig(port=self.ports[1], resources="cpus:16;mem:16000;disk:10000"),),
        )
        self._mesos = AsyncExitStack()
        ids = RngIds(random.SystemRandom())
        await self._mesos.enter_async_context(embedded(config, clock=SystemClock(), ids=ids))

    async def stop_mesos(self) -> None:
        if self._mesos is not None:
            await self._mesos.aclose()
            self._mesos = None
        self.offers.clear()  # the next master does not know them

    async def schedule(self) -> None:
        """Follow the scheduler's events for ever: offers are kept, updates acknowledged."""
        async with self.client.subscribe() as stream:
            async for event in stream:
                match event:
                    case events.Subscribed(framework_id):
                        self.framework = framework_id
                    case events.Offers(offers):
                        self.offers.update({each["id"]["value"]: each for each in offers})
                    case events.Rescind(offer_id):
                        self.offers.pop(offer_id, None)
                    case events.Update(status):
                        self.statuses.append(status)
                        await self.client.acknowledge(status)
                    case events.Failure():
                        self.failures.append(event)

    @property
    def executor(self) -> ExecutorInfo:
        arguments = [sys.executable, "-m", "services.executor", "--config", str(self.config)]
        return {
            "executor_id": {"value": "gantry-executor"},
            "framework_id": {"value": self.framework},
            "command": {
                "shell": False,
                "value": sys.executable,
                "arguments": arguments,
                # The code under test, whichever the interpreter has installed.
                "environment": {"variables": [{"name": "PYTHONPATH", "value": str(ROOT)}]},
            },
            "resources": [calls.scalar("cpus", 0.1), calls.scalar("mem", 64)],
        }

    async def launch(
        self, *attempts: str, adopt: str = "", run: RunPayload | None = None, **spec: Any
    ) -> None:
        """Launch attempts such as `web.1` in one ACCEPT."""
        if not self.offers:
            await self.client.revive()
        await self.until(lambda: bool(self.offers), "no offer came")
        offer_id, offer = self.offers.popitem()
        tasks = [self._task(each, offer, adopt, run, dict(spec)) for each in attempts]
        await self.client.accept([offer_id], [calls.launch(tasks)], calls.filters(0.0))

    def _task(
        self, attempt: str, offer: Offer, adopt: str, run: RunPayload | None, spec: dict[str, Any]
    ) -> TaskInfo:
        instance, _, generation = attempt.rpartition(".")
        app = spec.pop("app", "bu/web")
        fields = {"image": IMAGE, "network": "red", "stop_grace_s": 2.0, **spec}
        payload = TaskPayload(
            cluster=self.host.cluster,
            app=app,
            instance=instance,
            attempt=attempt,
            generation=int(generation),
            release=1,
            adopt=adopt,
            run=run,
            spec=InstanceSpec.model_validate({"resources": Resources(), **fields}),
        )
        return {
            "name": attempt,
            "task_id": {"value": attempt},
            "agent_id": offer["agent_id"],
            "resources": [calls.scalar("cpus", 0.1), calls.scalar("mem", 32)],
            "executor": self.executor,
            "data": b64encode(payload.model_dump_json().encode()).decode(),
        }

    async def kill(self, attempt: str, grace_s: float | None = None) -> None:
        await self.client.kill(attempt, self.of(attempt)[-1]["agent_id"]["value"], grace_s)

    # -- what came of it -------------------------------------------------------------------------

    def of(self, attempt: str) -> list[TaskStatus]:
        return [each for each in self.statuses if each["task_id"]["value"] == attempt]

    def states(self, attempt: str) -> list[str]:
        return [each["state"] for each in self.of(attempt)]

    def report(self, attempt: str) -> TaskReport:
        return TaskReport.model_validate_json(b64decode(self.of(attempt)[-1]["data"]))

    async def reaches(self, attempt: str, state: str, timeout_s: float = 90.0) -> TaskStatus:
        """Wait until the attempt is told to be in this state."""
        await self.until(
            lambda: state in self.states(attempt), f"{attempt} never was {state}", timeout_s
        )
        return next(each for each in self.of(attempt) if each["state"] == state)

    async def healthy(self, attempt: str) -> TaskReport:
        """Wait until it is told to be healthy."""
        await self.until(
            lambda: any(each.get("healthy") for each in self.of(attempt)),
            f"{attempt} is not healthy",
        )
        return self.report(attempt)

    async def gone(self, attempt: str) -> None:
        """Wait until nothing of the attempt is left on the host."""
        name = self.name(attempt)

        async def nothing() -> bool:
            found = await self.host.docker.containers.list(
                all=True, filters={"name": [f"^/{name}$"]}
            )
            return not found and name not in await self.host.attachments()

        await self.host.until(nothing, f"something is left of {attempt}")

    async def until(
        self, condition: Callable[[], bool], what: str, timeout_s: float = 90.0
    ) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            said = "\n".join(str(each) for each in self.statuses[-5:])
            raise AssertionError(f"{what}\n{said}\n{self.log()[-3000:]}") from None

    # -- the host --------------------------------------------------------------------------------

    def name(self, attempt: str) -> str:
        return container_name(self.host.cluster, attempt)

    async def inspect(self, attempt: str) -> dict[str, Any]:
        return await self.host.docker.containers.container(self.name(attempt)).show()

    async def inside(self, attempt: str, *command: str) -> str:
        """Output of a command in the container."""
        executed = await self.host.docker.containers.container(self.name(attempt)).exec(command)
        output = b""
        async with executed.start(detach=False) as stream:
            while (message := await stream.read_out()) is not None:
                output += message.data
        return output.decode().strip()

    def sandboxes(self) -> list[Path]:
        return sorted(self.work_dir.glob("agent-0/**/executors/gantry-executor/runs/*"))

    def log(self) -> str:
        """What executors wrote."""
        files = [each / "stderr" for each in self.sandboxes() if each.name != "latest"]
        return "".join(each.read_text() for each in files if each.exists())

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Lines of the executors' logs with this event."""
        found = [json.loads(each) for each in self.log().splitlines() if each.startswith("{")]
        return [each for each in found if each["event"] == event]

    def pid_of(self, module: str) -> int:
        """The process of this cluster's supervisor (`services.executor`) or worker (`….worker`)."""
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                try:
                    words = (directory / "cmdline").read_bytes().decode().split("\0")
                except OSError:
                    continue
                if module in words and str(self.config) in words:
                    return int(directory.name)
        return 0

    async def kill9(self, module: str) -> int:
        """kill -9 of the supervisor or the worker; its pid."""
        pid = self.pid_of(module)
        assert pid, f"no {module} runs"
        os.kill(pid, signal.SIGKILL)
        await self.until(lambda: not _lives(pid), "it lives")
        return pid


def _lives(pid: int) -> bool:
    """Who has ended has no command line, even while nobody has taken notice."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


SUPERVISOR, WORKER = "services.executor", "services.executor.worker"


@asynccontextmanager
async def open_cloud(host: Host, ports: tuple[int, int], **settings: Any) -> AsyncIterator[Cloud]:
    """Everything started, one framework subscribed; torn down with all its processes at the end."""
    config = host.home / "executor.json"
    content = {
        "cluster": host.cluster,
        "agent": AGENT,
        "docker": host.engine.url,
        "hostd": f"unix:{host.run_dir}/hostd.sock",
        "data_dir": str(host.home / "executor"),
        "init": str(ROOT / "build/native/gantry-init"),
        **settings,
    }
    config.write_text(json.dumps(content))
    framework: FrameworkInfo = {
        "user": "root",
        "name": "test",
        "roles": ["*"],
        "checkpoint": True,
        "failover_timeout": 600.0,
        "capabilities": [{"type": "PARTITION_AWARE"}, {"type": "MULTI_ROLE"}],
    }
    async with aiohttp.ClientSession() as session:
        client = SchedulerClient(
            AiohttpTransport(session),
            [f"127.0.0.1:{ports[0]}"],
            framework,
            clock=SystemClock(),
            rng=random.Random(1),
        )
        cloud = Cloud(host, config, host.home / "mesos", ports, client)
        await cloud.start_mesos()
        try:
            async with asyncio.TaskGroup() as group:
                following = group.create_task(cloud.schedule())
                await cloud.until(lambda: bool(cloud.framework), "not subscribed")
                try:
                    yield cloud
                finally:
                    following.cancel()
        finally:
            await cloud.stop_mesos()
            for module in (SUPERVISOR, WORKER):
                if pid := cloud.pid_of(module):
                    os.kill(pid, signal.SIGKILL)
