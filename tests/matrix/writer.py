"""What is asked of the API all the time while a part is broken; and is what it acknowledged there in the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

from infra.demo.story import NETWORK, Story
from libs.client import jobs
from libs.client.api import ENDED
from libs.client.jobs import JobRequestView
from libs.common.errors import GantryError, NotFound
from libs.common.jobs import JobSpec
from libs.common.spec import AppSpec

APPS = 5  # that the small writes go to
IDLE = "acme/idle"  # is scaled from nothing to nothing
JOB = "acme/asked"  # has no schedule: it is run when asked to
CALL_S = 15.0
POLL_S = 0.25
EACH_S = 1.0
ASK_S = 3.0
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


class Writer:
    """The requests of one cell. `since` is what its marks begin with: they grow from cell to cell."""

    def __init__(self, story: Story, since: int) -> None:
        self._story = story
        self._client = story.client
        self._since = since
        self.acknowledged = 0
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
            "command": ["/bin/true"],
            "resources": {"cpus": 0.05, "mem_mib": 32},
            "concurrency": "allow",
        }
        put = await self._client.jobs.put(JOB, JobSpec.model_validate(job))
        if isinstance(put, JobRequestView):
            state = await self._state(partial(self._of_request, put.request), deadline)
        assert state in ("succeeded", "done"), f"there is nothing to ask for: {state}"

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
        self.scales.append((await self._client.scale(IDLE, 0)).deployment)

    async def _run_now(self, _n: int) -> None:
        answer = await self._client.jobs.run(JOB)
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
        return [*lost(self.newest, there), *open_ends(ends)]

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
