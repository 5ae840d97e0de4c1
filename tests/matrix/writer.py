"""What is asked of the API all the time while a part is broken; and is what it acknowledged there in the end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from infra.demo.story import NETWORK, Story
from infra.local.processes import Daemon
from infra.provision.process import free_ports
from libs.client import jobs
from libs.client.api import ENDED
from libs.client.jobs import JobRequestView
from libs.common.errors import GantryError, NotFound
from libs.common.jobs import CHRONOS_NAME, JobSpec
from libs.common.spec import AppSpec
from tests.matrix.runs import carried_out, due, too_many
from tests.soak import witness

APPS = 5  # that the small writes go to
IDLE = "acme/idle"  # is scaled from nothing to nothing
JOB = "acme/asked"  # has no schedule: it is run when asked to
JOB_S = 0.2
CALL_S = 15.0
POLL_S = 0.25
EACH_S = 1.0
ASK_S = 3.0
PAGE = 100  # more than a cell asks for; as many runs are kept
SCALES, RUNS = "deployments", "runs"
T = TypeVar("T")


async def patiently(ask: Callable[[], Awaitable[T]], deadline: float) -> T:
    """The answer; errors are an outage's right, until the deadline."""
    while True:
        try:
            async with asyncio.timeout(CALL_S):
                return await ask()
        except (GantryError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(POLL_S)


@dataclass
class Witness:
    """Who is told by the job's runs that they begin and end; see `tests/soak/witness.py`."""

    story: Story
    port: int = field(default_factory=lambda: free_ports(1)[0])

    @property
    def _file(self) -> Path:
        return self.story.stack.layout.root / "witness.jsonl"

    @property
    def _daemon(self) -> Daemon:
        layout = self.story.stack.layout
        return Daemon("witness", layout.root / "witness.pid", layout.logs / "witness.log")

    @property
    def _address(self) -> str:
        vlans = self.story.stack.layout.vlans
        return str(next(vlan.gateway for vlan in vlans if vlan.name == NETWORK))

    def start(self) -> None:
        """Beside the load balancer, where runs can reach it."""
        layout = self.story.stack.layout
        enter = ("ip", "netns", "exec", layout.edge, sys.executable, "-m", "tests.soak.witness")
        listen = ("--host", self._address, "--port", str(self.port), "--out", str(self._file))
        self._file.touch()
        self._daemon.start((*enter, *listen), layout.repo)

    async def stop(self) -> None:
        """Whoever tells it something then fails."""
        await self._daemon.stop()

    def command(self) -> tuple[str, ...]:
        """What a run does."""
        return witness.command(self._address, self.port, JOB, JOB_S)

    def seen(self) -> list[witness.Seen]:
        """All processes of runs so far."""
        return witness.read(self._file.read_text().splitlines())


@dataclass
class Calls:
    """How many were made in all cells, and had an answer, by what is asked for. Those without may be done yet."""

    made: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)

    def open(self, what: str) -> int:
        """Of how many it is not known what has come of them."""
        return self.made[what] - self.answered[what]


