"""Leaders one after the other on one store, bus and Mesos: each may die at any of its writes."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson

from libs.common.events import EVENT_TYPES, Event, seal, to_record
from libs.common.events import model as ev
from libs.common.http import Request, Response, Route, reply
from libs.common.proofs import ServiceProofs
from libs.common.runtime import Runtime
from libs.common.store.base import Write
from libs.common.task import TaskReport
from libs.mesos import events as mesos
from libs.mesos.framework import Permit
from libs.mesos.messages import FrameworkInfo
from services.scheduler.mesos import MesosDriver
from services.scheduler.model import Acknowledge, Action, Kill, Launch, Reconcile, Revive
from services.scheduler.service import run
from services.scheduler.settings import SchedulerConfig
from tests.simulation.loop import EPOCH_S, World
from tests.simulation.process import SECRET
from tests.simulation.small import SmallWorld
from tests.unit.scheduler.world import IMAGE, offer

RUN_S = 2.0


class Crash(Exception):
    """The leader dies here."""


class Host:
    """A Mesos with one agent, whose tasks run for RUN_S; it outlives leaders, and tells until it is acknowledged."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, float]] = []  # attempts, and when
        self.over: dict[str, float] = {}  # by attempt: when its process ended
        self.killed: list[str] = []
        self.exits: dict[str, list[int]] = {}  # by job: exit codes of its next tries
        self._updates: dict[str, dict[str, Any]] = {}  # the newest of each task
        self._ended: dict[str, None] = {}
        self._told: asyncio.Queue[mesos.SchedulerEvent] = asyncio.Queue()
        self._offers = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(
        self, _rt: Runtime, _config: SchedulerConfig, _info: FrameworkInfo
    ) -> AsyncIterator[MesosDriver]:
        """See OpenDriver."""
        yield self

    @asynccontextmanager
    async def subscribe(self, permit: Permit) -> AsyncIterator[AsyncIterator[mesos.SchedulerEvent]]:
        """See MesosDriver."""
        self._told = asyncio.Queue()

        async def events() -> AsyncIterator[mesos.SchedulerEvent]:
            permit()
            yield mesos.Subscribed("f1", 15.0, {})
            while True:
                yield await self._told.get()

        yield events()

    async def do(self, action: Action) -> None:
        """See MesosDriver."""
        match action:
            case Revive():
                self._offers += 1
                self._told.put_nowait(mesos.Offers((offer(self._offers),)))  # type: ignore[arg-type]
            case Launch(_, _, tasks):
                for info in tasks:
                    self._spawn(self._run(info["task_id"]["value"], info["data"]))
            case Kill(task):
                self.killed.append(task)
                self._tell(task, "TASK_KILLED", TaskReport())
            case Acknowledge(statuses):
                for status in statuses:
                    self._ended.pop(status["task_id"]["value"], None)
            case Reconcile(named):
                names: list[str] = [task for task, _ in named]
                for each in names or list(self._updates):
                    self._reconcile(each)
            case _:
                pass

    async def _run(self, task: str, data: str) -> None:
        job = orjson.loads(b64decode(data))["run"]["job"]
        await asyncio.sleep(0.02)
        began = self._now()
        self.begun.append((task, began))
        self._tell(task, "TASK_RUNNING", TaskReport(container="c", address="a", started_at=began))
        await asyncio.sleep(RUN_S)
        codes = self.exits.get(job) or [0]
        code = codes.pop(0)
        self.over[task] = self._now()
        report = TaskReport(exit_code=code, started_at=began, ended_at=self._now(), output="out")
        self._tell(task, "TASK_FAILED" if code else "TASK_FINISHED", report)

    def _tell(self, task: str, state: str, report: TaskReport) -> None:
        if task in self._ended or self._over(task):
            return
        status = {
            "task_id": {"value": task},
            "agent_id": {"value": "a1"},
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "uuid": "AAAA",
            "data": b64encode(report.model_dump_json().encode()).decode(),
        }
        self._updates[task] = status
        if self._over(task):
            self._ended[task] = None
        self._told.put_nowait(mesos.Update(status))  # type: ignore[arg-type]

    def bring_back(self, task: str) -> None:
        """A host that was away for long comes back with a task that still runs."""
        self._ended.pop(task, None)
        self._updates.pop(task, None)
        self._tell(task, "TASK_RUNNING", TaskReport(container="c", address="a"))

    def _reconcile(self, task: str) -> None:
        """What is not acknowledged is told as it was; the rest as a master does, without what executors say."""
        status = self._updates.get(task)
        if task in self._ended and status is not None:
            self._told.put_nowait(mesos.Update(status))  # type: ignore[arg-type]
            return
        state = "TASK_UNKNOWN" if status is None or self._over(task) else status["state"]
        told = {
            "task_id": {"value": task},
            "agent_id": {"value": "a1"},
            "state": state,
            "source": "SOURCE_MASTER",
            "reason": "REASON_RECONCILIATION",
        }
        self._told.put_nowait(mesos.Update(told))  # type: ignore[arg-type]

    def _over(self, task: str) -> bool:
        known = self._updates.get(task)
        return known is not None and known["state"] != "TASK_RUNNING"

    def _now(self) -> float:
        return EPOCH_S + asyncio.get_running_loop().time()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Leaders:
    """See the module."""

    def __init__(self, world: World, config: SchedulerConfig | None = None) -> None:
        self.host = Host()
        self.config = config or SchedulerConfig(tick_s=2.0)
        self.small = SmallWorld(
            world.loop, settings={"scheduler": self.config}, on_write=self._written
        )
        self.die_at = 0
        self.writes = 0
        self.deaths = 0
        self.images = 0

    def _written(self, collection: str, _write: Write) -> None:
        if collection.startswith("scheduler_"):
            self.writes += 1
            if self.writes == self.die_at:
                raise Crash(f"after write {self.writes}, of {collection}")

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[None]:
        """Somebody leads, or will soon."""
        async with AsyncExitStack() as stack:
            deployer = self.small.runtime("deployer", "deployer-1")
            route = Route("POST", "/v1/images/resolve", self._resolve)
            await stack.enter_async_context(deployer.serve(deployer.http_app([route])))
            work = asyncio.get_running_loop().create_task(self._lead())
            yield
            work.cancel()
            await asyncio.wait([work])
            if not work.cancelled() and (error := work.exception()):
                raise error

    async def _resolve(self, _request: Request) -> Response:
        self.images += 1
        return reply({"image": IMAGE, "registry_login": False})

    async def _lead(self) -> None:
        while True:
            rt = self.small.runtime("scheduler", f"scheduler-{self.deaths}")
            try:
                await run(rt, self.host.open)
            except* Crash:
                self.deaths += 1
            finally:
                await rt.bus.close()
            await asyncio.sleep(0.3)

    # -- what is asked, and what has come of it

    async def ask(self, action: str, job: str, request: str, **fields: Any) -> None:
        """The gateway's event."""
        await self.publish(
            ev.JobRequested.model_validate(
                {"job": job, "action": action, "actor": "ann", "request": request, **fields}
            )
        )

    async def publish(self, event: Event, source: str = "gateway") -> None:
        """An event of one of our services."""
        (sealed,) = seal([event], source=source, sequence=1, now=EPOCH_S, aggregate=str(event))
        await self.small.bus.publish([ServiceProofs(SECRET).sign(to_record(sealed))])

    async def call(self, path: str, method: str = "GET", body: bytes = b"") -> Any:
        """What the scheduler answers to the gateway."""
        gateway = self.small.runtime("gateway", "gateway-1")
        response = await gateway.peers.call("scheduler", method, path, body=body)
        return response.json()

    def bodies(self, collection: str) -> dict[str, Mapping[str, Any]]:
        """Documents, by id."""
        return self.small.store.bodies(collection)

    def told(self, kind: type[Event]) -> Counter[str]:
        """How often which runs' events of a kind were published, each event once."""
        if kind.TOPIC not in self.small.bus.log.topics:
            return Counter()
        logs = self.small.bus.log.topics[kind.TOPIC].partitions
        opened = [EVENT_TYPES.open(each.record) for log in logs for each in log.records]
        unique = {envelope.id: event for event, envelope in opened}
        return Counter(event.run for event in unique.values())  # type: ignore[attr-defined]
