"""Documents: compare-and-set, results a document, unique indexes under races, bodies as JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from libs.common.errors import Conflict, InvalidInput, Unavailable
from libs.common.store.base import (
    Collection,
    CollectionSpec,
    Index,
    Outcome,
    Store,
    Write,
    WriteResult,
    eq,
)
from libs.common.store.base import Query as Q
from tests.contract.store.conftest import THINGS
from tests.contract.store.helpers import event, load, named, put
from tests.contract.store.worlds import World

OK, CONFLICT, DUPLICATE = Outcome.OK, Outcome.CONFLICT, Outcome.DUPLICATE


async def test_versions_count_the_writes(things: Collection) -> None:
    assert await things.get("a") is None
    assert await put(things, "a", 0, {"n": 1}) is OK
    assert await put(things, "a", 1, {"n": 2}) is OK
    doc = await load(things, "a")
    assert (doc.id, doc.version, doc.body, doc.outbox) == ("a", 2, {"n": 2}, ())


@pytest.mark.parametrize("version", [0, 1, 3])
async def test_a_wrong_version_conflicts_and_changes_nothing(
    things: Collection, version: int
) -> None:
    await put(things, "a", 0, {"n": 1})
    await put(things, "a", 1, {"n": 2}, event(1))
    before = await load(things, "a")
    assert await put(things, "a", version, {"n": 3}, event(2)) is CONFLICT
    assert await load(things, "a") == before


async def test_a_missing_document_conflicts_and_stays_missing(things: Collection) -> None:
    assert await put(things, "ghost", 4, named("ghost"), event(1)) is CONFLICT
    assert await things.get("ghost") is None
    assert await things.count() == 0
    assert await things.unsent(10) == {}
    assert await put(things, "other", 0, named("ghost")) is OK


async def test_a_batch_has_a_result_for_each_write(things: Collection) -> None:
    for name in ("a", "b", "c"):
        await put(things, name, 0, named(name))
    writes = [
        Write("a", 1, named("a", ok=True)),
        Write("b", 7, named("b", ok=False)),
        Write("new", 0, named("new")),
        Write("c", 1, named("b")),
        Write("a2", 0, named("a")),
        Write("ghost", 1, named("g")),
        Write("b", 0, named("b")),
    ]
    with pytest.raises(ValueError, match="once"):
        await things.replace_many(writes)
    results = await things.replace_many(writes[:-1])
    assert results == [
        WriteResult(OK),
        WriteResult(CONFLICT),
        WriteResult(OK),
        WriteResult(DUPLICATE, "by_name"),
        WriteResult(DUPLICATE, "by_name"),
        WriteResult(CONFLICT),
    ]
    docs = await things.get_many(["a", "b", "c", "new", "a2", "ghost"])
    assert {name: doc.version for name, doc in docs.items()} == {"a": 2, "b": 1, "c": 1, "new": 1}
    assert await things.replace_many([]) == []


async def test_a_large_batch(things: Collection) -> None:
    for version in (0, 1):
        writes = [Write(f"d{n}", version, {"n": n, "version": version}) for n in range(1200)]
        assert all(each.ok for each in await things.replace_many(writes))
    assert await things.count() == 1200
    docs = await things.get_many([f"d{n}" for n in range(1200)])
    assert all(doc.version == 2 and doc.body["version"] == 1 for doc in docs.values())


async def test_one_of_many_racing_writers_wins_each_version(world: World) -> None:
    handles = [await (await world.open()).collection(THINGS) for _ in range(2)]
    await put(handles[0], "counter", 0, {"n": 0})

    async def count(things: Collection) -> int:
        done = 0
        while done < 10:
            doc = await load(things, "counter")
            if await put(things, "counter", doc.version, {"n": doc.body["n"] + 1}) is OK:
                done += 1
        return done

    await asyncio.gather(*(count(handles[n % 2]) for n in range(6)))
    doc = await load(handles[0], "counter")
    assert (doc.body["n"], doc.version) == (60, 61)


async def test_one_of_many_racing_inserts_gets_the_unique_value(world: World) -> None:
    handles = [await (await world.open()).collection(THINGS) for _ in range(2)]
    racers = [put(handles[n % 2], f"id-{n}", 0, named("same", n=n)) for n in range(50)]
    outcomes = await asyncio.gather(*racers)
    assert sorted(each.value for each in outcomes) == ["duplicate"] * 49 + ["ok"]
    assert await handles[0].count([eq("name", "same")]) == 1


async def test_one_of_many_racing_inserts_gets_the_id(world: World) -> None:
    handles = [await (await world.open()).collection(THINGS) for _ in range(2)]
    outcomes = await asyncio.gather(*(put(handles[n % 2], "id", 0, {"n": n}) for n in range(30)))
    assert sorted(each.value for each in outcomes) == ["conflict"] * 29 + ["ok"]


async def test_a_unique_value_is_free_again_when_given_up(things: Collection) -> None:
    await put(things, "a", 0, named("x"))
    assert await put(things, "a", 1, named("x", again=True)) is OK  # its own value is no duplicate
    assert await put(things, "b", 0, named("x")) is DUPLICATE
    assert await put(things, "a", 2, named("y")) is OK
    assert await put(things, "b", 0, named("x")) is OK
    assert (await things.delete("b", 1)).outcome is OK
    assert await put(things, "c", 0, named("x")) is OK


async def test_a_unique_index_ignores_documents_that_lack_a_field(things: Collection) -> None:
    bodies: list[dict[str, Any]] = [{"name": "x"}, {"place": {"zone": "z"}}, {"name": None}, {}]
    bodies += [{"place": "z", "name": "x"}, {"place": {"zone": None}, "name": "x"}]
    for n, body in enumerate(bodies + bodies):
        assert await put(things, f"d{n}", 0, body) is OK
    assert await put(things, "one", 0, named("x")) is OK
    assert await put(things, "two", 0, named("x")) is DUPLICATE


async def test_a_stale_write_with_a_taken_unique_value_is_a_conflict(things: Collection) -> None:
    await put(things, "a", 0, named("x"))
    await put(things, "b", 0, named("y"))
    await put(things, "b", 1, named("y"))
    assert await put(things, "b", 1, named("x")) is CONFLICT
    assert await put(things, "b", 0, named("x")) is CONFLICT
    assert await put(things, "b", 2, named("x")) is DUPLICATE


async def test_bodies_come_back_as_json(things: Collection) -> None:
    body = {
        "null": None, "true": True, "int": 2**62, "float": 1.5, "whole": 3.0, "text": "käse \u2028",
        "list": [1, [2.0, {"a.b": None}], "x"], "object": {"com.example/app": "v", "$set": {"%": 1}},
        "": "empty name", "zero\0": "in a name", "%2E": "escaped",
    }  # fmt: skip
    await put(things, "a", 0, body)
    found = (await load(things, "a")).body
    assert found == body
    assert [type(found[name]) for name in ("true", "int", "float", "whole")] == [
        bool, int, float, float,
    ]  # fmt: skip
    await put(things, "a", 1, {"tuple": (1, 2)})
    assert (await load(things, "a")).body == {"tuple": [1, 2]}


async def test_what_json_cannot_hold_is_refused(things: Collection) -> None:
    for value in ({1, 2}, object(), b"bytes"):
        with pytest.raises(InvalidInput):
            await put(things, "a", 0, {"value": value})
    with pytest.raises(InvalidInput, match="bytes"):
        await put(things, "a", 0, {"value": "x" * 8_000_001})
    assert await things.get("a") is None


async def test_nobody_changes_what_is_stored_by_changing_what_was_handed_over(
    things: Collection,
) -> None:
    body = {"list": [1]}
    await put(things, "a", 0, body)
    body["list"].append(2)
    (await load(things, "a")).body["list"].append(3)
    assert (await load(things, "a")).body == {"list": [1]}


async def test_delete_wants_the_version_and_an_empty_outbox(things: Collection) -> None:
    await put(things, "a", 0, {}, event(1))
    assert (await things.delete("a", 1)).outcome is CONFLICT
    await things.mark_sent({"a": ["e1"]})
    assert (await things.delete("a", 2)).outcome is CONFLICT
    assert (await things.delete("a", 1)).outcome is OK
    assert await things.get("a") is None
    assert (await things.delete("a", 1)).outcome is CONFLICT
    assert await put(things, "a", 0, {"born": "again"}) is OK
    assert (await load(things, "a")).version == 1


async def test_another_handle_sees_what_was_written(world: World) -> None:
    here = await (await world.open()).collection(THINGS)
    there = await (await world.open()).collection(THINGS)
    await put(here, "a", 0, {"n": 1}, event(1))
    assert await there.get("a") == await here.get("a")
    await put(there, "a", 1, {"n": 2})
    assert (await load(here, "a")).version == 2


async def test_collections_are_apart(store: Store, things: Collection) -> None:
    others = await store.collection(CollectionSpec("others", THINGS.indexes))
    await put(things, "a", 0, named("x"))
    assert await others.get("a") is None
    assert await put(others, "b", 0, named("x")) is OK


async def test_indexes_may_be_added_to_what_is_stored(world: World) -> None:
    plain = await (await world.open()).collection(CollectionSpec("grown"))
    for n in range(3):
        await put(plain, f"d{n}", 0, {"name": f"n{n}", "same": 1})
    unique = CollectionSpec("grown", (Index("by_name", ("name",), unique=True),))
    grown = await (await world.open()).collection(unique)
    assert await put(grown, "d3", 0, {"name": "n1"}) is DUPLICATE
    assert (await grown.find(Q((eq("name", "n1"),)))).docs[0].id == "d1"
    bad = CollectionSpec("grown", (*unique.indexes, Index("bad", ("same",), unique=True)))
    with pytest.raises(Conflict):
        await (await world.open()).collection(bad)


async def test_a_closed_store_says_so(world: World) -> None:
    store = await world.open()
    things = await store.collection(THINGS)
    await store.close()
    with pytest.raises(Unavailable):
        await things.get("a")
    with pytest.raises(Unavailable):
        await put(things, "a", 0, {})
    with pytest.raises(Unavailable):
        await store.raise_epoch("leader")
    await store.close()
