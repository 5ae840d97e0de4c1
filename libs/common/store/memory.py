"""The document store in memory: deterministic, on one loop, without threads or a clock of its own.

Bodies are kept as JSON bytes, so nobody can change what is stored by changing what was handed in or out.
`share` gives another handle on the same data, with its own faults and its own close: a process of the simulation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from libs.common.errors import Conflict, TimedOut, Unavailable
from libs.common.store.base import (
    Archive,
    Body,
    CollectionSpec,
    Doc,
    Fence,
    Index,
    Lease,
    Op,
    OutboxEvent,
    Outcome,
    Page,
    Query,
    Versions,
    Where,
    Write,
    WriteResult,
)
from libs.common.store.bodies import (
    MISSING,
    check_query,
    check_writes,
    decode_body,
    encode_body,
    lookup,
    matches,
    order_key,
    schema_of,
    unique_key,
)
from libs.common.store.faults import NO_FAULTS, StoreFaults, StorePoint

_OK = WriteResult(Outcome.OK)
_CONFLICT = WriteResult(Outcome.CONFLICT)
_FENCED = WriteResult(Outcome.FENCED)


@dataclass(slots=True)
class Stored:
    """A document as it is kept."""

    version: int
    epoch: int
    raw: bytes
    body: dict[str, Any]  # for filters; never handed out
    outbox: tuple[OutboxEvent, ...]


@dataclass
class Table:
    """One collection's documents and what finds them."""

    indexes: dict[str, Index] = field(default_factory=dict)
    docs: dict[str, Stored] = field(default_factory=dict)
    unsent: dict[str, None] = field(default_factory=dict)
    holders: dict[str, dict[str, str]] = field(default_factory=dict)  # unique index → key → id
    groups: dict[str, dict[Any, dict[str, None]]] = field(
        default_factory=dict
    )  # field → value → ids

    def add_index(self, index: Index) -> None:
        """Index what is there already. Raises Conflict when a unique one doesn't fit it."""
        if self.indexes.get(index.name) == index:
            return
        if index.unique:
            keys = [unique_key(each.body, index.fields) for each in self.docs.values()]
            present = [key for key in keys if key is not None]
            if len(set(present)) != len(present):
                raise Conflict(f"index {index.name}: stored documents violate it")
            self.holders[index.name] = {}
        self.indexes[index.name] = index
        self.groups.setdefault(index.fields[0], {})
        for doc_id, stored in self.docs.items():
            self._enter(doc_id, stored.body)

    def violated(self, doc_id: str, body: Mapping[str, Any]) -> str:
        """The unique index that refuses `body` for `doc_id`, or ""."""
        for name, holders in self.holders.items():
            key = unique_key(body, self.indexes[name].fields)
            if key is not None and holders.get(key, doc_id) != doc_id:
                return name
        return ""

    def put(self, doc_id: str, stored: Stored) -> None:
        """Store, and keep the indexes."""
        self.drop(doc_id)
        self.docs[doc_id] = stored
        self._enter(doc_id, stored.body)
        if stored.outbox:
            self.unsent[doc_id] = None

    def drop(self, doc_id: str) -> None:
        """Forget a document, if it is there."""
        stored = self.docs.pop(doc_id, None)
        if stored is None:
            return
        self.unsent.pop(doc_id, None)
        for name, holders in self.holders.items():
            key = unique_key(stored.body, self.indexes[name].fields)
            if key is not None:
                del holders[key]
        for path, ids in self.groups.items():
            value = _hashable(lookup(stored.body, path))
            del ids[value][doc_id]
            if not ids[value]:
                del ids[value]

    def _enter(self, doc_id: str, body: Mapping[str, Any]) -> None:
        for name, holders in self.holders.items():
            key = unique_key(body, self.indexes[name].fields)
            if key is not None:
                holders.setdefault(key, doc_id)
        for path, ids in self.groups.items():
            ids.setdefault(_hashable(lookup(body, path)), {})[doc_id] = None

    def matching(self, where: Sequence[Where]) -> list[str]:
        """Ids of the documents that meet `where`, by an index where one helps."""
        ids, rest = self._candidates(where)
        return [i for i in ids if matches(self.docs[i].body, rest)] if rest else list(ids)

    def _candidates(self, where: Sequence[Where]) -> tuple[Iterable[str], Sequence[Where]]:
        """Ids that the best index leaves, and the conditions that it does not answer; all when none helps."""
        best: tuple[Mapping[str, object], Sequence[Where]] = self.docs, where
        for at, each in enumerate(where):
            if each.field in self.groups and each.value is not None:
                ids = self.groups[each.field]
                if each.op is Op.EQ:
                    found = ids.get(_hashable(each.value), {})
                    if len(found) < len(best[0]):
                        # By its hash true is 1, and a list may look like a string.
                        exact = isinstance(each.value, str) and each.value[:1] not in "[{"
                        best = found, (*where[:at], *where[at + 1 :]) if exact else where
                elif each.op is Op.IN and isinstance(each.value, tuple) and None not in each.value:
                    found = {i: None for value in each.value for i in ids.get(_hashable(value), ())}
                    if len(found) < len(best[0]):
                        best = found, where
        return best


