"""One store of each kind, and handles on it such as other processes would have."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from libs.common.runtime import open_store
from libs.common.store.memory import MemoryStore
from libs.common.store.schemas import SchemaStore
from tests.servers import MARK


class World:
    """The data of one test; `open` gives handles on it."""

    def __init__(self, kind: str, url: str, stack: AsyncExitStack) -> None:
        self.kind = kind
        self.url = url
        self._stack = stack
        self._memory = MemoryStore()

    async def open(self) -> SchemaStore:
        """A handle such as another process would have."""
        memory = SchemaStore(self._memory.share()) if self.kind == "memory" else None
        store = memory or await open_store(self.url)
        self._stack.push_async_callback(store.close)
        return store


_names = itertools.count(1)


def mongo_database(mongo_url: str) -> str:
    """The server with a database of one's own; whoever logs in does so where the URL said."""
    parts = urlsplit(mongo_url)
    query = parts.query
    if parts.username and "authSource=" not in query and "MONGODB-X509" not in query:
        query = f"{query}&authSource={parts.path.strip('/') or 'admin'}".lstrip("&")
    return urlunsplit(parts._replace(path=f"/{MARK}_{next(_names)}", query=query))


@asynccontextmanager
async def open_world(kind: str, directory: Path, mongo_url: str) -> AsyncIterator[World]:
    """The world of one test."""
    urls = {"memory": "memory:", "sqlite": f"sqlite://{directory / 'store.db'}"}
    async with AsyncExitStack() as stack:
        yield World(kind, urls.get(kind) or mongo_database(mongo_url), stack)
