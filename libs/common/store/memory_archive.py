"""Backup and restore of the memory store: a process of tests and of the simulation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from libs.common.store.base import Doc, Lease
from libs.common.store.bodies import decode_body, encode_body
from libs.common.store.memory import Stored, Table


class MemoryArchive:
    """See Archive."""

    def __init__(
        self, tables: dict[str, Table], epochs: dict[str, int], leases: dict[str, Lease]
    ) -> None:
        self._tables = tables
        self._epochs = epochs
        self._leases = leases

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[MemoryArchive]:
        """See Archive: no await is in between."""
        tables = {name: Table(docs=dict(table.docs)) for name, table in self._tables.items()}
        yield MemoryArchive(tables, dict(self._epochs), {})

    async def collections(self) -> list[str]:
        """See Archive."""
        return sorted(self._tables)

    async def page(self, collection: str, after: str, limit: int) -> list[Doc]:
        """See Archive."""
        docs = self._tables[collection].docs
        ids = sorted(each for each in docs if each > after)[:limit]
        return [
            Doc(each, docs[each].version, docs[each].body, docs[each].epoch, docs[each].outbox)
            for each in ids
        ]

    async def epochs(self) -> dict[str, int]:
        """See Archive."""
        return dict(self._epochs)

    async def put(self, collection: str, docs: Sequence[Doc]) -> None:
        """See Archive."""
        table = self._tables.setdefault(collection, Table())
        for doc in docs:
            raw = encode_body(doc.id, doc.body)
            table.put(doc.id, Stored(doc.version, doc.epoch, raw, decode_body(raw), doc.outbox))

    async def put_epochs(self, epochs: Mapping[str, int]) -> None:
        """See Archive."""
        self._epochs.update(epochs)

    async def clear(self) -> None:
        """See Archive."""
        for table in self._tables.values():
            for doc_id in list(table.docs):
                table.drop(doc_id)
        self._epochs.clear()
        self._leases.clear()
