"""Indexes of a MongoDB collection, and the guard document."""

from __future__ import annotations

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ASCENDING, UpdateOne
from pymongo.errors import DuplicateKeyError

from libs.common.errors import Conflict
from libs.common.store.base import CollectionSpec, Index
from libs.common.store.mongo_documents import GUARD_ID, Document, path, unescaped, unique_keys

_CHUNK = 1000


async def prepare(collection: AsyncIOMotorCollection[Document], spec: CollectionSpec) -> None:
    """Make what is missing. Raises Conflict when a unique index doesn't fit what is stored."""
    existing = dict(await collection.index_information())
    await _index(collection, existing, "guard", ["guard"], unique=True)
    await collection.update_one({"_id": GUARD_ID}, {"$set": {"guard": 1}}, upsert=True)
    await _index(collection, existing, "unsent", ["unsent"], sparse=True)
    for index in spec.indexes:
        own_id = ["_id"] if index.by_id else []
        keys = [path(each) for each in index.fields] + own_id
        await _index(collection, existing, index.name, keys)
    for index in spec.indexes:
        if index.unique:
            await _unique(collection, existing, index)


async def _unique(
    collection: AsyncIOMotorCollection[Document], existing: Document, index: Index
) -> None:
    name = f"unique_{index.name}"
    # Its fields may have changed under the same name: what is stored is compared, and filled in.
    await _fill_in(collection, index)
    try:
        await _index(collection, existing, name, [f"unique.{index.name}"], unique=True)
    except DuplicateKeyError as error:
        raise Conflict(f"collection {collection.name}: index {index.name}: {error}") from error


async def _fill_in(collection: AsyncIOMotorCollection[Document], index: Index) -> None:
    operations: list[UpdateOne] = []
    stored = collection.find({"version": {"$gt": 0}}, {"body": 1, "unique": 1, "version": 1})
    async for each in stored:
        key = unique_keys(unescaped(each["body"]), [index]).get(index.name)
        if key != each.get("unique", {}).get(index.name):
            field = f"unique.{index.name}"
            change = {"$unset": {field: ""}} if key is None else {"$set": {field: key}}
            same = {"_id": each["_id"], "version": each["version"]}
            operations.append(UpdateOne(same, change))
        if len(operations) >= _CHUNK:
            await collection.bulk_write(operations, ordered=False)
            operations.clear()
    if operations:
        await collection.bulk_write(operations, ordered=False)


async def _index(
    collection: AsyncIOMotorCollection[Document],
    existing: Document,
    name: str,
    fields: list[str],
    *,
    unique: bool = False,
    sparse: bool = False,
) -> None:
    keys = [(field, ASCENDING) for field in fields]
    if name in existing:
        if [(field, int(order)) for field, order in existing[name]["key"]] == keys:
            return
        await collection.drop_index(name)
    options: Document = {"sparse": True} if sparse or unique else {}
    if unique:
        options["unique"] = True
    await collection.create_index(keys, name=name, **options)
