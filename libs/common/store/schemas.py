"""A store whose documents may change their shape while old and new code run side by side (ADR 15).

`SchemaStore` goes around any adapter. Reading, a document comes out in this code's shape; writing, it goes in with the
version of its schema, and one that newer code wrote keeps what this code doesn't know. What each collection has come to
is in `gantry_schemas`, where code that is too old for it is refused when it starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from libs.common.errors import Outdated, Unavailable
from libs.common.store.base import (
    Archive,
    Body,
    Collection,
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
    Store,
    Versions,
    Where,
    Write,
    WriteResult,
    eq,
)
from libs.common.store.bodies import SCHEMA, schema_of
from libs.common.store.shapes import blended, marked, readable, upgraded

RECORDS = CollectionSpec("gantry_schemas")
FIELD = f"{SCHEMA}.version"
_INDEX = Index("schema", (FIELD,))
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Record:
    """What a collection has come to: the newest code's version, and the oldest that may run beside it."""

    collection: str
    version: int = 1
    readable_by: int = 1


class SchemaStore:
    """A `Store` around an adapter."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.opened: dict[str, SchemaCollection] = {}
        self._records: Collection | None = None

    async def collection(self, spec: CollectionSpec) -> SchemaCollection:
        """See Store. Raises Outdated when this code may not work with what is stored."""
        await self.admit(spec)
        indexes = spec.indexes if spec.schema.version == 1 else (*spec.indexes, _INDEX)
        inner = await self.inner.collection(replace(spec, indexes=indexes))
        await _check_oldest(inner, spec)
        opened = self.opened[spec.name] = SchemaCollection(inner, spec)
        return opened

    async def admit(self, spec: CollectionSpec) -> None:
        """Note that code of this version works with the collection. Raises Outdated when it may not."""
        if self._records is None:
            self._records = await self.inner.collection(RECORDS)
        records = self._records
        mine = Record(spec.name, spec.schema.version, spec.schema.readable_by)
        for _ in range(_TRIES):
            doc = await records.get(spec.name)
            known = record_of(doc) if doc else Record(spec.name)
            if mine.version < known.readable_by:
                raise Outdated(
                    f"collection {spec.name} is at version {known.version}, which may be used from"
                    f" version {known.readable_by} on; this code is of version {mine.version}"
                )
            version = max(known.version, mine.version)
            readable_by = max(known.readable_by, mine.readable_by)
            if (version, readable_by) == (known.version, known.readable_by):
                return
            body = {"version": version, "readable_by": readable_by}
            write = Write(spec.name, doc.version if doc else 0, body)
            (result,) = await records.replace_many([write])
            if result.ok:
                return
        raise Unavailable(f"the record of collection {spec.name} is being changed by too many")

    async def raise_epoch(self, name: str) -> int:
        """See Store."""
        return await self.inner.raise_epoch(name)

    async def take_lease(self, name: str, holder: str, now: float, ttl_s: float) -> Lease | None:
        """See Store."""
        return await self.inner.take_lease(name, holder, now, ttl_s)

    async def drop_lease(self, name: str, holder: str) -> None:
        """See Store."""
        await self.inner.drop_lease(name, holder)

    def archive(self) -> Archive:
        """See Store."""
        return self.inner.archive()

    async def close(self) -> None:
        """See Store."""
        await self.inner.close()


def record_of(doc: Doc) -> Record:
    """The record of a document."""
    return Record(doc.id, int(doc.body["version"]), int(doc.body["readable_by"]))


async def _check_oldest(collection: Collection, spec: CollectionSpec) -> None:
    """Nothing is left that this code can't read. Raises Outdated."""
    oldest = spec.schema.oldest
    if oldest == 1:
        return
    left = await collection.count((Where(FIELD, Op.LT, oldest),))
    left += await collection.count((eq(FIELD, None),))
    if left:
        raise Outdated(
            f"collection {spec.name} has {left} documents older than version {oldest}, the oldest that this code"
            " reads: run the release before until its sweep has rewritten them"
        )


