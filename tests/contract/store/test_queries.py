"""Filters, order and pages; and that all adapters answer random queries as the memory one does."""

from __future__ import annotations

import random
from typing import Any

import pytest

from libs.common.store.base import (
    Collection,
    CollectionSpec,
    Index,
    Op,
    Query,
    Store,
    Versions,
    Where,
    Write,
    eq,
    is_in,
)
from libs.common.store.memory import MemoryStore
from tests.contract.store.helpers import event, put

SPEC = CollectionSpec("queried", (Index("by_x", ("x",)), Index("by_ay", ("a.y", "x"))))


async def fill(things: Collection, bodies: list[dict[str, Any]]) -> None:
    """Documents d00, d01, … with these bodies."""
    writes = [Write(f"d{n:02}", 0, body) for n, body in enumerate(bodies)]
    assert all(each.ok for each in await things.replace_many(writes))


async def ids(things: Collection, *where: Where, **query: Any) -> list[str]:
    """The ids of a page."""
    return [doc.id for doc in (await things.find(Query(where, **query))).docs]


async def test_equality_knows_kinds(things: Collection) -> None:
    values: list[Any] = [1, "1", True, 1.0, None, 0, False, "", "a"]
    await fill(things, [*({"x": value} for value in values), {}])
    assert await ids(things, eq("x", 1)) == ["d00", "d03"]
    assert await ids(things, eq("x", "1")) == ["d01"]
    assert await ids(things, eq("x", True)) == ["d02"]
    assert await ids(things, eq("x", False)) == ["d06"]
    assert await ids(things, eq("x", 0)) == ["d05"]
    assert await ids(things, eq("x", "")) == ["d07"]
    assert await ids(things, eq("x", None)) == ["d04", "d09"]
    assert await ids(things, is_in("x", ["a", 1, None])) == ["d00", "d03", "d04", "d08", "d09"]
    assert await ids(things, is_in("x", [])) == []
    assert await ids(things, Where("x", Op.EXISTS, True)) == [f"d0{n}" for n in range(9)]
    assert await ids(things, Where("x", Op.EXISTS, False)) == ["d09"]


async def test_ranges_stay_within_a_kind(things: Collection) -> None:
    values: list[Any] = [1, 2.5, 3, "b", "c", True, None, "bb"]
    await fill(things, [{"x": value} for value in values])
    assert await ids(things, Where("x", Op.LT, 3)) == ["d00", "d01"]
    assert await ids(things, Where("x", Op.LE, 3)) == ["d00", "d01", "d02"]
    assert await ids(things, Where("x", Op.GT, 1)) == ["d01", "d02"]
    assert await ids(things, Where("x", Op.GE, "bb")) == ["d04", "d07"]
    assert await ids(things, Where("x", Op.LT, "c")) == ["d03", "d07"]
    assert await ids(things, Where("x", Op.LE, None)) == []
    assert await ids(things, Where("x", Op.GE, 1), Where("x", Op.LT, 2.6)) == ["d00", "d01"]


async def test_paths_go_into_objects(things: Collection) -> None:
    await fill(things, [{"a": {"b": {"c": 1}}}, {"a": {"b": 1}}, {"a": {"b": {"c": 2}}}, {}])
    assert await ids(things, eq("a.b.c", 1)) == ["d00"]
    assert await ids(things, eq("a.b.c", None)) == ["d01", "d03"]
    assert await ids(things, Where("a.b", Op.EXISTS, True)) == ["d00", "d01", "d02"]


async def test_pages_by_id(things: Collection) -> None:
    await fill(things, [{"x": n % 2} for n in range(10)])
    page = await things.find(Query((eq("x", 0),), limit=2))
    assert [doc.id for doc in page.docs] == ["d00", "d02"] and page.more
    page = await things.find(Query((eq("x", 0),), after="d02", limit=3))
    assert [doc.id for doc in page.docs] == ["d04", "d06", "d08"] and not page.more
    assert await ids(things, descending=True, limit=3) == ["d09", "d08", "d07"]
    assert await ids(things, descending=True, after="d02") == ["d01", "d00"]
    assert await ids(things, after="d09") == []


async def test_order_by_a_field(things: Collection) -> None:
    await fill(things, [{"x": 2}, {"x": 1}, {}, {"x": 2}, {"x": None}, {"x": 10}])
    assert await ids(things, order="x") == ["d02", "d04", "d01", "d00", "d03", "d05"]
    assert await ids(things, order="x", descending=True, limit=3) == ["d05", "d00", "d03"]


