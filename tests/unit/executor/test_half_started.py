"""An engine that dies while it starts a container: nothing of that stays, and it is no fault of the app's."""

from __future__ import annotations

import asyncio

from libs.common.task import RunPayload
from services.executor.errors import HalfStarted
from services.executor.model import Leftover
from tests.simulation.loop import World, virtual
from tests.unit.executor.test_secrets import GIVEN, REFS
from tests.unit.executor.world import ExecutorWorld

ALONE = RunPayload(job="bu/job", run="r", target=0.0, reuse="never")


async def start_dies(it: ExecutorWorld, left: Leftover) -> None:
    """The next start takes the engine down, for two seconds."""

    async def die(what: str, name: str) -> None:
        if what == "before:start":
            it.docker.fault = None
            it.docker.die_in_start(name, left)

    it.docker.fault = die
    await it.settle(2)
    assert it.docker.down
    it.docker.start()


@virtual
async def test_a_fresh_container_takes_the_place(world: World) -> None:
    for left in (Leftover.UNBEGUN, Leftover.BEGUN):
        it = ExecutorWorld(world)
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.launch("web.1")
            await start_dies(it, left)
            spoilt = it.container("web.1").id
            await it.settle(20)
            assert it.agent.states("web.1")[-1] == "TASK_RUNNING"
            assert it.container("web.1").id != spoilt
            assert it.docker.leftovers == {}
            it.kill("web.1")
            await it.settle(10)
            it.check_clean()
            await it.crash()


@virtual
async def test_a_run_that_may_have_begun_is_not_begun_again(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("r.1", run=ALONE)
        await start_dies(it, Leftover.BEGUN)
        await it.settle(20)
        assert it.agent.states("r.1")[-1] == "TASK_FAILED"
        assert "how far it came is not known" in it.agent.last("r.1")["message"]
        assert ("start", "gantry-test-r.1") not in it.docker.log
        assert it.docker.leftovers == {}
        await it.crash()


@virtual
async def test_a_run_that_has_not_begun_is(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("r.1", run=ALONE)
        await start_dies(it, Leftover.UNBEGUN)
        await it.settle(20)
        assert it.agent.states("r.1")[-1] == "TASK_RUNNING"
        await it.crash()


@virtual
async def test_a_shared_container_starts_nothing_by_itself(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("r.1", run=RunPayload(job="bu/job", run="r", target=0.0))
        await start_dies(it, Leftover.BEGUN)
        await it.settle(20)
        assert it.agent.states("r.1")[-1] == "TASK_RUNNING"
        assert it.docker.leftovers == {}
        await it.crash()


@virtual
async def test_the_fresh_one_has_its_secrets(world: World) -> None:
    it = ExecutorWorld(world)
    it.deliveries.known["web.1"] = GIVEN
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1", secrets=REFS)
        await start_dies(it, Leftover.UNBEGUN)
        before = it.container("web.1").spec
        await it.settle(20)
        assert it.agent.states("web.1")[-1] == "TASK_RUNNING"
        assert before.env["DB_PASSWORD"] and it.container("web.1").spec == before
        await it.crash()


@virtual
async def test_it_is_ended_when_nobody_wants_the_container_any_more(world: World) -> None:
    for restarts in (False, True):
        it = ExecutorWorld(world)
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.launch("web.1")
            await start_dies(it, Leftover.BEGUN)
            it.docker.stop()  # before the start was tried again
            it.kill("web.1")
            await it.settle(1)
            if restarts:
                await it.restart(group)
            it.docker.start()
            await it.settle(30)
            assert it.agent.states("web.1")[-1] == "TASK_KILLED"
            assert it.docker.leftovers == {}
            it.check_clean()
            await it.crash()


@virtual
async def test_it_is_ended_with_a_container_that_no_executor_knows(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await start_dies(it, Leftover.BEGUN)
        await it.lose_supervisor()
        it.start(group)
        await it.settle(300)
        assert it.docker.leftovers == {}
        assert it.docker.containers == {}
        await it.crash()


@virtual
async def test_refused_without_a_cause_it_is_what_it_was_a_failure(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")

        async def gone(what: str, name: str) -> None:
            if what == "before:start":
                raise HalfStarted("id already in use")

        it.docker.fault = gone
        await it.settle(20)
        assert it.agent.last("web.1")["state"] == "TASK_FAILED"
        assert "id already in use" in it.agent.last("web.1")["message"]
        await it.crash()
