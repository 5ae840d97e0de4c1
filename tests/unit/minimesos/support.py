"""Helpers: a cluster as real processes, a scheduler on raw aiohttp, a cluster in virtual time."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from libs.common.clock import RngIds
from libs.minimesos.config import AgentConfig, MasterConfig
from libs.minimesos.local import ExecutorLaunch, LocalCluster, Response

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
PROGRAM = Path(__file__).with_name("executor_program.py")
FRAMEWORK: Json = {
    "user": "root",
    "name": "test",
    "roles": ["*"],
    "capabilities": [{"type": "MULTI_ROLE"}],
    "failover_timeout": 600,
    "checkpoint": True,
}


def partition_aware(info: Json = FRAMEWORK) -> Json:
    """`info` with PARTITION_AWARE."""
    return {**info, "capabilities": [*info["capabilities"], {"type": "PARTITION_AWARE"}]}


def scalars(cpus: float = 0.1, mem: float = 32) -> list[Json]:
    """cpus and mem."""
    return [
        {"name": "cpus", "type": "SCALAR", "scalar": {"value": cpus}},
        {"name": "mem", "type": "SCALAR", "scalar": {"value": mem}},
    ]


def task(task_id: str, agent_id: Json, command: str = "sleep 1000", **more: Any) -> Json:
    """A command task."""
    return {
        "name": task_id,
        "task_id": {"value": task_id},
        "agent_id": agent_id,
        "resources": scalars(),
        "command": {"value": command},
        **more,
    }


def executor_task(task_id: str, agent_id: Json, command: str = "", **more: Any) -> Json:
    """A task of custom executor `e1`."""
    executor = {
        "type": "CUSTOM",
        "executor_id": {"value": "e1"},
        "name": "test executor",
        "resources": scalars(0.2, 64),
        "command": {"value": command or f"exec {sys.executable} {PROGRAM}"},
    }
    made = task(task_id, agent_id, **more)
    del made["command"]
    return {**made, "executor": executor}


def launch_call(offer: Json, tasks: list[Json], refuse_s: float = 0.0) -> Json:
    """An ACCEPT of one offer that launches tasks."""
    return {
        "type": "ACCEPT",
        "accept": {
            "offer_ids": [offer["id"]],
            "operations": [{"type": "LAUNCH", "launch": {"task_infos": tasks}}],
            "filters": {"refuse_seconds": refuse_s},
        },
    }


# ---- virtual time -------------------------------------------------------------------------------
class Recorder:
    """A sink that keeps events; a scheduler's side when `framework_id` is set."""

    def __init__(self, cluster: VirtualCluster) -> None:
        self.cluster = cluster
        self.events: list[Json] = []
        self.ended = False
        self.response: Response | None = None
        self.framework_id: Json = {}

    def record(self, data: bytes) -> None:
        """One event."""
        self.events.append(orjson.loads(data))

    def closed(self) -> None:
        """The end."""
        self.ended = True

    def of(self, kind: str) -> list[Json]:
        """The submessages of all events of a kind."""
        return [e.get(kind.lower(), {}) for e in self.events if e["type"] == kind]

    def statuses(self, task_id: str) -> list[Json]:
        """All statuses of a task."""
        found = [u["status"] for u in self.of("UPDATE")]
        return [s for s in found if s["task_id"]["value"] == task_id]

    def states(self, task_id: str) -> list[str]:
        """The states a task was reported in."""
        return [s["state"] for s in self.statuses(task_id)]

    def offers(self) -> list[Json]:
        """Offers that still stand."""
        made = [o for e in self.of("OFFERS") for o in e["offers"]]
        gone = [r["offer_id"] for r in self.of("RESCIND")]
        return [o for o in made if o["id"] not in gone]

    def call(self, call: Json) -> Response:
        """A scheduler call with the right stream id."""
        assert self.response is not None
        headers = {"Mesos-Stream-Id": self.response.headers["Mesos-Stream-Id"]}
        body = {"framework_id": self.framework_id, **call}
        return self.cluster.post("/api/v1/scheduler", body, headers)

    def launch(self, tasks: list[Json], refuse_s: float = 0.0) -> None:
        """Accept the newest offer."""
        assert self.call(launch_call(self.offers()[-1], tasks, refuse_s)).status == 202

    def acknowledge(self) -> int:
        """Acknowledge everything that asks for it; how many there were."""
        asking = [u["status"] for u in self.of("UPDATE") if "uuid" in u["status"]]
        new = [s for s in asking if not s.get("seen")]
        for status in new:
            status["seen"] = True
            fields = ("agent_id", "task_id", "uuid")
            body = {"type": "ACKNOWLEDGE", "acknowledge": {f: status[f] for f in fields}}
            assert self.call(body).status == 202
        return len(new)

    def acknowledge_all(self) -> None:
        """Until nothing more comes."""
        while self.acknowledge():
            pass


