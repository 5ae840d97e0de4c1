"""The executor's real service on fakes, in virtual time: one host, one agent, one worker at a time."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from libs.common.delivery import Delivery
from libs.common.errors import GantryError, NotFound, Stale, Unavailable
from libs.common.spec import HealthCheck, InstanceSpec, Resources
from libs.common.task import TaskPayload, TaskReport, container_name
from libs.common.telemetry import Telemetry, make_log
from libs.mesos import events as mesos
from libs.mesos.messages import TERMINAL_STATES, TaskInfo, TaskStatus, UpdateCall
from services.executor.config import ExecutorConfig
from services.executor.errors import StartRefused
from services.executor.janitor import Janitor
from services.executor.model import Attachment, AttachmentSpec, AttemptId, ContainerName, Identity
from services.executor.service import ExecutorService
from tests.fakes.disk import FakeDisk, MemoryLedger
from tests.fakes.docker import FakeContainer, FakeDocker, FakeEngine, FakeImage
from tests.fakes.inits import FakeInits
from tests.fakes.journal import MemoryJournal
from tests.fakes.prober import FakeProber
from tests.simulation.loop import World

CLUSTER, AGENT = "test", "host-1"
IMAGE = "registry/web@sha256:1"
HOST_INODE = 1
HTTP = HealthCheck(type="http", port=8080, interval_s=5, timeout_s=1, grace_s=10)


class FakeNetwork:
    """hostd: attachments by container name, and leave to start by container id, good for one start."""

    def __init__(self) -> None:
        self.attachments: dict[ContainerName, Attachment] = {}
        self.specs: dict[ContainerName, AttachmentSpec] = {}
        self.leave: dict[str, ContainerName] = {}
        self.log: list[tuple[str, str]] = []
        self.error: GantryError | None = None
        self.errors = 0  # calls that `error` still breaks
        self._made = 0

    async def attach(self, spec: AttachmentSpec) -> Attachment:
        """See Network."""
        self._arrive("attach", spec.container)
        if spec.container not in self.attachments:
            self._made += 1
            self.attachments[spec.container] = Attachment(
                ip=f"10.0.0.{self._made}",
                namespace=f"/run/netns/{self._made}",
                inode=100 + self._made,
                host_inode=HOST_INODE,
            )
            self.specs[spec.container] = spec
        elif self.specs[spec.container].generation > spec.generation:
            raise Stale("an older attempt")
        return self.attachments[spec.container]

    async def register(self, container: ContainerName, container_id: str, generation: int) -> None:
        """See Network."""
        self._arrive("register", container)
        if container not in self.specs:
            raise NotFound(f"no attachment of {container}")
        assert generation == self.specs[container].generation
        self.leave[container_id] = container

    async def revoke(self, container: ContainerName) -> None:
        """See Network."""
        self._arrive("revoke", container)
        self.leave = {key: name for key, name in self.leave.items() if name != container}

    async def detach(self, container: ContainerName) -> None:
        """See Network."""
        self._arrive("detach", container)
        assert container not in self.leave.values(), "DEL before the registration was revoked"
        self.attachments.pop(container, None)
        self.specs.pop(container, None)

    async def claim(self, container_id: str) -> int:
        """What the OCI runtime asks; a FakeDocker's `claim`."""
        name = self.leave.pop(container_id, None)
        if name is None:
            raise StartRefused("no network namespace is registered")
        return self.attachments[name].inode

    def _arrive(self, what: str, container: str) -> None:
        if self.error is not None and self.errors > 0:
            self.errors -= 1
            raise self.error
        self.log.append((what, container))


class FakeDeliveries:
    """hostd, asked what an attempt needs: by attempt, what is told or why not."""

    def __init__(self) -> None:
        self.known: dict[str, Delivery | GantryError] = {}
        self.asked: list[str] = []

    async def of_attempt(self, attempt: AttemptId) -> Delivery:
        """See Deliveries."""
        self.asked.append(attempt)
        found = self.known.get(attempt, NotFound(f"no attempt {attempt!r} is placed here"))
        if isinstance(found, GantryError):
            raise found
        return found


