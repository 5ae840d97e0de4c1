"""One store of each kind, and handles on it such as other processes would have."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from libs.common.runtime import open_store
from libs.common.store.base import Store
from libs.common.store.memory import MemoryStore


class World:
    """The data of one test; `open` gives handles on it."""

    def __init__(self, kind: str, url: str, stack: AsyncExitStack) -> None:
        self.kind = kind
        self.url = url
        self._stack = stack
        self._memory = MemoryStore()

    async def open(self) -> Store:
        """A handle such as another process would have."""
        store = self._memory.share() if self.kind == "memory" else await open_store(self.url)
        self._stack.push_async_callback(store.close)
        return store


_names = itertools.count(1)


def mongo_database(mongo_url: str) -> str:
    """The server with a database of one's own."""
    server, options, query = mongo_url.partition("?")
    return f"{server.rstrip('/')}/t{os.getpid()}_{next(_names)}{options}{query}"


@asynccontextmanager
async def open_world(kind: str, directory: Path, mongo_url: str) -> AsyncIterator[World]:
    """The world of one test."""
    urls = {"memory": "memory:", "sqlite": f"sqlite://{directory / 'store.db'}"}
    async with AsyncExitStack() as stack:
        yield World(kind, urls.get(kind) or mongo_database(mongo_url), stack)
