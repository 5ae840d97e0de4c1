"""A supervisor dies before Mesos has taken how runs ended: who follows it tells that, and runs nothing again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from libs.common.task import RunPayload
from libs.common.telemetry import make_log
from services.executor import core
from services.executor.book import Book
from services.executor.config import ExecutorConfig
from services.executor.ends import Ends
from services.executor.model import Identity, Record, TaskState
from services.executor.reporting import World as Facts
from services.executor.worker import ends_file
from tests.fakes.docker import FakeImage
from tests.fakes.journal import MemoryJournal
from tests.simulation.loop import World, virtual
from tests.unit.executor.test_runs import ALONE, BRIEF, ENDLESS, RunWorld
from tests.unit.executor.world import AGENT, CLUSTER, away, payload_of

RUN = RunPayload(job="bu/job", run="job", target=0.0)
FACTS = Facts(ExecutorConfig(), Identity(CLUSTER, AGENT), 0.0)


@virtual
async def test_who_follows_a_dead_executor_tells_the_ends_that_it_had_seen(world: World) -> None:
    it = RunWorld(world)
    it.agent.acknowledging = False
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("alone.1", ALONE, reuse="never")
        it.run("shared.1", ALONE)
        await it.settle(0.05)
        alone, (pool,) = it.container("alone.1").name, it.pools
        await it.settle()
        assert it.docker.by_name(alone) is None and pool.tasks == {}
        await it.lose_supervisor()
        it.agent.acknowledging = True
        it.start(group)
        it.run("alone.2", ALONE, reuse="never", adopt=alone)
        # That it ran, and where, the scheduler need not have heard.
        it.run("shared.2", ALONE, adopt=f"gantry-{CLUSTER}-shared.1")
        await it.settle()
        for name in ("alone", "shared"):
            told, again = it.agent.report(f"{name}.1"), it.agent.report(f"{name}.2")
            assert it.agent.states(f"{name}.2") == ["TASK_FAILED"]
            assert again == told and again.exit_code == 3 and again.output and again.ended_at
        assert it.inits.started == ["shared.1"]
        await it.settle(400)
        it.check_clean()
        await it.crash()


@virtual
async def test_what_could_not_be_written_is_told_by_what_is_left_of_the_run(world: World) -> None:
    """The disk with the ends is full, that with the supervisor's journal full or not."""
    for all_full in (True, False):
        it = RunWorld(world)
        it.agent.acknowledging = False
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.run("alone.1", ALONE, reuse="never")
            it.run("shared.1", ALONE)
            await it.settle(0.05)
            it.end_journal.full, it.journal.full = True, all_full
            alone = it.container("alone.1").name
            await it.settle(20)
            assert it.agent.last("alone.1")["state"] == "TASK_FAILED"
            await it.lose_supervisor()
            it.start(group)
            it.run("alone.2", ALONE, reuse="never", adopt=alone)
            it.run("shared.2", ALONE, adopt=f"gantry-{CLUSTER}-shared.1")
            await it.settle(20)
            for name in ("alone", "shared"):
                assert it.ends(f"{name}.2") == ["TASK_FAILED"]
                assert it.agent.report(f"{name}.2").exit_code == 3
            it.end_journal.full = it.journal.full = False
            await it.settle(10)
            assert set(it.end_journal.files) == {"alone.2", "shared.2"}, "it is written after all"
            assert it.docker.by_name(alone) is None and it.pools[0].tasks == {}
            it.agent.acknowledging = True
            await it.restart(group)
            await it.settle(400)
            it.check_clean()
            await it.crash()


@virtual
async def test_on_a_full_disk_a_container_goes_when_its_end_is_taken_or_after_a_while(
    world: World,
) -> None:
    """It may be what the disk is full of."""
    for taken in (True, False):
        it = RunWorld(world, orphan_grace_s=60)
        it.agent.acknowledging = taken
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.run("alone.1", ALONE, reuse="never")
            await it.settle(0.05)
            it.end_journal.full = it.journal.full = True
            await it.settle(20)
            assert (it.docker.containers == {}) is taken
            await it.settle(60)
            assert it.docker.containers == {}
            await it.crash()


@virtual
async def test_a_shared_container_does_not_go_before_what_its_init_knows_is_written(
    world: World,
) -> None:
    it = RunWorld(world)
    it.docker.images["eats"] = FakeImage(exits_after_s=0.1, out_of_memory=True)
    it.agent.acknowledging = False
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("shared.1", "eats", mem_mib=16)
        await it.settle(0.05)
        it.end_journal.full = it.journal.full = True
        (pool,) = it.pools
        await it.settle(20)
        assert it.agent.report("shared.1").oom_killed
        assert it.pools == [pool], "it is to be replaced, and waits"
        it.end_journal.full = it.journal.full = False
        await it.settle(20)
        assert it.pools == [] and set(it.end_journal.files) == {"shared.1"}
        await it.crash()


