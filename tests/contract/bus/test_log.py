"""The log: bytes in partitions, in order per key, durable, followed from any offset, lost to retention."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from libs.common.bus.base import MAX_RECORD_BYTES, Bus, Record, TopicSpec
from libs.common.clock import SystemClock
from libs.common.errors import InvalidInput, Unavailable
from tests.contract.bus.helpers import (
    DEADLINE_S,
    FOUR,
    ONE,
    after,
    follow,
    numbered,
    silence,
    take,
    texts,
)
from tests.contract.bus.worlds import World


async def test_a_record_comes_back_as_it_was_published(bus: Bus) -> None:
    headers = (("ce_id", b"1"), ("empty", b""), ("bytes", bytes(range(256))))
    record = Record("things", "käse", b"\x00\xff value", headers)
    before = SystemClock().now()
    await bus.publish([record])
    async with bus.consumer("g", ["things"]) as consumer:
        (found,) = await take(consumer, 1)
    assert found.record == record
    assert before - 1 <= found.timestamp <= SystemClock().now() + 1


async def test_order_holds_per_key_and_a_key_stays_in_its_partition(bus: Bus) -> None:
    await bus.ensure_topics([FOUR])
    keys = [f"key-{n}" for n in range(12)]

    async def publish(key: str) -> None:
        for start in range(0, 30, 3):
            await bus.publish(numbered(key, range(start, start + 3)))

    await asyncio.gather(*map(publish, keys))
    async with bus.consumer("g", ["things"]) as consumer:
        found = await take(consumer, 12 * 30)
    by_key = defaultdict(list)
    for each in found:
        by_key[each.record.key].append(each)
    for key in keys:
        assert texts(by_key[key]) == [f"{key}:{n}" for n in range(30)]
        assert len({each.partition for each in by_key[key]}) == 1
    assert len({each.partition for each in found}) > 1


async def test_two_handles_append_to_one_log(world: World) -> None:
    one, other = await world.open(), await world.open()
    await one.ensure_topics([ONE])
    await other.ensure_topics([ONE])

    async def publish(bus: Bus, key: str) -> None:
        for n in range(20):
            await bus.publish(numbered(key, [n]))

    await asyncio.gather(publish(one, "a"), publish(other, "b"))
    found = await follow(one, ["things"], {("things", 0): 0}, 40)
    assert [t for t in texts(found) if t[0] == "a"] == [f"a:{n}" for n in range(20)]
    assert [t for t in texts(found) if t[0] == "b"] == [f"b:{n}" for n in range(20)]
    assert len({each.offset for each in found}) == 40


async def test_topics_are_made_once_and_keep_their_partitions(bus: Bus, world: World) -> None:
    await bus.ensure_topics([TopicSpec("things", partitions=3), TopicSpec("others", partitions=2)])
    await (await world.open()).ensure_topics([TopicSpec("things", partitions=5)])
    ends = await (await world.open()).end_offsets(["things", "others"])
    assert sorted(ends) == [("others", 0), ("others", 1), *(("things", n) for n in range(3))]
    assert set(ends.values()) == {0}


async def test_topics_that_nobody_made_are_made_at_first_use(bus: Bus) -> None:
    await bus.publish(numbered("a", [1], topic="fresh"))
    assert sum((await bus.end_offsets(["fresh"])).values()) == 1
    async with bus.consumer("g", ["unheard-of"]) as consumer:
        assert await silence(consumer, 0.1) == []


async def test_a_record_that_is_too_big_is_refused_with_its_batch(bus: Bus) -> None:
    await bus.ensure_topics([ONE])
    with pytest.raises(InvalidInput, match="bytes"):
        await bus.publish([*numbered("a", [1]), Record("things", "b", bytes(MAX_RECORD_BYTES))])
    with pytest.raises(InvalidInput):
        await bus.publish([Record("things", "", b"", (("h", bytes(MAX_RECORD_BYTES)),))])
    assert await bus.end_offsets(["things"]) == {("things", 0): 0}
    await bus.publish([Record("things", "b", bytes(MAX_RECORD_BYTES - 1))])
    async with bus.consumer("g", ["things"]) as consumer:
        (found,) = await take(consumer, 1)
    assert len(found.record.value) == MAX_RECORD_BYTES - 1


async def test_a_follower_begins_where_it_is_told(bus: Bus) -> None:
    await bus.ensure_topics([FOUR])
    await bus.publish(numbered("a", range(5)) + numbered("b", range(5)) + numbered("c", range(5)))
    everything = dict.fromkeys(await bus.end_offsets(["things"]), 0)
    found = await follow(bus, ["things"], everything, 15)
    middle = next(each for each in found if each.record.value == b"b:2")
    # Other partitions are not named: they are followed from their ends.
    again = await follow(bus, ["things"], {middle.place: middle.offset}, 3)
    assert [t for t in texts(again) if t[0] == "b"] == ["b:2", "b:3", "b:4"]


async def test_a_follower_sees_only_what_comes_after_it_began(bus: Bus, world: World) -> None:
    await bus.ensure_topics([FOUR])
    await bus.publish(numbered("old", range(3)))
    start = await bus.end_offsets(["things"])
    other = await world.open()

    async def publish() -> None:
        for n in range(3):
            await other.publish(numbered("new", [n]))

    found, _ = await asyncio.gather(follow(bus, ["things"], start, 3), publish())
    assert texts(found) == ["new:0", "new:1", "new:2"]


async def test_a_follower_wakes_at_news_of_another_handle(bus: Bus, world: World) -> None:
    await bus.ensure_topics([ONE])
    other = await world.open()
    following = asyncio.create_task(follow(bus, ["things"], None, 1))
    async with asyncio.timeout(20):
        n = 0
        while not following.done():  # it follows from the end, whenever it gets there
            await other.publish(numbered("a", [n := n + 1]))
            await asyncio.wait([following], timeout=0.05)
    assert texts(following.result())[0].startswith("a:")


async def test_retention_takes_the_oldest_from_groups_and_followers(bus: Bus, world: World) -> None:
    await bus.ensure_topics([ONE])
    place = ("things", 0)
    await bus.publish(numbered("a", range(10)))
    async with bus.consumer("g", ["things"]) as consumer:
        await take(consumer, 2, commit=True)
    await world.truncate(place, 6)
    assert texts(await follow(bus, ["things"], {place: 3}, 4)) == ["a:6", "a:7", "a:8", "a:9"]
    assert await bus.lag("g", ["things"]) == {place: 4}
    async with bus.consumer("g", ["things"]) as consumer:
        assert texts(await take(consumer, 4, commit=True)) == ["a:6", "a:7", "a:8", "a:9"]
    await world.truncate(place, 10)
    assert await bus.end_offsets(["things"]) == {place: 10}
    assert await bus.lag("g", ["things"]) == {place: 0}
    await bus.publish(numbered("a", [10]))
    async with bus.consumer("new", ["things"]) as consumer:
        assert texts(await take(consumer, 1)) == ["a:10"]


async def test_offsets_may_have_gaps(bus: Bus, world: World) -> None:
    await bus.ensure_topics([ONE])
    place = ("things", 0)
    await bus.publish(numbered("a", [0]))
    await world.make_gap(place)
    await bus.publish(numbered("a", [1]))
    await world.make_gap(place)
    await bus.publish(numbered("a", [2, 3]))
    found = [f for f in await follow(bus, ["things"], {place: 0}, 4) if f.record.key == "a"]
    async with bus.consumer("g", ["things"]) as consumer:
        while len(found) < 4:
            found = [f for f in await take(consumer, 4 + len(found)) if f.record.key == "a"]
    assert texts(found) == ["a:0", "a:1", "a:2", "a:3"]
    offsets = [each.offset for each in found]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] > 3
    async with bus.consumer("g", ["things"]) as consumer:
        await take(consumer, 4)
        await consumer.commit(after(found[1:2]))
    async with bus.consumer("g", ["things"]) as consumer:
        rest = [t for t in texts(await take(consumer, 2)) if t.startswith("a:")]
    assert rest[0] == "a:2"


async def test_lag_counts_what_a_group_has_not_committed(bus: Bus) -> None:
    await bus.ensure_topics([ONE])
    place = ("things", 0)
    await bus.publish(numbered("a", range(5)))
    assert await bus.lag("nobody", ["things"]) == {place: 5}
    async with bus.consumer("g", ["things"]) as consumer:
        found = await take(consumer, 5)
        await consumer.commit(after(found[:3]))
        assert await bus.lag("g", ["things"]) == {place: 2}
        await consumer.commit(after(found))
    assert await bus.lag("g", ["things"]) == {place: 0}


async def test_a_closed_bus_says_so(world: World) -> None:
    bus = await world.open()
    await bus.ensure_topics([ONE])
    await bus.close()
    with pytest.raises(Unavailable):
        await bus.publish(numbered("a", [1]))
    with pytest.raises(Unavailable):
        await bus.end_offsets(["things"])
    with pytest.raises(Unavailable):
        async with bus.consumer("g", ["things"]):
            pass
    await bus.close()


async def test_the_topics_there_are_can_be_told_and_asking_makes_none(
    bus: Bus, world: World
) -> None:
    assert await bus.topics() == []
    await (await world.open()).ensure_topics([TopicSpec("things"), TopicSpec("dead.things")])
    async with asyncio.timeout(DEADLINE_S):
        while await bus.topics() != ["dead.things", "things"]:
            await asyncio.sleep(0.02)
