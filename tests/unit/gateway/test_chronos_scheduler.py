"""Chronos' clients on the real gateway and the real scheduler, in memory; Mesos runs what it is given at once."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from libs.common.clock import SystemClock
from libs.common.http import Dispatcher, Response, reply
from libs.common.runtime import Runtime
from libs.common.task import TaskPayload, TaskReport
from libs.mesos import events as mesos
from libs.mesos.framework import Permit
from libs.mesos.messages import FrameworkInfo
from services.executor.runs.chronos import variables
from services.gateway.chronos.names import our_name
from services.gateway.chronos.telling import moment
from services.gateway.model import ChronosConfig
from services.scheduler.mesos import MesosDriver
from services.scheduler.model import Action, Launch, Revive
from services.scheduler.service import run as run_scheduler
from services.scheduler.settings import SchedulerConfig
from tests.fakes.gateway import GENEROUS, gateway_world, running
from tests.unit.gateway.test_chronos import JOB, V2, V3, Chronos, both
from tests.unit.scheduler.world import offer


@dataclass
class Instantly:
    """A Mesos whose tasks have run when they are launched: a command with `false` in it has failed. See MesosDriver."""

    ran: list[TaskPayload] = field(default_factory=list)
    held: set[str] = field(default_factory=set)  # commands that run until they are released
    running: list[TaskPayload] = field(default_factory=list)
    events: asyncio.Queue[mesos.SchedulerEvent] = field(default_factory=asyncio.Queue)
    offers: int = 0

    @asynccontextmanager
    async def subscribe(self, permit: Permit) -> AsyncIterator[AsyncIterator[mesos.SchedulerEvent]]:
        async def events() -> AsyncIterator[mesos.SchedulerEvent]:
            permit()
            yield mesos.Subscribed("f1", 15.0, {})
            self._offer()
            while True:
                yield await self.events.get()

        yield events()

    async def do(self, action: Action) -> None:
        if isinstance(action, Launch):
            for task in action.tasks:
                self._run(TaskPayload.model_validate_json(b64decode(task["data"])))
            self._offer()
        elif isinstance(action, Revive):
            self._offer()

    def _offer(self) -> None:
        self.offers += 1
        self.events.put_nowait(mesos.Offers((offer(self.offers),)))  # type: ignore[arg-type]

    def _run(self, payload: TaskPayload) -> None:
        self.ran.append(payload)
        now = SystemClock().now()
        self._tell(payload.attempt, "TASK_RUNNING", 1, started_at=now - 2.5)
        if (payload.spec.command or ("",))[-1] in self.held:
            self.running.append(payload)
        else:
            self._end(payload, now)

    def release(self) -> None:
        """What was held ends."""
        ended, self.running = self.running, []
        for payload in ended:
            self._end(payload, SystemClock().now())

    def _end(self, payload: TaskPayload, now: float) -> None:
        failed = "false" in " ".join(payload.spec.command or ())
        end = {"started_at": now - 2.5, "ended_at": now, "exit_code": int(failed)}
        self._tell(payload.attempt, "TASK_FAILED" if failed else "TASK_FINISHED", 2, **end)

    def _tell(self, task: str, state: str, number: int, **report: Any) -> None:
        status: dict[str, Any] = {
            "task_id": {"value": task},
            "agent_id": {"value": "a1"},
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "uuid": b64encode(bytes([number]) * 16).decode(),
            "data": b64encode(TaskReport(**report).model_dump_json().encode()).decode(),
        }
        self.events.put_nowait(mesos.Update(status))  # type: ignore[arg-type]

    def commands(self) -> list[str]:
        """The command lines that ran."""
        return [(each.spec.command or ("",))[-1] for each in self.ran]


@dataclass
class Pinning:
    """The deployer, which knows each image, and answers while it is here."""

    inner: Dispatcher
    here: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.here.set()

    async def dispatch(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        if target != "/v1/images/resolve":
            return await self.inner.dispatch(method, target, headers, body)
        await self.here.wait()
        image = orjson.loads(body)["image"].partition(":")[0]
        return reply({"image": f"{image}@sha256:{'0' * 64}", "registry_login": False})


@dataclass
class Cluster:
    """Chronos' client, and what has run."""

    chronos: Chronos
    mesos: Instantly
    deployer: Pinning

    async def ran(self, *commands: str) -> None:
        """Exactly these have run, in this order, once they have."""

        async def so_many() -> bool:
            return len(self.mesos.ran) >= len(commands)

        await self.chronos.world.eventually(so_many)
        assert self.mesos.commands() == list(commands)

    async def job(self, path: str, **wanted: Any) -> dict[str, Any]:
        """The job, once it is told so."""

        async def told() -> dict[str, Any] | None:
            job = dict(await self.chronos.get(path))
            return job if {name: job[name] for name in wanted} == wanted else None

        return dict(await self.chronos.world.eventually(told))


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    chronos = ChronosConfig(networks={"acme": "blue"}, image="debian:12")
    config = GENEROUS.model_copy(update={"chronos": chronos})
    driver = Instantly()

    @asynccontextmanager
    async def open_driver(
        _rt: Runtime, _config: SchedulerConfig, _info: FrameworkInfo
    ) -> AsyncIterator[MesosDriver]:
        yield driver

    async with gateway_world(tmp_path, config) as world:
        apps = world.shared.local.apps
        del apps["scheduler"]
        apps["deployer"] = deployer = Pinning(apps["deployer"])
        serve_it = partial(run_scheduler, open_driver=open_driver)
        async with running(world.shared, "scheduler", serve_it):
            yield Cluster(Chronos(world), driver, deployer)