def _hashable(value: Any) -> Any:
    if value is MISSING:
        return None
    return repr(value) if isinstance(value, list | dict) else value


@dataclass
class _World:
    """What all handles share."""

    tables: dict[str, Table] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)


class MemoryStore:
    """A `Store` in memory."""

    def __init__(self, faults: StoreFaults | None = None, world: _World | None = None) -> None:
        self._faults = faults or NO_FAULTS
        self._world = world or _World()
        self._closed = False

    def share(self, faults: StoreFaults | None = None) -> MemoryStore:
        """Another handle on the same data."""
        return MemoryStore(faults, self._world)

    async def collection(self, spec: CollectionSpec) -> MemoryCollection:
        """The collection, made with its indexes if need be."""
        await self.call("store.collection")
        table = self._world.tables.setdefault(spec.name, Table())
        for index in spec.indexes:
            table.add_index(index)
        return MemoryCollection(self, spec.name, table)

    async def raise_epoch(self, name: str) -> int:
        """See Store."""
        await self.call("store.raise_epoch")
        epoch = self._world.epochs[name] = self._world.epochs.get(name, 0) + 1
        self.answer("store.raise_epoch")
        return epoch

    async def take_lease(self, name: str, holder: str, now: float, ttl_s: float) -> Lease | None:
        """See Store."""
        await self.call("store.take_lease")
        leases = self._world.leases
        old = leases.get(name)
        if old is not None and old.holder != holder and old.until > now:
            return None
        epoch = 1 if old is None else old.epoch + (old.holder != holder)
        leases[name] = Lease(name, holder, epoch, now + ttl_s)
        self.answer("store.take_lease")
        return leases[name]

    async def drop_lease(self, name: str, holder: str) -> None:
        """See Store."""
        await self.call("store.drop_lease")
        lease = self._world.leases.get(name)
        if lease is not None and lease.holder == holder:
            # The row stays: its epoch must grow when somebody else takes it.
            self._world.leases[name] = replace(lease, until=float("-inf"))
        self.answer("store.drop_lease")

    def archive(self) -> Archive:
        """For backup and restore."""
        from libs.common.store.memory_archive import MemoryArchive

        return MemoryArchive(self._world.tables, self._world.epochs, self._world.leases)

    async def close(self) -> None:
        """Later calls through this handle raise Unavailable."""
        self._closed = True

    async def call(self, what: str) -> None:
        """Every call yields once, as a network would, then suffers what the faults say."""
        delay_s = self._faults.draw(StorePoint.CALL_DELAY, what)
        await asyncio.sleep(delay_s)
        if self._closed:
            raise Unavailable("the store is closed")
        if self._faults.draw(StorePoint.CALL_FAILS, what) > 0:
            raise Unavailable(f"{what}: the store can't be reached")

    def answer(self, what: str) -> None:
        """The deed is done; the answer may get lost."""
        if self._faults.draw(StorePoint.REPLY_LOST, what) > 0:
            raise TimedOut(f"{what}: no answer")

    def cut(self, what: str) -> int | None:
        """After how many writes of a batch the connection breaks, if it does."""
        drawn = int(self._faults.draw(StorePoint.BATCH_CUT, what))
        return drawn - 1 if drawn > 0 else None

    def newest_epoch(self, name: str) -> int:
        """The epoch that fences of `name` must not be older than."""
        return self._world.epochs.get(name, 0)