class FakeAgent:
    """The agent's executor API, with a scheduler that acknowledges at once unless told not to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._events: asyncio.Queue[mesos.ExecutorEvent] = asyncio.Queue()
        self.acknowledging = True
        self.subscriptions: list[tuple[list[TaskInfo], list[UpdateCall]]] = []
        self.statuses: list[TaskStatus] = []
        self.shutdown_grace_s = 5.0

    @asynccontextmanager
    async def subscribe(
        self, tasks: Sequence[TaskInfo], updates: Sequence[UpdateCall]
    ) -> AsyncIterator[AsyncIterator[mesos.ExecutorEvent]]:
        """See ExecutorDriver."""
        self.subscriptions.append((list(tasks), list(updates)))
        for each in updates:
            await self.update(each["status"])
        yield self._stream()

    async def _stream(self) -> AsyncIterator[mesos.ExecutorEvent]:
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, mesos.Shutdown):
                return

    def make_status(self, task_id: str, state: str, fields: Mapping[str, Any]) -> TaskStatus:
        """See ExecutorDriver."""
        status: TaskStatus = {
            "task_id": {"value": task_id},
            "state": state,
            "uuid": b64encode(self._world.ids.uuid().encode()).decode(),
        }
        status.update(fields)  # type: ignore[typeddict-item]
        return status

    async def update(self, status: TaskStatus) -> None:
        """See ExecutorDriver."""
        if all(each["uuid"] != status["uuid"] for each in self.statuses):
            self.statuses.append(status)
        if self.acknowledging:
            self.acknowledge(status)

    def acknowledge(self, status: TaskStatus) -> None:
        self.say(mesos.Acknowledged(status["task_id"]["value"], status["uuid"]))

    def say(self, event: mesos.ExecutorEvent) -> None:
        self._events.put_nowait(event)

    def states(self, task_id: str) -> list[str]:
        return [each["state"] for each in self.statuses if each["task_id"]["value"] == task_id]

    def last(self, task_id: str) -> TaskStatus:
        return [each for each in self.statuses if each["task_id"]["value"] == task_id][-1]

    def report(self, task_id: str) -> TaskReport:
        return TaskReport.model_validate_json(b64decode(self.last(task_id)["data"]))


class ExecutorWorld:
    """A host, and the workers that come and go on it."""

    def __init__(self, world: World, **settings: Any) -> None:
        self.world = world
        self.network = FakeNetwork()
        self.deliveries = FakeDeliveries()
        self.docker = FakeDocker(world.clock, world.rng, claim=self.network.claim)
        self.docker.images[IMAGE] = FakeImage()
        self.disk = FakeDisk(self.docker.images)
        self.ledger = MemoryLedger()
        self.prober = FakeProber(self.docker)
        self.inits = FakeInits(self.docker)
        self.journal = MemoryJournal()
        self.end_journal = MemoryJournal()  # outlives supervisors
        self.agent = FakeAgent(world)
        self.config = ExecutorConfig.model_validate({"cluster": CLUSTER, **settings})
        self.run_id = "run-1"
        self.service: ExecutorService
        self._task: asyncio.Task[None] | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin the next worker."""
        engine = FakeEngine(self.docker, cluster=CLUSTER, agent=AGENT)
        telemetry = Telemetry("executor", make_log("executor", level="critical"))
        self.service = ExecutorService(
            driver=self.agent,
            engine=engine,
            janitor=Janitor(
                engine,
                self.ledger,
                self.disk.measure,
                (Path("/engine"),),
                clock=self.world.clock,
                log=telemetry.log,
                config=self.config,
            ),
            network=self.network,
            deliveries=self.deliveries,
            prober=self.prober,
            inits=self.inits,
            journal=self.journal,
            ends=self.end_journal,
            clock=self.world.clock,
            rng=self.world.rng,
            telemetry=telemetry,
            config=self.config,
            identity=Identity(CLUSTER, AGENT, self.run_id),
        )
        self._task = group.create_task(self.service.run())

    @property
    def ended(self) -> bool:
        return self._task is None or self._task.done()

    async def crash(self) -> None:
        """kill -9 of the worker."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def lose_supervisor(self) -> None:
        """kill -9 of the supervisor: the next executor has a journal of its own, which is empty."""
        await self.crash()
        self.journal.files.clear()
        self.run_id += "+"

    async def restart(self, group: asyncio.TaskGroup) -> None:
        await self.crash()
        self.start(group)

    async def settle(self, seconds: float = 1.0) -> None:
        await self.world.clock.sleep(seconds)

    def launch(self, attempt: str, **changes: Any) -> str:
        """A LAUNCH of an attempt such as `web.1`; the container's name."""
        self.agent.say(mesos.Launch(task_of(attempt, **changes)))
        return container_name(CLUSTER, attempt)

    def kill(self, attempt: str, grace_s: float | None = None) -> None:
        policy = None
        if grace_s is not None:
            policy = {"grace_period": {"nanoseconds": int(grace_s * 1e9)}}
        self.agent.say(mesos.Kill(attempt, policy))  # type: ignore[arg-type]

    def container(self, attempt: str) -> FakeContainer:
        found = self.docker.by_name(container_name(CLUSTER, attempt))
        assert found is not None
        return found

    def check_clean(self) -> None:
        """Nothing is left of anything."""
        assert self.docker.containers == {}
        assert self.network.attachments == {}
        assert self.network.leave == {}
        assert self.journal.files == {}
        assert self.end_journal.files == {}
        assert self.service.attempts == {}

    def check_monotone(self) -> None:
        """Of every task: STARTING, then RUNNING, then one terminal state and nothing after it."""
        order = {"TASK_STARTING": 0, "TASK_RUNNING": 1}
        for task_id in {each["task_id"]["value"] for each in self.agent.statuses}:
            states = self.agent.states(task_id)
            ranks = [order.get(state, 2) for state in states]
            assert ranks == sorted(ranks), states
            assert sum(state in TERMINAL_STATES for state in states) <= 1, states


def payload_of(attempt: str, **changes: Any) -> TaskPayload:
    """A payload; changes are fields of it, of its InstanceSpec, or of the spec's resources."""
    instance, _, generation = attempt.rpartition(".")
    resources = {key: changes.pop(key) for key in ("cpus", "mem_mib", "pids") if key in changes}
    spec_fields = {
        key: changes.pop(key) for key in list(changes) if key in InstanceSpec.model_fields
    }
    spec = InstanceSpec.model_validate(
        {"image": IMAGE, "network": "red", "resources": Resources(**resources), **spec_fields}
    )
    return TaskPayload(
        cluster=changes.pop("cluster", CLUSTER),
        app=changes.pop("app", "bu/web"),
        instance=instance,
        attempt=attempt,
        generation=int(generation),
        release=1,
        spec=spec,
        **changes,
    )


def task_of(attempt: str, **changes: Any) -> TaskInfo:
    data = payload_of(attempt, **changes).model_dump_json().encode()
    return {
        "name": attempt,
        "task_id": {"value": attempt},
        "agent_id": {"value": "S0"},
        "resources": [],
        "data": b64encode(data).decode(),
    }


def away(what: str) -> Unavailable:
    return Unavailable(f"{what} is away")
