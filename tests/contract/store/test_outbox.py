"""The outbox in the document: appended by writes, cleared by the relay, neither losing what the other does."""

from __future__ import annotations

import asyncio
import random

import pytest

from libs.common.store.base import Collection, CollectionSpec, OutboxEvent, Outcome, Store, Write
from libs.common.store.memory import MemoryStore
from tests.contract.store.conftest import THINGS
from tests.contract.store.helpers import event, load, named, put
from tests.contract.store.worlds import World


async def test_events_ride_in_the_write_and_keep_their_order(things: Collection) -> None:
    await put(things, "a", 0, {}, event(1), event(2))
    await put(things, "a", 1, {}, event(3))
    await put(things, "a", 2, {})
    assert (await load(things, "a")).outbox == (event(1), event(2), event(3))
    assert await things.unsent(10) == {"a": (event(1), event(2), event(3))}


async def test_a_refused_write_leaves_no_event(things: Collection) -> None:
    await put(things, "a", 0, named("x"))
    assert await put(things, "a", 5, named("x"), event(1)) is Outcome.CONFLICT
    assert await put(things, "b", 0, named("x"), event(2)) is Outcome.DUPLICATE
    assert await things.unsent(10) == {}


async def test_mark_sent_takes_what_it_names_and_leaves_the_version(things: Collection) -> None:
    await put(things, "a", 0, {"n": 1}, event(1), event(2), event(3))
    await things.mark_sent({"a": ["e1", "e2", "unknown"], "ghost": ["e1"]})
    doc = await load(things, "a")
    assert (doc.version, doc.body, doc.outbox) == (1, {"n": 1}, (event(3),))
    assert await things.unsent(10) == {"a": (event(3),)}
    await things.mark_sent({"a": ["e3"]})
    assert await things.unsent(10) == {}
    assert await things.get("ghost") is None
    await things.mark_sent({})
    assert await put(things, "a", 1, {}, event(4)) is Outcome.OK
    assert (await load(things, "a")).outbox == (event(4),)


async def test_unsent_finds_only_documents_with_events(things: Collection) -> None:
    await things.replace_many(
        [Write(f"d{n:02}", 0, {}, (event(n),) if n % 3 == 0 else ()) for n in range(30)]
    )
    assert sorted(await things.unsent(100)) == [f"d{n:02}" for n in range(0, 30, 3)]
    assert len(await things.unsent(4)) == 4


async def test_writers_and_relay_lose_nothing_of_each_other(world: World) -> None:
    writing = await (await world.open()).collection(THINGS)
    relaying = await (await world.open()).collection(THINGS)
    published: dict[str, list[str]] = {f"d{n}": [] for n in range(4)}
    done = asyncio.Event()

    async def write(doc_id: str) -> None:
        for version in range(25):
            assert (
                await put(writing, doc_id, version, {}, event(f"{doc_id}-{version}")) is Outcome.OK
            )

    async def relay() -> None:
        while True:
            last = done.is_set()
            outboxes = await relaying.unsent(100)
            sent = {doc_id: [each.id for each in found] for doc_id, found in outboxes.items()}
            for doc_id, ids in sent.items():
                published[doc_id] += ids
            await relaying.mark_sent(sent)
            if last and not sent:
                return

    async def write_all() -> None:
        await asyncio.gather(*map(write, published))
        done.set()

    await asyncio.gather(relay(), write_all())
    for doc_id, events in published.items():
        assert events == [f"e{doc_id}-{version}" for version in range(25)]
        doc = await load(writing, doc_id)
        assert (doc.version, doc.outbox) == (25, ())


async def _step(rng: random.Random, things: Collection, versions: dict[str, int]) -> object:
    """One random call; what it answers."""
    ids = rng.sample(sorted(versions), rng.randrange(1, 4))
    kind = rng.random()
    if kind < 0.7:
        writes = []
        for doc_id in ids:
            wrong = rng.choice([0, 0, 0, 0, 1, -1])
            body = named(f"n{rng.randrange(6)}") if len(ids) == 1 else {"v": rng.random()}
            serial = rng.randrange(10**9)
            events = tuple(event(f"{serial}-{n}") for n in range(rng.randrange(3)))
            writes.append(Write(doc_id, max(0, versions[doc_id] + wrong), body, events))
        return await things.replace_many(writes)
    if kind < 0.8:
        return await things.delete(ids[0], versions[ids[0]])
    outboxes = sorted((await things.unsent(100)).items())
    sent = {name: [e.id for e in events[: rng.randrange(3)]] for name, events in outboxes}
    await things.mark_sent(sent)
    return outboxes


@pytest.mark.parametrize("seed", range(3))
async def test_random_calls_do_what_the_memory_store_does(store: Store, seed: int) -> None:
    """Batches of one take unique values; no order within a larger one is promised."""
    real = await store.collection(CollectionSpec("real", THINGS.indexes))
    model = await MemoryStore().collection(CollectionSpec("model", THINGS.indexes))
    ids = [f"d{n}" for n in range(8)]
    mine, its = random.Random(seed), random.Random(seed)
    for _ in range(120):
        docs = await model.get_many(ids)
        versions = {each: docs[each].version if each in docs else 0 for each in ids}
        assert await _step(mine, real, versions) == await _step(its, model, versions)
        assert await real.get_many(ids) == await model.get_many(ids)


def test_events_compare_by_value() -> None:
    assert event(1) == OutboxEvent(
        "e1", "thing.changed", "k", b"1\x00\xc3\xbf", (("ce_id", b"\xfe"),)
    )
