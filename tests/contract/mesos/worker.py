"""The worker behind a supervisor: an executor on `libs.mesos.ExecutorClient`, as the recorded one.

It lives in the suite; what Mesos sees is executor_proxy.py. Cancelling it is what killing a worker
process is to the agent: the connection breaks and nothing is said.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode

import aiohttp

from libs.common.clock import RngIds, SystemClock, system_rng
from libs.mesos import events
from libs.mesos.environment import ExecutorEnvironment
from libs.mesos.executor import ExecutorClient
from libs.mesos.http import AiohttpTransport
from libs.mesos.messages import TaskInfo
from tests.contract.mesos.executors import Proxy

DATA = "c29tZSBkYXRh"


async def run_worker(proxy: Proxy, pid: int, subscribed: asyncio.Event) -> None:
    """Serve until cancelled: STARTING, RUNNING, and FINISHED after the `sleep=` of the task's data."""
    environment = ExecutorEnvironment.parse(proxy.env)
    rng = system_rng()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        client = ExecutorClient(
            AiohttpTransport(session), environment, clock=SystemClock(), rng=rng, ids=RngIds(rng)
        )
        async with client.subscribe() as stream:
            async for event in stream:
                match event:
                    case events.ExecutorSubscribed():
                        subscribed.set()
                    case events.Launch(task):
                        tasks.create_task(_run(client, task, pid))
                    case events.Shutdown() | events.Error():
                        break
                    case _:
                        pass


async def _run(client: ExecutorClient, task: TaskInfo, pid: int) -> None:
    task_id = task["task_id"]["value"]
    await client.update(client.make_status(task_id, "TASK_STARTING"))
    running = client.make_status(task_id, "TASK_RUNNING", message=f"on {pid}", data=DATA)
    await client.update(running)
    wishes = b64decode(task.get("data", "")).decode()
    pause_s = next((w.partition("=")[2] for w in wishes.split(",") if w.startswith("sleep=")), "")
    await asyncio.sleep(float(pause_s or 1e6))
    await client.update(client.make_status(task_id, "TASK_FINISHED", message="end"))