class VirtualCluster:
    """A LocalCluster with a clock of its own."""

    def __init__(
        self,
        agents: int = 1,
        master: MasterConfig | None = None,
        launch: Callable[[ExecutorLaunch], int] | None = None,
        kill: Callable[[int, int, int], None] | None = None,
        **agent: Any,
    ) -> None:
        self.now = 1_000_000.0
        configs = [
            AgentConfig(port=5051 + i, hostname=f"host{i}", work_dir=f"/w{i}", **agent)
            for i in range(agents)
        ]
        config = master or MasterConfig(agent_ping_timeout_s=3, max_agent_ping_timeouts=3)
        ids = RngIds(random.Random(7))
        self.local = LocalCluster(ids, self.now, config, configs, launch, kill)

    def advance(self, seconds: float) -> None:
        """Let virtual time pass, deadline by deadline."""
        end = self.now + seconds
        while True:
            deadline = self.local.next_deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.local.tick(self.now)
        self.now = end
        self.local.tick(end)

    def post(self, path: str, body: Json, headers: dict[str, str] | None = None) -> Response:
        """A POST to the master."""
        return self.local.master(self.now, "POST", path, orjson.dumps(body), headers)

    def get(self, path: str) -> Any:
        """The JSON of a GET to the master."""
        response = self.local.master(self.now, "GET", path)
        assert response.status == 200, response
        return orjson.loads(response.body)

    def operator(self, call: str, **body: Any) -> Any:
        """An operator call; its submessage, or None for an empty answer."""
        message = {"type": call, **({call.lower(): body} if body else {})}
        response = self.post("/api/v1", message)
        assert response.status in (200, 202), response
        return orjson.loads(response.body).get(call.lower()) if response.body else None

    def subscribe(self, info: Json = FRAMEWORK, framework_id: Json | None = None) -> Recorder:
        """A scheduler."""
        recorder = Recorder(self)
        body: Json = {"type": "SUBSCRIBE", "subscribe": {"framework_info": dict(info)}}
        if framework_id is not None:
            body["framework_id"] = framework_id
            body["subscribe"]["framework_info"]["id"] = framework_id
        raw = orjson.dumps(body)
        recorder.response = self.local.master(
            self.now, "POST", "/api/v1/scheduler", raw, sink=recorder
        )
        assert recorder.response.status == 200, recorder.response
        subscribed = recorder.of("SUBSCRIBED")
        if subscribed:
            recorder.framework_id = subscribed[0]["framework_id"]
        return recorder

    def watch(self) -> Recorder:
        """An operator's event stream."""
        recorder = Recorder(self)
        raw = b'{"type":"SUBSCRIBE"}'
        recorder.response = self.local.master(self.now, "POST", "/api/v1", raw, sink=recorder)
        return recorder

    def executor(self, index: int, call: Json, sink: Recorder | None = None) -> Response:
        """An executor's call."""
        raw = orjson.dumps(call)
        return self.local.agent(index, self.now, "POST", "/api/v1/executor", raw, sink=sink)