@both
async def test_jobs_run_and_their_children_after_them(cluster: Cluster, at: str) -> None:
    chronos = cluster.chronos
    await chronos.put_all(at, "Parent.1")
    assert (await chronos.put(at, name="child", parents=["Parent.1"], command="two")).status == 204
    assert (await chronos("PUT", f"{at}/job/Parent.1")).status == 204
    await cluster.ran("date", "two")
    job = await cluster.job(f"{at}/job/child", successCount=1)
    assert job["parents"] == ["Parent.1"] and job["lastSuccess"].endswith("Z")
    stat = await chronos.get(f"{at}/job/stat/child")
    assert stat["histogram"]["mean"] == 2500.0 and stat["histogram"]["count"] == 1
    (run,) = stat["taskStatHistory"]
    assert (run["status"], run["duration"], run["slaveId"]) == ("Success", "2s", "host-a1")
    csv = (await chronos("GET", f"{at}/graph/csv")).body.decode()
    assert csv == "node,Parent.1,success,idle\nnode,child,success,idle\nlink,Parent.1,child\n"
    # As the scheduler takes no job away from under its children, they get what it had.
    assert (await chronos("DELETE", f"{at}/job/Parent.1")).status == 204
    (left,) = await chronos.get(f"{at}/jobs")
    assert (left["name"], left["schedule"]) == ("child", JOB["schedule"])


async def test_a_job_without_a_cause_runs_once_at_once(cluster: Cluster) -> None:
    assert (await cluster.chronos.put(V3, schedule=None)).status == 204
    await cluster.ran("date")
    job = await cluster.job(f"{V3}/job/etl", successCount=1, disabled=True)  # it is over
    assert job["schedule"].startswith("R1/20")
    env = cluster.mesos.ran[0].spec.env
    assert env["CHRONOS_JOB_NAME"] == "etl" and env["CHRONOS_RESOURCE_MEM"] == "128.0"
    run = cluster.mesos.ran[0].run
    assert run is not None and (run.tries, run.hostname) == (0, "host-a1")
    (told,) = (await cluster.chronos.get(f"{V3}/job/stat/etl"))["taskStatHistory"]
    task_id = variables(cluster.mesos.ran[0])["mesos_task_id"]
    assert told["taskId"] == task_id


