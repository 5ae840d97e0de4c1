"""A small v1 executor on raw aiohttp, run as a real process by the tests.

Every task it is given runs until killed. It re-subscribes whenever its stream breaks, with what
it has no answers for, and appends one line per event to `$MESOS_SANDBOX/events`.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import orjson

Json = dict[str, Any]
# A forgotten executor must not outlive its test for long.
MAX_AWAY_S = 20.0


class Program:
    """State: tasks it runs, updates without an answer."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.url = f"http://{os.environ['MESOS_AGENT_ENDPOINT']}/api/v1/executor"
        self.ids: Json = {
            "framework_id": {"value": os.environ["MESOS_FRAMEWORK_ID"]},
            "executor_id": {"value": os.environ["MESOS_EXECUTOR_ID"]},
        }
        self.log = Path(os.environ["MESOS_SANDBOX"]) / "events"
        self.tasks: dict[str, Json] = {}
        self.pending: dict[str, Json] = {}
        self.away_since = time.monotonic()

    async def run(self) -> None:
        """Follow the agent until told to shut down."""
        while time.monotonic() - self.away_since < MAX_AWAY_S:
            try:
                await self.subscribe()
            except (aiohttp.ClientError, OSError) as error:
                self.note(f"broken {type(error).__name__}")
            await asyncio.sleep(0.1)

    def note(self, line: str) -> None:
        """Tell the test."""
        with self.log.open("a") as out:
            out.write(f"{time.time():.3f} {line}\n")

    async def post(self, kind: str, **body: Any) -> None:
        """One call; a lost one goes with the next SUBSCRIBE."""
        try:
            async with self.session.post(self.url, json={"type": kind, **self.ids, **body}) as r:
                await r.read()
        except (aiohttp.ClientError, OSError) as error:
            self.note(f"lost {kind} {type(error).__name__}")

    async def subscribe(self) -> None:
        """One stream, event by event; from its end, however it ends, the agent is away."""
        body = {
            "type": "SUBSCRIBE",
            **self.ids,
            "subscribe": {
                "unacknowledged_tasks": list(self.tasks.values()),
                "unacknowledged_updates": [{"status": s} for s in self.pending.values()],
            },
        }
        headers = {"Accept": "application/json"}
        async with self.session.post(self.url, json=body, headers=headers) as response:
            if response.status != 200:
                self.note(f"refused {response.status} {await response.text()}")
                return
            try:
                await self.read(response.content)
            finally:
                self.away_since = time.monotonic()

    async def read(self, content: aiohttp.StreamReader) -> None:
        """The events of a stream."""
        buffer = b""
        async for chunk in content.iter_any():
            buffer += chunk
            while b"\n" in buffer:
                head, _, rest = buffer.partition(b"\n")
                if len(rest) < int(head):
                    break
                buffer = rest[int(head) :]
                await self.handle(orjson.loads(rest[: int(head)]))

    async def handle(self, event: Json) -> None:
        """One event."""
        kind = event["type"]
        self.note(kind)
        if kind == "LAUNCH":
            task = event["launch"]["task"]
            self.tasks[task["task_id"]["value"]] = task
            await self.update(task["task_id"]["value"], "TASK_RUNNING")
        elif kind == "KILL":
            task_id = event["kill"]["task_id"]["value"]
            if self.tasks.pop(task_id, None) is not None:
                await self.update(task_id, "TASK_KILLED")
        elif kind == "ACKNOWLEDGED":
            self.pending.pop(event["acknowledged"]["uuid"], None)
        elif kind == "MESSAGE" and event["message"]["data"] == base64.b64encode(b"exit").decode():
            os._exit(5)
        elif kind == "SHUTDOWN":
            sys.exit(0)

    async def update(self, task_id: str, state: str) -> None:
        """A status update, kept until acknowledged."""
        status: Json = {
            "task_id": {"value": task_id},
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "executor_id": self.ids["executor_id"],
            "timestamp": time.time(),
            "uuid": base64.b64encode(uuid.uuid4().bytes).decode(),
        }
        self.pending[status["uuid"]] = status
        await self.post("UPDATE", update={"status": status})


async def main() -> None:
    """Run until SHUTDOWN."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=2)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await Program(session).run()


if __name__ == "__main__":
    asyncio.run(main())
