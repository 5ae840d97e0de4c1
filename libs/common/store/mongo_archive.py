"""Backup and restore of a MongoDB database. There is no snapshot: documents are of the moments they are read at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pymongo import ReplaceOne

from libs.common.store import mongo_documents as documents
from libs.common.store.base import Doc, Query
from libs.common.store.bodies import decode_body, encode_body
from libs.common.store.mongo_link import MongoLink

_EPOCHS, _LEASES = "gantry_epochs", "gantry_leases"


class MongoArchive:
    """See Archive."""

    def __init__(self, link: MongoLink) -> None:
        self._link = link

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[MongoArchive]:
        """See Archive."""
        yield self

    async def collections(self) -> list[str]:
        """See Archive."""
        async with self._link.calling("list collections"):
            names = await self._link.database.list_collection_names()
        own = {_EPOCHS, _LEASES}
        return sorted(each for each in names if each not in own and not each.startswith("system."))

    async def page(self, collection: str, after: str, limit: int) -> list[Doc]:
        """See Archive."""
        chosen, order = documents.page(Query(after=after))
        async with self._link.calling(f"read {collection}"):
            cursor = self._link[collection].find(chosen).sort(order).limit(limit)
            return [documents.to_doc(each) for each in await cursor.to_list(None)]

    async def epochs(self) -> dict[str, int]:
        """See Archive."""
        async with self._link.calling("read epochs"):
            found = await self._link[_EPOCHS].find({}).to_list(None)
        return {each["_id"]: int(each["epoch"]) for each in found}

    async def put(self, collection: str, docs: Sequence[Doc]) -> None:
        """See Archive. Unique indexes are filled in when the collection's service opens it."""
        operations = [
            ReplaceOne({"_id": each.id}, documents.restored(each, _plain(each)), upsert=True)
            for each in docs
        ]
        if operations:
            async with self._link.calling(f"restore {collection}"):
                await self._link[collection].bulk_write(operations, ordered=False)

    async def put_epochs(self, epochs: Mapping[str, int]) -> None:
        """See Archive."""
        async with self._link.calling("restore epochs"):
            for name, epoch in epochs.items():
                changes = {"$set": {"epoch": epoch}}
                await self._link[_EPOCHS].update_one({"_id": name}, changes, upsert=True)

    async def clear(self) -> None:
        """See Archive."""
        names = await self.collections()
        async with self._link.calling("clear"):
            for name in names:
                await self._link[name].delete_many({"version": {"$gt": 0}})
            for name in (_EPOCHS, _LEASES):
                await self._link[name].delete_many({})


def _plain(doc: Doc) -> dict[str, Any]:
    return decode_body(encode_body(doc.id, doc.body))