@both
async def test_what_has_no_start_runs_at_each_put(cluster: Cluster, at: str) -> None:
    chronos = cluster.chronos
    for number, schedule in enumerate(["R1//PT1H", "R1//PT1H", None, None], 1):
        assert (await chronos.put(at, schedule=schedule, command=f"{number}")).status == 204
        await cluster.ran(*map(str, range(1, number + 1)))
        job = await cluster.job(f"{at}/job/etl", successCount=number, disabled=True)
    # What is got and put again is over; and so it is when it is enabled.
    for disabled in (True, False):
        again = {**job, "disabled": disabled, "command": "again"}
        assert (await chronos("POST", f"{at}/iso8601", again)).status == 204
    assert (await chronos("PUT", f"{at}/job/etl")).status == 204
    await cluster.ran("1", "2", "3", "4", "again")


@both
async def test_a_job_that_is_late_already_runs_once(cluster: Cluster, at: str) -> None:
    chronos, now = cluster.chronos, cluster.chronos.world.clock.now()
    late = f"R/{moment(now - 20)}/PT10H"
    for command in ("one", "two"):  # another command is no other schedule
        assert (await chronos.put(at, schedule=late, command=command)).status == 204
        await cluster.job(f"{at}/job/etl", successCount=1)
    off = f"R/{moment(now - 10)}/PT10H"
    for command, disabled in (("off", True), ("three", False)):
        job = {"schedule": off, "command": command, "disabled": disabled}
        assert (await chronos.put(at, **job)).status == 204
    await cluster.job(f"{at}/job/etl", successCount=2)
    old = f"R5/{moment(now - 900)}/PT1H"
    assert (await chronos.put(at, name="old", schedule=old, command="old")).status == 204
    assert (await chronos.put(at, name="last", schedule=None, command="last")).status == 204
    ran = ["one", "three", "last"] if at == V2 else ["one", "three", "old", "last"]
    await cluster.ran(*ran)


async def test_a_start_that_passes_while_nobody_decides_is_not_lost(cluster: Cluster) -> None:
    chronos, deployer = cluster.chronos, cluster.deployer
    deployer.here.clear()
    now = chronos.world.clock.now()

    async def put(name: str, start: float) -> int:
        schedule = f"R1/{moment(start)}/PT1H"
        return (await chronos.put(V3, name=name, schedule=schedule, command=name)).status

    async def put_own(start: float) -> int:
        spec = {"image": "a:1", "network": "blue", "command": ["own"]}
        spec |= {"schedule": f"R1/{moment(start)}/PT1H"}
        return (await chronos.world.call("PUT", "/v1/jobs/acme/own", spec)).status

    asked = asyncio.gather(put("soon", now + 1.0), put("late", now - 5.0), put_own(now + 2.0))
    assert set(await asked) == {202}
    assert cluster.mesos.ran == []
    deployer.here.set()

    async def all_ran() -> bool:
        return sorted(cluster.mesos.commands()) == ["late", "own", "soon"]

    await chronos.world.eventually(all_ran)


async def test_no_success_is_lost_for_a_child_by_its_epsilon(cluster: Cluster) -> None:
    """The child is under way for longer than that when its parent succeeds."""
    chronos = cluster.chronos
    await chronos.put_all(V2, "parent")
    child = {"name": "child", "parents": ["parent"], "epsilon": "PT0S"}
    assert (await chronos.put(V2, **child)).status == 204
    cluster.mesos.held.add("date -u")
    for path in ("job/child?arguments=-u", "job/success/parent"):
        assert (await chronos("PUT", f"{V2}/{path}")).status in (200, 204)
    await cluster.job(f"{V2}/job/parent", successCount=1)
    chronos.world.clock.ahead_s += 180.0
    cluster.mesos.release()
    job = await cluster.job(f"{V2}/job/child", successCount=2)
    assert job["epsilon"] == "PT0S"
    ours = await chronos.world.call("GET", "/v1/jobs/acme/child")
    assert ours.json()["counts"]["missed"] == 0


