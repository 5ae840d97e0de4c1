"""Runs of jobs at work: several in one container of a real engine, each in a cell of its own."""

from __future__ import annotations

from typing import Any

from libs.common.spec import Resources
from libs.common.task import RunPayload
from services.executor.model import LABEL_POOL
from tests.integration.executor_host import SUPERVISOR, WORKER, Cloud

LONG = ("/bin/sh", "-c", "echo begun; while :; do sleep 0.1; done")


def run_of(name: str, **changes: object) -> RunPayload:
    return RunPayload.model_validate({"job": "bu/job", "run": name, "target": 0.0, **changes})


def shell(text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text)


async def start(cloud: Cloud, name: str, script: str, **spec: Any) -> None:
    """Launch a run whose command is this text for the shell."""
    changes = {key: spec.pop(key) for key in ("timeout_s", "reuse") if key in spec}
    run = run_of(name.rpartition(".")[0], **changes)
    await cloud.launch(name, run=run, command=shell(script), **spec)


async def output(cloud: Cloud, name: str, script: str, **spec: Any) -> str:
    """What a run writes; it must end well."""
    await start(cloud, name, script, **spec)
    await cloud.until(lambda: ended(cloud, name), f"{name} did not end")
    report = cloud.report(name)
    assert cloud.states(name)[-1] == "TASK_FINISHED", report
    return report.output


def ended(cloud: Cloud, name: str) -> bool:
    return bool(cloud.states(name)) and cloud.states(name)[-1] not in (
        "TASK_STARTING",
        "TASK_RUNNING",
    )


async def pools(cloud: Cloud) -> list[str]:
    filters = {"label": [f"gantry.cluster={cloud.host.cluster}", LABEL_POOL]}
    found = await cloud.host.docker.containers.list(all=True, filters=filters)
    return [each._container["Id"] for each in found]


async def test_runs_share_a_container_and_nothing_else(cloud: Cloud) -> None:
    says = "echo hello from $WHO; echo again >&2; exit 3"
    await start(cloud, "a.1", says, env={"WHO": "a"})
    await cloud.reaches("a.1", "TASK_FAILED")
    first = cloud.report("a.1")
    assert (first.exit_code, first.output) == (3, "hello from a\nagain\n")
    assert 0 < first.ended_at - first.started_at < 5
    # Files, processes, IPC and sockets of one are not there for the next.
    leaves = (
        "echo x >/tmp/left; echo x >/left; echo x >/dev/shm/left; id -u; nc -l -p 7777 & exit 0"
    )
    assert await output(cloud, "b.1", leaves, user="root") == "0\n"
    looks = "ls /tmp /dev/shm; ls /left; ps | grep -c nc; nc -w 1 127.0.0.1 7777 </dev/null || echo nobody"
    seen = await output(cloud, "c.1", f"({looks}) 2>&1", user="root")
    assert "left" not in seen.replace("/left: No such", "")
    assert seen.endswith("nobody\n")
    mounts = await output(cloud, "d.1", "cat /proc/self/mounts; ls -a /.gantry/run", user="root")
    assert "/.gantry/run " not in mounts
    assert mounts.endswith(".\n..\n")
    report = cloud.report("d.1")
    assert report.address.startswith("10.88.0.")
    containers = [cloud.report(f"{each}.1").container for each in "abcd"]
    assert containers[2] == containers[3] != containers[1]  # a process was left in that: replaced


async def test_each_is_held_to_its_own_limits(cloud: Cloud) -> None:
    await start(cloud, "long.1", "while :; do sleep 0.1; done")
    await cloud.reaches("long.1", "TASK_RUNNING")
    small = Resources(mem_mib=16)
    await start(cloud, "eats.1", "x=aaaaaaaa; while :; do x=$x$x; done", resources=small)
    status = await cloud.reaches("eats.1", "TASK_FAILED")
    assert cloud.report("eats.1").oom_killed
    assert "more than 16 MiB" in status["message"]
    await start(cloud, "late.1", "while :; do sleep 0.1; done", timeout_s=0.5)
    await cloud.reaches("late.1", "TASK_FAILED")
    assert cloud.report("late.1").timed_out
    script = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo all"
    await start(cloud, "forks.1", script, resources=Resources(pids=16))
    await cloud.reaches("forks.1", "TASK_FAILED")
    assert cloud.states("long.1") == ["TASK_RUNNING"]
    await cloud.kill("long.1")
    await cloud.reaches("long.1", "TASK_KILLED")


async def test_runs_outlive_worker_engine_agent_and_supervisor(cloud: Cloud) -> None:
    for name in ("worker.1", "engine.1", "agent.1", "stays.1"):
        await start(cloud, name, "while [ ! -e /dev/shm/never ]; do sleep 0.1; done", user="root")
        await cloud.reaches(name, "TASK_RUNNING")
    await start(cloud, "brief.1", "sleep 1; echo done; exit 4", user="root")
    await cloud.reaches("brief.1", "TASK_RUNNING")
    await cloud.kill9(WORKER)
    await cloud.reaches("brief.1", "TASK_FAILED")
    assert (cloud.report("brief.1").exit_code, cloud.report("brief.1").output) == (4, "done\n")
    await cloud.kill("worker.1")
    await cloud.reaches("worker.1", "TASK_KILLED")
    container = cloud.report("stays.1").container
    (before,) = await pools(cloud)
    await cloud.kill9(SUPERVISOR)
    await cloud.reaches("stays.1", "TASK_FAILED")
    run = run_of("stays")
    await cloud.launch("stays.2", run=run, command=shell("echo anew"), user="root", adopt=container)
    await cloud.reaches("stays.2", "TASK_RUNNING")
    assert await pools(cloud) == [before]
    await cloud.kill("stays.2")
    await cloud.reaches("stays.2", "TASK_KILLED")
    for name in ("worker.1", "brief.1", "stays.1", "stays.2"):
        assert sum(ended_state(each) for each in cloud.states(name)) == 1


def ended_state(state: str) -> bool:
    return state not in ("TASK_STARTING", "TASK_RUNNING")


async def test_a_run_may_have_a_container_to_itself(cloud: Cloud) -> None:
    await start(cloud, "alone.1", "echo one; echo two >&2; exit 5", reuse="never")
    await cloud.reaches("alone.1", "TASK_FAILED")
    report = cloud.report("alone.1")
    assert (report.exit_code, sorted(report.output.split())) == (5, ["one", "two"])
    assert 0 < report.ended_at - report.started_at < 5
    await start(cloud, "late.1", "while :; do sleep 0.1; done", reuse="never", timeout_s=0.5)
    await cloud.reaches("late.1", "TASK_FAILED")
    assert cloud.report("late.1").timed_out
    await cloud.gone("alone.1")
    assert await pools(cloud) == []