# ---- real processes -----------------------------------------------------------------------------
class Scheduler:
    """A scheduler on raw aiohttp that acknowledges everything."""

    def __init__(self, session: aiohttp.ClientSession, master: str) -> None:
        self.session = session
        self.url = f"{master}/api/v1/scheduler"
        self.events: list[Json] = []
        self.changed = asyncio.Event()
        self.framework_id: Json | None = None
        self.stream_id = ""

    async def follow(self, info: Json) -> None:
        """One subscription until its stream ends."""
        body: Json = {"type": "SUBSCRIBE", "subscribe": {"framework_info": dict(info)}}
        if self.framework_id is not None:
            body["framework_id"] = self.framework_id
            body["subscribe"]["framework_info"]["id"] = self.framework_id
        async with self.session.post(self.url, json=body) as response:
            self.stream_id = response.headers["Mesos-Stream-Id"]
            while True:
                head = await response.content.readline()
                if not head:
                    return
                await self.take(orjson.loads(await response.content.readexactly(int(head))))

    async def take(self, event: Json) -> None:
        """Keep an event, acknowledge updates."""
        if event["type"] == "SUBSCRIBED":
            self.framework_id = event["subscribed"]["framework_id"]
        self.events.append(event)
        self.changed.set()
        status = event.get("update", {}).get("status", {})
        if "uuid" in status:
            fields = ("agent_id", "task_id", "uuid")
            # A master that has just begun anew may not know us yet: the update comes again.
            await self._call({"type": "ACKNOWLEDGE", "acknowledge": {f: status[f] for f in fields}})

    async def call(self, call: Json) -> None:
        """A call that must succeed."""
        status, text = await self._call(call)
        assert status in (200, 202), text

    async def _call(self, call: Json) -> tuple[int, str]:
        body = {"framework_id": self.framework_id, **call}
        headers = {"Mesos-Stream-Id": self.stream_id}
        async with self.session.post(self.url, json=body, headers=headers) as response:
            return response.status, await response.text()

    async def wait(self, wanted: Callable[[Json], bool], timeout_s: float = 40) -> Json:
        """The first event that `wanted` accepts."""
        async with asyncio.timeout(timeout_s):
            while True:
                for event in self.events:
                    if wanted(event):
                        return event
                self.changed.clear()
                await self.changed.wait()

    async def offer(self) -> Json:
        """The newest offer."""
        event = await self.wait(lambda e: e["type"] == "OFFERS")
        event["type"] = "USED"
        return dict(event["offers"]["offers"][0])

    async def launch(self, make: Callable[[str, Json], Json], name: str) -> Json:
        """Launch `make(task id, agent id)` and wait until it runs; the offer that served.

        An offer may be stale (its agent or master just died): then the next one is tried.
        """
        for attempt in range(10):
            offer = await self.offer()
            task_id = f"{name}-{attempt}" if attempt else name
            await self.call(launch_call(offer, [make(task_id, offer["agent_id"])]))

            def decided(event: Json, task_id: str = task_id) -> bool:
                status = event.get("update", {}).get("status", {})
                named = status.get("task_id", {}).get("value") == task_id
                return bool(named and status["state"] in ("TASK_RUNNING", "TASK_LOST"))

            event = await self.wait(decided)
            if event["update"]["status"]["state"] == "TASK_RUNNING":
                return offer
        raise AssertionError("no offer served")

    def after(self, first: Json, second: Json) -> bool:
        """Whether `second` came after `first`."""
        ids = [id(event) for event in self.events]
        return ids.index(id(second)) > ids.index(id(first))

    def forget_offers(self) -> None:
        """Offers seen so far are void."""
        self.events = [e for e in self.events if e["type"] != "OFFERS"]

    async def state(self, task_id: str, state: str, timeout_s: float = 40) -> Json:
        """Wait for a state of a task; its status."""

        def wanted(event: Json) -> bool:
            status = event.get("update", {}).get("status", {})
            named = status.get("task_id", {}).get("value") == task_id
            return bool(named and status["state"] == state)

        status: Json = (await self.wait(wanted, timeout_s))["update"]["status"]
        return status


class Process:
    """`python -m libs.minimesos …` as a child process."""

    def __init__(self, child: asyncio.subprocess.Process, ready: Json) -> None:
        self.child = child
        self.master: str = ready["master"]
        self.agents: list[str] = ready["agents"]

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal it and wait for its end."""
        if self.child.returncode is None:
            self.child.send_signal(number)
            await self.child.wait()


@asynccontextmanager
async def minimesos(*arguments: str) -> AsyncIterator[Process]:
    """Start and wait until it listens; killed at the end."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "libs.minimesos",
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(60):
            process = Process(child, orjson.loads(await child.stdout.readline()))
        yield process
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


@asynccontextmanager
async def scheduler(master: str, info: Json = FRAMEWORK) -> AsyncIterator[Scheduler]:
    """A subscribed scheduler."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        made = Scheduler(session, master)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(_ignore_breaks(made, info))
            await made.wait(lambda e: e["type"] == "SUBSCRIBED")
            yield made
            following.cancel()


async def _ignore_breaks(made: Scheduler, info: Json) -> None:
    while True:
        try:
            await made.follow(info)
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError):
            made.events.append({"type": "BROKEN"})
            made.changed.set()
        await asyncio.sleep(0.1)
