"""An engine that dies while it starts a container: nothing of that stays, and it is no fault of the app's."""

from __future__ import annotations

import asyncio

from libs.common.task import RunPayload
from services.executor.errors import HalfStarted
from tests.simulation.loop import World, virtual
from tests.unit.executor.test_secrets import GIVEN, REFS
from tests.unit.executor.world import ExecutorWorld

ALONE = RunPayload(job="bu/job", run="r", target=0.0, reuse="never")


async def start_dies(it: ExecutorWorld, *, back: bool = True) -> None:
    """The next start takes the engine down. It is back after two seconds, if it is to be."""

    async def die(what: str, name: str) -> None:
        if what == "before:start":
            it.docker.fault = None
            it.docker.die_in_start(name)

    it.docker.fault = die
    await it.settle(2)
    assert it.docker.down
    if back:
        it.docker.start()


async def reached(it: ExecutorWorld, point: str) -> None:
    """Until a call of the engine comes to this point."""
    there = asyncio.Event()

    async def note(what: str, name: str) -> None:
        if what == point:
            there.set()

    it.docker.fault = note
    await there.wait()
    it.docker.fault = None


async def leaves_nothing(it: ExecutorWorld, attempt: str) -> None:
    """When it is killed; and that is the end."""
    it.kill(attempt)
    await it.settle(10)
    it.check_clean()
    await it.crash()


@virtual
async def test_a_fresh_container_takes_the_place(world: World) -> None:
    for replaces in (False, True):
        it = ExecutorWorld(world)
        it.docker.replaces = replaces
        it.docker.latency_s = {"create": 0.1, "remove": 0.1}  # events come before the answers
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.launch("web.1")
            await start_dies(it)
            spoilt = it.container("web.1").id
            await it.settle(20)
            assert it.agent.states("web.1") == ["TASK_RUNNING"]
            assert it.container("web.1").id != spoilt
            assert it.docker.leftovers == {}
            await leaves_nothing(it, "web.1")


@virtual
async def test_whoever_follows_a_worker_looks_before_it_starts(world: World) -> None:
    for run in (None, ALONE):
        it = ExecutorWorld(world)
        it.docker.replaces = True
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.launch("web.1", run=run)
            await start_dies(it, back=False)
            spoilt = it.container("web.1").id
            await it.crash()
            it.docker.start()
            it.start(group)
            await it.settle(20)
            state = "TASK_RUNNING" if run is None else "TASK_FAILED"
            assert it.agent.states("web.1")[-1] == state
            assert run is not None or it.container("web.1").id != spoilt
            assert it.docker.leftovers == {}
            await it.crash()


@virtual
async def test_one_to_adopt_is_cleared_away_before_the_next_begins(world: World) -> None:
    for stop in (False, True):
        it = ExecutorWorld(world)
        it.docker.latency_s = {"remove": 3}
        async with asyncio.TaskGroup() as group:
            it.start(group)
            name = it.launch("web.1")
            await start_dies(it, back=False)
            await it.lose_supervisor()
            it.docker.start()
            it.start(group)
            it.launch("web.2", adopt=name)
            await it.settle(2)
            assert it.docker.leftovers == {}
            assert [each.name for each in it.docker.containers.values()] == [name]
            if stop:
                it.kill("web.2")
            await it.settle(20)
            assert it.agent.states("web.2")[-1] == ("TASK_KILLED" if stop else "TASK_RUNNING")
            assert it.docker.by_name(name) is None
            assert name not in it.network.attachments
            await leaves_nothing(it, "web.2")


@virtual
async def test_a_run_to_adopt_that_may_have_begun_is_not_begun_again(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        name = it.launch("r.1", run=ALONE)
        await start_dies(it, back=False)
        await it.lose_supervisor()
        it.docker.start()
        it.start(group)
        it.launch("r.2", run=ALONE, adopt=name)
        await it.settle(20)
        assert it.agent.states("r.2") == ["TASK_FAILED"]
        assert "how far it came is not known" in it.agent.last("r.2")["message"]
        assert it.docker.leftovers == {} and it.docker.containers == {}
        assert not any(what == "start" for what, _ in it.docker.log)
        await it.crash()


@virtual
async def test_whoever_follows_a_worker_goes_on_clearing(world: World) -> None:
    for at in ("before:remove", "after:remove", "before:create", "after:create"):
        it = ExecutorWorld(world)
        it.docker.latency_s = {"remove": 0.2, "create": 0.2}
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.launch("web.1")
            await start_dies(it)
            spoilt = it.container("web.1").id
            await reached(it, at)
            await it.restart(group)
            await it.settle(20)
            assert it.agent.states("web.1")[-1] == "TASK_RUNNING", at
            assert it.container("web.1").id != spoilt
            assert it.docker.leftovers == {}
            await leaves_nothing(it, "web.1")


@virtual
async def test_a_run_that_may_have_begun_is_not_begun_again(world: World) -> None:
    for replaces in (False, True):
        it = ExecutorWorld(world)
        it.docker.replaces = replaces
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.launch("r.1", run=ALONE)
            await start_dies(it)
            await it.settle(20)
            assert it.agent.states("r.1") == ["TASK_FAILED"]
            assert "how far it came is not known" in it.agent.last("r.1")["message"]
            assert ("start", "gantry-test-r.1") not in it.docker.log
            assert it.docker.leftovers == {} and it.docker.containers == {}
            await it.crash()


@virtual
async def test_a_shared_container_starts_nothing_by_itself(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("r.1", run=RunPayload(job="bu/job", run="r", target=0.0))
        await start_dies(it)
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
        await start_dies(it)
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
            await start_dies(it)
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
        await start_dies(it)
        await it.lose_supervisor()
        it.start(group)
        await it.settle(300)
        assert it.docker.leftovers == {}
        assert it.docker.containers == {}
        await it.crash()


@virtual
async def test_an_engine_that_says_it_of_each_is_not_believed_for_ever(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")

        async def refuse(what: str, name: str) -> None:
            if what == "before:start":
                raise HalfStarted("id already in use")

        it.docker.fault = refuse
        await it.settle(20)
        assert it.agent.last("web.1")["state"] == "TASK_FAILED"
        assert "id already in use" in it.agent.last("web.1")["message"]
        assert it.docker.log.count(("create", "gantry-test-web.1")) == 4
        it.check_clean()
        await it.crash()


@virtual
async def test_a_stop_meanwhile_is_the_end_once_all_is_cleared(world: World) -> None:
    it = ExecutorWorld(world)
    it.docker.latency_s = {"remove": 5}
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await start_dies(it)
        await it.settle(3)
        assert it.docker.leftovers == {} and it.docker.containers
        it.kill("web.1")
        await it.settle(20)
        assert it.agent.states("web.1") == ["TASK_KILLED"]
        assert it.docker.log.count(("create", "gantry-test-web.1")) == 1
        it.check_clean()
        await it.crash()
