"""Runs of jobs: they share containers, end by themselves, are told of once, and outlive workers."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any

from libs.common.delivery import DeliveredLogin, DeliveredSecret, Delivery
from libs.common.spec import InstanceSpec, Resources
from libs.common.task import Ahead, MakeReady, RunPayload
from libs.mesos import events as mesos
from services.executor.model import LABEL_POOL, Login
from tests.fakes.docker import FakeContainer, FakeImage
from tests.simulation.loop import World, virtual
from tests.unit.executor.world import ExecutorWorld, away

ENDLESS, BRIEF, ALONE = "registry/a@sha256:2", "registry/b@sha256:3", "registry/c@sha256:4"


class RunWorld(ExecutorWorld):
    """With images whose tasks run on, or for a tenth of a second."""

    def __init__(self, world: World, **settings: Any) -> None:
        super().__init__(world, **settings)
        self.docker.images[ENDLESS] = FakeImage()
        self.docker.images[BRIEF] = FakeImage(exits_after_s=0.1)
        self.docker.images[ALONE] = FakeImage(exits_after_s=0.1, exit_code=3, output="said\n")

    def run(self, attempt: str, image: str = BRIEF, **changes: Any) -> None:
        fields = {key: changes.pop(key) for key in RunPayload.model_fields if key in changes}
        run = RunPayload.model_validate(
            {"job": "bu/job", "run": attempt.rpartition(".")[0], "target": 0.0} | fields
        )
        self.launch(attempt, image=image, run=run, **changes)

    @property
    def pools(self) -> list[FakeContainer]:
        return [each for each in self.docker.containers.values() if LABEL_POOL in each.spec.labels]

    def ends(self, attempt: str) -> list[str]:
        return [s for s in self.agent.states(attempt) if s not in ("TASK_STARTING", "TASK_RUNNING")]


@virtual
async def test_runs_of_a_business_unit_share_a_container(world: World) -> None:
    it = RunWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for number in range(5):
            it.run(f"job-{number}.1", env={"N": str(number)})
        await it.settle()
        assert [it.agent.states(f"job-{n}.1") for n in range(5)] == [
            ["TASK_RUNNING", "TASK_FINISHED"]
        ] * 5
        (container,) = it.pools
        report = it.agent.report("job-3.1")
        assert (report.container, report.address) == (container.name, "10.0.0.1")
        assert (report.exit_code, report.output) == (0, "output of job-3.1\n")
        assert abs(report.ended_at - report.started_at - 0.1) < 0.01
        assert container.tasks == {}  # forgotten
        assert "N=3" in it.inits.given["job-3.1"].env
        assert "PATH=/bin" in it.inits.given["job-3.1"].env
        assert f"HOSTNAME={container.spec.hostname}" in it.inits.given["job-3.1"].env
        it.run("other.1", app="bu2/job")
        it.run("elsewhere.1", network="blue")
        it.run("somebody.1", user="nobody")
        await it.settle()
        assert len(it.pools) == 4
        assert all(it.ends(each) for each in ("other.1", "elsewhere.1", "somebody.1"))
        await it.crash()


@virtual
async def test_the_network_is_told_the_environment_of_services_and_of_shared_containers(
    world: World,
) -> None:
    it = RunWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("job.1", ENDLESS, environment="lab")
        it.launch("web.1", environment="dev")
        it.launch("api.1")
        await it.settle()
        assert sorted(each.environment for each in it.network.specs.values()) == ["", "dev", "lab"]
        await it.crash()


@virtual
async def test_a_container_takes_so_many_and_goes_when_it_is_idle(world: World) -> None:
    it = RunWorld(world, pool_tasks=2, pool_idle_s=60, pool_closes=1)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for number in range(5):
            it.run(f"job-{number}.1", ENDLESS)
        await it.settle()
        assert sorted(len(each.tasks) for each in it.pools) == [1, 2, 2]
        for number in range(5):
            it.inits.finish(f"job-{number}.1")
        await it.settle(50)
        assert len(it.pools) == 3
        await it.settle(30)
        assert it.docker.containers == {}
        it.check_clean()
        await it.crash()


@virtual
async def test_a_container_is_recycled(world: World) -> None:
    it = RunWorld(world, pool_uses=3)
    it.docker.images["leaks"] = FakeImage(exits_after_s=0.1)
    it.docker.images["eats"] = FakeImage(exits_after_s=0.1, out_of_memory=True)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for number in range(7):
            it.run(f"job-{number}.1")
            await it.settle()
        made = {name for what, name in it.docker.log if what == "create"}
        assert len(made) == 3  # 3 + 3 + 1
        assert len(it.pools) == 1
        it.inits.leaking = {"leaks.1"}
        it.run("leaks.1", "leaks")
        it.run("eats.1", "eats", mem_mib=16)
        await it.settle(10)
        assert it.ends("leaks.1") == ["TASK_FINISHED"]
        assert it.ends("eats.1") == ["TASK_FAILED"]
        assert it.agent.report("eats.1").oom_killed
        assert "more than 16 MiB" in it.agent.last("eats.1")["message"]
        assert len(it.pools) == 1  # theirs are gone
        await it.crash()


@virtual
async def test_periodic_runs_keep_their_container_warm(world: World) -> None:
    it = RunWorld(world, pool_idle_s=60, pool_warm_s=900)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for number in range(6):
            it.run(f"job-{number}.1")
            await it.settle(300)
        made = {name for what, name in it.docker.log if what == "create"}
        assert len(made) == 3  # after three starts their period is known
        await it.settle(600)
        assert it.docker.containers == {}
        await it.crash()


@virtual
async def test_a_run_is_killed_with_grace_and_timed_out(world: World) -> None:
    it = RunWorld(world)
    it.docker.images["stubborn"] = FakeImage(ends_on_term_s=None)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("killed.1", ENDLESS, stop_grace_s=5)
        it.run("late.1", ENDLESS, timeout_s=2)
        it.run("stubborn.1", "stubborn", timeout_s=2, stop_grace_s=5)
        await it.settle()
        it.kill("killed.1")
        await it.settle(0.5)
        assert it.ends("killed.1") == ["TASK_KILLED"]
        await it.settle(2)
        report = it.agent.report("late.1")
        assert (it.ends("late.1"), report.timed_out) == (["TASK_FAILED"], True)
        assert "longer than 2 s" in it.agent.last("late.1")["message"]
        assert it.ends("stubborn.1") == []
        await it.settle(5)
        assert it.agent.report("stubborn.1").exit_code == 137
        await it.crash()


@virtual
async def test_what_can_not_start_says_why(world: World) -> None:
    it = RunWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("missing.1", "registry/none@sha256:9")
        await it.settle()
        assert it.ends("missing.1") == ["TASK_FAILED"]
        assert "does not exist" in it.agent.last("missing.1")["message"]
        it.run("early.1", ENDLESS)
        it.kill("early.1")
        await it.settle()
        assert it.ends("early.1") == ["TASK_KILLED"]
        it.check_monotone()
        await it.crash()


@virtual
async def test_secrets_are_a_tasks_own_and_files_a_containers(world: World) -> None:
    it = RunWorld(world)
    value = b64encode(b"s3cret").decode()
    as_variable = DeliveredSecret(name="a", env="PASSWORD", value=value)
    as_file = DeliveredSecret(name="a", file="/run/secrets/a", value=value)
    it.deliveries.known["env.1"] = Delivery(secrets=(as_variable,))
    it.deliveries.known["file.1"] = Delivery(secrets=(as_file,))
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("env.1", secrets=[{"name": "a", "env": "PASSWORD"}])
        it.run("file.1", secrets=[{"name": "a", "file": "/run/secrets/a"}])
        it.run("unknown.1", secrets=[{"name": "a", "env": "PASSWORD"}])
        await it.settle()
        assert "PASSWORD=s3cret" in it.inits.given["env.1"].env
        assert it.ends("env.1") == it.ends("file.1") == ["TASK_FINISHED"]
        assert it.agent.report("file.1").container.endswith("file.1")
        assert it.ends("unknown.1") == ["TASK_FAILED"]
        assert "s3cret" not in str(it.journal.files)
        await it.crash()


@virtual
async def test_what_chronos_tells_each_try_is_in_the_environment_of_its_jobs(world: World) -> None:
    it = RunWorld(world)
    asked = {
        "target": 1_767_258_000.5,
        "hostname": "host-1",
        "labels": {"chronos.name": "DB export.1"},
        "env": {"HOST": "mine", "A": "b"},
    }
    told = {
        "CHRONOS_JOB_RUN_TIME=1767258000500",
        "CHRONOS_JOB_RUN_ATTEMPT=2",
        "HOST=host-1",
        "A=b",
        "mesos_task_id=ct:1767258000500:2:DB export.1:",
    }
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("shared.3", ENDLESS, tries=2, **asked)
        it.run("alone.3", ENDLESS, tries=2, reuse="never", **asked)
        it.run("old.1", ENDLESS, **{**asked, "hostname": ""})  # by a scheduler that tells less
        it.run("ours.1", ENDLESS, tries=2, **{**asked, "labels": {}})
        await it.settle()
        env = {name: set(given.env) for name, given in it.inits.given.items()}
        (alone,) = (each for each in it.docker.containers.values() if each not in it.pools)
        env["alone.3"] = {f"{name}={value}" for name, value in alone.spec.env.items()}
        assert env["shared.3"] >= {*told, "MESOS_TASK_ID=shared.3"}
        assert env["alone.3"] >= {*told, "MESOS_TASK_ID=alone.3"}
        assert env["old.1"] >= {"CHRONOS_JOB_RUN_TIME=1767258000500", "HOST=mine"}
        for foreign in ("ATTEMPT", "mesos_task_id"):
            assert foreign not in str(env["old.1"])
        assert "HOST=mine" in env["ours.1"] and "CHRONOS" not in str(env["ours.1"])
        await it.crash()


@virtual
async def test_a_run_that_never_shares_ends_by_itself(world: World) -> None:
    it = RunWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("alone.1", ALONE, reuse="never")
        it.run("late.1", ENDLESS, reuse="never", timeout_s=3)
        await it.settle()
        report = it.agent.report("alone.1")
        assert (report.exit_code, report.output) == (3, "said\n")
        assert 0.05 < report.ended_at - report.started_at < 0.2
        assert it.ends("alone.1") == ["TASK_FAILED"]
        await it.settle(3)
        assert it.agent.report("late.1").timed_out
        assert it.pools == []
        it.check_clean()
        it.check_monotone()
        await it.crash()


@virtual
async def test_a_run_that_ends_in_time_while_the_engine_is_away_has_not_timed_out(
    world: World,
) -> None:
    it = RunWorld(world)
    it.docker.images["brief"] = FakeImage(exits_after_s=2.0)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("alone.1", "brief", reuse="never", timeout_s=3)
        await it.settle(1)
        it.docker.down = True
        await it.settle(5)
        assert it.ends("alone.1") == []
        it.docker.down = False
        await it.settle(15)
        report = it.agent.report("alone.1")
        assert (it.ends("alone.1"), report.timed_out) == (["TASK_FINISHED"], False)
        it.check_clean()
        await it.crash()


@virtual
async def test_a_worker_may_die_at_any_moment_of_a_run(world: World) -> None:
    for moment in range(1, 50):
        it = RunWorld(world)
        it.docker.latency_s = {"create": 0.1, "start": 0.1, "inspect": 0.02}
        async with asyncio.TaskGroup() as group:
            it.start(group)
            it.run("job.1")
            it.run("long.1", ENDLESS)
            await it.settle(moment * 0.01)
            await it.restart(group)
            await it.settle(5)
            assert it.ends("job.1") == ["TASK_FINISHED"], moment
            it.kill("long.1")
            await it.settle(moment * 0.001)
            await it.restart(group)
            await it.settle(5)
            assert it.ends("long.1") == ["TASK_KILLED"], moment
            assert sorted(it.inits.started) == ["job.1", "long.1"], moment
            assert all(each.tasks == {} for each in it.pools)
            assert {each.container for each in it.service.attempts.values()} == {
                each.name for each in it.pools
            }
            it.check_monotone()
            await it.crash()


@virtual
async def test_an_end_that_the_journal_does_not_take_is_not_forgotten(world: World) -> None:
    """The disk is full, Mesos has not heard of it, and the worker is killed, twice: the next one tells how it ended."""
    it = RunWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("long.1", ENDLESS)
        await it.settle()
        (container,) = it.pools
        it.agent.acknowledging, it.journal.full = False, True
        it.inits.finish("long.1", 7)
        await it.settle(20)
        for _ in range(2):
            it.agent.statuses.clear()
            await it.restart(group)
            await it.settle(20)
            assert it.ends("long.1") == ["TASK_FAILED"]
            assert it.agent.report("long.1").exit_code == 7
        it.agent.acknowledging, it.journal.full = True, False
        await it.restart(group)
        await it.settle(20)
        assert it.agent.report("long.1").exit_code == 7
        assert container.tasks == {} and it.inits.started == ["long.1"]
        await it.crash()


@virtual
async def test_runs_are_adopted_after_the_supervisors_death(world: World) -> None:
    it = RunWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for each in ("runs.1", "ends.1", "given-up.1"):
            it.run(each, ENDLESS)
        it.run("told.1")
        await it.settle()
        container = it.agent.report("runs.1").container
        other = it.agent.report("told.1").container
        await it.crash()
        it.inits.finish("ends.1", 7)
        it.journal.files.clear()
        it.run_id = "run-2"
        it.start(group)
        it.run("runs.2", ENDLESS, adopt=container)
        it.run("ends.2", ENDLESS, adopt=container)
        it.run("told.2", adopt=other)
        await it.settle()
        assert it.agent.states("runs.2") == ["TASK_RUNNING"]
        assert it.agent.report("ends.2").exit_code == 7
        assert it.ends("told.2") == ["TASK_FAILED"]
        assert "nobody can tell" in it.agent.last("told.2")["message"]
        it.inits.finish("runs.1")
        await it.settle()
        assert it.ends("runs.2") == ["TASK_FINISHED"]
        assert sorted(it.inits.started) == ["ends.1", "given-up.1", "runs.1", "told.1"]
        await it.settle(1000)
        assert it.ends("given-up.1") == []
        await it.settle(400)
        assert it.docker.containers == {}  # what nobody took over went with it
        await it.crash()


@virtual
async def test_a_container_that_dies_takes_its_runs_with_it(world: World) -> None:
    it = RunWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("job.1", ENDLESS)
        await it.settle()
        it.docker.kill(it.pools[0].name)
        await it.settle()
        assert it.ends("job.1") == ["TASK_FAILED"]
        it.run("next.1", ENDLESS)
        await it.settle()
        assert it.agent.states("next.1") == ["TASK_RUNNING"]
        await it.crash()


@virtual
async def test_the_engine_may_be_away_while_tasks_start(world: World) -> None:
    it = RunWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("first.1")
        await it.settle()
        it.docker.stop()
        it.run("second.1")
        await it.settle()
        assert it.ends("second.1") == ["TASK_FINISHED"]  # no call of the engine's is needed
        it.docker.start()
        await it.settle(60)
        assert len(it.pools) == 1
        await it.crash()


@virtual
async def test_an_init_that_starts_nothing_is_given_up(world: World) -> None:
    it = RunWorld(world, launch_timeout_s=30)

    async def fault(point: str, _name: str) -> None:
        if point == "before:begin":
            raise away("init")

    it.docker.fault = fault
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("job.1")
        await it.settle(29)
        assert it.ends("job.1") == []
        await it.settle(5)
        assert it.ends("job.1") == ["TASK_FAILED"]
        assert "did not start it in 30 s" in it.agent.last("job.1")["message"]
        assert it.inits.started == []
        await it.crash()


@virtual
async def test_answers_get_lost(world: World) -> None:
    it = RunWorld(world)
    lost = iter([True, False, True, True, False])

    async def fault(point: str, _name: str) -> None:
        if point.endswith(("begin", "forget")) and next(lost, False):
            raise away("init")

    it.docker.fault = fault
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for number in range(3):
            it.run(f"job-{number}.1")
            await it.settle(10)
        assert all(it.ends(f"job-{n}.1") == ["TASK_FINISHED"] for n in range(3))
        assert len(it.inits.started) == 3
        it.check_monotone()
        await it.crash()


@virtual
async def test_shutdown_ends_runs_then_their_containers(world: World) -> None:
    it = RunWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("job.1", ENDLESS)
        await it.settle()
        it.agent.say(mesos.Shutdown(""))
        await it.settle(10)
        assert it.ends("job.1") == ["TASK_KILLED"]
        assert it.docker.containers == {}
        assert it.ended


@virtual
async def test_a_run_of_its_own_that_ended_unseen_is_told_of_and_not_begun_again(
    world: World,
) -> None:
    it = RunWorld(world, sweep_s=5, stray_grace_s=1, orphan_grace_s=100)
    it.docker.images["slow"] = FakeImage(exits_after_s=5, exit_code=3)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        for each in ("ends.1", "removed.1", "unwanted.1"):
            it.run(each, "slow", reuse="never")
        await it.settle()
        ends, removed = (it.container(each) for each in ("ends.1", "removed.1"))
        await it.crash()
        it.journal.files.clear()
        it.run_id = "run-2"
        await it.settle(10)
        it.docker.destroy(removed.name)
        it.start(group)
        await it.settle(60)  # what became of them is kept until somebody is told
        it.run("ends.2", "slow", reuse="never", adopt=ends.name)
        it.run("removed.2", "slow", reuse="never", adopt=removed.name)
        await it.settle()
        report = it.agent.report("ends.2")
        assert (it.ends("ends.2"), report.exit_code) == (["TASK_FAILED"], 3)
        assert abs(report.ended_at - report.started_at - 5) < 0.01
        assert it.ends("removed.2") == ["TASK_FAILED"]
        assert "nobody can tell" in it.agent.last("removed.2")["message"]
        assert it.agent.report("removed.2").exit_code is None
        await it.settle(120)
        assert it.docker.containers == {}
        it.check_clean()
        await it.crash()


@virtual
async def test_a_stop_that_comes_before_the_adoption_ends_the_task(world: World) -> None:
    it = RunWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("job.1", ENDLESS)
        await it.settle()
        container = it.agent.report("job.1").container
        await it.crash()
        it.journal.files.clear()
        it.run_id = "run-2"
        it.start(group)
        it.run("job.2", ENDLESS, adopt=container)
        it.kill("job.2")
        await it.settle(5)
        assert it.ends("job.2") == ["TASK_KILLED"]
        (pool,) = it.pools
        assert pool.tasks == {}, "it is told to be over, and runs on"
        await it.crash()


@virtual
async def test_who_is_to_take_over_a_run_that_is_over_is_told_its_end(world: World) -> None:
    it = RunWorld(world)
    it.agent.acknowledging = False  # as long as nobody has heard how it ended
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("alone.1", ALONE, reuse="never")
        it.run("shared.1", ALONE)
        await it.settle(0.05)
        container = it.container("alone.1").name
        (pool,) = it.pools
        await it.settle()
        assert it.ends("alone.1") == it.ends("shared.1") == ["TASK_FAILED"]
        it.run("alone.2", ALONE, reuse="never", adopt=container)
        it.run("shared.2", ALONE, adopt=pool.name)
        await it.settle()
        for name in ("alone", "shared"):
            told, again = it.agent.report(f"{name}.1"), it.agent.report(f"{name}.2")
            assert again == told and again.exit_code is not None and again.output
            assert it.agent.states(f"{name}.2") == ["TASK_FAILED"]
        await it.crash()


def soon(image: str = BRIEF, **fields: Any) -> mesos.Message:
    """Runs of that image will be due."""
    spec = InstanceSpec(image=image, network="red", resources=Resources(), **fields)
    return mesos.Message(MakeReady(ahead=(Ahead(bu="bu", spec=spec),)).model_dump_json().encode())


@virtual
async def test_a_container_is_ready_for_a_run_that_was_foretold(world: World) -> None:
    it = RunWorld(world, pool_idle_s=60)
    it.docker.latency_s = {"create": 1, "start": 2}
    async with asyncio.TaskGroup() as group:
        it.start(group)
        await it.settle()
        it.agent.say(soon())
        it.agent.say(soon())
        await it.settle(10)
        (container,) = it.pools
        assert container.running and it.agent.statuses == []
        it.run("job.1", env={"A": "b"}, secrets=())
        await it.settle(0.2)
        assert it.agent.states("job.1") == ["TASK_RUNNING", "TASK_FINISHED"]
        assert it.agent.report("job.1").container == container.name
        await it.settle(50)
        it.agent.say(soon())  # the next one comes before it would go, and finds it
        await it.settle(50)
        assert it.pools == [container]
        await it.settle(30)
        assert it.docker.containers == {}
        it.check_clean()
        await it.crash()


@virtual
async def test_what_is_made_ahead_has_bounds_and_survives_its_worker(world: World) -> None:
    it = RunWorld(world, pool_idle_s=60, pool_ahead=2)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        await it.settle()
        for user in ("a", "b", "c"):
            it.agent.say(soon(user=user))
        await it.settle()
        assert len(it.pools) == 2
        await it.restart(group)
        await it.settle()
        it.run("job.1", user="a")
        it.run("other.1", user="c")
        await it.settle()
        assert len(it.pools) == 3 and it.ends("job.1") == it.ends("other.1") == ["TASK_FINISHED"]
        await it.settle(100)
        assert it.docker.containers == {}
        await it.crash()


@virtual
async def test_a_run_does_not_fail_for_what_was_made_for_nobody(world: World) -> None:
    it = RunWorld(world)
    private = "registry/private@sha256:9"
    it.docker.registry[private] = FakeImage(exits_after_s=0.1)
    it.docker.logins[private] = Login("ci", "pa55")
    it.deliveries.known["job.1"] = Delivery(login=DeliveredLogin(user="ci", password="pa55"))
    it.docker.latency_s = {"create": 1}
    async with asyncio.TaskGroup() as group:
        it.start(group)
        await it.settle()
        # The login for its pull is told for attempts only; and a run comes while it is being made.
        it.agent.say(soon(private, registry_login=True))
        await it.settle(0.5)
        it.run("job.1", private, registry_login=True)
        await it.settle(10)
        assert it.ends("job.1") == ["TASK_FINISHED"]
        assert len(it.pools) == 1
        await it.crash()


@virtual
async def test_a_new_worker_hears_inits_while_the_engine_lists_nothing(world: World) -> None:
    it = RunWorld(world)
    failures = iter(range(3))

    async def fault(where: str, _what: str) -> None:
        if where == "before:list" and next(failures, None) is not None:
            raise away("Docker")

    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("job-1.1")
        await it.settle()
        await it.crash()
        it.docker.fault = fault
        it.start(group)  # the engine's events of the last minute come before its list
        await it.settle(5)
        it.run("job-2.1")
        await it.settle(5)
        assert it.ends("job-2.1") == ["TASK_FINISHED"]
        await it.crash()


@virtual
async def test_a_frozen_init_holds_nobody_up_for_good(world: World) -> None:
    it = RunWorld(world)
    async with asyncio.TaskGroup() as group:
        it.start(group)
        it.run("job-1.1", ENDLESS)
        await it.settle()
        await it.crash()
        it.inits.frozen.update(each.name for each in it.pools)
        it.start(group)
        it.run("job-2.1")
        await it.settle(30)
        assert it.agent.states("job-2.1") == ["TASK_STARTING"]  # it may be in there
        await it.settle(60)
        assert it.ends("job-1.1") == ["TASK_FAILED"]
        assert it.ends("job-2.1") == ["TASK_FINISHED"]
        await it.crash()
