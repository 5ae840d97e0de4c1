"""From queries to SQL. Paths stand in the SQL text, or SQLite would not use the indexes on them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from libs.common.store.base import Op, Query, Scalar, Where

Values = list[str | int | float]
_RANGES = {Op.LT: "<", Op.LE: "<=", Op.GT: ">", Op.GE: ">="}


def _path(field: str) -> str:
    names = field.split(".")
    if not all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names):
        raise ValueError(f"a field path must be letters, digits, _ and -: {field!r}")
    return "'$" + "".join(f'."{name}"' for name in names) + "'"


def expression(field: str) -> str:
    """The value of a body field; NULL when missing or null."""
    return f"json_extract(body, {_path(field)})"


def condition(where: Sequence[Where]) -> tuple[str, Values]:
    """A WHERE clause and its parameters."""
    values: Values = []
    clauses = [_clause(each, values) for each in where]
    return " AND ".join(clauses) or "1", values


def _clause(where: Where, values: Values) -> str:
    if where.op is Op.EXISTS:
        kind = f"json_type(body, {_path(where.field)})"
        return f"{kind} IS NOT NULL" if where.value else f"{kind} IS NULL"
    if where.op is Op.IN:
        assert isinstance(where.value, tuple)
        return _one_of(where.field, where.value, values)
    assert not isinstance(where.value, tuple)
    return _compare(
        where.field, "=" if where.op is Op.EQ else _RANGES[where.op], where.value, values
    )


def _one_of(field: str, wanted: Sequence[Scalar], values: Values) -> str:
    texts = [each for each in wanted if isinstance(each, str)]
    others = [each for each in wanted if not isinstance(each, str)]
    clauses = [_compare(field, "=", each, values) for each in others]
    if texts:
        values.extend(texts)
        clauses.append(f"{expression(field)} IN ({','.join('?' * len(texts))})")
    return f"({' OR '.join(clauses)})" if clauses else "0"


def _compare(field: str, operator: str, value: Scalar, values: Values) -> str:
    column = expression(field)
    if value is None:
        return f"{column} IS NULL" if operator == "=" else "0"
    values.append(value)
    if isinstance(value, str):
        # A text never equals a number, but is greater than any.
        return (
            f"{column} = ?"
            if operator == "="
            else f"(typeof({column}) = 'text' AND {column} {operator} ?)"
        )
    kinds = "('true', 'false')" if isinstance(value, bool) else "('integer', 'real')"
    return f"({column} {operator} ? AND json_type(body, {_path(field)}) IN {kinds})"


def select_page(select: str, query: Query) -> tuple[str, Values]:
    """The statement for a page and one row more, which tells whether there is more."""
    clause, values = condition(query.where)
    direction = "DESC" if query.descending else "ASC"
    if query.after:
        clause += f" AND id {'<' if query.descending else '>'} ?"
        values.append(query.after)
    order = f"{expression(query.order)} {direction}, id" if query.order else f"id {direction}"
    values.append(query.limit + 1)
    return f"{select} WHERE {clause} ORDER BY {order} LIMIT ?", values
