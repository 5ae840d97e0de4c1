"""Consumer groups: shared partitions, redelivery, resumption, rebalance in mid-handler, fenced commits."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.bus.base import Bus, Consumer, Delivered, Record
from libs.common.errors import Fenced
from tests.contract.bus.helpers import (
    DEADLINE_S,
    FOUR,
    ONE,
    after,
    hold,
    numbered,
    share,
    silence,
    take,
    texts,
)
from tests.contract.bus.worlds import World


async def test_each_group_gets_everything_from_the_oldest_record_on(bus: Bus) -> None:
    await bus.ensure_topics([ONE])
    await bus.publish(numbered("a", range(3)))
    for group in ("one", "other"):
        async with bus.consumer(group, ["things"]) as consumer:
            assert texts(await take(consumer, 3)) == ["a:0", "a:1", "a:2"]


async def test_a_group_shares_partitions_and_handles_each_record_once(world: World) -> None:
    one, other = await world.open(), await world.open()
    await one.ensure_topics([FOUR])
    async with one.consumer("g", ["things"]) as a, other.consumer("g", ["things"]) as b:
        await share([a, b], [2, 2])
        assert not a.assignment() & b.assignment()
        expected = sorted(f"k{key}:{n}" for key in range(20) for n in range(5))
        for key in range(20):
            await one.publish(numbered(f"k{key}", range(5)))

        async def work(consumer: Consumer) -> None:
            batch = await consumer.fetch(10, 0.2)
            await consumer.commit(after(batch))
            handled.extend(texts(batch))
            places.extend((id(consumer), each.place) for each in batch)

        handled: list[str] = []
        places: list[tuple[int, object]] = []
        async with asyncio.timeout(DEADLINE_S):
            while len(handled) < len(expected):
                await asyncio.gather(work(a), work(b))
        assert sorted(handled) == expected
        assert len({place for _, place in places}) == len(set(places))


async def test_what_was_not_committed_comes_again_after_a_crash(bus: Bus, world: World) -> None:
    await bus.ensure_topics([ONE])
    await bus.publish(numbered("a", range(5)))
    await world.fetch_and_die("g", "things", 5)
    async with bus.consumer("g", ["things"]) as consumer:
        assert texts(await take(consumer, 5)) == [f"a:{n}" for n in range(5)]


async def test_a_member_dies_and_the_others_take_over(bus: Bus, world: World) -> None:
    await bus.ensure_topics([FOUR])
    for key in range(12):
        await bus.publish(numbered(f"k{key}", [0]))
    await world.fetch_and_die("g", "things", 12)
    await bus.publish(numbered("late", [1]))
    async with bus.consumer("g", ["things"]) as consumer:
        found = await take(consumer, 13)
    assert sorted(texts(found)) == sorted([*(f"k{key}:0" for key in range(12)), "late:1"])


async def test_a_group_resumes_at_what_it_committed(world: World) -> None:
    bus = await world.open()
    await bus.ensure_topics([ONE])
    await bus.publish(numbered("a", range(6)))
    async with bus.consumer("g", ["things"]) as consumer:
        found = await take(consumer, 6)
        await consumer.commit(after(found[:4]))
    await bus.close()
    async with (await world.open()).consumer("g", ["things"]) as consumer:
        assert texts(await take(consumer, 2)) == ["a:4", "a:5"]
        assert await silence(consumer) == []


async def test_a_rebalance_waits_for_the_batch_in_hand(world: World) -> None:
    one, other = await world.open(), await world.open()
    await one.ensure_topics([FOUR])
    for key in range(12):
        await one.publish(numbered(f"k{key}", [0]))
    async with one.consumer("g", ["things"]) as a:
        in_hand = await _until_records(a)
        while len(in_hand) < 12:  # all four partitions are in hand
            await a.commit(after(in_hand))
            in_hand += await _until_records(a)
        async with other.consumer("g", ["things"]) as b:
            early = asyncio.create_task(_until_records(b))
            # While `a` has its batch in hand, `b` gets none of those partitions.
            await asyncio.wait([early], timeout=1.5)
            assert not early.done()
            await a.commit(after(in_hand))
            for key in range(12):
                await one.publish(numbered(f"k{key}", [1]))
            seen = [*in_hand]
            async with asyncio.timeout(DEADLINE_S):
                while len(seen) < 24:
                    batch = await a.fetch(100, 0.2)
                    seen += batch
                    await a.commit(after(batch))
                    if early.done():
                        seen += early.result()
                        await b.commit(after(early.result()))
                        early = asyncio.create_task(_until_records(b))
            early.cancel()
            await asyncio.gather(early, return_exceptions=True)
            assert a.assignment() and b.assignment()
    expected = sorted(f"k{key}:{n}" for key in range(12) for n in (0, 1))
    assert sorted(texts(seen)) == expected  # nothing twice, nothing lost


async def _until_records(consumer: Consumer) -> list[Delivered]:
    while True:
        found = await consumer.fetch(100, 0.2)
        if found:
            return list(found)


async def test_a_rebalance_in_mid_handler_fences_the_commit(world: World) -> None:
    one, other = await world.open(), await world.open()
    await one.ensure_topics([ONE])
    await one.publish(numbered("a", range(3)))
    async with one.consumer("g", ["things"], max_poll_s=3.0) as slow:
        in_hand = await take(slow, 3)
        async with other.consumer("g", ["things"]) as quick:
            # `slow` does not fetch for longer than its max_poll_s: `quick` gets the records too.
            assert texts(await take(quick, 3)) == ["a:0", "a:1", "a:2"]
            with pytest.raises(Fenced):
                await slow.commit(after(in_hand))
            assert await one.lag("g", ["things"]) == {("things", 0): 3}
            await quick.commit(after(in_hand))
            with pytest.raises(Fenced):
                await slow.commit(after(in_hand[:1]))
        assert await one.lag("g", ["things"]) == {("things", 0): 0}
        await one.publish(numbered("a", [3]))
        # It may go on as a new member, at what has been committed.
        assert texts(await take(slow, 1, commit=True)) == ["a:3"]


async def test_a_commit_with_a_foreign_partition_commits_nothing(world: World) -> None:
    one, other = await world.open(), await world.open()
    await one.ensure_topics([FOUR])
    async with one.consumer("g", ["things"]) as a, other.consumer("g", ["things"]) as b:
        await share([a, b], [2, 2])
        for key in range(12):
            await one.publish(numbered(f"k{key}", [0]))
        mine = await take(a, 1)
        foreign = next(iter(sorted(b.assignment())))
        before = await one.lag("g", ["things"])
        with pytest.raises(Fenced):
            await a.commit({**after(mine), foreign: 1})
        assert await one.lag("g", ["things"]) == before
        await a.commit(after(mine))


async def test_leaving_hands_the_partitions_on_at_once(world: World) -> None:
    one, other = await world.open(), await world.open()
    await one.ensure_topics([FOUR])
    async with one.consumer("g", ["things"]) as stays:
        async with other.consumer("g", ["things"]) as goes:
            await share([stays, goes], [2, 2])
        await hold(stays, 4)
        for key in range(12):
            await one.publish(numbered(f"k{key}", [0]))
        assert len(await take(stays, 12)) == 12


async def test_a_member_of_several_topics_gets_all_of_them(bus: Bus) -> None:
    async with bus.consumer("g", ["left", "right"]) as consumer:
        await bus.publish(numbered("a", [1], topic="left") + numbered("b", [2], topic="right"))
        assert sorted(texts(await take(consumer, 2))) == ["a:1", "b:2"]


async def test_a_busy_partition_starves_no_other(bus: Bus) -> None:
    """Kafka gives a partition's whole fetch (1 MB) before it goes on to the next one; but then it does."""
    await bus.ensure_topics([FOUR])
    busy_records = [Record("things", "busy", bytes(1500)) for _ in range(3000)]
    await bus.publish(busy_records)
    busy = {place for place, end in (await bus.end_offsets(["things"])).items() if end}
    for n in range(12):
        await bus.publish(numbered(f"k{n}", [0]))
    async with bus.consumer("g", ["things"]) as consumer:
        seen, places = 0, set(busy)
        async with asyncio.timeout(DEADLINE_S):
            while places == busy:
                assert seen < len(busy_records), "the busy partition was read to its end first"
                batch = await consumer.fetch(200, 0.5)
                seen += len(batch)
                places |= {each.place for each in batch}