async def test_versions_are_listed_as_documents_are(things: Collection) -> None:
    await fill(things, [{"x": n % 2, "a": {"y": n}} for n in range(6)])
    await put(things, "d02", 1, {"x": 0, "a": {"y": 9}}, event(1))
    await things.delete("d05", 1)
    listed = await things.versions(Query((eq("x", 0),), limit=2))
    assert listed == Versions({"d00": 1, "d02": 2}, more=True)
    listed = await things.versions(Query((eq("x", 0),), after="d02"))
    assert listed == Versions({"d04": 1}, more=False)
    newest = await things.versions(Query(order="a.y", descending=True, limit=3))
    assert list(newest.of.items()) == [("d02", 2), ("d04", 1), ("d03", 1)] and newest.more
    inside = (Where("a", Op.EXISTS, True), Where("a.y", Op.LT, 2), eq("x", 1))
    assert await things.versions(Query(inside)) == Versions({"d01": 1})
    with pytest.raises(ValueError, match="limit"):
        await things.versions(Query(limit=0))


async def test_queries_without_meaning_are_refused(things: Collection) -> None:
    with pytest.raises(ValueError, match="after"):
        await things.find(Query(order="x", after="d00"))
    with pytest.raises(ValueError, match="limit"):
        await things.find(Query(limit=0))


async def test_counts(things: Collection) -> None:
    assert await things.count() == 0
    await fill(things, [{"x": n % 3} for n in range(9)])
    assert await things.count() == 9
    assert await things.count([eq("x", 1)]) == 3


async def test_indexed_fields_follow_every_change(store: Store) -> None:
    things = await store.collection(SPEC)
    await put(things, "a", 0, {"x": "old"})
    await put(things, "a", 1, {"x": "new"}, event(1))
    assert await ids(things, eq("x", "old")) == []
    assert await ids(things, eq("x", "new")) == ["a"]
    await things.mark_sent({"a": ["e1"]})
    await things.delete("a", 2)
    assert await ids(things, eq("x", "new")) == []
    assert await things.get_many(["a"]) == {}


_VALUES: list[Any] = [None, True, False, 0, 1, 2, 1.5, -3, "", "a", "b", "ab", "ä", "10"]


def _body(rng: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if rng.random() < 0.8:
        body["x"] = rng.choice(_VALUES)
    if rng.random() < 0.7:
        body["a"] = {"y": rng.choice(_VALUES)} if rng.random() < 0.8 else rng.choice(_VALUES)
    return body


def _where(rng: random.Random) -> Where:
    field, op = rng.choice(["x", "a.y"]), rng.choice(list(Op))
    if op is Op.IN:
        return is_in(field, [rng.choice(_VALUES) for _ in range(rng.randrange(4))])
    return Where(field, op, rng.random() < 0.5 if op is Op.EXISTS else rng.choice(_VALUES))


@pytest.mark.parametrize("seed", range(3))
async def test_random_queries_are_answered_as_the_memory_store_does(
    store: Store, seed: int
) -> None:
    rng = random.Random(seed)
    model = await MemoryStore().collection(CollectionSpec("model"))  # no indexes: it scans
    real = await store.collection(SPEC)
    bodies = [_body(rng) for _ in range(60)]
    await fill(model, bodies)
    await fill(real, bodies)
    for _ in range(150):
        where = tuple(_where(rng) for _ in range(rng.randrange(1, 4)))
        kinds = {type(body.get("x")) for body in bodies}
        order = "" if len(kinds) > 1 and rng.random() < 0.7 else "size"
        query = Query(where, order=order, descending=rng.random() < 0.3, limit=rng.randrange(1, 70))
        found = await real.find(query)
        assert found == await model.find(query), query
        listed = await real.versions(query)
        assert list(listed.of.items()) == [(doc.id, doc.version) for doc in found.docs], query
        assert listed.more == found.more
        assert await real.count(where) == await model.count(where), where


async def test_unique_values_are_found_and_pages_come_in_the_order_of_an_index(
    store: Store,
) -> None:
    indexes = (
        Index("name", ("name",), unique=True),
        Index("place", ("zone", "rack"), unique=True),
        Index("by_age", ("zone", "age"), by_id=True),
    )
    things = await store.collection(CollectionSpec("indexed", indexes))
    bodies: list[dict[str, Any]] = [
        {"name": f"n{n}", "zone": "ab"[n % 2], "rack": f"r{n // 2}", "age": n // 3}
        for n in range(10)
    ]
    await fill(things, [*bodies, {"name": 7}, {"zone": "a"}])
    assert await ids(things, eq("name", "n3")) == ["d03"]
    assert await ids(things, is_in("name", ["n8", "n1", "nobody"])) == ["d01", "d08"]
    assert await ids(things, is_in("name", ["n1", 7])) == ["d01", "d10"]
    assert await ids(things, is_in("name", ["n1", "n2"]), limit=1) == ["d01"]
    assert await ids(things, is_in("name", ["n1", "n2"]), after="d01") == ["d02"]
    assert await ids(things, eq("zone", "b"), eq("rack", "r1")) == ["d03"]
    assert await ids(things, eq("zone", "a"), is_in("rack", ["r0", "r4"])) == ["d00", "d08"]
    young = (eq("zone", "a"), Where("age", Op.LE, 2))
    assert await ids(things, *young, order="age", limit=3) == ["d00", "d02", "d04"]
    assert await ids(things, *young, order="age") == ["d00", "d02", "d04", "d06", "d08"]