class SchemaCollection:
    """A `Collection` in this code's shape."""

    def __init__(self, inner: Collection, spec: CollectionSpec) -> None:
        self.inner = inner
        self.spec = spec
        self._schema = spec.schema

    async def get(self, doc_id: str) -> Doc | None:
        """See Collection."""
        doc = await self.inner.get(doc_id)
        return None if doc is None else self._read(doc)

    async def get_many(self, doc_ids: Sequence[str]) -> dict[str, Doc]:
        """See Collection."""
        found = await self.inner.get_many(doc_ids)
        return {name: self._read(doc) for name, doc in found.items()}

    async def find(self, query: Query) -> Page:
        """See Collection. Conditions and order are of what is stored, not of what it is upgraded to."""
        page = await self.inner.find(query)
        return Page(tuple(map(self._read, page.docs)), page.more)

    async def versions(self, query: Query) -> Versions:
        """See Collection. Conditions and order are as `find` has them."""
        return await self.inner.versions(query)

    def _read(self, doc: Doc) -> Doc:
        body = readable(self.spec, doc.id, doc.body)
        return doc if body is doc.body else replace(doc, body=body)

    async def count(self, where: Sequence[Where] = ()) -> int:
        """See Collection."""
        return await self.inner.count(where)

    async def replace_many(
        self, writes: Sequence[Write], fence: Fence | None = None
    ) -> list[WriteResult]:
        """See Collection. What newer code has added to a document stays in it."""
        schema = self._schema
        ours = [
            Write(each.id, each.version, marked(schema, each.body), each.events, schema.version)
            for each in writes
        ]
        results = await self.inner.replace_many(ours, fence)
        newer = [at for at, result in enumerate(results) if result.outcome is Outcome.NEWER]
        if newer:
            blended_results = await self._over_newer([writes[at] for at in newer], fence)
            for at, result in zip(newer, blended_results, strict=True):
                results[at] = result
        return results

    async def _over_newer(self, writes: Sequence[Write], fence: Fence | None) -> list[WriteResult]:
        """Write over documents of newer code: they are read for what we don't know, and must not change meanwhile."""
        stored = await self.inner.get_many([write.id for write in writes])
        results = [WriteResult(Outcome.CONFLICT)] * len(writes)
        again: list[tuple[int, Write]] = []
        for at, write in enumerate(writes):
            doc = stored.get(write.id)
            if doc is not None and doc.version == write.version:
                readable(self.spec, doc.id, doc.body)  # may we still write here?
                body = blended(self._schema, write.body, doc.body)
                again.append((at, replace(write, body=body, schema=schema_of(doc.body))))
        done = await self.inner.replace_many([write for _, write in again], fence)
        for (at, _), result in zip(again, done, strict=True):
            # Newer still: somebody has rewritten it since. Whoever asked reads it again.
            lost = result.outcome is Outcome.NEWER
            results[at] = WriteResult(Outcome.CONFLICT) if lost else result
        return results

    async def rewrite(self, changes: Sequence[tuple[Doc, Body]]) -> int:
        """See Collection."""
        return await self.inner.rewrite(changes)

    async def upgrade(self, where: Where, after: str, limit: int) -> tuple[int, str]:
        """Rewrite documents of older shape, of up to `limit` that meet `where`; how many, and the last one's id.

        "" when there are no more. One that changes meanwhile is left to who changes it, or to the next time.
        """
        page = await self.inner.find(Query((where,), after=after, limit=limit))
        changes = []
        for doc in page.docs:
            version = schema_of(doc.body)
            body = {name: value for name, value in doc.body.items() if name != SCHEMA}
            if version < self._schema.version:
                fresh = upgraded(self.spec, doc.id, body, version)
                changes.append((doc, marked(self._schema, fresh)))
        done = await self.inner.rewrite(changes) if changes else 0
        return done, page.docs[-1].id if page.more and page.docs else ""

    def older(self) -> tuple[Where, Where]:
        """Conditions that documents of older shape meet, one or the other."""
        return eq(FIELD, None), Where(FIELD, Op.LT, self._schema.version)

    async def delete(self, doc_id: str, version: int, fence: Fence | None = None) -> WriteResult:
        """See Collection."""
        return await self.inner.delete(doc_id, version, fence)

    async def unsent(self, limit: int) -> Mapping[str, tuple[OutboxEvent, ...]]:
        """See Collection."""
        return await self.inner.unsent(limit)

    async def mark_sent(self, sent: Mapping[str, Sequence[str]]) -> None:
        """See Collection."""
        await self.inner.mark_sent(sent)
