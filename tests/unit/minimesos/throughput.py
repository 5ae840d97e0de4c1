"""How many virtual tasks a second minimesos launches through HTTP, and what they cost in memory.

    python -m tests.unit.minimesos.throughput [tasks] [agents] [per-accept] [command|executor]

"command": each task has an executor of its own, as Mesos makes it; "executor": one executor an agent.

Every task goes STARTING → RUNNING, every update is acknowledged by a call of its own. The
client is raw asyncio on a few keep-alive connections, so that it is not what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import uvloop

from tests.unit.minimesos.support import (
    FRAMEWORK,
    executor_task,
    launch_call,
    minimesos,
    task,
)

Json = dict[str, Any]
CONNECTIONS = 4


class Client:
    """A scheduler that accepts offers until all tasks are launched and acknowledges updates."""

    def __init__(self, host: str, port: int, tasks: int, per_accept: int, kind: str) -> None:
        self.make = task if kind == "command" else executor_task
        self.address = (host, port)
        self.left = tasks
        self.total = tasks
        self.per_accept = per_accept
        self.running = 0
        self.done = asyncio.Event()
        self.stream_id = ""
        self.framework_id: Json = {}
        self.queue: asyncio.Queue[Json] = asyncio.Queue()
        self.first_launch = 0.0

    async def follow(self) -> None:
        """Read the event stream."""
        reader, writer = await asyncio.open_connection(*self.address, limit=1 << 26)
        info = {**FRAMEWORK, "checkpoint": True}
        body = orjson.dumps({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}})
        writer.write(self.head(len(body), False) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"mesos-stream-id:"):
                self.stream_id = line.split(b":", 1)[1].strip().decode()
        while True:
            size = int(await reader.readline(), 16)
            chunk = await reader.readexactly(size + 2)
            self.take(orjson.loads(chunk[chunk.index(b"\n") + 1 : -2]))

    def head(self, length: int, call: bool) -> bytes:
        """Request line and headers."""
        stream = f"Mesos-Stream-Id: {self.stream_id}\r\n" if call else ""
        return (
            f"POST /api/v1/scheduler HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Accept: application/json\r\n{stream}Content-Length: {length}\r\n\r\n"
        ).encode()

    def take(self, event: Json) -> None:
        """Answer one event."""
        kind = event["type"]
        if kind == "SUBSCRIBED":
            self.framework_id = event["subscribed"]["framework_id"]
        elif kind == "OFFERS":
            self.first_launch = self.first_launch or time.monotonic()
            for offer in event["offers"]["offers"]:
                count = min(self.left, self.per_accept)
                if not count:
                    break
                self.left -= count
                tasks = [self.make(f"t{self.left + i}", offer["agent_id"]) for i in range(count)]
                self.queue.put_nowait(launch_call(offer, tasks))
        elif kind == "UPDATE":
            status = event["update"]["status"]
            fields = ("agent_id", "task_id", "uuid")
            body = {"type": "ACKNOWLEDGE", "acknowledge": {f: status[f] for f in fields}}
            self.queue.put_nowait(body)
            if status["state"] == "TASK_RUNNING":
                self.running += 1
                if self.running == self.total:
                    self.done.set()

    async def call(self) -> None:
        """Send queued calls on one connection, pipelined up to 64 deep."""
        reader, writer = await asyncio.open_connection(*self.address)
        while True:
            batch = [await self.queue.get()]
            with contextlib.suppress(asyncio.QueueEmpty):
                while len(batch) < 64:
                    batch.append(self.queue.get_nowait())
            for item in batch:
                body = orjson.dumps({"framework_id": self.framework_id, **item})
                writer.write(self.head(len(body), True) + body)
            for _ in batch:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 202"), head


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


async def main(tasks: int, agents: int, per_accept: int, kind: str) -> None:
    """Measure and print one line."""
    with tempfile.TemporaryDirectory() as work_dir:
        flags = (
            "all",
            "--port=0",
            "--agent_port=0",
            f"--agents={agents}",
            "--virtual",
            f"--work_dir={work_dir}",
            "--resources=cpus:100000;mem:100000000",
        )
        async with minimesos(*flags) as process:
            address = urlsplit(process.master)
            before = memory_mib(process.child.pid)
            assert address.hostname is not None and address.port is not None
            client = Client(address.hostname, address.port, tasks, per_accept, kind)
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(client.follow())]
                while not client.stream_id:
                    await asyncio.sleep(0.01)
                workers += [group.create_task(client.call()) for _ in range(CONNECTIONS)]
                await client.done.wait()
                took_s = time.monotonic() - client.first_launch
                after = memory_mib(process.child.pid)
                for worker in workers:
                    worker.cancel()
    print(
        f"{tasks} tasks on {agents} agents, {per_accept} an ACCEPT, {kind}: {took_s:.2f} s,"
        f" {tasks / took_s:.0f} tasks/s to RUNNING, RSS {before:.0f} -> {after:.0f} MiB"
    )


if __name__ == "__main__":
    words = [*sys.argv[1:], *["10000", "20", "500", "command"][len(sys.argv) - 1 :]]
    uvloop.run(main(int(words[0]), int(words[1]), int(words[2]), words[3]))
