"""Faults of those around: hostd, Docker and the network away, answers lost, bugs of our own."""

from __future__ import annotations

import asyncio

from libs.common.errors import NotFound, TooMany, Unavailable
from services.executor.model import ContainerName
from tests.fakes.docker import FakeImage
from tests.simulation.loop import World, virtual
from tests.unit.executor.world import IMAGE, ExecutorWorld, away


@virtual
async def test_hostd_and_docker_may_be_away_for_a_while(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.network.error, it.network.errors = away("hostd"), 8
        it.docker.stop()
        it.launch("web.1")
        await it.settle(8)
        it.docker.start()
        await it.settle(20)
        assert it.agent.states("web.1")[-1] == "TASK_RUNNING"
        await it.crash()


@virtual
async def test_a_network_that_hostd_gave_up_meanwhile_is_made_anew(world: World) -> None:
    it = ExecutorWorld(world)
    it.docker.images.clear()
    it.docker.registry[IMAGE] = FakeImage()
    it.docker.latency_s = {"pull": 200}
    async with asyncio.TaskGroup() as group:
        it.start(group)
        name = it.launch("web.1")
        await it.settle(100)
        await it.network.detach(ContainerName(name))
        await it.settle(110)
        assert it.agent.states("web.1") == ["TASK_STARTING", "TASK_RUNNING"]
        assert it.agent.report("web.1").address == "10.0.0.2"
        assert it.container("web.1").netns_inode == 102
        await it.crash()


@virtual
async def test_a_network_that_can_not_be_had_is_the_reason(world: World) -> None:
    for error, said, within_s in (
        (NotFound("no network 'red'"), "no network 'red'", 1),
        (TooMany("all 250 addresses are in use"), "250 addresses", 10),
        (Unavailable("ipam is away"), "ipam is away", 70),
    ):
        it = ExecutorWorld(world)
        it.network.error, it.network.errors = error, 10**6
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.launch("web.1")
            await it.settle(within_s)
            assert it.agent.last("web.1")["state"] == "TASK_FAILED"
            assert said in it.agent.last("web.1")["message"]
            it.network.errors = 0
            await it.settle(30)
            it.check_clean()
            await it.crash()


@virtual
async def test_lost_answers_of_docker_change_nothing(world: World) -> None:
    it = ExecutorWorld(world)
    lost: set[str] = set()

    async def lose_first_answer(what: str, _name: str) -> None:
        if what.startswith("after:") and what not in lost:
            lost.add(what)
            raise Unavailable("the connection was cut")

    it.docker.fault = lose_first_answer
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await it.settle(10)
        assert it.agent.states("web.1") == ["TASK_RUNNING"]
        assert it.container("web.1").starts == 1
        it.kill("web.1")
        await it.settle(10)
        assert it.agent.states("web.1") == ["TASK_RUNNING", "TASK_KILLED"]
        it.check_clean()
        assert {"after:create", "after:start", "after:remove"} <= lost
        await it.crash()


@virtual
async def test_a_bug_that_one_attempt_meets_ends_that_one_alone(world: World) -> None:
    it = ExecutorWorld(world)

    async def bug(what: str, name: str) -> None:
        if what == "before:start" and "a.1" in name:
            raise ZeroDivisionError

    it.docker.fault = bug
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("a.1")
        it.launch("b.1")
        await it.settle()
        assert it.agent.states("a.1") == ["TASK_FAILED"]
        assert "ZeroDivisionError" in it.agent.last("a.1")["message"]
        assert it.agent.states("b.1") == ["TASK_RUNNING"]
        await it.crash()
