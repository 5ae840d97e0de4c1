"""Backup and restore of every adapter, and from one to another."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest

from libs.common.errors import Conflict, InvalidInput
from libs.common.store.backup import PAGE, STEP, back_up, mark_restored, read_summary, restore
from libs.common.store.base import Collection, Fence, Outcome, Query, Store, Write
from libs.common.store.restores import restored_at
from libs.common.store.schemas import SchemaStore
from tests.contract.store.conftest import THINGS
from tests.contract.store.helpers import event, load, named, put
from tests.contract.store.worlds import World, open_world

MANY, FEW = PAGE + 20, 40


async def filled(store: Store, count: int = FEW) -> Collection:
    """Things of all sorts, one of them by a leader."""
    things = await store.collection(THINGS)
    writes = [Write(f"t{n:04}", 0, named(f"n{n}", at=n)) for n in range(count)]
    assert all(each.ok for each in await things.replace_many(writes))
    assert await put(things, "t0001", 1, named("n1", at=7), event(1), event(2)) is Outcome.OK
    fence = Fence("leader", await store.raise_epoch("leader"))
    body = named("led", **{"a.b": {"$x": [1.5, None]}})
    assert await put(things, "led", 0, body, fence=fence) is Outcome.OK
    return things


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a backup goes."""
    return tmp_path / "backup.gz"


async def test_what_was_backed_up_is_there_again_and_what_came_since_is_not(
    world: World, file: Path
) -> None:
    store = await world.open()
    things = await filled(store, MANY)
    before = {each: await load(things, each) for each in ("t0000", "t0001", "led")}
    summary = await back_up(store.inner, file, 1000.0)
    assert (summary.documents, summary.changed) == (MANY + 1, ())
    assert file.stat().st_mode & 0o777 == 0o600
    assert await put(things, "t0000", 1, named("changed")) is Outcome.OK
    assert await put(things, "since", 0, named("since")) is Outcome.OK
    old = Fence("leader", await store.raise_epoch("leader"))
    with pytest.raises(Conflict, match="not empty"):
        await restore(store.inner, file, 2000.0, replace_all=False)
    assert await restore(store.inner, file, 2000.0, replace_all=True) == read_summary(file)
    fresh = await (await world.open()).collection(THINGS)
    assert await fresh.count() == MANY + 1 and await fresh.get("since") is None
    for each, doc in before.items():
        now = await load(fresh, each)
        assert (now.body, now.outbox, now.epoch) == (doc.body, doc.outbox, doc.epoch)
        assert now.version == doc.version + STEP  # nobody takes it for older than what there was
    assert list(await fresh.unsent(10)) == ["t0001"]
    # Indexes hold, and whoever led before can't write any more.
    assert await put(fresh, "double", 0, named("n5")) is Outcome.DUPLICATE
    assert await put(fresh, "led", STEP + 1, named("led"), fence=old) is Outcome.FENCED
    assert await restored_at(store) == 2000.0


async def test_a_backup_goes_from_one_adapter_to_another(
    world: World, file: Path, tmp_path: Path
) -> None:
    store = await world.open()
    await filled(store)
    await back_up(store.inner, file, 1000.0)
    kind = "memory" if world.kind == "sqlite" else "sqlite"
    async with open_world(kind, tmp_path / "other", "") as other:
        target = await other.open()
        await restore(target.inner, file, 2000.0, replace_all=False)
        there = await target.collection(THINGS)
        here = await store.collection(THINGS)
        for query in (Query(limit=2000), Query(order="at", limit=2000)):
            found = [(doc.id, doc.body) for doc in (await there.find(query)).docs]
            assert found == [(doc.id, doc.body) for doc in (await here.find(query)).docs]


async def test_a_backup_beside_writers_is_of_one_moment_or_says_what_is_not(
    world: World, file: Path
) -> None:
    store: SchemaStore = await world.open()
    things = await filled(store)
    first, last = (
        "t0000",
        f"t{FEW - 1:04}",
    )  # always written in this order: at no moment is `last` ahead

    over = asyncio.Event()

    async def write() -> None:
        n = 0
        while not over.is_set():
            n += 1
            for each in (first, last):
                assert await put(things, each, n, named(f"w{each}", at=n)) is Outcome.OK

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write())
        while (await load(things, last)).version < 3:
            await asyncio.sleep(0)
        summary = await back_up(store.inner, file, 1000.0)
        assert not writing.done()
        over.set()
    await restore(store.inner, file, 2000.0, replace_all=True)
    there = await (await world.open()).collection(THINGS)
    ahead = (await load(there, first)).version - (await load(there, last)).version
    assert ahead in (0, 1) or summary.changed == ("things",)


async def test_half_a_backup_touches_nothing(world: World, file: Path) -> None:
    store = await world.open()
    await filled(store)
    await back_up(store.inner, file, 1000.0)
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    bad = {
        f"ends after {FEW + 1} documents": gzip.compress(b"".join(lines[:-1])),
        f"ends after {FEW} documents": gzip.compress(b"".join([*lines[:-2], lines[-1]])),
        "can't be read": file.read_bytes()[:-300],
        "no backup of this format": gzip.compress(b'{"gantry_backup": 99}\n'),
    }
    for why, content in bad.items():
        file.write_bytes(content)
        with pytest.raises(InvalidInput, match=why):
            await restore(store.inner, file, 2000.0, replace_all=True)
    assert await (await store.collection(THINGS)).count() == FEW + 1
    with pytest.raises(Conflict, match="exists"):
        await back_up(store.inner, file, 1000.0)


async def test_what_another_tool_has_restored_is_marked(world: World) -> None:
    store = await world.open()
    things = await filled(store)
    old = Fence("leader", await store.raise_epoch("leader"))
    assert await mark_restored(store.inner, 3000.0) == FEW + 1
    things = await (await world.open()).collection(THINGS)
    assert (await load(things, "t0001")).version == STEP + 2
    assert await put(things, "led", STEP + 1, named("led"), fence=old) is Outcome.FENCED
    assert await put(things, "double", 0, named("n5")) is Outcome.DUPLICATE
    assert await restored_at(store) == 3000.0
    await mark_restored(
        store.inner, 2000.0
    )  # by a clock that is late: a later restore all the same
    assert await restored_at(store) > 3000.0
