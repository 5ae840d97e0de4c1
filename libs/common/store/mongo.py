"""The document store on MongoDB (standalone is enough), by motor. No transactions, change streams or pipeline updates.

One bulk write a batch, unordered. Its answer must tell which updates found their document, and MongoDB only counts
them. So each update is an upsert that cannot insert: `$setOnInsert` gives it the field `guard`, whose unique value a
hidden document holds. An update that finds nothing then fails by itself, with its place in the batch.

What fences do. `raise_epoch` first raises the number, which every fenced write reads before it acts, then the epoch
of each document that fenced writes of this name go to, which every fenced update demands to be no newer than its
own. So once it has returned, no update or delete of an older leader takes effect: what was under way has happened
before, where the new leader will read it, or is refused. The one gap: an *insert* that an older leader had under way
may still land afterwards, since one document's write can't look at another; the new leader's sweep will find it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from libs.common.errors import TimedOut, Unavailable
from libs.common.store import mongo_documents as documents
from libs.common.store.base import (
    Archive,
    Body,
    CollectionSpec,
    Doc,
    Fence,
    Lease,
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
    check_query,
    check_writes,
    decode_body,
    encode_body,
    matches,
    schema_of,
)
from libs.common.store.mongo_documents import Document
from libs.common.store.mongo_link import MongoLink
from libs.common.store.mongo_schema import prepare
from libs.common.store.mongo_url import parse_url

_DUPLICATE_KEY = 11000
_RAISE_TRIES = 200
_FIND_TRIES = 5
_LEASE_TRIES = 5
_OK = WriteResult(Outcome.OK)
_CONFLICT = WriteResult(Outcome.CONFLICT)
_FENCED = WriteResult(Outcome.FENCED)


class MongoStore:
    """A `Store` on MongoDB."""

    def __init__(self, link: MongoLink) -> None:
        self.link = link
        self._fenced: set[tuple[str, str]] = set()

    @classmethod
    async def open(cls, url: str) -> MongoStore:
        """Read the URL (see mongo_url.py; raises InvalidInput); the first call connects."""
        return cls(MongoLink(parse_url(url)))

    @property
    def _epochs(self) -> AsyncIOMotorCollection[Document]:
        return self.link["gantry_epochs"]

    @property
    def _leases(self) -> AsyncIOMotorCollection[Document]:
        return self.link["gantry_leases"]

    async def collection(self, spec: CollectionSpec) -> MongoCollection:
        """See Store. Raises Conflict when a new unique index doesn't fit what is stored."""
        async with self.link.calling(f"prepare {spec.name}"):
            await prepare(self.link[spec.name], spec)
        return MongoCollection(self, spec)

    async def raise_epoch(self, name: str) -> int:
        """See Store; and what the module says about fences."""
        async with self.link.calling("raise epoch"):
            epoch = await self._next_epoch(name)
            # Read after the raise: who adds a collection later sees the new epoch before it writes.
            found = await self._epochs.find_one({"_id": name})
            for collection in (found or {}).get("collections", ()):
                older = {"epoch": {"$lt": epoch}}
                await self.link[collection].update_many(older, {"$set": {"epoch": epoch}})
        return epoch

    async def _next_epoch(self, name: str) -> int:
        # By compare-and-set: not every server that speaks the protocol answers a racing
        # find-and-modify with the very version it made, and two leaders must not get one epoch.
        for _ in range(_RAISE_TRIES):
            found = await self._epochs.find_one({"_id": name})
            if found is None:
                with suppress(DuplicateKeyError):
                    await self._epochs.insert_one({"_id": name, "epoch": 0})
                continue
            epoch = int(found["epoch"])
            answer = await self._epochs.update_one(
                {"_id": name, "epoch": epoch}, {"$set": {"epoch": epoch + 1}}
            )
            if answer.modified_count:
                return epoch + 1
        raise Unavailable(f"mongodb: the epoch of {name} is being raised by too many")

    async def outdated(self, fence: Fence | None, collection: str) -> bool:
        """Is there a newer epoch? Also notes that fenced writes go to this collection."""
        if fence is None:
            return False
        if (fence.name, collection) not in self._fenced:
            # Before the first write: a raise from now on will go through this collection.
            with suppress(DuplicateKeyError):
                await self._epochs.insert_one({"_id": fence.name, "epoch": 0})
            await self._epochs.update_one(
                {"_id": fence.name}, {"$addToSet": {"collections": collection}}
            )
            self._fenced.add((fence.name, collection))
        found = await self._epochs.find_one({"_id": fence.name}, {"epoch": 1})
        return found is not None and int(found["epoch"]) > fence.epoch

    async def take_lease(self, name: str, holder: str, now: float, ttl_s: float) -> Lease | None:
        """See Store."""
        until = now + ttl_s
        async with self.link.calling("take lease"):
            for _ in range(_LEASE_TRIES):
                found = await self._leases.find_one({"_id": name})
                if found is None:
                    with suppress(DuplicateKeyError):
                        lease = {"_id": name, "holder": holder, "epoch": 1, "until": until}
                        await self._leases.insert_one(lease)
                        return Lease(name, holder, 1, until)
                    continue
                changes = found["holder"] != holder
                if changes and found["until"] > now:
                    return None
                epoch = int(found["epoch"]) + changes
                values = {"holder": holder, "epoch": epoch, "until": until}
                answer = await self._leases.update_one(found, {"$set": values})
                if answer.matched_count:
                    return Lease(name, holder, epoch, until)
        return None  # others are at it; whoever holds it, it isn't us

    async def drop_lease(self, name: str, holder: str) -> None:
        """See Store."""
        async with self.link.calling("drop lease"):
            # The document stays: its epoch must grow when somebody else takes it.
            await self._leases.update_one(
                {"_id": name, "holder": holder}, {"$set": {"until": float("-inf")}}
            )

    def archive(self) -> Archive:
        """For backup and restore."""
        from libs.common.store.mongo_archive import MongoArchive

        return MongoArchive(self.link)

    async def close(self) -> None:
        """See Store."""
        await self.link.close()


