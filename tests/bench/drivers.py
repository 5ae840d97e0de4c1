"""driver_launches_per_s_<driver>, driver_updates_per_s_<driver>, driver_far_calls_per_s_<driver>: clients of Mesos.

Against one minimesos of its own process, whose agents run tasks without processes. Launches are counted while they are
all that is done: one ACCEPT after the other, as the scheduler sends them. Updates are counted from the first to the
last: received, and acknowledged by as many calls side by side as the scheduler makes. The third figure is of calls
alone, to a master that takes FAR_S for each answer: how many are under way at a time is what counts there.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from libs.mesos import calls, events
from libs.mesos.framework import FrameworkClient
from libs.mesos.messages import FrameworkInfo, Offer, TaskInfo
from services.scheduler.sending import CONCURRENT_CALLS
from tests.bench.report import Report
from tests.frameworks import KINDS, make_client
from tests.unit.mesos import server

AGENTS = 200
PER_AGENT = 20
TASKS = AGENTS * PER_AGENT
UPDATES = 2 * TASKS  # STARTING and RUNNING
FAR_S = 0.005
FAR_CALLS = 600
TIMEOUT_S = 120.0
INFO: FrameworkInfo = {
    "user": "root",
    "name": "bench",
    "roles": ["*"],
    "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}],
    "failover_timeout": 0.0,
    "checkpoint": True,
}


async def measure(report: Report) -> None:
    """Both, one after the other, each on a cluster of its own."""
    for kind in KINDS:
        async with _mesos() as url, aiohttp.ClientSession() as session, asyncio.timeout(TIMEOUT_S):
            launches, updates = await _run(make_client(kind, session, [url], INFO))
        note = f"{TASKS} tasks, {PER_AGENT} an ACCEPT"
        report.add(f"driver_launches_per_s_{kind}", launches, "tasks/s", note=note)
        note = f"{UPDATES} updates, {CONCURRENT_CALLS} calls side by side"
        report.add(f"driver_updates_per_s_{kind}", updates, "updates/s", note=note)
        note = f"{FAR_CALLS} calls, {FAR_S * 1000:g} ms for each answer"
        report.add(f"driver_far_calls_per_s_{kind}", await _far(kind), "calls/s", note=note)


@asynccontextmanager
async def _mesos() -> AsyncIterator[str]:
    flags = (f"--agents={AGENTS}", "--virtual=true", "--port=0", "--agent_port=0")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "libs.minimesos", "all", *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        yield str(orjson.loads(await process.stdout.readline())["master"])
    finally:
        process.kill()
        await process.wait()


async def _run(client: FrameworkClient) -> tuple[float, float]:
    """Launches and updates a second."""
    async with client.subscribe() as stream:
        offers = await _offers(stream)
        started = time.perf_counter()
        for offer in offers:
            tasks = [_task(offer, n) for n in range(PER_AGENT)]
            await client.accept([offer["id"]["value"]], [calls.launch(tasks)])
        launches = TASKS / (time.perf_counter() - started)
        return launches, await _acknowledge_all(client, stream)


async def _far(kind: str) -> float:
    """Calls a second to a slow master."""

    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await server.stream(request, [server.subscribed()], hold_s=TIMEOUT_S)
        await asyncio.sleep(FAR_S)
        return web.Response(status=202)

    async with server.peer(answer) as master, aiohttp.ClientSession() as session:
        client = make_client(kind, session, [master.url], INFO)
        async with client.subscribe() as stream:
            await anext(stream)
            left = iter(range(FAR_CALLS))
            started = time.perf_counter()

            async def revive() -> None:
                for _ in left:
                    await client.revive()

            await asyncio.gather(*(revive() for _ in range(CONCURRENT_CALLS)))
            return FAR_CALLS / (time.perf_counter() - started)


async def _offers(stream: AsyncIterator[events.SchedulerEvent]) -> list[Offer]:
    found: list[Offer] = []
    async for event in stream:
        if isinstance(event, events.Offers):
            found.extend(event.offers)
        if len(found) == AGENTS:
            break
    return found


def _task(offer: Offer, n: int) -> TaskInfo:
    return {
        "name": "bench",
        "task_id": calls.value(f"{offer['agent_id']['value']}-{n}"),
        "agent_id": offer["agent_id"],
        "resources": [calls.scalar("cpus", 0.1), calls.scalar("mem", 32.0)],
        "command": {"value": "serve", "shell": True},
    }


async def _acknowledge_all(
    client: FrameworkClient, stream: AsyncIterator[events.SchedulerEvent]
) -> float:
    """Updates a second, until the last is acknowledged."""
    waiting: asyncio.Queue[events.Update | None] = asyncio.Queue(1000)

    async def acknowledge() -> None:
        while (update := await waiting.get()) is not None:
            await client.acknowledge(update.status)

    started, count = time.perf_counter(), 0
    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENT_CALLS):
            group.create_task(acknowledge())
        async for event in stream:
            if isinstance(event, events.Update):
                count += 1
                await waiting.put(event)
            if count == UPDATES:
                break
        for _ in range(CONCURRENT_CALLS):
            await waiting.put(None)
    return count / (time.perf_counter() - started)
