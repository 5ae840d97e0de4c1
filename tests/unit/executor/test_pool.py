"""Which shared container a run joins, when one is made and when one goes; what inits are told; cgroups of cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import Unavailable
from libs.common.task import RunPayload
from services.executor.config import ExecutorConfig
from services.executor.containers import limits
from services.executor.model import ContainerName, Limits
from services.executor.runs import cgroups, pool, wire
from services.executor.runs.inits import tail
from services.executor.runs.model import Member, TaskStart, Waiting
from tests.unit.executor.world import payload_of

CONFIG = ExecutorConfig(pool_tasks=3, pool_uses=10, pool_age_s=1000, pool_idle_s=60, pool_closes=2)
RUN = RunPayload(job="bu/job", run="r", target=0.0)


def member(name: str, key: str = "k", **changes: Any) -> Member:
    made = Member(name, ContainerName(name), key, True, 0, 0, made_at=0.0, idle_since=0.0)
    return replace(made, **changes)


def plan(
    members: list[Member], waiting: list[str], now: float = 10.0, closing: int = 0
) -> pool.Plan:
    wants = [Waiting(f"run-{n}", key) for n, key in enumerate(waiting)]
    return pool.plan(members, wants, {}, closing, CONFIG, now)


def test_the_fullest_that_has_room_is_joined() -> None:
    members = [member("a", tasks=1), member("b", tasks=2), member("c", tasks=3)]
    assert plan(members, ["k", "k"]).joins == (("run-0", "b"), ("run-1", "a"))


def test_so_many_are_made_as_are_wanted() -> None:
    assert plan([], ["k"] * 7 + ["other"]).opens == ("run-0", "run-3", "run-6", "run-7")
    assert plan([member("a", ready=False)], ["k"] * 4).opens == ("run-3",)


def test_who_is_worn_takes_nobody_and_goes_when_it_is_empty() -> None:
    members = [
        member("old", made_at=-2000.0, tasks=1),
        member("used", uses=10),
        member("leaky", recycle="a task left processes"),
    ]
    found = plan(members, ["k"])
    assert (found.joins, found.opens) == ((), ("run-0",))
    assert [each for each, _ in found.closes] == ["leaky", "used"]
    assert plan(members, [], closing=1).closes[0][0] == "leaky"
    assert len(plan(members, [], closing=1).closes) == 1


def test_who_is_old_goes_as_soon_as_it_is_idle_though_its_runs_will_come_again() -> None:
    habits = {"k": pool.Habit(last=990.0, period_s=30.0, starts=9)}
    busy, idle = member("busy", tasks=1, idle_since=990.0), member("idle", idle_since=990.0)
    younger = member("younger", made_at=1.0, idle_since=990.0)
    members = [busy, idle, younger]
    assert pool.plan(members, [], habits, 0, CONFIG, 999.9).closes == ()
    found = pool.plan(members, [Waiting("run-0", "k")], habits, 0, CONFIG, 1000.0)
    assert found.closes == (("idle", "it is 1000 s old"),)
    assert found.joins == (("run-0", "younger"),)


def test_when_all_ends_what_is_unused_goes_at_once() -> None:
    members = [member("a"), member("b", tasks=1), member("c", ready=False), member("d")]
    found = pool.plan(members, [], {}, 3, CONFIG, 10.0, draining=True)
    assert [each for each, _ in found.closes] == ["a", "c", "d"]


def test_a_habit_is_learnt_and_forgotten() -> None:
    habit = None
    for at in (0.0, 0.2, 300.0, 600.0, 900.0):
        habit = pool.began(habit, at)
    assert habit is not None
    assert (habit.starts, habit.period_s) == (4, 300.0)
    idle = member("a", idle_since=901.0)
    assert pool.keep_until(idle, habit, CONFIG) == 900 + 450
    assert pool.keep_until(idle, None, CONFIG) == 901 + 60
    rare = pool.Habit(900.0, 86_400.0, 9)
    assert pool.keep_until(idle, rare, CONFIG) == 901 + 60


@given(
    st.lists(
        st.builds(
            member,
            st.sampled_from("abcdef"),
            st.sampled_from(["k", "l"]),
            tasks=st.integers(0, 3),
            uses=st.integers(0, 12),
            ready=st.booleans(),
            made_at=st.sampled_from([0.0, -2000.0]),
            recycle=st.sampled_from(["", "why"]),
            idle_since=st.sampled_from([0.0, -100.0]),
        ),
        unique_by=lambda each: each.id,
    ),
    st.lists(st.sampled_from(["k", "l"]), max_size=12),
    st.integers(0, 3),
)
def test_a_plan_keeps_the_invariants(
    members: list[Member], waiting: list[str], closing: int
) -> None:
    found = plan(members, waiting, closing=closing)
    known = {each.id: each for each in members}
    load = {each.id: each.tasks for each in members}
    for run, container in found.joins:
        joined = known[container]
        assert joined.key == waiting[int(run.removeprefix("run-"))]
        assert joined.ready and not pool.worn(joined, 10.0, CONFIG)
        load[container] += 1
        assert load[container] <= CONFIG.pool_tasks
        assert joined.uses + load[container] - joined.tasks <= CONFIG.pool_uses
    assert len({run for run, _ in found.joins}) == len(found.joins)
    assert not {run for run, _ in found.joins} & set(found.opens)
    for container, why in found.closes:
        assert why and load[container] == 0
    assert len(found.closes) <= max(0, CONFIG.pool_closes - closing)


@pytest.mark.parametrize(
    "changes",
    [
        {"app": "other/job"},
        {"image": "registry/web@sha256:2"},
        {"user": "nobody"},
        {"network": "blue"},
        {"environment": "lab"},
        {"instance_class": "fat"},
        {"address": {"reservation": "kept"}},
        {"network_options": {"bandwidth": {"egress_kbit": 1000}}},
    ],
)
def test_what_differs_is_not_shared(changes: dict[str, Any]) -> None:
    assert pool.key_of(payload_of("r.1", run=RUN, **changes)) != pool.key_of(
        payload_of("r.1", run=RUN)
    )


def test_what_is_each_tasks_own_is_no_part_of_the_key() -> None:
    other = payload_of("s.1", run=RUN, env={"A": "b"}, command=("x",), mem_mib=64, app="bu/other")
    assert pool.key_of(other) == pool.key_of(payload_of("r.1", run=RUN))
    assert pool.is_shared(other)
    never = RUN.model_copy(update={"reuse": "never"})
    assert not pool.is_shared(payload_of("r.1", run=never))
    assert not pool.is_shared(payload_of("r.1"))
    files = [{"name": "a", "file": "/run/secrets/a"}]
    assert not pool.is_shared(payload_of("r.1", run=RUN, secrets=files))


# -- what is said to inits -----------------------------------------------------------------------------


def test_requests_are_fields() -> None:
    task = TaskStart("t", ("a", "b c"), "u", "", ("X=1",), Limits(0, 0, 0, 0), 1.5, 0.2, "SIGINT")
    assert wire.start_of("c1", task) == (
        b"start\0c1\0t\0u\0/\0001500\000200\0002\0002\0a\0b c\0X=1\0"
    )
    with pytest.raises(ValueError, match="NUL"):
        wire.encode("a\0b")
    with pytest.raises(ValueError, match="longer than"):
        wire.encode("x" * wire.MAX_MESSAGE)
    assert wire.milliseconds(1e9) == 400 * 86_400_000
    assert [wire.number_of(each) for each in ("SIGTERM", "QUIT", "9", "SIGNO")] == [15, 3, 9, 15]


def test_answers_are_read() -> None:
    ended = ["ended", "t", "c1", "signal", "9", "1500", "2500", "1", "1", "1", "2", "3", ""]
    view = wire.view_of(ended)
    assert (view.exit_code, view.began_at, view.ended_at) == (137, 1.5, 2.5)
    assert (view.timed_out, view.leaked, view.running) == (True, True, False)
    assert wire.view_of(["running", "t", "c1", "1500"]).running
    failed = ["ended", "t", "c1", "failed", "0", "0", "1", "0", "0", "0", "0", "0", "exec x"]
    assert wire.view_of(failed).failed == "exec x"
    for wrong in ([], ["ended"], ["running", "t", "c", "x"]):
        with pytest.raises(ValueError, match=r"not a task|invalid literal"):
            wire.view_of(wrong)


def test_the_last_of_the_output_is_read_over_both_files(tmp_path: Path) -> None:
    file = tmp_path / "c1"
    assert tail(file) == ""
    file.write_bytes(b"new\n")
    assert tail(file) == "new\n"
    (tmp_path / "c1.1").write_bytes(b"x" * 9000 + b"old\n")
    assert tail(file).endswith("xold\nnew\n")
    assert len(tail(file)) == 8192
    file.write_bytes(b"\xff" * 9000)
    assert len(tail(file)) == 8192


# -- cgroups ---------------------------------------------------------------------------------------------


def tree(tmp_path: Path, lines: str) -> tuple[Path, Path]:
    """/sys/fs/cgroup and /proc with one process."""
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text(lines)
    return tmp_path / "cgroup", tmp_path / "proc"


def test_cgroups_of_version_1(tmp_path: Path) -> None:
    root, proc = tree(tmp_path, "9:name=systemd:/x\n4:memory:/docker/c\n3:cpu,cpuacct:/docker/c\n")
    for each in ("memory", "cpu"):
        (root / each / "docker/c/c1").mkdir(parents=True)
    groups = cgroups.of_process(7, root, proc)
    assert not groups.unified
    place = root / "memory/docker/c/c1"
    for name in ("memory.limit_in_bytes",):
        (place / name).touch()
    for name in ("cpu.shares", "cpu.cfs_quota_us"):
        (root / "cpu/docker/c/c1" / name).touch()
    spec = payload_of("r.1", cpus=0.5, mem_mib=64, pids=8).spec
    groups.limit("c1", limits(spec, CONFIG))
    assert (place / "memory.limit_in_bytes").read_text() == str(64 * 1024 * 1024)
    assert (root / "cpu/docker/c/c1/cpu.cfs_quota_us").read_text() == "50000"
    assert groups.cells() == {"c1"}
    assert not groups.out_of_memory("c1")
    (place / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert groups.out_of_memory("c1")
    with pytest.raises(Unavailable, match="cgroup of c2"):
        groups.make("c2")  # no kernel makes its files here


def test_cgroups_of_version_2_have_a_leaf(tmp_path: Path) -> None:
    root, proc = tree(tmp_path, "0::/system.slice/docker-c.scope\n")
    place = root / "system.slice/docker-c.scope"
    (place / "init").mkdir(parents=True)
    (place / "cgroup.procs").write_text("7\n8\n")
    for name in ("cgroup.subtree_control", "init/cgroup.procs"):
        (place / name).touch()
    groups = cgroups.of_process(7, root, proc)
    assert groups.unified
    assert (place / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    (place / "c1").mkdir()
    for name in ("memory.max", "cpu.weight", "cpu.max", "pids.max"):
        (place / "c1" / name).touch()
    groups.limit("c1", Limits(1024, 10**9, 2**25, 8))
    written = {each.name: each.read_text() for each in (place / "c1").iterdir()}
    assert written["memory.max"] == str(2**25)
    assert written["cpu.max"] == "100000 100000"
    assert groups.cells() == {"c1"}
    (proc / "7/cgroup").write_text("0::/system.slice/docker-c.scope/init\n")
    assert cgroups.of_process(7, root, proc) == groups
