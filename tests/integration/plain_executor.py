"""An executor whose tasks are nothing but a report: `python -m tests.integration.plain_executor`, started by an agent.

For tests of what lies between the scheduler and Mesos' agents, where containers would add nothing.
"""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode

import aiohttp

from libs.common.clock import RngIds, SystemClock, system_rng
from libs.common.task import TaskReport
from libs.mesos import events
from libs.mesos.environment import ExecutorEnvironment
from libs.mesos.executor import ExecutorClient
from libs.mesos.http import AiohttpTransport


async def main() -> None:
    """Serve until told to shut down, or until the agent is gone for good."""
    environment, rng = ExecutorEnvironment.parse(os.environ), system_rng()
    async with aiohttp.ClientSession() as session:
        client = ExecutorClient(
            AiohttpTransport(session), environment, clock=SystemClock(), rng=rng, ids=RngIds(rng)
        )
        async with client.subscribe() as stream:
            async for event in stream:
                match event:
                    case events.Launch(task):
                        task_id = task["task_id"]["value"]
                        report = TaskReport(container=f"of-{task_id}", address="10.9.0.1")
                        data = b64encode(report.model_dump_json().encode()).decode()
                        running = client.make_status(task_id, "TASK_RUNNING", data=data)
                        await client.update(running)
                    case events.Kill(task_id):
                        await client.update(client.make_status(task_id, "TASK_KILLED"))
                    case events.Shutdown() | events.Error():
                        return
                    case _:
                        pass


if __name__ == "__main__":
    asyncio.run(main())
