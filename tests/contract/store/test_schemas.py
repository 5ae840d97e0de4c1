"""Documents change their shape while code of two versions works with them, on every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import Outdated
from libs.common.store.base import Body, CollectionSpec, Fence, Index, Outcome, Query, Schema, Write
from libs.common.store.bodies import SCHEMA
from libs.common.store.schemas import SchemaCollection, SchemaStore
from libs.common.store.upkeep import keep_documents, sweep
from libs.common.telemetry import make_log
from tests.contract.store.helpers import event, load, put
from tests.contract.store.worlds import World

LOG = make_log("test")
INDEXES = (Index("by_name", ("name",), unique=True), Index("by_size", ("size",)))


def _known(body: Body) -> Body:
    """What version 1 knows: a name, a size, a note that may be missing, labels, and parts with an id and a colour."""
    known: dict[str, Any] = {name: body[name] for name in ("name", "size", "labels")}
    known["parts"] = [{"id": each["id"], "colour": each["colour"]} for each in body["parts"]]
    return {**known, **({"note": body["note"]} if "note" in body else {})}


def _with_unit(body: Body) -> Body:
    return {**body, "unit": "mm"}


def _in_metres(body: Body) -> Body:
    rest = {name: value for name, value in body.items() if name not in ("size", "unit")}
    return {**rest, "metres": body["size"] / 1000}


V1 = CollectionSpec("boxes", INDEXES, Schema(known=_known))
V2 = CollectionSpec("boxes", INDEXES, Schema(2, 1, (_with_unit,)))  # expand: v1 works beside it
V3 = CollectionSpec("boxes", INDEXES[:1], Schema(3, 2, (_with_unit, _in_metres)))  # contract
V4 = CollectionSpec(
    "boxes", INDEXES[:1], Schema(4, 3, (lambda body: body,))
)  # knows no v2 any more


def box(name: str, size: int = 1, **more: Any) -> dict[str, Any]:
    """A body of version 1."""
    parts = [{"id": "lid", "colour": "red"}, {"id": "base", "colour": "blue"}]
    return {"name": name, "size": size, "labels": {"a": "1"}, "parts": parts, **more}


async def opened(world: World, spec: CollectionSpec) -> SchemaCollection:
    """The collection as a process of that version has it."""
    return await (await world.open()).collection(spec)


async def stored(collection: SchemaCollection, doc_id: str) -> Mapping[str, Any]:
    """The body as it is in the store."""
    return (await load(collection.inner, doc_id)).body


async def test_an_old_document_is_read_in_the_new_shape_and_keeps_its_version(world: World) -> None:
    old = await opened(world, V1)
    assert await put(old, "a", 0, box("a")) is Outcome.OK
    new = await opened(world, V2)
    doc = await load(new, "a")
    assert (doc.version, doc.body) == (1, {**box("a"), "unit": "mm"})
    assert (await new.find(Query())).docs == (doc,)
    assert (await new.get_many(["a"])) == {"a": doc}
    assert SCHEMA not in await stored(new, "a")  # reading writes nothing


async def test_older_code_keeps_what_newer_code_added(world: World) -> None:
    old, new = await opened(world, V1), await opened(world, V2)
    body = box("a", note="old") | {"unit": "inch"}
    body["parts"] = [{"id": "lid", "colour": "red", "hinges": 2}, {"id": "base", "colour": "blue"}]
    assert await put(new, "a", 0, body) is Outcome.OK
    seen = await load(old, "a")
    assert seen.body == box("a", note="old")  # no unit, no hinges: it can't choke on them
    changed = box(
        "a", size=7
    )  # without the note and the label, with the parts turned round and another colour
    changed["labels"] = {}
    changed["parts"] = [{"id": "base", "colour": "blue"}, {"id": "lid", "colour": "green"}]
    assert await put(old, "a", 1, changed, event(1)) is Outcome.OK
    now = await load(new, "a")
    assert now.version == 2 and [each.id for each in now.outbox] == ["e1"]
    parts = [{"id": "base", "colour": "blue"}, {"id": "lid", "colour": "green", "hinges": 2}]
    assert now.body == {**changed, "unit": "inch", "parts": parts}
    assert (await load(old, "a")).body == changed
    # And on: what older code has written over it is still newer code's document.
    assert await put(old, "a", 2, box("a", size=8)) is Outcome.OK
    assert (await load(new, "a")).body["unit"] == "inch"


async def test_writes_over_newer_documents_obey_versions_fences_and_unique_indexes(
    world: World,
) -> None:
    store = await world.open()
    old, new = await store.collection(V1), await opened(world, V2)
    assert await put(new, "a", 0, box("a", unit="inch")) is Outcome.OK
    assert await put(new, "b", 0, box("b", unit="inch")) is Outcome.OK
    assert await put(old, "a", 2, box("a")) is Outcome.CONFLICT
    assert await put(old, "a", 1, box("b")) is Outcome.DUPLICATE
    first = Fence("leader", await store.raise_epoch("leader"))
    later = Fence("leader", await store.raise_epoch("leader"))
    assert await put(old, "a", 1, box("a", size=2), fence=later) is Outcome.OK
    assert await put(old, "a", 2, box("a", size=3), fence=first) is Outcome.FENCED
    mixed = [Write("a", 2, box("a", 4)), Write("c", 0, box("c")), Write("b", 9, box("b"))]
    results = [each.outcome for each in await old.replace_many(mixed)]
    assert results == [Outcome.OK, Outcome.OK, Outcome.CONFLICT]
    assert (await load(new, "a")).body == {**box("a", size=4), "unit": "inch"}


async def test_racing_writers_of_two_versions_lose_nothing(world: World) -> None:
    old, new = await opened(world, V1), await opened(world, V2)
    assert await put(old, "a", 0, box("a", size=0)) is Outcome.OK

    async def add(collection: SchemaCollection, field: str, times: int) -> None:
        while times:
            doc = await load(collection, "a")
            body = {**doc.body, field: doc.body.get(field, 0) + 1}
            times -= await put(collection, "a", doc.version, body) is Outcome.OK

    await asyncio.gather(add(old, "size", 8), add(new, "turns", 8), add(new, "size", 8))
    doc = await load(new, "a")
    assert (doc.version, doc.body["size"], doc.body["turns"]) == (25, 16, 8)


async def test_the_sweep_rewrites_what_is_old_and_nobody_who_writes_notices(world: World) -> None:
    old = await opened(world, V1)
    for n in range(7):
        assert await put(old, f"d{n}", 0, box(f"d{n}"), event(n)) is Outcome.OK
    before = await load(old, "d0")
    store = await world.open()
    new = await store.collection(V2)
    assert await put(new, "d6", 1, {**box("d6"), "unit": "inch"}) is Outcome.OK
    assert await sweep(store, new, "me", SystemClock(), LOG) == 6
    for n in range(7):
        body = await stored(new, f"d{n}")
        assert body[SCHEMA] == {"version": 2, "readable": 1}
        assert body["unit"] == ("inch" if n == 6 else "mm")
    after = await load(old, "d0")
    assert (
        after == before and len(after.outbox) == 1
    )  # same version, same events, same for old code
    # Whoever had read it before the sweep writes on top of it.
    assert await put(old, "d0", before.version, box("d0", size=5)) is Outcome.OK
    assert (await load(new, "d0")).body == {**box("d0", size=5), "unit": "mm"}
    # Old code goes on making old documents: the next pass finds them, and only them.
    assert await put(old, "late", 0, box("late")) is Outcome.OK
    assert await sweep(store, new, "me", SystemClock(), LOG) == 1
    assert await sweep(store, new, "me", SystemClock(), LOG) == 0


async def test_a_sweep_never_undoes_a_write_and_one_replica_does_it_at_a_time(world: World) -> None:
    old = await opened(world, V1)
    for n in range(3):
        assert await put(old, f"d{n}", 0, box(f"d{n}")) is Outcome.OK
    store = await world.open()
    new = await store.collection(V2)
    read = await load(new.inner, "d0")
    assert await put(old, "d0", 1, box("d0", size=9)) is Outcome.OK
    assert await new.rewrite([(read, {"name": "d0", "lost": True})]) == 0
    assert (await load(new, "d0")).body["size"] == 9
    await store.take_lease("schema:boxes", "another", SystemClock().now(), 30.0)
    assert await sweep(store, new, "me", SystemClock(), LOG) == 0
    await store.drop_lease("schema:boxes", "another")
    racing = [sweep(store, new, "me", SystemClock(), LOG), _touch(old, "d1"), _touch(old, "d2")]
    await asyncio.gather(*racing)
    await sweep(store, new, "me", SystemClock(), LOG)
    for n in (1, 2):
        body = await stored(new, f"d{n}")
        assert (body["size"], body["unit"]) == (21, "mm")


async def _touch(collection: SchemaCollection, doc_id: str) -> None:
    done = 0
    while done < 20:
        doc = await load(collection, doc_id)
        body = {**doc.body, "size": doc.body["size"] + 1}
        done += await put(collection, doc_id, doc.version, body) is Outcome.OK


async def test_code_that_is_too_old_is_refused_at_its_start_and_while_it_runs(world: World) -> None:
    running = await world.open()
    old = await running.collection(V1)
    assert await put(old, "a", 0, box("a", size=2000)) is Outcome.OK
    await opened(world, V2)
    await opened(world, V1)  # the one before works beside it
    newest = await opened(world, V3)
    assert (await load(newest, "a")).body["metres"] == 2.0
    with pytest.raises(
        Outdated, match=r"boxes is at version 3, .* from version 2 on; .* version 1"
    ):
        await opened(world, V1)
    await opened(world, V2)
    # What runs still can neither read nor overwrite what it would not understand, and ends.
    seen = await load(old, "a")
    body = (await load(newest, "a")).body
    assert await put(newest, "a", 1, body) is Outcome.OK
    with pytest.raises(Outdated, match="boxes/a is of version 3"):
        await load(old, "a")
    with pytest.raises(Outdated):
        await put(old, "a", 2, seen.body)
    assert (await load(newest, "a")).body == body

    class Fast(SystemClock):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(0)

    with pytest.raises(Outdated):
        await keep_documents(running, "me", Fast(), LOG)


async def test_code_that_has_forgotten_a_shape_waits_for_the_sweep_of_the_release_before(
    world: World,
) -> None:
    old = await opened(world, V1)
    assert await put(old, "a", 0, box("a", size=2000)) is Outcome.OK
    store: SchemaStore = await world.open()
    middle = await store.collection(V3)
    with pytest.raises(Outdated, match="has 1 documents older than version 3"):
        await opened(world, V4)
    assert await sweep(store, middle, "me", SystemClock(), LOG) == 1
    newest = await opened(world, V4)
    assert (await load(newest, "a")).body["metres"] == 2.0


async def test_documents_of_the_first_version_carry_no_mark(world: World) -> None:
    old = await opened(world, V1)
    assert await put(old, "a", 0, box("a")) is Outcome.OK
    assert await put(old, "a", 1, box("a", size=3)) is Outcome.OK
    assert await stored(old, "a") == box("a", size=3)
