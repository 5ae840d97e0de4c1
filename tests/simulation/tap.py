"""The world's store: the memory adapter, with an ear at every write that took effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from libs.common.store.base import CollectionSpec, Doc, Fence, Write, WriteResult
from libs.common.store.bodies import encode_body
from libs.common.store.faults import StoreFaults
from libs.common.store.memory import MemoryCollection, MemoryStore

OnWrite = Callable[[str, Write], None]
"""Told of each write that took effect: collection and write."""


class TapStore(MemoryStore):
    """A MemoryStore whose handles all tell `on_write`."""

    def __init__(
        self, on_write: OnWrite, faults: StoreFaults | None = None, world: Any = None
    ) -> None:
        super().__init__(faults, world)
        self._on_write = on_write

    def share(self, faults: StoreFaults | None = None) -> TapStore:
        """Another handle on the same data."""
        return TapStore(self._on_write, faults, self._world)

    async def collection(self, spec: CollectionSpec) -> MemoryCollection:
        """See Store."""
        await super().collection(spec)
        return _TapCollection(self, spec.name, self._world.tables[spec.name], self._on_write)

    def bodies(self, collection: str) -> dict[str, Mapping[str, Any]]:
        """All documents as they are now, for checks; costs no time and meets no fault."""
        return {i: each.body for i, each in self.stored(collection).items()}

    def stored(self, collection: str) -> Mapping[str, Any]:
        """A collection's documents by id, as they are kept: with version, body and outbox."""
        table = self._world.tables.get(collection)
        return table.docs if table else {}

    def lease_holder(self, name: str) -> str:
        """Who holds a lease, "" when nobody ever did."""
        lease = self._world.leases.get(name)
        return lease.holder if lease else ""

    def spoiled(self) -> list[str]:
        """Documents that a reader has changed in place, which only a write may do."""
        return [
            f"{name}/{doc_id}"
            for name, table in self._world.tables.items()
            for doc_id, stored in table.docs.items()
            if _is_spoiled(doc_id, stored)
        ]

    def body(self, collection: str, doc_id: str) -> Mapping[str, Any] | None:
        """One document as it is now."""
        stored = self.stored(collection).get(doc_id)
        return stored.body if stored else None


class _TapCollection(MemoryCollection):
    def __init__(self, store: TapStore, name: str, table: Any, on_write: OnWrite) -> None:
        super().__init__(store, name, table)
        self._on_write = on_write
        self._docs: dict[str, tuple[Any, Doc]] = {}  # what was handed out last, by id

    def _doc(self, doc_id: str) -> Doc | None:
        # The body as it is kept, not a copy: readers must not change it, and `spoiled` tells of one that did.
        stored = self._table.docs.get(doc_id)
        if stored is None:
            return None
        known = self._docs.get(doc_id)
        if known is not None and known[0] is stored and known[1].outbox is stored.outbox:
            return known[1]
        doc = Doc(doc_id, stored.version, stored.body, stored.epoch, stored.outbox)
        self._docs[doc_id] = (stored, doc)
        return doc

    def _write(self, write: Write, raw: bytes, fence: Fence | None) -> WriteResult:
        stored = self._table.docs.get(write.id)
        if stored is not None and _is_spoiled(write.id, stored):
            raise AssertionError(f"{self._name}/{write.id}: a reader changed what is stored")
        result = super()._write(write, raw, fence)
        if result.ok:
            self._on_write(self._name, write)
        return result


def _is_spoiled(doc_id: str, stored: Any) -> bool:
    return bool(encode_body(doc_id, stored.body) != stored.raw)
