"""Batches and locks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from libs.common.errors import Unavailable
from services.hostd.batch import Batcher
from services.hostd.table import KeyLocks
from tests.simulation.loop import World, virtual


@virtual
async def test_what_comes_together_is_handled_together(world: World) -> None:
    seen: list[list[int]] = []

    async def double(items: Sequence[int]) -> Sequence[int]:
        seen.append(list(items))
        await world.clock.sleep(1)
        return [2 * each for each in items]

    batcher = Batcher(double, world.clock, limit=3)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(batcher.run())
        assert await asyncio.gather(*(batcher.submit(n) for n in range(5))) == [0, 2, 4, 6, 8]
        assert seen == [[0, 1, 2], [3, 4]]
        task.cancel()


@virtual
async def test_a_failure_is_everybodys_in_the_batch_and_nobodys_else(world: World) -> None:
    async def refuse_odd(items: Sequence[int]) -> Sequence[int]:
        if items[0] % 2:
            raise Unavailable("odd")
        return items

    batcher = Batcher(refuse_odd, world.clock, limit=1)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(batcher.run())
        results = await asyncio.gather(
            *(batcher.submit(n) for n in range(3)), return_exceptions=True
        )
        assert [str(each) for each in results] == ["0", "odd", "2"]
        task.cancel()


@virtual
async def test_whoever_waits_at_the_end_is_told(world: World) -> None:
    async def never(items: Sequence[int]) -> Sequence[int]:
        await asyncio.Event().wait()
        return items

    batcher = Batcher(never, world.clock, limit=1, queue_limit=2)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(batcher.run())
        waiting = [group.create_task(_outcome(batcher, n)) for n in range(4)]
        await world.clock.sleep(1)
        task.cancel()
        assert [await each for each in waiting] == [
            "hostd is shutting down",
            "hostd is shutting down",
            "hostd has too much to do",
            "hostd has too much to do",
        ]
        assert await _outcome(batcher, 9) == "hostd is shutting down"


async def _outcome(batcher: Batcher[int, int], item: int) -> str:
    try:
        return str(await batcher.submit(item))
    except Unavailable as error:
        return str(error)


@virtual
async def test_a_caller_that_left_does_not_stop_the_others(world: World) -> None:
    async def same(items: Sequence[int]) -> Sequence[int]:
        await world.clock.sleep(1)
        return items

    batcher = Batcher(same, world.clock)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(batcher.run())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await batcher.submit(1)
        assert await batcher.submit(2) == 2
        task.cancel()


@virtual
async def test_locks_exclude_and_leave_nothing(world: World) -> None:
    locks, inside, most = KeyLocks(), 0, 0

    async def work(*keys: tuple[str, str]) -> None:
        nonlocal inside, most
        async with locks.hold(keys):
            inside += 1
            most = max(most, inside)
            await world.clock.sleep(1)
            inside -= 1

    one, two = ("a", "eth0"), ("b", "eth0")
    other = ("c", "eth0")
    await asyncio.gather(work(one, two), work(two, one), work(other), work(two, two))
    assert world.clock.monotonic() == 3.0
    assert most == 2  # the other key's, beside one of the rest
    assert locks._locks == {}