@both
async def test_what_a_deleted_job_had_left_is_left_to_its_children(
    cluster: Cluster, at: str
) -> None:
    chronos = cluster.chronos
    left = {
        "over": ("R1//PT24H", "R0//PT24H", None),
        "going": ("R5//PT10H", r"R5/20.*Z/PT10H", r"R5/20.*Z/PT10H"),
    }
    for name, (schedule, _, _) in left.items():
        assert (await chronos.put(at, name=name, schedule=schedule, command=name)).status == 204
        child = {"name": f"{name}-child", "parents": [name], "command": f"{name}-child"}
        assert (await chronos.put(at, **child)).status == 204
        await cluster.job(f"{at}/job/{name}-child", successCount=1)
    ran = cluster.mesos.commands()
    for name, (_, told, stored) in left.items():
        before = (await chronos.get(f"{at}/job/{name}"))["schedule"]
        assert (await chronos("DELETE", f"{at}/job/{name}")).status == 204
        job = await chronos.get(f"{at}/job/{name}-child")
        assert re.fullmatch(told, job["schedule"]), job
        assert stored is None or job["schedule"] == before
        if at == V2:
            assert job["epsilon"] == "PT60S"
    ours = (await chronos.world.call("GET", "/v1/jobs/acme/going-child")).json()
    assert ours["next"] > chronos.world.clock.now() + 3600.0
    assert ours["spec"].get("start_deadline_s") == (60.0 if at == V2 else None)
    assert (await chronos.put(at, name="last", schedule=None, command="last")).status == 204
    await cluster.ran(*ran, "last")


async def test_a_schedule_without_a_start_of_our_own_api_goes_on(cluster: Cluster) -> None:
    chronos = cluster.chronos
    spec = {"image": "a:1", "network": "blue", "schedule": "R3//PT10H", "command": ["/own"]}
    assert (await chronos.world.call("PUT", "/v1/jobs/acme/own", spec)).status == 200
    job = await cluster.job(f"{V3}/job/own", successCount=1)
    assert re.fullmatch(r"R3/20.*Z/PT10H", job["schedule"])
    assert (await chronos("POST", f"{V3}/iso8601", {**job, "owner": "me"})).status == 204
    assert (await chronos.put(V3, name="child", parents=["own"])).status == 204
    assert (await chronos("DELETE", f"{V3}/job/own")).status == 204
    child = (await chronos.world.call("GET", "/v1/jobs/acme/child")).json()
    assert child["spec"]["schedule"] == job["schedule"] == child["schedule"]
    assert cluster.mesos.commands() == ["/own"]


async def test_what_waits_is_purged(cluster: Cluster) -> None:
    chronos = cluster.chronos
    cluster.mesos.held.add("held")
    assert (await chronos.put(V2, name="Runs", schedule=None, command="held")).status == 204
    await cluster.ran("held")
    await cluster.job(f"{V2}/job/Runs")
    failing = {"name": "Waits", "schedule": None, "command": "false", "retries": 5}
    assert (await chronos.put(V2, **failing)).status == 204
    await cluster.ran("held", "false")

    async def states() -> dict[str, str]:
        answer = await chronos.world.call("GET", "/v1/jobs?bu=acme")
        return {
            each["spec"]["labels"]["chronos.name"]: each["last_run"]["state"]
            for each in answer.json()["jobs"]
        }

    async def waits() -> bool:
        return await states() == {"Runs": "running", "Waits": "pending"}

    await chronos.world.eventually(waits)
    assert (await chronos("DELETE", f"{V2}/task/all")).status == 204
    assert await states() == {"Runs": "running", "Waits": "killed"}
    assert (await chronos("DELETE", f"{V3}/task/all")).status == 404


async def test_failures_are_counted_and_a_success_can_be_claimed(cluster: Cluster) -> None:
    chronos = cluster.chronos
    assert (await chronos.put(V2, command="false", retries=0)).status == 204
    assert (await chronos.put(V2, name="child", parents=["etl"], command="two")).status == 204
    assert (await chronos("PUT", f"{V2}/job/etl")).status == 204
    await cluster.job(f"{V2}/job/etl", errorCount=1, errorsSinceLastSuccess=1)
    summary = (await chronos.get(f"{V2}/jobs/summary"))["jobs"]
    assert [each["status"] for each in summary] == ["fresh", "failure"]
    assert (await chronos("PUT", f"{V2}/job/success/etl")).status == 200
    await cluster.ran("false", "two")
    job = await cluster.job(f"{V2}/job/etl", successCount=1, errorsSinceLastSuccess=0)
    assert job["errorCount"] == 1


