"""The suite's end of executor_proxy.py: executors that agents started dial in here."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROXY = Path(__file__).parent / "executor_proxy.py"


@dataclass(slots=True)
class Proxy:
    """One living executor process."""

    env: dict[str, str]
    pid: int
    writer: asyncio.StreamWriter

    async def exit(self, code: int) -> None:
        """Let the process end with that exit code."""
        self.writer.write(f"exit {code}\n".encode())
        await self.writer.drain()


@dataclass(slots=True)
class ExecutorHub:
    """Executors by executor id."""

    port: int = 0
    proxies: dict[str, Proxy] = field(default_factory=dict)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def command(self) -> str:
        """The shell command that starts a proxy for us."""
        return f"{sys.executable} {PROXY} 127.0.0.1 {self.port}"

    async def get(self, executor_id: str, timeout_s: float = 19.0) -> Proxy:
        """That executor, as soon as it has dialled in; the agent waits 20 s for it."""
        async with asyncio.timeout(timeout_s):
            while executor_id not in self.proxies:
                self._arrived.clear()
                await self._arrived.wait()
        return self.proxies[executor_id]

    async def _dialled(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        hello = json.loads(await reader.readline())
        proxy = Proxy(hello["env"], hello["pid"], writer)
        self.proxies[proxy.env["MESOS_EXECUTOR_ID"]] = proxy
        self._arrived.set()


@asynccontextmanager
async def executor_hub() -> AsyncIterator[ExecutorHub]:
    """Listens on a free loopback port; at the end all proxies see the connection close and exit."""
    hub = ExecutorHub()
    server = await asyncio.start_server(hub._dialled, "127.0.0.1", 0, limit=1024 * 1024)
    hub.port = server.sockets[0].getsockname()[1]
    try:
        yield hub
    finally:
        server.close()
        for writer in hub._writers:
            writer.close()
