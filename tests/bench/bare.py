"""The peer: the same containers by bare aiodocker on the same engine, network none, nothing of Gantry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp

CONCURRENCY = 8
LABEL = "gantry.bench"


class BareDocker:
    """Create+start loops of a fixed concurrency."""

    def __init__(self, socket: Path, image: str) -> None:
        self._socket = socket
        self._image = image
        self._made: list[str] = []

    async def __aenter__(self) -> BareDocker:
        self._connector = aiohttp.UnixConnector(str(self._socket), limit=0)
        self._docker = aiodocker.Docker(url="unix://localhost", connector=self._connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.clear()
        await self._docker.close()
        await self._connector.close()

    def use(self, image: str) -> None:
        """Make containers of this image from now on."""
        self._image = image

    async def create(self, count: int, prefix: str) -> float:
        """Create and start `count` containers; seconds."""

        async def one(n: int) -> None:
            self._made.append(await self._start(f"{prefix}-{n}"))

        return await _timed(count, one)

    async def replace(self, count: int, prefix: str) -> float:
        """Start a new container beside each one there is, then remove that; seconds."""
        old = self._made[:count]

        async def one(n: int) -> None:
            fresh = await self._start(f"{prefix}-{n}")
            await self._docker.containers.container(old[n]).delete(force=True)
            self._made.remove(old[n])
            self._made.append(fresh)

        return await _timed(count, one)

    async def clear(self) -> None:
        """Remove all that were made."""
        made, self._made = self._made, []

        async def one(n: int) -> None:
            await self._docker.containers.container(made[n]).delete(force=True)

        await _timed(len(made), one)

    async def _start(self, name: str) -> str:
        config: dict[str, Any] = {
            "Image": self._image,
            "Labels": {LABEL: "1"},
            "HostConfig": {"NetworkMode": "none"},
        }
        container = await self._docker.containers.create(config, name=name)
        await container.start()
        return str(container.id)


async def _timed(count: int, work: Callable[[int], Awaitable[None]]) -> float:
    limit = asyncio.Semaphore(CONCURRENCY)

    async def one(n: int) -> None:
        async with limit:
            await work(n)

    started = time.perf_counter()
    await asyncio.gather(*(one(n) for n in range(count)))
    return time.perf_counter() - started
