"""Epochs fence old leaders; leases say who works."""

from __future__ import annotations

import asyncio

from libs.common.store.base import Collection, Fence, Outcome, Store, Write
from tests.contract.store.conftest import THINGS
from tests.contract.store.helpers import event, load, put
from tests.contract.store.worlds import World

OK, CONFLICT, FENCED = Outcome.OK, Outcome.CONFLICT, Outcome.FENCED


async def test_epochs_grow_by_one(world: World) -> None:
    stores = [await world.open(), await world.open()]
    assert [await stores[n % 2].raise_epoch("leader") for n in range(4)] == [1, 2, 3, 4]
    assert await stores[0].raise_epoch("another") == 1
    raised = await asyncio.gather(*(stores[n % 2].raise_epoch("leader") for n in range(10)))
    assert sorted(raised) == list(range(5, 15))


async def test_an_old_epoch_is_refused_in_every_kind_of_write(
    store: Store, things: Collection
) -> None:
    old = Fence("leader", await store.raise_epoch("leader"))
    assert await put(things, "a", 0, {"by": "old"}, fence=old) is OK
    assert await put(things, "b", 0, {"by": "old"}, fence=old) is OK
    new = Fence("leader", await store.raise_epoch("leader"))
    before = await load(things, "a")
    writes = [Write("a", 1, {}, (event(1),)), Write("b", 7, {}), Write("new", 0, {})]
    assert [each.outcome for each in await things.replace_many(writes, old)] == [FENCED] * 3
    assert (await things.delete("a", 1, old)).outcome is FENCED
    assert ((await load(things, "a")).version, await things.get("new")) == (before.version, None)
    assert await put(things, "a", 1, {"by": "new"}, fence=new) is OK
    assert await put(things, "a", 1, {"by": "old"}, fence=old) is FENCED
    assert await put(things, "a", 1, {"by": "new"}, fence=new) is CONFLICT
    assert (await things.delete("a", 2, new)).outcome is OK


async def test_a_leader_that_is_not_replaced_goes_on(world: World) -> None:
    store, other = await world.open(), await world.open()
    things = await store.collection(THINGS)
    fence = Fence("leader", await store.raise_epoch("leader"))
    await other.raise_epoch("another leader")
    for version in range(3):
        assert await put(things, "a", version, {"n": version}, fence=fence) is OK
    assert (await load(things, "a")).epoch == fence.epoch


async def test_a_write_without_a_fence_keeps_the_epoch(store: Store, things: Collection) -> None:
    fence = Fence("leader", await store.raise_epoch("leader"))
    assert await put(things, "a", 0, {}, fence=fence) is OK
    assert await put(things, "a", 1, {}) is OK
    assert (await load(things, "a")).epoch == fence.epoch


async def test_a_paused_leader_loses_every_race(world: World) -> None:
    """What the old leader wrote is visible to the new one, or refused; never in between."""
    store = await world.open()
    mine, its = await store.collection(THINGS), await (await world.open()).collection(THINGS)
    old = Fence("leader", await store.raise_epoch("leader"))
    writes = [Write(f"d{n}", 0, {"by": "old"}) for n in range(20)]
    await its.replace_many(writes, old)
    stop = asyncio.Event()

    async def paused_leader() -> int:
        done = 0
        while not stop.is_set():
            for n in range(20):
                doc = await load(its, f"d{n}")
                done += await put(its, doc.id, doc.version, {"by": "old"}, fence=old) is OK
        return done

    task = asyncio.create_task(paused_leader())
    while (await load(mine, "d5")).version < 3:
        await asyncio.sleep(0)
    await store.raise_epoch("leader")
    seen = {f"d{n}": (await load(mine, f"d{n}")).version for n in range(20)}
    for _ in range(50):
        await load(mine, "d0")
    stop.set()
    assert await task > 0
    assert {f"d{n}": (await load(mine, f"d{n}")).version for n in range(20)} == seen


async def test_a_lease_is_held_by_one_until_it_expires(world: World) -> None:
    store, other = await world.open(), await world.open()
    first = await store.take_lease("relay", "a", 100.0, 10.0)
    assert first is not None
    assert (first.holder, first.epoch, first.until) == ("a", 1, 110.0)
    assert await other.take_lease("relay", "b", 109.9, 10.0) is None
    renewed = await store.take_lease("relay", "a", 105.0, 10.0)
    assert renewed is not None and (renewed.epoch, renewed.until) == (1, 115.0)
    assert await other.take_lease("relay", "b", 114.0, 10.0) is None
    taken = await other.take_lease("relay", "b", 115.0, 10.0)
    assert taken is not None and (taken.holder, taken.epoch) == ("b", 2)
    assert await store.take_lease("relay", "a", 116.0, 10.0) is None
    assert await store.take_lease("other", "a", 116.0, 10.0) is not None


async def test_a_dropped_lease_is_free_and_its_epoch_grows(store: Store) -> None:
    await store.take_lease("relay", "a", 100.0, 10.0)
    await store.drop_lease("relay", "b")
    assert await store.take_lease("relay", "b", 101.0, 10.0) is None
    await store.drop_lease("relay", "a")
    taken = await store.take_lease("relay", "b", 101.0, 10.0)
    assert taken is not None and taken.epoch == 2
    await store.drop_lease("never taken", "a")


async def test_one_of_many_gets_the_lease(world: World) -> None:
    stores = [await world.open(), await world.open()]
    racers = [stores[n % 2].take_lease("relay", f"h{n}", 100.0, 10.0) for n in range(20)]
    won = [each for each in await asyncio.gather(*racers) if each is not None]
    assert len(won) == 1
    racers = [stores[n % 2].take_lease("relay", f"late{n}", 110.0, 10.0) for n in range(20)]
    won = [each for each in await asyncio.gather(*racers) if each is not None]
    assert [each.epoch for each in won] == [2]
