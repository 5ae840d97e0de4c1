"""From the shape that a stored body has to the one that this code knows, and back. Pure.

An older body is led up by the schema's upgrades. A newer one is cut down to what this code knows, and what was cut off
is put back when the document is written: who knows less must not make others forget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel

from libs.common.errors import Outdated
from libs.common.store.base import Body, CollectionSpec, Reshape, Schema
from libs.common.store.bodies import SCHEMA, schema_of


def readable(spec: CollectionSpec, doc_id: str, stored: Body) -> Body:
    """A stored body as this code knows it. Raises Outdated for one that it can't know."""
    schema = spec.schema
    if SCHEMA not in stored and schema.version == 1:
        return stored
    version = schema_of(stored)
    body = {name: value for name, value in stored.items() if name != SCHEMA}
    if version > schema.version:
        if int(stored[SCHEMA]["readable"]) > schema.version:
            raise Outdated(
                f"{spec.name}/{doc_id} is of version {version}, which code of version"
                f" {schema.version} can't read; version {stored[SCHEMA]['readable']} can"
            )
        return schema.known(body) if schema.known else body
    return upgraded(spec, doc_id, body, version)


def upgraded(spec: CollectionSpec, doc_id: str, body: Body, version: int) -> Body:
    """A body of an older version, led up to this code's. Raises Outdated when the first step is no longer known."""
    schema = spec.schema
    if version < schema.oldest:
        raise Outdated(
            f"{spec.name}/{doc_id} is of version {version}; this code reads from {schema.oldest} on:"
            " run the release before until its sweep has rewritten all documents"
        )
    for upgrade in schema.upgrades[version - schema.oldest :]:
        body = upgrade(body)
    return body


def marked(schema: Schema, body: Body) -> Body:
    """A body of this code's as it is stored."""
    if schema.version == 1:
        return body
    return {**body, SCHEMA: {"version": schema.version, "readable": schema.readable_by}}


def blended(schema: Schema, written: Body, stored: Body) -> Body:
    """What goes in place of a newer body: what was written, and of what is stored the parts unknown here."""
    if schema.known is None:
        return {**written, SCHEMA: stored[SCHEMA]}
    plain = {name: value for name, value in stored.items() if name != SCHEMA}
    rest = unknown(plain, _plain(schema.known(plain)))
    return {**_with(_plain(written), rest), SCHEMA: stored[SCHEMA]}


def unknown(whole: Any, part: Any) -> Any:
    """What `whole` has and `part`, the same as far as it is known, lacks; None when nothing.

    Of an object: by name, what to put there and what to go into. Of a list: pairs of an item's identity and its own.
    """
    if isinstance(whole, Mapping) and isinstance(part, Mapping):
        own = {
            name: ("put", value) if name not in part else ("into", rest)
            for name, value in whole.items()
            if name not in part or (rest := unknown(value, part[name])) is not None
        }
        return own or None
    if isinstance(whole, list) and isinstance(part, list) and len(whole) == len(part):
        pairs = [
            (_identity(known), rest)
            for each, known in zip(whole, part, strict=True)
            if (rest := unknown(each, known)) is not None
        ]
        return pairs or None
    return None


def _with(written: Any, rest: Any) -> Any:
    """`written` with what `unknown` found put back, wherever its place is still there."""
    if rest is None:
        return written
    if isinstance(written, dict) and isinstance(rest, dict):
        result = dict(written)
        for name, (how, value) in rest.items():
            if how == "put":
                result.setdefault(name, value)
            elif name in result:
                result[name] = _with(result[name], value)
        return result
    if isinstance(written, list) and isinstance(rest, list):
        by_identity = dict(rest)
        return [_with(each, by_identity.get(_identity(each))) for each in written]
    return written


def _identity(item: Any) -> str:
    """What tells an item of a list from others: its id, or all that is known of it."""
    named = isinstance(item, Mapping) and "id" in item
    return orjson.dumps(item["id"] if named else item, option=orjson.OPT_SORT_KEYS).decode()


def _plain(body: Body) -> dict[str, Any]:
    """As JSON has it: lists, not tuples."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(body))
    return plain


def fields(*names: str) -> Reshape:
    """`Schema.known` of flat bodies with these fields."""
    return lambda body: {name: body[name] for name in names if name in body}


def known_to(
    model: type[BaseModel], *, by_id: str | bool = False, without_none: bool = False
) -> Reshape:
    """`Schema.known` of bodies that are a pydantic model's JSON; `by_id`: but for its field `id`, or of that name."""
    own = by_id if isinstance(by_id, str) else "id"

    def known(body: Body) -> Body:
        # Also of parts that refuse what their users misspell: newer code does not misspell.
        value = model.model_validate({**body, own: ""} if by_id else body, extra="ignore")
        out = {own} if by_id else None
        return value.model_dump(mode="json", by_alias=True, exclude=out, exclude_none=without_none)

    return known
