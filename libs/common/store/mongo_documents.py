"""How documents, queries and outbox events look in MongoDB. Pure; no calls here.

    {_id, version, epoch, body: {…}, outbox: [{id, topic, key, value, headers}], unsent: true?, unique: {index: key}}

`unsent` is there only while the outbox may hold something, and `unique.<index>` only when the document takes part in
that index, so that sparse indexes do what partial ones would. Field names are escaped, as MongoDB gives dots and
dollars a meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import orjson
from bson.int64 import Int64

from libs.common.store.base import Body, Doc, Index, Op, OutboxEvent, Query, Where, Write
from libs.common.store.bodies import SCHEMA, decode_body, encode_body, unique_key

Document = dict[str, Any]

GUARD_ID = "\x01guard"  # see mongo.py: the document that makes a stray upsert fail
SCHEMA_FIELD = f"body.{SCHEMA}"
SCHEMA_PATH = f"{SCHEMA_FIELD}.version"
NOTHING: Document = {"_id": {"$in": []}}
_RANGES = {Op.LT: "$lt", Op.LE: "$lte", Op.GT: "$gt", Op.GE: "$gte"}
_ESCAPES = (("%", "%25"), (".", "%2E"), ("$", "%24"), ("\0", "%00"))


def escape(name: str) -> str:
    """A field name as MongoDB takes it."""
    for char, escaped in _ESCAPES:
        if char in name:
            name = name.replace(char, escaped)
    return name


def unescape(name: str) -> str:
    """The field name of an escaped one."""
    if "%" not in name:
        return name
    for char, escaped in reversed(_ESCAPES):
        name = name.replace(escaped, char)
    return name


def escaped(value: Any) -> Any:
    """A JSON value with its field names escaped."""
    if isinstance(value, Mapping):
        return {escape(name): escaped(each) for name, each in value.items()}
    if isinstance(value, list):
        return [escaped(each) for each in value]
    return value


def unescaped(value: Any) -> Any:
    """A JSON value of one with escaped field names."""
    if isinstance(value, dict):
        return {unescape(name): unescaped(each) for name, each in value.items()}
    if isinstance(value, list):
        return [unescaped(each) for each in value]
    return int(value) if isinstance(value, Int64) else value


def unique_keys(body: Body, indexes: Sequence[Index]) -> Document:
    """What goes into `unique`."""
    keys = {each.name: unique_key(body, each.fields) for each in indexes if each.unique}
    return {name: key for name, key in keys.items() if key is not None}


def insertion(write: Write, body: Body, indexes: Sequence[Index], epoch: int) -> Document:
    """The new document of a write at version 0."""
    document = {
        "_id": write.id,
        "version": 1,
        "epoch": epoch,
        "body": escaped(body),
        "outbox": [pack(event) for event in write.events],
        "unique": unique_keys(body, indexes),
    }
    if write.events:
        document["unsent"] = True
    return document


def replacement(write: Write, body: Body, indexes: Sequence[Index], epoch: int | None) -> Document:
    """The update of a write at a later version."""
    values: Document = {"body": escaped(body), "unique": unique_keys(body, indexes)}
    if epoch is not None:
        values["epoch"] = epoch
    update: Document = {"$set": values, "$inc": {"version": 1}, "$setOnInsert": {"guard": 1}}
    if write.events:
        values["unsent"] = True
        update["$push"] = {"outbox": {"$each": [pack(event) for event in write.events]}}
    return update


def rewording(doc: Doc, body: Body, indexes: Sequence[Index]) -> tuple[Document, Document]:
    """Filter and update of a `rewrite`: the document exactly as it was read, and its new body."""
    plain = decode_body(encode_body(doc.id, body))
    same = {"_id": doc.id, "version": doc.version, "body": escaped(doc.body)}
    return same, {"$set": {"body": escaped(plain), "unique": unique_keys(plain, indexes)}}


def restored(doc: Doc, body: Document) -> Document:
    """A document as it was, but for what unique indexes need."""
    document = {
        "_id": doc.id,
        "version": doc.version,
        "epoch": doc.epoch,
        "body": escaped(body),
        "outbox": [pack(event) for event in doc.outbox],
        "unique": {},
    }
    if doc.outbox:
        document["unsent"] = True
    return document


def brief(where: Sequence[Where]) -> Document:
    """The projection on a document's version, and on what some conditions are about."""
    paths = {path(each.field) for each in where}
    # Of a field and one inside it the outer will do; the server refuses both.
    inner = {each for each in paths if any(each.startswith(f"{outer}.") for outer in paths)}
    return {"version": 1, **dict.fromkeys(sorted(paths - inner), 1)}


def to_doc(document: Document) -> Doc:
    """What the store's users see; of a brief one, what there is."""
    return Doc(
        document["_id"],
        document["version"],
        unescaped(document.get("body", {})),
        document.get("epoch", 0),
        tuple(unpack(each) for each in document.get("outbox", ())),
    )


def pack(event: OutboxEvent) -> Document:
    """An outbox event as it is stored."""
    return {
        "id": event.id,
        "topic": event.topic,
        "key": event.key,
        "value": event.value,
        "headers": [[name, value] for name, value in event.headers],
    }


def unpack(stored: Document) -> OutboxEvent:
    """The event of a stored one."""
    headers = tuple((name, bytes(value)) for name, value in stored["headers"])
    return OutboxEvent(
        stored["id"], stored["topic"], stored["key"], bytes(stored["value"]), headers
    )


def path(field: str) -> str:
    """Where a body field is in the document."""
    return "body." + ".".join(escape(name) for name in field.split("."))


def selection(where: Sequence[Where]) -> Document:
    """The filter for some conditions; it never selects the guard."""
    return {"$and": [{"version": {"$gt": 0}}, *(_condition(each) for each in where)]}


def _condition(where: Where) -> Document:
    name = path(where.field)
    if where.op is Op.EQ:
        return {name: where.value}
    if where.op is Op.IN:
        assert isinstance(where.value, tuple)
        return {name: {"$in": list(where.value)}}
    if where.op is Op.EXISTS:
        return {name: {"$exists": bool(where.value)}}
    return NOTHING if where.value is None else {name: {_RANGES[where.op]: where.value}}


def _by_unique(where: Sequence[Where], indexes: Sequence[Index]) -> Document | None:
    """The filter for strings in all fields of a unique index and nothing else: by the keys that it is kept by."""
    if not where or any(each.op not in (Op.EQ, Op.IN) for each in where):
        return None
    named = tuple(each.field for each in where)
    index = next((each for each in indexes if each.unique and each.fields == named), None)
    if index is None:
        return None
    values = [each.value if isinstance(each.value, tuple) else (each.value,) for each in where]
    if not all(isinstance(value, str) for those in values for value in those):
        return None
    keys = [orjson.dumps(list(each)).decode() for each in product(*values)]
    field = f"unique.{index.name}"
    return {field: keys[0]} if len(keys) == 1 else {field: {"$in": keys}}


def page(query: Query, indexes: Sequence[Index] = ()) -> tuple[Document, list[tuple[str, int]]]:
    """Filter and sort order of a query."""
    found = None if query.after else _by_unique(query.where, indexes)
    chosen = selection(query.where) if found is None else found
    direction = -1 if query.descending else 1
    if query.after:
        chosen["$and"].append({"_id": {"$lt" if query.descending else "$gt": query.after}})
    if query.order:
        return chosen, [(path(query.order), direction), ("_id", 1)]
    return chosen, [("_id", direction)]