class Writer:
    """The requests of one cell. `since` is what its marks begin with: they grow from cell to cell."""

    def __init__(self, story: Story, since: int, witness: Witness, calls: Calls) -> None:
        self._story = story
        self._client = story.client
        self._since = since
        self._witness = witness
        self._calls = calls
        self._before = {what: calls.open(what) - calls.made[what] for what in (SCALES, RUNS)}
        self._began = time.time()
        self._scaled: set[str] = set()  # deployments of IDLE that were there before
        self.acknowledged = 0
        self.witnessed = 0  # processes of runs
        self.newest: dict[str, int] = {}
        self.scales: list[str] = []  # deployments of which the API said 202
        self.requests: list[str] = []  # and changes of jobs
        self.runs: list[str] = []

    @property
    def accepted(self) -> int:
        """How many requests were answered before they were done."""
        return len(self.scales) + len(self.requests) + len(self.runs)

    async def begin(self, deadline: float) -> None:
        """What the requests are of: an app without instances, and a job."""
        spec = AppSpec.model_validate(self._story.spec("sample-web:v1", 0))
        await self._client.put_app(IDLE, spec)
        deployment = (await self._client.deploy(IDLE)).deployment
        state = await self._state(partial(self._of_scale, deployment), deadline)
        job = {
            "image": self._story.images["sample-web:v1"].reference,
            "network": NETWORK,
            "command": self._witness.command(),
            "resources": {"cpus": 0.05, "mem_mib": 32},
            "concurrency": "allow",
            "retry": {"delay_s": 1.0},
            "labels": {CHRONOS_NAME: JOB.partition("/")[2]},  # so that each try knows its id
        }
        put = await self._client.jobs.put(JOB, JobSpec.model_validate(job))
        if isinstance(put, JobRequestView):
            state = await self._state(partial(self._of_request, put.request), deadline)
        assert state in ("succeeded", "done"), f"there is nothing to ask for: {state}"

    async def look(self, deadline: float) -> None:
        """What is there before anything is asked."""
        self._scaled = await patiently(self._deployments, deadline)

    async def run(self) -> None:
        """Ask until cancelled. What the API refuses or does not answer is no promise."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again(EACH_S, self._write))
            group.create_task(self._again(ASK_S, self._scale))
            group.create_task(self._again(ASK_S, self._run_now))

    async def taken(self, deadline: float) -> None:
        """Returns when a write and a request have been taken, or at the deadline."""
        while not (self.acknowledged and self.accepted) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)

    async def _again(self, each_s: float, ask: Callable[[int], Awaitable[None]]) -> None:
        for n in range(10_000):
            try:
                async with asyncio.timeout(CALL_S):
                    await ask(n)
            except (GantryError, TimeoutError):
                pass
            await asyncio.sleep(each_s)

    async def _write(self, n: int) -> None:
        """Names what it replaces (If-Match): what was given up may be done yet, and must not undo a newer one."""
        app, mark = f"acme/w{n % APPS}", self._since + n
        content = {**self._story.spec("sample-web:v1", 0), "env": {"N": str(mark)}}
        etag = await self._etag(app)
        await self._client.put_app(app, AppSpec.model_validate(content), if_match=etag)
        self.acknowledged += 1
        self.newest[app] = mark

    async def _etag(self, app: str) -> str:
        try:
            return (await self._client.app(app))[1]
        except NotFound:
            return ""

    async def _scale(self, _n: int) -> None:
        self._calls.made[SCALES] += 1
        self.scales.append((await self._client.scale(IDLE, 0)).deployment)
        self._calls.answered[SCALES] += 1

    async def _run_now(self, _n: int) -> None:
        self._calls.made[RUNS] += 1
        answer = await self._client.jobs.run(JOB)
        self._calls.answered[RUNS] += 1
        if isinstance(answer, JobRequestView):
            self.requests.append(answer.request)
        else:
            self.runs.append(answer.run)

    # -- judging

    async def broken(self, deadline: float) -> list[str]:
        """Promises that were not kept: writes that are not there, and requests that have not come to their end."""
        there: dict[str, int] = {}
        for app in self.newest:
            view, _ = await patiently(partial(self._client.app, app), deadline)
            there[app] = int(view.spec["env"]["N"])
        ends: dict[str, str] = {}
        for scale in self.scales:
            ask = partial(self._of_scale, scale)
            ends[f"scale {scale}"] = await self._state(ask, deadline)
        for request in self.requests:
            ask = partial(self._of_request, request)
            ends[f"job request {request}"] = await self._state(ask, deadline)
        for run in self.runs:  # those of the requests above are among them by now
            ends[f"run {run}"] = await self._state(partial(self._of_run, run), deadline)
        return [*lost(self.newest, there), *open_ends(ends), *await self._doubled(deadline)]

    async def _doubled(self, deadline: float) -> list[str]:
        """What was carried out more than once, or not asked for at all."""
        views = (await patiently(partial(self._client.jobs.runs, JOB, limit=PAGE), deadline)).runs
        runs = [each for each in views if each.target >= self._began]
        seen = [each for each in self._witness.seen() if due(each) >= self._began]
        self.witnessed = len(seen)
        made = await patiently(self._deployments, deadline) - self._scaled
        return [
            *carried_out(runs, seen),
            *too_many(RUNS, {each.run for each in runs}, self._asked(RUNS)),
            *too_many(SCALES, made, self._asked(SCALES)),
        ]

    def _asked(self, what: str) -> int:
        """How often in this cell, with what earlier ones had no answer to."""
        return self._calls.made[what] + self._before[what]

    async def _deployments(self) -> set[str]:
        found = await self._client.deployments(IDLE, limit=PAGE)
        return {each.deployment for each in found.deployments}

    async def _state(self, ask: Callable[[], Awaitable[str]], deadline: float) -> str:
        """The state that it does not leave, or whatever it is in at the deadline."""
        state = "unknown"
        while time.monotonic() < deadline:
            try:
                state = await patiently(ask, deadline)
            except (GantryError, TimeoutError) as error:
                return f"{type(error).__name__}: {error}"
            if state in ALL_ENDS:
                return state
            await asyncio.sleep(POLL_S)
        return state

    async def _of_scale(self, deployment: str) -> str:
        return (await self._client.deployment(deployment)).state

    async def _of_request(self, request: str) -> str:
        view = await self._client.jobs.request(request)
        if view.run and view.run not in self.runs:
            self.runs.append(view.run)
        return view.state

    async def _of_run(self, run: str) -> str:
        return (await self._client.jobs.one_run(run)).state


ALL_ENDS = ENDED | jobs.ENDED | {"done"}
"""States that a deployment, a run or a change of a job does not leave. (A change may be `refused`, as a deployment.)"""


def lost(acknowledged: Mapping[str, int], there: Mapping[str, int]) -> list[str]:
    """Writes of which the API said that they are kept, and an older one is there. By app; newer is more."""
    return [
        f"write {mark} of {app} was acknowledged and is not there"
        for app, mark in acknowledged.items()
        if there.get(app, -1) < mark
    ]


def open_ends(states: Mapping[str, str]) -> list[str]:
    """Requests of which the API said 202, and that have not ended after all. By their names."""
    return [
        f"{name} was accepted and is {state}"
        for name, state in states.items()
        if state not in ALL_ENDS
    ]
