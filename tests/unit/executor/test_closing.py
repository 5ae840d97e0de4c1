"""Shared containers that go: by their age, and no more at a time than the engine is asked for."""

from __future__ import annotations

import asyncio

from tests.simulation.loop import World, virtual
from tests.unit.executor.test_runs import ENDLESS, RunWorld

REMOVE_S = 20.0


@virtual
async def test_a_container_that_runs_keep_warm_is_replaced_when_it_is_old(world: World) -> None:
    it = RunWorld(world, pool_age_s=100, pool_idle_s=60)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        places = []
        for number in range(12):  # one each 20 s, which is never long enough to be idle
            it.run(f"job-{number}.1")
            await it.settle(1)
            places.append(it.agent.report(f"job-{number}.1").container)
            await it.settle(19)
        assert places == sorted(places, key=places.index), "it went back to one that was old"
        assert [places.count(each) for each in dict.fromkeys(places)] == [5, 5, 2]
        assert len(it.pools) == 1, "the old ones are gone"
        await it.crash()


@virtual
async def test_one_that_is_on_its_way_out_counts_until_it_is_gone(world: World) -> None:
    """However slow the engine is with it: else each look of the keeper would begin with more of them."""
    it = RunWorld(world, pool_tasks=1, pool_idle_s=60, pool_closes=1)
    it.docker.latency_s["remove"] = REMOVE_S
    leaving = most = removed = 0

    async def watch(point: str, name: str) -> None:
        nonlocal leaving, most, removed
        if point == "before:remove":
            leaving += 1
            most = max(most, leaving)
        elif point == "after:remove":
            leaving -= 1
            removed += 1

    it.docker.fault = watch
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for number in range(4):
            it.run(f"job-{number}.1", ENDLESS)
        await it.settle()
        assert len(it.pools) == 4
        for number in range(4):
            it.inits.finish(f"job-{number}.1")
        await it.settle(60 + 4 * (REMOVE_S + 10))
        assert (removed, most) == (4, 1)
        it.check_clean()
        await it.crash()
