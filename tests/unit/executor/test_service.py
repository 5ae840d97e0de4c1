"""The service on fakes: launches, health, stops, crashes of everything around it."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.errors import NotFound, TooMany, Unavailable
from libs.mesos import events as mesos
from services.executor.model import ContainerName, State
from tests.fakes.docker import FakeImage
from tests.simulation.loop import World, virtual
from tests.unit.executor.world import HTTP, IMAGE, ExecutorWorld, away, task_of


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


# -- ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "state", "said"),
    [
        (FakeImage(exits_after_s=5), "TASK_FINISHED", "exited with code 0"),
        (FakeImage(exits_after_s=5, exit_code=3), "TASK_FAILED", "exited with code 3"),
        (FakeImage(exits_after_s=5, exit_code=139), "TASK_FAILED", "SIGSEGV"),
        (FakeImage(exits_after_s=5, out_of_memory=True), "TASK_FAILED", "more than 64 MiB"),
        (FakeImage(exits_after_s=0, exit_code=1), "TASK_FAILED", "exited with code 1"),
    ],
)
def test_ends_are_told_as_they_were(image: FakeImage, state: str, said: str) -> None:
    @virtual
    async def scene(world: World) -> None:
        it = ExecutorWorld(world)
        it.docker.images[IMAGE] = image
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.launch("web.1", mem_mib=64)
            await it.settle(10)
            assert it.agent.last("web.1")["state"] == state
            assert said in it.agent.last("web.1")["message"]
            assert it.agent.report("web.1").exit_code is not None
            it.check_clean()
            await it.crash()

    scene()


@virtual
async def test_term_then_kill_after_the_grace(world: World) -> None:
    it = ExecutorWorld(world)
    it.docker.images[IMAGE] = FakeImage(ends_on_term_s=None, stop_signal="SIGQUIT")
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1", stop_grace_s=10)
        await it.settle()
        container = it.container("web.1")
        it.kill("web.1")
        await it.settle(9)
        assert container.signals == ["SIGQUIT"]
        assert it.agent.states("web.1") == ["TASK_RUNNING"]
        await it.settle(2)
        assert container.signals == ["SIGQUIT", "SIGKILL"]
        assert it.agent.last("web.1")["state"] == "TASK_KILLED"
        assert "killed after a grace of 10 s" in it.agent.last("web.1")["message"]
        await it.crash()


@virtual
async def test_a_second_kill_may_shorten_the_grace(world: World) -> None:
    it = ExecutorWorld(world)
    it.docker.images[IMAGE] = FakeImage(ends_on_term_s=None)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1", stop_grace_s=3000)
        await it.settle()
        it.kill("web.1")
        await it.settle(5)
        it.kill("web.1", grace_s=1)
        await it.settle(2)
        assert it.agent.last("web.1")["state"] == "TASK_KILLED"
        await it.crash()


@virtual
async def test_a_kill_during_the_launch_leaves_nothing(world: World) -> None:
    for delay_s in (0.05, 0.15, 0.25, 0.35, 0.45):
        it = ExecutorWorld(world)
        it.docker.latency_s = {"create": 0.1, "start": 0.2, "inspect": 0.1}
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.launch("web.1")
            await it.settle(delay_s)
            it.kill("web.1")
            await it.settle(5)
            assert it.agent.states("web.1")[-1] == "TASK_KILLED"
            it.check_clean()
            it.check_monotone()
            await it.crash()


@virtual
async def test_what_is_over_is_revoked_removed_detached_in_this_order(world: World) -> None:
    it = ExecutorWorld(world)
    order: list[str] = []

    async def note(what: str, _name: str) -> None:
        if what == "before:remove":
            order.append(f"{what} with {[each[0] for each in it.network.log][-1]}")

    it.docker.fault = note
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await it.settle()
        it.kill("web.1")
        await it.settle()
        assert order == ["before:remove with revoke"]
        assert [each[0] for each in it.network.log][-2:] == ["revoke", "detach"]
        await it.crash()


@virtual
async def test_the_clean_up_goes_on_until_it_is_done(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await it.settle()
        it.network.error, it.network.errors = away("hostd"), 12
        it.kill("web.1")
        await it.settle(5)
        assert it.agent.last("web.1")["state"] == "TASK_KILLED"
        assert it.docker.containers, (
            "it was removed although its leave to start could not be revoked"
        )
        await it.settle(120)
        it.check_clean()
        await it.crash()


# -- behind our back -------------------------------------------------------------------------------


@virtual
async def test_killed_or_removed_behind_our_back(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        one, two = it.launch("a.1"), it.launch("b.1")
        await it.settle()
        it.docker.kill(one)
        it.docker.destroy(two)
        await it.settle()
        assert it.agent.last("a.1")["state"] == "TASK_FAILED"
        assert "SIGKILL" in it.agent.last("a.1")["message"]
        assert it.agent.last("b.1")["state"] == "TASK_FAILED"
        it.check_clean()
        await it.crash()


@virtual
async def test_ends_that_no_event_told_are_seen_by_the_sweep(world: World) -> None:
    it = ExecutorWorld(world, sweep_s=30)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        one, two = it.launch("a.1"), it.launch("b.1")
        await it.settle()
        it.docker.stop()  # the daemon; containers go on, and end unseen
        it.docker.kill(one, exit_code=4)
        it.docker.destroy(two)
        await it.settle(5)
        it.docker.start()
        await it.settle(40)
        assert "exited with code 4" in it.agent.last("a.1")["message"]
        assert "removed by somebody else" in it.agent.last("b.1")["message"]
        it.check_clean()
        await it.crash()


@virtual
async def test_a_container_in_the_hosts_namespace_is_killed(world: World) -> None:
    it = ExecutorWorld(world)
    for inode, said in ((1, "not its own"), (999, "not its own")):
        it.docker.claim = lambda _id, inode=inode: _value(inode)  # type: ignore[misc]
        async with asyncio.TaskGroup() as group:
            it.start(group)
            name = it.launch(f"web-{inode}.1")
            await it.settle()
            assert it.agent.states(f"web-{inode}.1") == ["TASK_FAILED"]
            assert said in it.agent.last(f"web-{inode}.1")["message"]
            assert it.docker.by_name(name) is None
            assert ("signal:SIGKILL", name) in it.docker.log
            await it.crash()


async def _value(inode: int) -> int:
    return inode


@virtual
async def test_a_container_under_another_runtime_is_never_started(world: World) -> None:
    it = ExecutorWorld(world)

    async def other_runtime(what: str, name: str) -> None:
        if what == "after:create":
            it.container("web.1").runtime = "runc"
            raise away("Docker")  # so that it finds it, instead of having made it

    it.docker.fault = other_runtime
    async with asyncio.TaskGroup() as group:
        it.start(group)
        name = it.launch("web.1")
        await it.settle(20)
        assert it.agent.states("web.1") == ["TASK_FAILED"]
        assert "runtime 'runc'" in it.agent.last("web.1")["message"]
        assert ("start", name) not in it.docker.log
        it.check_clean()
        await it.crash()


@virtual
async def test_strays_go_and_others_containers_stay(world: World) -> None:
    it = ExecutorWorld(world, stray_grace_s=60, sweep_s=30)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for attempt in ("created.1", "dead.1", "orphan.1", "foreign.1"):
            it.launch(attempt)
        await it.settle()
        it.run_id = "run-2"
        it.journal.files.clear()  # another supervisor: of its own journal
        await it.crash()
        it.container("created.1").phase = it.container("created.1").phase.CREATED
        it.docker.kill(it.container("dead.1").name)
        it.container("foreign.1").spec.labels["gantry.agent"] = "host-2"
        it.container("foreign.1").phase = it.container("foreign.1").phase.EXITED
        it.start(group)
        await it.settle(200)
        names = sorted(each.spec.labels["gantry.attempt"] for each in it.docker.containers.values())
        assert names == ["foreign.1", "orphan.1"]
        assert it.container("orphan.1").running
        await it.crash()


# -- faults of those around ------------------------------------------------------------------------


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


# -- restarts --------------------------------------------------------------------------------------


@virtual
async def test_a_new_worker_changes_no_task_and_no_container(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for number in range(5):
            it.launch(f"web-{number}.1", health=(HTTP,))
        await it.settle()
        told, probes = len(it.agent.statuses), it.prober.probes
        await it.restart(group)
        await it.settle(60)
        assert len(it.agent.statuses) == told
        assert it.prober.probes > probes
        assert all(each.starts == 1 and each.running for each in it.docker.containers.values())
        it.docker.kill(it.container("web-0.1").name)
        it.kill("web-1.1")
        await it.settle(2)
        assert it.agent.last("web-0.1")["state"] == "TASK_FAILED"
        assert it.agent.last("web-1.1")["state"] == "TASK_KILLED"
        await it.crash()


@virtual
async def test_a_worker_may_die_at_any_moment(world: World) -> None:
    for moment in range(1, 60):
        it = ExecutorWorld(world)
        it.docker.latency_s = {"create": 0.1, "start": 0.1, "inspect": 0.05, "remove": 0.1}
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.launch("web.1", health=(HTTP,))
            await it.settle(moment * 0.01)
            await it.restart(group)
            await it.settle(5)
            assert it.agent.states("web.1")[-1] == "TASK_RUNNING", moment
            assert it.container("web.1").starts == 1
            it.kill("web.1")
            await it.settle(moment * 0.01)
            await it.restart(group)
            await it.settle(10)
            assert it.agent.states("web.1")[-1] == "TASK_KILLED", moment
            it.check_clean()
            it.check_monotone()
            await it.crash()


@virtual
async def test_what_is_not_acknowledged_is_told_again(world: World) -> None:
    it = ExecutorWorld(world)
    it.agent.acknowledging = False
    it.docker.images[IMAGE] = FakeImage(exits_after_s=5, exit_code=7)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await it.settle(8)
        assert it.docker.containers == {}, "the result is in the journal, the container may go"
        await it.restart(group)
        await it.settle()
        tasks, updates = it.agent.subscriptions[-1]
        assert [each["task_id"]["value"] for each in tasks] == ["web.1"]
        assert [each["status"]["state"] for each in updates] == ["TASK_RUNNING", "TASK_FAILED"]
        for status in list(it.agent.statuses):
            it.agent.acknowledge(status)
        await it.settle()
        it.check_clean()
        await it.restart(group)
        await it.settle()
        assert it.agent.subscriptions[-1] == ([], [])
        await it.crash()


@virtual
async def test_without_its_journal_a_worker_reads_the_labels(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1", health=(HTTP,), env={"A": "1"})
        await it.settle()
        it.journal.files.clear()
        await it.restart(group)
        await it.settle()
        assert it.service.attempts.keys() == {"web.1"}
        it.kill("web.1")
        await it.settle(2)
        assert it.agent.last("web.1")["state"] == "TASK_KILLED"
        it.check_clean()
        await it.crash()


@virtual
async def test_after_its_supervisor_a_container_is_adopted(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        name = it.launch("web.1", health=(HTTP,))
        await it.settle()
        it.run_id = "run-2"
        it.journal.files.clear()
        await it.restart(group)
        await it.settle(60)
        assert it.service.attempts == {}
        it.launch("web.2", health=(HTTP,), adopt=name)
        await it.settle()
        assert it.agent.states("web.2") == ["TASK_RUNNING"]
        report = it.agent.report("web.2")
        assert (report.container, report.address) == (name, "10.0.0.1")
        assert it.container("web.1").starts == 1
        await it.restart(group)
        await it.settle()
        it.kill("web.2")
        await it.settle(2)
        assert it.agent.last("web.2")["state"] == "TASK_KILLED"
        it.check_clean()
        await it.crash()


@virtual
async def test_a_dead_one_is_started_anew_and_a_different_one_left_alone(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        dead, other = it.launch("a.1"), it.launch("b.1")
        await it.settle()
        it.run_id = "run-2"
        it.journal.files.clear()
        await it.crash()
        it.docker.kill(dead)
        it.start(group)
        it.launch("a.2", adopt=dead)
        it.launch("b.2", adopt=other, env={"NEW": "1"})
        await it.settle()
        assert it.agent.states("a.2") == ["TASK_RUNNING"]
        assert it.container("a.2").running
        assert it.docker.by_name(dead) is None
        assert it.agent.states("b.2") == ["TASK_FAILED"]
        assert "gantry.spec" in it.agent.last("b.2")["message"]
        assert it.container("b.1").running
        assert other in it.network.attachments
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