class MemoryCollection:
    """A `Collection` of a MemoryStore."""

    def __init__(self, store: MemoryStore, name: str, table: Table) -> None:
        self._store = store
        self._name = name
        self._table = table

    async def get(self, doc_id: str) -> Doc | None:
        """See Collection."""
        await self._store.call(f"{self._name}.get")
        return self._doc(doc_id)

    async def get_many(self, doc_ids: Sequence[str]) -> dict[str, Doc]:
        """See Collection."""
        await self._store.call(f"{self._name}.get_many")
        return {doc_id: doc for doc_id in doc_ids if (doc := self._doc(doc_id)) is not None}

    async def find(self, query: Query) -> Page:
        """See Collection."""
        ids, more = await self._chosen(query, "find")
        return Page(tuple(doc for i in ids if (doc := self._doc(i)) is not None), more)

    async def versions(self, query: Query) -> Versions:
        """See Collection."""
        ids, more = await self._chosen(query, "versions")
        return Versions({i: self._table.docs[i].version for i in ids}, more)

    async def _chosen(self, query: Query, what: str) -> tuple[list[str], bool]:
        check_query(query)
        await self._store.call(f"{self._name}.{what}")
        ids = self._table.matching(query.where)
        ids.sort(reverse=query.descending)
        if query.order:
            docs = self._table.docs
            ids.sort()
            ids.sort(key=lambda i: order_key(docs[i].body, query.order), reverse=query.descending)
        elif query.after:
            ids = [i for i in ids if (i < query.after if query.descending else i > query.after)]
        return ids[: query.limit], len(ids) > query.limit

    async def count(self, where: Sequence[Where] = ()) -> int:
        """See Collection."""
        await self._store.call(f"{self._name}.count")
        return len(self._table.matching(where))

    def _doc(self, doc_id: str) -> Doc | None:
        stored = self._table.docs.get(doc_id)
        if stored is None:
            return None
        body = decode_body(stored.raw)
        return Doc(doc_id, stored.version, body, stored.epoch, stored.outbox)

    async def replace_many(
        self, writes: Sequence[Write], fence: Fence | None = None
    ) -> list[WriteResult]:
        """See Collection."""
        check_writes(writes)
        raws = [encode_body(write.id, write.body) for write in writes]
        what = f"{self._name}.replace_many"
        await self._store.call(what)
        cut = self._store.cut(what)
        pairs = list(zip(writes, raws, strict=True))
        results = [self._write(write, raw, fence) for write, raw in pairs[:cut]]
        if cut is not None:
            raise TimedOut(f"{what}: the connection broke")
        self._store.answer(what)
        return results

    def _write(self, write: Write, raw: bytes, fence: Fence | None) -> WriteResult:
        stored = self._table.docs.get(write.id)
        if self._fenced(stored, fence):
            return _FENCED
        if write.version != (stored.version if stored else 0):
            return _CONFLICT
        if stored is not None and write.schema and schema_of(stored.body) > write.schema:
            return WriteResult(Outcome.NEWER)
        body = decode_body(raw)
        index = self._table.violated(write.id, body)
        if index:
            return WriteResult(Outcome.DUPLICATE, index)
        epoch = fence.epoch if fence else (stored.epoch if stored else 0)
        outbox = (stored.outbox if stored else ()) + write.events
        self._table.put(write.id, Stored(write.version + 1, epoch, raw, body, outbox))
        return _OK

    def _fenced(self, stored: Stored | None, fence: Fence | None) -> bool:
        if fence is None:
            return False
        newest = max(self._store.newest_epoch(fence.name), stored.epoch if stored else 0)
        return fence.epoch < newest

    async def rewrite(self, changes: Sequence[tuple[Doc, Body]]) -> int:
        """See Collection."""
        what = f"{self._name}.rewrite"
        await self._store.call(what)
        done = 0
        for doc, given in changes:
            stored = self._table.docs.get(doc.id)
            if stored is None or stored.version != doc.version or stored.body != doc.body:
                continue
            raw = encode_body(doc.id, given)
            body = decode_body(raw)
            if not self._table.violated(doc.id, body):
                fresh = Stored(stored.version, stored.epoch, raw, body, stored.outbox)
                self._table.put(doc.id, fresh)
                done += 1
        self._store.answer(what)
        return done

    async def delete(self, doc_id: str, version: int, fence: Fence | None = None) -> WriteResult:
        """See Collection."""
        what = f"{self._name}.delete"
        await self._store.call(what)
        stored = self._table.docs.get(doc_id)
        if self._fenced(stored, fence):
            return _FENCED
        if stored is None or stored.version != version or stored.outbox:
            return _CONFLICT
        self._table.drop(doc_id)
        self._store.answer(what)
        return _OK

    async def unsent(self, limit: int) -> dict[str, tuple[OutboxEvent, ...]]:
        """See Collection."""
        await self._store.call(f"{self._name}.unsent")
        return {each: self._table.docs[each].outbox for each in list(self._table.unsent)[:limit]}

    async def mark_sent(self, sent: Mapping[str, Sequence[str]]) -> None:
        """See Collection."""
        what = f"{self._name}.mark_sent"
        await self._store.call(what)
        for doc_id, event_ids in sent.items():
            stored = self._table.docs.get(doc_id)
            if stored is None:
                continue
            gone = set(event_ids)
            stored.outbox = tuple(event for event in stored.outbox if event.id not in gone)
            if not stored.outbox:
                self._table.unsent.pop(doc_id, None)
        self._store.answer(what)