@virtual
async def test_an_end_that_one_worker_could_not_write_the_next_one_writes(world: World) -> None:
    it = RunWorld(world)
    it.agent.acknowledging = False
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("alone.1", ALONE, reuse="never")
        await it.settle(0.05)
        it.end_journal.full = True
        alone = it.container("alone.1").name
        await it.settle(20)
        for full in (True, False):
            it.end_journal.full = full
            await it.restart(group)
            await it.settle(20)
            assert (it.docker.by_name(alone) is not None) is full
        await it.lose_supervisor()
        it.start(group)
        it.run("alone.2", ALONE, reuse="never", adopt=alone)
        await it.settle(20)
        assert it.ends("alone.2") == ["TASK_FAILED"]
        assert it.agent.report("alone.2").exit_code == 3
        await it.crash()


def test_a_worker_writes_no_end_of_a_try_that_another_has_followed() -> None:
    journal, ends = MemoryJournal(), MemoryJournal()
    book = Book(
        journal, Ends(ends, make_log("x", level="critical")), make_log("x", level="critical")
    )
    for attempt in ("job.1", "job.2"):
        step = core.launch(attempt, payload_of(attempt, run=RUN), FACTS)
        book.open(step.attempt, None)
        if attempt == "job.1":
            ended = step.attempt.model_copy(update={"reported": TaskState.FAILED})
            book.save(ended, [{"uuid": "u"}])  # type: ignore[typeddict-item]
    assert ends.files == {}
    Book(journal, Ends(ends, make_log("x", level="critical")), make_log("x", level="critical"))
    assert ends.files == {}


@virtual
async def test_an_older_try_that_still_runs_is_not_taken_for_the_one_that_ended(
    world: World,
) -> None:
    it = RunWorld(world)
    it.agent.acknowledging = False
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("alone.1", ENDLESS, reuse="never")
        await it.settle()
        await it.lose_supervisor()
        it.start(group)
        it.run("alone.2", ALONE, reuse="never")
        await it.settle(0.05)
        it.end_journal.full = it.journal.full = True
        second = it.container("alone.2").name
        await it.settle()
        await it.lose_supervisor()
        it.end_journal.full = it.journal.full = False
        it.start(group)
        it.run("alone.3", ALONE, reuse="never", adopt=second)
        await it.settle()
        assert it.agent.states("alone.3") == ["TASK_FAILED"]
        assert it.agent.report("alone.3").exit_code == 3
        await it.crash()


@virtual
async def test_what_mesos_has_taken_is_kept_no_longer(world: World) -> None:
    it = RunWorld(world)
    it.agent.acknowledging = False
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.launch("web.1")
        it.run("job.1", ALONE)
        await it.settle()
        running, ended = (each for each in it.agent.statuses if each["task_id"]["value"] == "job.1")
        it.agent.acknowledge(running)
        await it.settle()
        assert list(it.end_journal.files) == ["job.1"]
        it.agent.acknowledge(ended)
        it.kill("web.1")  # a service is started again, whatever it ended with
        await it.settle()
        assert it.agent.last("web.1")["state"] == "TASK_KILLED"
        assert it.end_journal.files == {}
        await it.crash()


@virtual
async def test_an_end_outlives_one_supervisor_after_the_other(world: World) -> None:
    it = RunWorld(world)
    it.agent.acknowledging = False
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("job.1", ALONE)
        await it.settle()
        container = it.agent.report("job.1").container
        for number in (2, 3, 4):
            await it.lose_supervisor()
            it.start(group)
            it.run(f"job.{number}", ALONE, adopt=container)
            await it.settle()
            assert it.agent.report(f"job.{number}").exit_code == 3
            assert list(it.end_journal.files) == [f"job.{number}"]
            await it.restart(group)  # a worker has it in its journal
            await it.settle()
        it.agent.acknowledge(it.agent.last("job.4"))
        await it.settle()
        assert it.inits.started == ["job.1"] and it.end_journal.files == {}
        await it.crash()


