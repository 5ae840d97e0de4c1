"""What all adapters agree on about bodies: their bytes, dotted paths, comparisons, order and unique keys.

A body is a JSON object. Filters, order and indexes are for fields that hold null, booleans, numbers or strings;
what they say of a field holding a list or an object is undefined. Values of different kinds never compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from libs.common.errors import InvalidInput
from libs.common.store.base import Body, Op, Query, Scalar, Where, Write

MAX_BODY_BYTES: Final = 8_000_000  # MongoDB takes 16 MB a document; the outbox needs room too

SCHEMA: Final = "_schema"
"""Where a body says of which schema it is: {"version": …, "readable": …}; version 1 says nothing."""


class _Missing:
    """The type of MISSING."""


MISSING: Final = _Missing()


def encode_body(doc_id: str, body: Body) -> bytes:
    """The body as JSON. Raises InvalidInput for what JSON can't carry and for more than MAX_BODY_BYTES."""
    try:
        raw = orjson.dumps(body, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError as error:
        raise InvalidInput.of(doc_id, f"body is not JSON: {error}") from error
    if len(raw) > MAX_BODY_BYTES:
        raise InvalidInput.of(doc_id, f"body has {len(raw)} bytes", f"at most {MAX_BODY_BYTES}")
    return raw


def decode_body(raw: bytes | str) -> dict[str, Any]:
    """The body of its JSON."""
    decoded: dict[str, Any] = orjson.loads(raw)
    return decoded


def schema_of(body: Body) -> int:
    """The version of the schema that a stored body is of."""
    return int(body[SCHEMA]["version"]) if SCHEMA in body else 1


def lookup(body: Body, path: str) -> Any:
    """The value at a dotted path, or MISSING. Paths go through objects only."""
    if "." not in path:
        return body.get(path, MISSING)
    value: Any = body
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return MISSING
        value = value[name]
    return value


def check_writes(writes: Sequence[Write]) -> None:
    """Raise ValueError when a batch writes a document twice."""
    if len({write.id for write in writes}) != len(writes):
        raise ValueError("a batch may write a document once only")


def check_query(query: Query) -> None:
    """Raise ValueError for a query that has no meaning."""
    if query.after and query.order:
        raise ValueError("`after` goes with the order by id only")
    if query.limit < 1:
        raise ValueError("`limit` must be at least 1")


def _rank(value: Any) -> int:
    # MongoDB's order of kinds, as far as it concerns us: null, numbers, strings, booleans.
    if value is MISSING or value is None:
        return 0
    if isinstance(value, bool):
        return 3
    if isinstance(value, int | float):
        return 1
    return 2 if isinstance(value, str) else 4


def order_key(body: Body, path: str) -> tuple[int, Any]:
    """Sorts documents by a field: missing and null first, then by value."""
    value = lookup(body, path)
    rank = _rank(value)
    return (rank, 0 if rank in (0, 4) else value)


_RANGES: Mapping[Op, Callable[[Any, Any], bool]] = {
    Op.LT: lambda a, b: a < b,
    Op.LE: lambda a, b: a <= b,
    Op.GT: lambda a, b: a > b,
    Op.GE: lambda a, b: a >= b,
}


def matches(body: Body, where: Sequence[Where]) -> bool:
    """Does the body meet all the conditions?"""
    return all(_meets(lookup(body, each.field), each) for each in where)


def _meets(value: Any, where: Where) -> bool:
    if where.op is Op.EQ:
        return same(value, where.value)
    if where.op is Op.EXISTS:
        return (value is not MISSING) == bool(where.value)
    if where.op is Op.IN:
        return isinstance(where.value, tuple) and any(same(value, each) for each in where.value)
    return (
        _rank(value) == _rank(where.value)
        and value is not None
        and value is not MISSING
        and _RANGES[where.op](value, where.value)
    )


def same(value: Any, wanted: Scalar | tuple[Scalar, ...]) -> bool:
    """EQ: null also stands for missing, and true is not 1."""
    if type(value) is type(wanted):
        return bool(value == wanted)
    if wanted is None:
        return value is MISSING
    return _rank(value) == _rank(wanted) and value == wanted


def unique_key(body: Body, fields: Sequence[str]) -> str | None:
    """What must be unique, as one string; None when a field is missing or null, and the index ignores the document."""
    values = [lookup(body, name) for name in fields]
    if any(value is MISSING or value is None for value in values):
        return None
    plain = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode()
