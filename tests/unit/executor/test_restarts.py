"""Workers and supervisors that die: tasks and containers go on, by the journal, by labels, by adoption."""

from __future__ import annotations

import asyncio

from libs.common.task import RunPayload
from tests.fakes.docker import FakeImage
from tests.simulation.loop import World, virtual
from tests.unit.executor.world import HTTP, IMAGE, ExecutorWorld


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


@virtual
async def test_what_is_to_end_is_not_begun_in_place_of_what_is_dead_gone_or_was_never_started(
    world: World,
) -> None:
    """Its KILL may come late: here it never does."""
    it = ExecutorWorld(world)
    run = RunPayload(job="bu/job", run="run", target=0.0, reuse="never")
    async with asyncio.TaskGroup() as group:
        it.start(group)
        dead, gone, running = it.launch("dead.1"), it.launch("gone.1"), it.launch("running.1")
        await it.settle()
        it.docker.latency_s = {"start": 1000.0}
        made = it.launch("made.1", run=run)
        await it.settle()
        assert it.docker.by_name(made) is not None
        await it.lose_supervisor()
        it.docker.latency_s = {}
        it.docker.kill(dead)
        it.docker.destroy(gone)
        it.start(group)
        for name, container in (("dead", dead), ("gone", gone), ("running", running)):
            it.launch(f"{name}.2", adopt=container, ending=True)
        it.launch("made.2", adopt=made, ending=True, run=run)
        await it.settle()
        for name in ("dead", "gone", "made"):
            assert it.agent.states(f"{name}.2") == ["TASK_KILLED"]
        assert it.agent.states("running.2") == ["TASK_RUNNING"], "it is stopped as others are"
        await it.settle(60)
        assert {each.name for each in it.docker.containers.values()} == {running}
        await it.crash()


@virtual
async def test_what_a_dead_adopter_began_is_taken_over_though_nobody_was_told_of_it(
    world: World,
) -> None:
    """The scheduler names the container that it knows: the one that was gone by then, or dead."""
    for gone in (True, False):
        it = ExecutorWorld(world)
        async with asyncio.TaskGroup() as group:
            it.start(group)
            first, other = it.launch("web.1"), it.launch("shop.1")
            await it.settle()
            await it.lose_supervisor()
            (it.docker.destroy if gone else it.docker.kill)(first)
            it.start(group)
            second = it.launch("web.2", adopt=first)
            await it.settle()
            assert it.container("web.2").running
            await it.lose_supervisor()
            it.start(group)
            it.launch("web.3", adopt=first)
            await it.settle()
            assert it.agent.states("web.3") == ["TASK_RUNNING"]
            assert it.agent.report("web.3").container == second
            assert {each.name for each in it.docker.containers.values()} == {second, other}
            assert it.container("web.2").starts == 1
            it.docker.kill(second)
            await it.settle()
            assert it.agent.last("web.3")["state"] == "TASK_FAILED", "it is watched"
            it.launch("shop.2", adopt=other)
            await it.settle()
            it.kill("shop.2")
            await it.settle(20)
            assert it.docker.containers == {}
            await it.crash()


@virtual
async def test_a_clean_up_brings_an_executor_that_removes_what_nobody_wants(world: World) -> None:
    """The host's executor died for good; no task of an app ever comes here again."""
    it = ExecutorWorld(world, orphan_grace_s=60, sweep_s=5)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        await it.settle()
        await it.crash()
        it.journal.files.clear()
        it.run_id = "run-2"
        await world.clock.sleep(10_000)
        assert it.container("web.1").running
        it.start(group)
        it.launch("cleanup-web.1.1", cleanup=True)
        await it.settle()
        assert it.agent.states("cleanup-web.1.1") == ["TASK_FINISHED"]
        assert it.container("web.1").running  # it may yet be adopted
        await it.settle(120)
        it.check_clean()
        await it.crash()