@virtual
async def test_the_end_of_a_try_is_not_told_of_the_next_one(world: World) -> None:
    """Mesos may have taken it all the same: only its word of that was lost with the supervisor."""
    it = RunWorld(world)
    it.agent.acknowledging = False
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for name in ("begun.1", "unseen.1"):
            it.run(name, ENDLESS)
        await it.settle()
        for name in ("begun.1", "unseen.1"):
            it.inits.finish(name, 3)
        await it.settle()
        await it.lose_supervisor()
        it.start(group)
        it.run("begun.2", ENDLESS)
        await it.settle()
        container = it.agent.report("begun.2").container
        assert container == it.agent.report("begun.1").container
        await it.lose_supervisor()
        it.start(group)
        it.run("begun.3", ENDLESS, adopt=container)
        # Its second try was lost on its way to an executor that died.
        it.run("unseen.3", ENDLESS, adopt=f"gantry-{CLUSTER}-unseen.2")
        await it.settle()
        assert it.agent.states("begun.3") == ["TASK_RUNNING"]
        assert it.agent.report("unseen.3").exit_code is None
        assert "nobody can tell" in it.agent.last("unseen.3")["message"]
        await it.crash()


@virtual
async def test_what_its_predecessor_had_not_cleared_away_goes(world: World) -> None:
    for is_known in (False, True):  # is what it left known before somebody asks?
        it = RunWorld(world)
        it.agent.acknowledging = False

        async def unable(what: str, _name: str) -> None:
            if what in ("before:remove", "before:forget"):
                raise away("Docker")

        it.docker.fault = unable
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.run("alone.1", ALONE, reuse="never")
            it.run("shared.1", ALONE)
            await it.settle()
            name, (pool,) = it.container("alone.1").name, it.pools
            assert it.ends("alone.1") == it.ends("shared.1") == ["TASK_FAILED"]
            assert list(pool.tasks) == ["shared.1"]
            await it.lose_supervisor()
            it.docker.fault = None
            it.agent.acknowledging = True
            it.start(group)
            await it.settle(float(is_known))
            it.run("alone.2", ALONE, reuse="never", adopt=name)
            it.run("shared.2", ALONE, adopt=pool.name)
            await it.settle(5)
            for each in ("alone", "shared"):
                assert it.agent.report(f"{each}.2") == it.agent.report(f"{each}.1")
            assert it.docker.by_name(name) is None and pool.tasks == {}
            await it.settle(400)
            it.check_clean()
            await it.crash()


@virtual
async def test_ends_that_nobody_asks_for_are_forgotten(world: World) -> None:
    it = RunWorld(world, orphan_grace_s=100)
    it.agent.acknowledging = False
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("old.1", BRIEF)
        await it.settle()
        await it.lose_supervisor()
        it.start(group)
        it.run("new.1", BRIEF)
        await it.settle(10)
        await it.restart(group)
        await it.settle(95)
        assert sorted(it.end_journal.files) == ["new.1", "old.1"]
        await it.settle(10)
        assert list(it.end_journal.files) == ["new.1"]  # Mesos has yet to take it
        await it.crash()


def test_of_several_ends_of_a_run_the_newest_counts() -> None:
    """A supervisor may die after it has written one, and before it has dropped the one before."""
    payload, again = (payload_of(f"job.{number}", adopt="c") for number in (9, 10))
    journal = MemoryJournal()
    for each in (again, payload):
        journal.put(Record(core.launch(each.attempt, each, FACTS).attempt))
    ends = Ends(journal, make_log("executor", level="critical"))
    found = ends.of(payload_of("job.11", adopt="c"))
    assert found is not None and found.id == "job.10"
    assert list(journal.files) == ["job.10"]


def test_each_agent_has_ends_of_its_own(tmp_path: Path) -> None:
    config = ExecutorConfig(data_dir=tmp_path)
    assert ends_file(config, "a/../b") == ends_file(config, "a/../b") != ends_file(config, "b")
    assert ends_file(config, "a/../b").is_relative_to(tmp_path / config.cluster)


def test_who_is_killed_as_a_try_begins_leaves_no_end_of_the_one_before() -> None:
    """The try's record is on the disk from then on; the end could be told of it."""

    class Last(MemoryJournal):
        def put(self, record: Record) -> None:
            super().put(record)
            raise RuntimeError("killed")

    log = make_log("executor", level="critical")
    before, after = payload_of("job.1", run=RUN), payload_of("job.2", run=RUN)
    kept = MemoryJournal()
    kept.put(Record(core.launch(before.attempt, before, FACTS).attempt))
    book = Book(Last(), Ends(kept, log), log)
    with pytest.raises(RuntimeError):
        book.open(core.launch(after.attempt, after, FACTS).attempt, None)
    assert not kept.files
