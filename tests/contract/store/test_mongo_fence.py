"""MongoDB can't check the epoch and write in one step: what falls in between is fenced by the documents."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.store.base import CollectionSpec, Fence, Outcome, Write, WriteResult
from libs.common.store.mongo import MongoStore
from tests.contract.store.helpers import load, put
from tests.contract.store.worlds import mongo_database

SPEC = CollectionSpec("things")


class PausedStore(MongoStore):
    """A leader that sleeps between its look at the epoch and its write."""

    reached: asyncio.Event
    go_on: asyncio.Event

    async def outdated(self, fence: Fence | None, collection: str) -> bool:
        answer = await super().outdated(fence, collection)
        self.reached.set()
        await self.go_on.wait()
        return answer


@pytest.fixture
async def stores(mongo_url: str) -> tuple[PausedStore, MongoStore]:
    """The old leader's and the new one's."""
    url = mongo_database(mongo_url)
    paused, other = await PausedStore.open(url), await MongoStore.open(url)
    assert isinstance(paused, PausedStore)
    paused.reached, paused.go_on = asyncio.Event(), asyncio.Event()
    paused.go_on.set()
    return paused, other


async def test_a_write_under_way_when_the_epoch_is_raised_is_refused(
    stores: tuple[PausedStore, MongoStore],
) -> None:
    paused, other = stores
    things = await paused.collection(SPEC)
    old = Fence("leader", await paused.raise_epoch("leader"))
    for doc_id in ("a", "b"):
        assert await put(things, doc_id, 0, {"by": "old"}, fence=old) is Outcome.OK
    paused.go_on.clear()
    paused.reached.clear()
    update = asyncio.create_task(things.replace_many([Write("a", 1, {"by": "old, late"})], old))
    await paused.reached.wait()
    paused.reached.clear()
    delete = asyncio.create_task(things.delete("b", 1, old))
    await paused.reached.wait()
    new = Fence("leader", await other.raise_epoch("leader"))
    paused.go_on.set()
    fenced = WriteResult(Outcome.FENCED)
    assert (await update, await delete) == ([fenced], fenced)
    theirs = await other.collection(SPEC)
    assert {(await load(theirs, each)).version for each in ("a", "b")} == {1}
    assert await put(theirs, "a", 1, {"by": "new"}, fence=new) is Outcome.OK


async def test_a_stray_upsert_is_undone_when_the_guard_is_gone(
    stores: tuple[PausedStore, MongoStore],
) -> None:
    """The guard document is a safety; without it an update of a missing document still is a conflict."""
    _, store = stores
    things = await store.collection(SPEC)
    await store.link["things"].delete_many({"guard": 1})
    results = await things.replace_many([Write("ghost", 3, {"n": 1}), Write("new", 0, {"n": 2})])
    assert [each.outcome for each in results] == [Outcome.CONFLICT, Outcome.OK]
    assert await things.get("ghost") is None
    assert await things.count() == 1