async def test_what_the_scheduler_says_of_a_job_comes_through(cluster: Cluster) -> None:
    chronos = cluster.chronos
    assert (await chronos("PUT", f"{V3}/job/etl")).status == 400
    await chronos.put_all(V3, "a")
    assert (await chronos.put(V3, name="b", parents=["a"])).status == 204
    for fields, said in (
        ({"name": "a", "parents": ["b"]}, "cycle"),
        ({"schedule": "R/2026-13-01T00:00:00Z/P1D"}, "schedule"),
        ({"scheduleTimeZone": "Mars/Olympus"}, "time zone"),
    ):
        response = await chronos.put(V3, **fields)
        assert response.status == 400 and said in response.json()["message"], response.body
    assert (await chronos.put(V3, scheduleTimeZone="PST", disabled=True)).status == 204
    refused = await chronos("PUT", f"{V3}/job/etl")
    assert refused.status == 204 and "disabled" in refused.headers["X-Gantry-Notes"]
    assert (await chronos("PUT", f"{V3}/job/a?arguments=-u")).status == 204
    await cluster.ran("date -u", "date")  # b is a's child


async def test_an_async_job_succeeds_when_that_is_told(cluster: Cluster) -> None:
    chronos = cluster.chronos
    job = {"name": "etl.v2", "retries": 0, "schedule": None, "async": True}
    assert (await chronos.put(V2, **job)).status == 204
    await chronos.put(V2, name="after", command="after", parents=["etl.v2"])
    await cluster.ran("date")

    async def tell(status: int) -> Response:
        (task,) = [variables(each)["mesos_task_id"] for each in cluster.mesos.ran[-1:]]
        return await chronos("PUT", f"{V2}/task/{quote(task)}", {"statusCode": status})

    async def untold() -> bool:
        history = (await chronos.get(f"{V2}/job/stat/etl.v2"))["taskStatHistory"]
        ours = await chronos.world.call("GET", f"/v1/jobs/acme/{our_name('etl.v2')}")
        if not history or history[0]["status"] != "Running":
            return False
        return "told" in ours.json()["last_run"]["reason"]

    await chronos.world.eventually(untold)
    assert (await cluster.job(f"{V2}/job/etl.v2"))["successCount"] == 0
    first = await tell(0)
    assert (first.status, first.headers.get("X-Gantry-Notes", "")) == (204, "")
    await cluster.job(f"{V2}/job/etl.v2", successCount=1, errorCount=0)
    await cluster.ran("date", "after")
    assert (await chronos("PUT", f"{V2}/job/etl.v2")).status == 204
    await cluster.ran("date", "after", "date")
    await chronos.world.eventually(untold)
    assert (await tell(3)).status == 204
    await cluster.job(f"{V2}/job/etl.v2", successCount=1, errorCount=1)
    again = await tell(0)
    assert again.status == 204 and "under way" in again.headers["X-Gantry-Notes"]
    assert cluster.mesos.commands() == ["date", "after", "date"]


async def test_of_other_jobs_nothing_comes_of_what_is_told(cluster: Cluster) -> None:
    chronos = cluster.chronos
    await chronos.put(V2, name="plain", command="false", schedule=None, retries=1)
    await cluster.ran("false")
    await cluster.job(f"{V2}/job/plain", errorCount=0)
    (task,) = [variables(each)["mesos_task_id"] for each in cluster.mesos.ran]
    response = await chronos("PUT", f"{V2}/task/{quote(task)}", {"statusCode": 0})
    assert response.status == 204 and "ends with its command" in response.headers["X-Gantry-Notes"]
    assert (await cluster.job(f"{V2}/job/plain"))["successCount"] == 0
