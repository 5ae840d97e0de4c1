"""Runs of jobs at work: several in one container of a real engine, each in a cell of its own.

What a task can't do or see is tried in `tests/unit/native/test_init.py`; here the engine, hostd and an agent are real.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from libs.common.errors import NotFound
from libs.common.spec import InstanceSpec, Resources
from libs.common.task import Ahead, MakeReady, RunPayload
from services.executor.model import LABEL_POOL
from tests.integration.executor_host import SUPERVISOR, WORKER, Cloud
from tests.integration.hostd_host import IMAGE
from tests.integration.test_executor import restart

ALIVE = ("TASK_STARTING", "TASK_RUNNING")
FOR_EVER = "while :; do sleep 0.1; done"


async def start(cloud: Cloud, name: str, script: str, **spec: Any) -> None:
    """Launch a run whose command is this text for the shell."""
    fields = {key: spec.pop(key) for key in ("timeout_s", "reuse") if key in spec}
    job = spec.get("app", "bu/job")
    run = RunPayload.model_validate(
        {"job": job, "run": name.rpartition(".")[0], "target": 0.0, **fields}
    )
    await cloud.launch(name, run=run, command=("/bin/sh", "-c", script), **spec)


async def output(cloud: Cloud, name: str, script: str, **spec: Any) -> str:
    """What a run writes; it must end well."""
    await start(cloud, name, script, **spec)
    await cloud.reaches(name, "TASK_FINISHED")
    return cloud.report(name).output


async def pools(cloud: Cloud) -> list[str]:
    """Ids of the shared containers that there are."""
    filters = {"label": [f"gantry.cluster={cloud.host.cluster}", LABEL_POOL]}
    found = await cloud.host.docker.containers.list(all=True, filters=filters)
    return [each._container["Id"] for each in found]


async def test_runs_share_a_container_and_nothing_else(cloud: Cloud) -> None:
    await start(cloud, "a.1", "echo hello from $WHO; echo again >&2; exit 3", env={"WHO": "a"})
    await cloud.reaches("a.1", "TASK_FAILED")
    first = cloud.report("a.1")
    assert (first.exit_code, first.output) == (3, "hello from a\nagain\n")
    assert 0 < first.ended_at - first.started_at < 60
    attachments = await cloud.host.attachments()
    assert attachments[first.container]["ip"] == first.address

    # Another unit's run with the same wishes is nowhere near.
    mine = "nc -l -p 7778 -e echo here & echo mine >/dev/shm/mine; " + FOR_EVER
    await start(cloud, "long.1", mine)
    await cloud.reaches("long.1", "TASK_RUNNING")
    assert cloud.report("long.1").container == first.container
    looks = "nc -w 1 127.0.0.1 7778 </dev/null || echo nobody; ls -A /dev/shm; ps"
    seen = await output(cloud, "theirs.1", f"({looks}) 2>&1", app="other/job")
    theirs = cloud.report("theirs.1")
    assert theirs.container != first.container and theirs.address != first.address
    assert "nobody\n" in seen and "\nmine\n" not in seen and "nc -l" not in seen

    # Each is held to its own limits, and the others go on.
    eats, small = "x=aaaaaaaa; while :; do x=$x$x; done", Resources(mem_mib=16)
    await start(cloud, "eats.1", eats, resources=small)
    await start(cloud, "late.1", FOR_EVER, timeout_s=0.5)
    many = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done"
    await start(cloud, "forks.1", many, resources=Resources(pids=16))
    status = await cloud.reaches("eats.1", "TASK_FAILED")
    assert cloud.report("eats.1").oom_killed
    assert "more than 16 MiB" in status["message"]
    await cloud.reaches("late.1", "TASK_FAILED")
    assert cloud.report("late.1").timed_out
    await cloud.reaches("forks.1", "TASK_FAILED")
    assert cloud.states("long.1") == ["TASK_RUNNING"]

    # The address is one container's: what listened in it is gone with its task, and that makes another container.
    await output(cloud, "b.1", "nc -l -p 7777 & exit 0", user="root")
    looks = "nc -w 1 127.0.0.1 7777 </dev/null || echo nobody; ls -a /.gantry/run; cat /proc/mounts"
    seen = await output(cloud, "c.1", f"({looks}) 2>&1", user="root")
    assert "nobody\n.\n..\n" in seen
    assert "/.gantry/run " not in seen
    assert cloud.report("c.1").container != cloud.report("b.1").container

    # One that never shares has a container of its own.
    await start(cloud, "alone.1", "echo one; echo two >&2; exit 5", reuse="never")
    await start(cloud, "alone-late.1", FOR_EVER, reuse="never", timeout_s=0.5)
    await cloud.reaches("alone.1", "TASK_FAILED")
    alone = cloud.report("alone.1")
    assert (alone.exit_code, sorted(alone.output.split())) == (5, ["one", "two"])
    assert 0 < alone.ended_at - alone.started_at < 60
    await cloud.reaches("alone-late.1", "TASK_FAILED")
    assert cloud.report("alone-late.1").timed_out
    await cloud.gone("alone.1")
    await cloud.kill("long.1")
    await cloud.reaches("long.1", "TASK_KILLED")


async def lines_of(cloud: Cloud, run: str, *, follow: bool = True) -> AsyncGenerator[str, None]:
    """What hostd tells of what a run writes."""
    path = f"/v1/containers/{cloud.report(f'{run}.1').container}/runs/{run}/output"
    answer = await cloud.host.client.open(cloud.host.url, f"{path}?follow={int(follow)}")
    if answer.status == 404:
        raise NotFound(path)
    assert answer.status == 200 and answer.stream is not None
    rest = b""
    async for chunk in answer.stream:
        *whole, rest = (rest + chunk).split(b"\n")
        for each in whole:
            yield json.loads(each)["line"]
    assert rest == b""


async def until(lines: AsyncGenerator[str, None], wanted: str) -> list[str]:
    """All lines up to that one."""
    found = [""]
    while found[-1] != wanted:
        found.append(await anext(lines))
    return found[1:]


async def test_what_a_run_writes_is_told_as_it_writes_it_whoever_begins_anew(cloud: Cloud) -> None:
    ticks = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"
    goodbye = f"trap 'echo bye; exit 0' TERM; {ticks}"
    await start(cloud, "ticks.1", goodbye, stop_grace_s=60.0)  # a busy machine lets it say so
    # More than is in one file, and no more than in two: however late it is read, it is all there.
    much = "n=0; while [ $n -lt 290000 ]; do seq $n $((n+28999)); n=$((n+29000)); sleep 0.1; done"
    await start(cloud, "much.1", f"sleep 1; {much}")
    for name in ("ticks.1", "much.1"):
        await cloud.reaches(name, "TASK_RUNNING")
    async with asyncio.timeout(60), aclosing(lines_of(cloud, "ticks")) as ticking:
        async with aclosing(lines_of(cloud, "much")) as lines:
            assert [each async for each in lines] == [str(n) for n in range(290_000)]
        seen = await until(ticking, "20")
        await cloud.kill9(WORKER)
        await cloud.until(lambda: len(cloud.lines("subscribed")) >= 2, "no worker came")
        seen += await until(ticking, str(len(seen) + 20))
        assert seen == [str(n) for n in range(len(seen))]
        async with aclosing(lines_of(cloud, "ticks", follow=False)) as now:
            assert [each async for each in now][: len(seen)] == seen
        await cloud.kill("ticks.1")
        *_, last = [each async for each in ticking]  # ends with the run
    status = await cloud.reaches("ticks.1", "TASK_KILLED")
    assert last == "bye", status["message"]
    with pytest.raises(NotFound):
        await anext(lines_of(cloud, "ticks"))


async def test_a_run_that_was_foretold_finds_its_container(cloud: Cloud) -> None:
    assert await output(cloud, "first.1", "echo here") == "here\n"  # there is an executor now
    agent, before = cloud.of("first.1")[-1]["agent_id"]["value"], await pools(cloud)
    spec = InstanceSpec(image=IMAGE, network="red", resources=Resources(), user="1234")
    told = MakeReady(ahead=(Ahead(bu="bu", spec=spec),))
    await cloud.client.message(agent, "gantry-executor", told.model_dump_json().encode())

    async def one_more() -> bool:
        made = set(await pools(cloud)) - set(before)
        return len(made) == 1 and len(cloud.lines("running")) == 3  # with the first run's, and it

    await cloud.host.until(one_more, "no container was made")
    assert await output(cloud, "soon.1", "id -u", user="1234") == "1234\n"
    assert len(await pools(cloud)) == len(before) + 1
    assert cloud.report("soon.1").container != cloud.report("first.1").container
    assert len(cloud.states("soon.1")) == 2 and cloud.states("soon.1")[0] == "TASK_RUNNING"


async def test_runs_outlive_worker_engine_agent_and_supervisor(cloud: Cloud) -> None:
    names = ("worker", "engine", "agent")
    brief = "until [ -e /dev/shm/x ]; do sleep 0.1; i=$((i+1)); [ $i -lt 20 ] || exit 4; done"
    for name in (*names, "stays"):
        await start(cloud, f"{name}.1", FOR_EVER)
        await cloud.reaches(f"{name}.1", "TASK_RUNNING")
    (before,) = await pools(cloud)

    await start(cloud, "ends.1", brief)
    await cloud.reaches("ends.1", "TASK_RUNNING")
    await cloud.kill9(WORKER)
    await cloud.reaches("ends.1", "TASK_FAILED")
    assert cloud.report("ends.1").exit_code == 4
    await asyncio.to_thread(restart, cloud.host.engine)
    assert await output(cloud, "after-engine.1", "echo fine") == "fine\n"

    await start(cloud, "meanwhile.1", brief)
    await cloud.reaches("meanwhile.1", "TASK_RUNNING")
    await cloud.stop_mesos()
    await cloud.until(
        lambda: any(each.get("attempt") == "meanwhile.1" for each in cloud.lines("ended")),
        "it was not seen to end",
    )
    await cloud.start_mesos()
    await cloud.reaches("meanwhile.1", "TASK_FAILED")
    for name in names:
        await cloud.kill(f"{name}.1")
        await cloud.reaches(f"{name}.1", "TASK_KILLED")

    container = cloud.report("stays.1").container
    await cloud.kill9(SUPERVISOR)
    await cloud.reaches("stays.1", "TASK_FAILED")
    await start(cloud, "stays.2", "echo anew", adopt=container)
    await cloud.reaches("stays.2", "TASK_RUNNING")
    await cloud.kill("stays.2")
    await cloud.reaches("stays.2", "TASK_KILLED")
    assert cloud.report("stays.2").output == ""
    assert await pools(cloud) == [before]
    for status in ("ends.1", "meanwhile.1", "stays.1", "stays.2", *(f"{n}.1" for n in names)):
        ends = {each["uuid"] for each in cloud.of(status) if each["state"] not in ALIVE}
        assert len(ends) == 1, status  # however often Mesos tells it


async def test_ends_outlive_the_supervisor_that_saw_them(cloud: Cloud) -> None:
    """Mesos' agent is away when they end, and hears of the executor's death before it could take them."""
    brief = "until [ -e /dev/shm/x ]; do sleep 0.1; i=$((i+1)); [ $i -lt 20 ] || exit 4; done"
    await start(cloud, "joint.1", f"echo once; {brief}")
    await start(cloud, "alone.1", f"echo once; {brief}", reuse="never")
    containers = {}
    for name in ("joint", "alone"):
        await cloud.reaches(f"{name}.1", "TASK_RUNNING")
        containers[name] = cloud.report(f"{name}.1").container
    await cloud.stop_mesos()
    for name in ("joint", "alone"):
        await cloud.until(
            lambda name=name: any(  # type: ignore[misc]
                each.get("attempt") == f"{name}.1" for each in cloud.lines("ended")
            ),
            f"{name}.1 was not seen to end",
        )
    await cloud.gone("alone.1")
    await cloud.kill9(SUPERVISOR)
    await cloud.start_mesos()
    for name, reuse in (("joint", "shared"), ("alone", "never")):
        gone = await cloud.reaches(f"{name}.1", "TASK_FAILED")
        assert gone["source"] == "SOURCE_AGENT", gone
        await start(cloud, f"{name}.2", "echo twice", adopt=containers[name], reuse=reuse)
        await cloud.reaches(f"{name}.2", "TASK_FAILED")
        report = cloud.report(f"{name}.2")
        assert (report.exit_code, report.output) == (4, "once\n")
    assert len(cloud.lines("told again")) == 2