class MongoCollection:
    """A `Collection` of a MongoStore."""

    def __init__(self, store: MongoStore, spec: CollectionSpec) -> None:
        self._store = store
        self._name = spec.name
        self._indexes = spec.indexes

    @property
    def _collection(self) -> AsyncIOMotorCollection[Document]:
        return self._store.link[self._name]

    def _call(self, what: str) -> AbstractAsyncContextManager[None]:
        return self._store.link.calling(f"{self._name}.{what}")

    async def get(self, doc_id: str) -> Doc | None:
        """See Collection."""
        return (await self.get_many([doc_id])).get(doc_id)

    async def get_many(self, doc_ids: Sequence[str]) -> dict[str, Doc]:
        """See Collection."""
        async with self._call("get"):
            found = await self._collection.find({"_id": {"$in": list(doc_ids)}}).to_list(None)
        return {each["_id"]: documents.to_doc(each) for each in found if "version" in each}

    async def find(self, query: Query) -> Page:
        """See Collection."""
        docs, more = await self._page(query, None)
        return Page(tuple(docs), more)

    async def versions(self, query: Query) -> Versions:
        """See Collection."""
        docs, more = await self._page(query, documents.brief(query.where))
        return Versions({doc.id: doc.version for doc in docs}, more)

    async def _page(self, query: Query, fields: Document | None) -> tuple[list[Doc], bool]:
        check_query(query)
        chosen, order = documents.page(query, self._indexes)
        docs: list[Doc] = []
        more = False
        for _ in range(_FIND_TRIES):
            async with self._call("find"):
                cursor = self._collection.find(chosen, fields).sort(order).limit(query.limit + 1)
                found = await cursor.to_list(None)
            read = [documents.to_doc(each) for each in found[: query.limit]]
            docs, more = [d for d in read if matches(d.body, query.where)], len(found) > query.limit
            if len(docs) == len(read):
                break
            # The server chose by what was there a moment ago (mongo-java-server does): ask again.
        return docs, more

    async def count(self, where: Sequence[Where] = ()) -> int:
        """See Collection."""
        async with self._call("count"):
            return int(await self._collection.count_documents(documents.selection(where)))

    async def replace_many(
        self, writes: Sequence[Write], fence: Fence | None = None
    ) -> list[WriteResult]:
        """See Collection."""
        check_writes(writes)
        if not writes:
            return []
        operations = [self._operation(write, fence) for write in writes]
        async with self._call("replace_many"):
            if await self._store.outdated(fence, self._name):
                return [_FENCED] * len(writes)
            try:
                done = await self._collection.bulk_write(operations, ordered=False)
                answer = done.bulk_api_result
            except BulkWriteError as error:
                answer = dict(error.details)
            return await self._results(writes, fence, answer)

    def _operation(self, write: Write, fence: Fence | None) -> InsertOne[Document] | UpdateOne:
        # By way of JSON, so that every adapter stores the same: tuples become lists, enums values.
        body = decode_body(encode_body(write.id, write.body))
        if write.version == 0:
            epoch = fence.epoch if fence else 0
            return InsertOne(documents.insertion(write, body, self._indexes, epoch))
        wanted: Document = {"_id": write.id, "version": write.version}
        if fence is not None:
            wanted["epoch"] = {"$lte": fence.epoch}
        if write.schema:
            wanted[documents.SCHEMA_PATH] = {"$not": {"$gt": write.schema}}
        epoch_now = fence.epoch if fence else None
        update = documents.replacement(write, body, self._indexes, epoch_now)
        return UpdateOne(wanted, update, upsert=True)

    async def _results(
        self, writes: Sequence[Write], fence: Fence | None, answer: Document
    ) -> list[WriteResult]:
        errors = {each["index"]: each for each in answer.get("writeErrors", ())}
        strays = [each["index"] for each in answer.get("upserted", ())]
        if answer.get("writeConcernErrors"):
            raise TimedOut(f"mongodb: {self._name}: {answer['writeConcernErrors']}")
        results = [_OK] * len(writes)
        if strays:  # somebody removed the guard document
            ids = [writes[index].id for index in strays]
            await self._collection.delete_many({"_id": {"$in": ids}, "guard": 1})
        refused = sorted({*errors, *strays})
        if refused:
            stored = await self._stored([writes[index].id for index in refused])
            for index in refused:
                write = writes[index]
                results[index] = _reason(write, fence, stored.get(write.id), errors.get(index, {}))
        return results

    async def _stored(self, ids: Sequence[str]) -> dict[str, Document]:
        chosen = {"_id": {"$in": list(ids)}, "version": {"$gt": 0}}
        wanted = {"version": 1, "epoch": 1, documents.SCHEMA_FIELD: 1}
        found = await self._collection.find(chosen, wanted).to_list(None)
        return {each["_id"]: each for each in found}

    async def rewrite(self, changes: Sequence[tuple[Doc, Body]]) -> int:
        """See Collection."""
        if not changes:
            return 0
        operations = [
            UpdateOne(*documents.rewording(doc, body, self._indexes)) for doc, body in changes
        ]
        async with self._call("rewrite"):
            try:
                done = await self._collection.bulk_write(operations, ordered=False)
            except BulkWriteError as error:
                return int(error.details.get("nModified", 0))
            return int(done.modified_count)

    async def delete(self, doc_id: str, version: int, fence: Fence | None = None) -> WriteResult:
        """See Collection."""
        wanted: Document = {"_id": doc_id, "version": version, "outbox": {"$size": 0}}
        if fence is not None:
            wanted["epoch"] = {"$lte": fence.epoch}
        async with self._call("delete"):
            if await self._store.outdated(fence, self._name):
                return _FENCED
            answer = await self._collection.delete_one(wanted)
            if answer.deleted_count:
                return _OK
            stored = (await self._stored([doc_id])).get(doc_id)
            newer = fence is not None and stored is not None and stored["epoch"] > fence.epoch
            return _FENCED if newer else _CONFLICT

    async def unsent(self, limit: int) -> dict[str, tuple[OutboxEvent, ...]]:
        """See Collection."""
        async with self._call("unsent"):
            outboxes = self._collection.find({"unsent": True}, {"outbox": True}).limit(limit)
            found = await outboxes.to_list(None)
        return {each["_id"]: tuple(map(documents.unpack, each["outbox"])) for each in found}

    async def mark_sent(self, sent: Mapping[str, Sequence[str]]) -> None:
        """See Collection."""
        if not sent:
            return
        operations: list[UpdateOne | DeleteOne] = []
        for doc_id, event_ids in sent.items():
            gone = {"outbox": {"id": {"$in": list(event_ids)}}}
            operations.append(UpdateOne({"_id": doc_id}, {"$pull": gone}))
            # A write may have added events meanwhile: then the mark stays.
            empty = {"_id": doc_id, "outbox": {"$size": 0}}
            operations.append(UpdateOne(empty, {"$unset": {"unsent": ""}}))
        async with self._call("mark_sent"):
            await self._collection.bulk_write(operations, ordered=True)


def _reason(
    write: Write, fence: Fence | None, stored: Document | None, error: Document
) -> WriteResult:
    """Why nothing was written; `stored` is what is there now."""
    if error and error.get("code") != _DUPLICATE_KEY:
        raise Unavailable(f"mongodb: {write.id}: {error.get('errmsg')}")
    if stored is not None and fence is not None and stored["epoch"] > fence.epoch:
        return _FENCED
    if write.version != (stored["version"] if stored else 0):
        return _CONFLICT
    if stored is not None and write.schema and schema_of(stored.get("body", {})) > write.schema:
        return WriteResult(Outcome.NEWER)
    # E11000 duplicate key error collection: db.things index: unique_by_name dup key: …
    found = re.search(r"index: (?:\S+\.\$)?unique_(\S+)", str(error.get("errmsg", "")))
    return WriteResult(Outcome.DUPLICATE, found.group(1)) if found else _CONFLICT
