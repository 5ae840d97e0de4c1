"""The service on fakes: an attempt's life, images, health, and what Mesos says."""

from __future__ import annotations

import asyncio

from libs.common.task import TellAnew
from libs.mesos import events as mesos
from services.executor.model import State
from tests.fakes.docker import FakeImage
from tests.simulation.loop import World, virtual
from tests.unit.executor.world import HTTP, IMAGE, ExecutorWorld, task_of


@virtual
async def test_the_whole_life_of_an_attempt(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        name = it.launch("web.1", health=(HTTP,))
        await it.settle()
        # A success that comes at once is in the same update as RUNNING.
        assert it.agent.states("web.1") == ["TASK_RUNNING"]
        assert it.agent.last("web.1")["healthy"] is True
        report = it.agent.report("web.1")
        assert (report.container, report.address, report.healthy) == (name, "10.0.0.1", True)
        status = it.agent.last("web.1")["container_status"]["network_infos"][0]["ip_addresses"]
        assert status == [{"protocol": "IPv4", "ip_address": "10.0.0.1"}]
        assert it.container("web.1").netns_inode == 101
        assert it.container("web.1").hosts.endswith("10.0.0.1\tweb\n")
        it.kill("web.1")
        await it.settle()
        assert it.agent.states("web.1") == ["TASK_RUNNING", "TASK_KILLED"]
        it.check_clean()
        await it.crash()


@virtual
async def test_a_scheduler_that_has_forgotten_is_told_again(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1", health=(HTTP,))
        await it.settle()
        asked = TellAnew(attempts=("web.1", "stranger.1")).model_dump_json().encode()
        for data in (asked, b"something else"):
            it.agent.say(mesos.Message(data))
        await it.settle()
        assert it.agent.states("web.1") == ["TASK_RUNNING", "TASK_RUNNING"]
        assert it.agent.last("web.1")["healthy"] is True
        assert it.agent.report("web.1").address == "10.0.0.1"
        it.kill("web.1")
        it.agent.say(mesos.Message(asked))  # it is about to end: that will be told
        await it.settle()
        assert it.agent.states("web.1")[2:] == ["TASK_KILLED"]
        await it.crash()


@virtual
async def test_no_more_calls_than_needed(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        name = it.launch("web.1", health=(HTTP,))
        await it.settle(60)
        calls = [operation for operation, which in it.docker.log if which == name]
        assert calls == ["create", "inspect", "start", "inspect"]
        await it.crash()


@virtual
async def test_at_most_eight_launches_at_a_time_and_those_begun_first(world: World) -> None:
    it = ExecutorWorld(world)
    it.docker.latency_s = {"create": 0.1, "start": 0.1}
    under_way: set[str] = set()
    most = 0

    async def count(what: str, name: str) -> None:
        nonlocal most
        if what == "before:create":
            under_way.add(name)
        if what == "after:start":
            under_way.discard(name)
        most = max(most, len(under_way))

    it.docker.fault = count
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for number in range(40):
            it.launch(f"web-{number}.1")
        await it.settle(1.05)
        assert len([each for each in it.docker.log if each[0] == "start"]) == 40
        assert most == 8
        await it.crash()


@virtual
async def test_a_launch_that_takes_long_says_that_it_is_starting(world: World) -> None:
    it = ExecutorWorld(world, starting_after_s=10)
    it.docker.latency_s = {"create": 30}
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1", health=(HTTP,))
        await it.settle(11)
        assert it.agent.states("web.1") == ["TASK_STARTING"]
        assert "create" in it.agent.last("web.1")["message"]
        await it.settle(30)
        assert it.agent.states("web.1") == ["TASK_STARTING", "TASK_RUNNING"]
        await it.crash()


# -- images ----------------------------------------------------------------------------------------


@virtual
async def test_one_pull_for_all_who_want_the_image(world: World) -> None:
    it = ExecutorWorld(world)
    it.docker.images.clear()
    it.docker.registry[IMAGE] = FakeImage()
    it.docker.latency_s = {"pull": 5}
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for number in range(20):
            it.launch(f"web-{number}.1")
        await it.settle(6)
        assert [each for each in it.docker.log if each[0] == "pull"] == [("pull", IMAGE)]
        for number in range(20):
            assert it.agent.states(f"web-{number}.1") == ["TASK_STARTING", "TASK_RUNNING"]
        await it.crash()


@virtual
async def test_an_image_that_does_not_exist_fails_soon_and_is_named(world: World) -> None:
    it = ExecutorWorld(world)
    it.docker.images.clear()
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await it.settle(2)
        last = it.agent.last("web.1")
        assert last["state"] == "TASK_FAILED"
        assert last["reason"] == "REASON_CONTAINER_LAUNCH_FAILED"
        assert IMAGE in last["message"]
        assert "does not exist" in last["message"]
        it.check_clean()
        await it.crash()


# -- health ----------------------------------------------------------------------------------------


@virtual
async def test_health_comes_and_goes(world: World) -> None:
    it = ExecutorWorld(world)
    it.docker.images[IMAGE] = FakeImage(healthy_after_s=3)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1", health=(HTTP,))
        await it.settle(1)
        assert "healthy" not in it.agent.last("web.1")
        await it.settle(4)
        assert it.agent.last("web.1")["healthy"] is True
        assert it.agent.last("web.1")["reason"] == "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED"
        container = it.container("web.1")
        container.healthy = False
        await it.settle(6)
        container.healthy = True  # one failure is none
        await it.settle(20)
        assert it.agent.states("web.1") == ["TASK_RUNNING", "TASK_RUNNING"]
        container.healthy = False
        await it.settle(20)
        assert it.agent.states("web.1")[2:] == ["TASK_RUNNING", "TASK_FAILED"]
        assert it.agent.statuses[-2]["healthy"] is False
        assert "health check failed" in it.agent.last("web.1")["message"]
        assert "status 500" in it.agent.last("web.1")["message"]
        assert container.signals == ["SIGTERM"]
        await it.settle(1)
        it.check_clean()
        await it.crash()


@virtual
async def test_one_that_never_gets_healthy_is_given_its_grace(world: World) -> None:
    it = ExecutorWorld(world)
    it.docker.images[IMAGE] = FakeImage(healthy_after_s=None)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1", health=(HTTP,))
        await it.settle(9.9)
        assert it.agent.states("web.1") == ["TASK_RUNNING"]
        await it.settle(16)
        assert it.agent.states("web.1")[-1] == "TASK_FAILED"
        await it.crash()


# -- Mesos -----------------------------------------------------------------------------------------


@virtual
async def test_bad_tasks_are_refused(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        task = task_of("bad.1")
        it.agent.say(mesos.Launch({**task, "data": "?"}))
        it.launch("foreign.1", cluster="other")
        it.launch("web.1")
        it.launch("web.1")
        it.kill("unknown.1")
        await it.settle()
        assert it.agent.states("bad.1") == ["TASK_ERROR"]
        assert it.agent.states("foreign.1") == ["TASK_ERROR"]
        assert it.agent.states("web.1") == ["TASK_RUNNING"]
        assert it.agent.states("unknown.1") == ["TASK_LOST"]
        await it.crash()


@virtual
async def test_shutdown_stops_all_within_the_agents_patience(world: World) -> None:
    it = ExecutorWorld(world)
    it.docker.images[IMAGE] = FakeImage(ends_on_term_s=None)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for number in range(3):
            it.launch(f"web-{number}.1", stop_grace_s=60)
        await it.settle()
        it.agent.say(mesos.Shutdown())
        await it.settle(4.5)
        assert it.ended
        for number in range(3):
            assert it.agent.states(f"web-{number}.1") == ["TASK_RUNNING", "TASK_KILLED"]
        assert it.docker.containers == {}
        assert it.network.attachments == {}


@virtual
async def test_when_the_agent_is_lost_for_good_containers_go_on(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await it.settle()
        it.agent.say(mesos.Shutdown("recovery time-out"))
        await it.settle(10)
        assert not it.ended
        assert len(it.agent.subscriptions) == 2
        assert it.container("web.1").running
        assert it.service.attempts["web.1"].state is State.RUNNING  # type: ignore[index]
        await it.crash()
