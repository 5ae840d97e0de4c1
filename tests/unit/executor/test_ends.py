"""How attempts end: by themselves, when stopped, and behind our back; and that nothing is left of them."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.docker import FakeImage
from tests.simulation.loop import World, virtual
from tests.unit.executor.world import IMAGE, ExecutorWorld, away


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
async def test_that_memory_ran_out_may_be_known_after_the_end(world: World) -> None:
    it = ExecutorWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        name = it.launch("a.1")
        await it.settle()
        it.docker.kill(name)
        await asyncio.sleep(0.1)
        container = it.docker.by_name(name)
        assert container is not None
        container.oom_killed = True
        await it.settle()
        assert it.agent.report("a.1").oom_killed
        assert "out of memory" in it.agent.last("a.1")["message"]
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
