"""kill -9 of real processes: executors outlive the agent and no task changes state."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.unit.minimesos.support import (
    FRAMEWORK,
    Json,
    executor_task,
    launch_call,
    minimesos,
    scheduler,
    task,
)

# On a busy machine an executor may need longer than Mesos' 2 s; how long it takes is asserted.
PATIENT = "--executor_reregistration_timeout=20secs"


def port(url: str) -> str:
    """The port of a URL."""
    return str(urlsplit(url).port)


async def lines(work_dir: Path, wanted: int, what: str, timeout_s: float = 40) -> list[str]:
    """The test executor's log once `what` is in it `wanted` times."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = [p.read_text().splitlines() for p in work_dir.rglob("events") if p.is_file()]
            seen = [line for log in found for line in log]
            if sum(line.split()[1] == what for line in seen) >= wanted:
                return seen
            await asyncio.sleep(0.02)


def updates(events: list[Json], task_id: str) -> list[str]:
    """States reported of a task, each update once, without answers to reconciliation."""
    statuses = [e["update"]["status"] for e in events if "update" in e]
    by_uuid = {
        s["uuid"]: s["state"] for s in statuses if s["task_id"]["value"] == task_id and "uuid" in s
    }
    return list(by_uuid.values())


async def test_kill_9_of_the_embedded_process_changes_no_task(tmp_path: Path) -> None:
    """One custom executor with two tasks and one command task live through a new start."""
    async with minimesos("all", "--port=0", "--agent_port=0", f"--work_dir={tmp_path}") as first:
        ports = (f"--port={port(first.master)}", f"--agent_port={port(first.agents[0])}")
        async with scheduler(first.master) as client:
            offer = await client.offer()
            agent_id = offer["agent_id"]
            tasks = [executor_task("x1", agent_id), executor_task("x2", agent_id)]
            await client.call(launch_call(offer, [*tasks, task("c1", agent_id)]))
            for name in ("x1", "x2", "c1"):
                await client.state(name, "TASK_RUNNING")
            await first.kill()
            await client.wait(lambda e: e["type"] == "BROKEN")
            client.forget_offers()
            await lines(tmp_path, 1, "broken")
            async with minimesos("all", *ports, PATIENT, f"--work_dir={tmp_path}"):
                second = await client.offer()
                assert second["agent_id"] == agent_id
                await client.call({"type": "RECONCILE", "reconcile": {"tasks": []}})
                answers = 0
                async with asyncio.timeout(40):
                    while answers < 3:
                        await asyncio.sleep(0.02)
                        told = [e["update"]["status"] for e in client.events if "update" in e]
                        again = [s for s in told if s.get("reason") == "REASON_RECONCILIATION"]
                        answers = len(again)
                assert {s["state"] for s in again} == {"TASK_RUNNING"}
                assert updates(client.events, "x1") == ["TASK_RUNNING"]
                assert updates(client.events, "x2") == ["TASK_RUNNING"]
                assert updates(client.events, "c1") == ["TASK_STARTING", "TASK_RUNNING"]
                # New launches reach the old executor, kills reach old tasks.
                await client.call(launch_call(second, [executor_task("x3", agent_id)]))
                await client.state("x3", "TASK_RUNNING")
                for name in ("x1", "x2", "x3", "c1"):
                    await client.call({"type": "KILL", "kill": {"task_id": {"value": name}}})
                    await client.state(name, "TASK_KILLED")
                await client.call({"type": "TEARDOWN"})
                await lines(tmp_path, 1, "SHUTDOWN")


async def test_re_registration_takes_less_than_two_seconds(tmp_path: Path) -> None:
    """From the moment the new process listens; with a longer silence Mesos' agent would give its executor up."""
    async with minimesos("all", "--port=0", "--agent_port=0", f"--work_dir={tmp_path}") as first:
        ports = (f"--port={port(first.master)}", f"--agent_port={port(first.agents[0])}")
        async with scheduler(first.master) as client:
            offer = await client.offer()
            await client.call(launch_call(offer, [executor_task("x1", offer["agent_id"])]))
            await client.state("x1", "TASK_RUNNING")
            await first.kill()
            async with minimesos("all", *ports, PATIENT, f"--work_dir={tmp_path}"):
                started_at = time.time()
                log = await lines(tmp_path, 2, "SUBSCRIBED")
                back = [float(x.split()[0]) for x in log if x.endswith("SUBSCRIBED")][-1]
                assert back - started_at < 2
                await client.wait(lambda e: e["type"] == "BROKEN")
                await client.wait(lambda e: e["type"] == "SUBSCRIBED" and e is not client.events[0])
                await client.call({"type": "TEARDOWN"})
                await lines(tmp_path, 1, "SHUTDOWN")


async def test_an_executor_that_died_meanwhile_fails_its_tasks(tmp_path: Path) -> None:
    """The process is gone when the agent looks for it."""
    async with minimesos("all", "--port=0", "--agent_port=0", f"--work_dir={tmp_path}") as first:
        ports = (f"--port={port(first.master)}", f"--agent_port={port(first.agents[0])}")
        async with scheduler(first.master) as client:
            offer = await client.offer()
            await client.call(launch_call(offer, [executor_task("x1", offer["agent_id"])]))
            status = await client.state("x1", "TASK_RUNNING")
            await first.kill()
            os.kill(status["container_status"]["executor_pid"], signal.SIGKILL)
            async with minimesos("all", *ports, PATIENT, f"--work_dir={tmp_path}"):
                failed = await client.state("x1", "TASK_FAILED")
                assert failed["reason"] == "REASON_EXECUTOR_TERMINATED"
                assert failed["source"] == "SOURCE_AGENT"


async def test_exit_of_an_executor_is_a_failure_with_its_wait_status(tmp_path: Path) -> None:
    """exit 5 is wait status 1280, then TASK_FAILED."""
    flags = ("--port=0", "--agent_port=0", f"--work_dir={tmp_path}")
    async with minimesos("all", *flags) as run, scheduler(run.master) as client:
        offer = await client.offer()
        await client.call(launch_call(offer, [executor_task("x1", offer["agent_id"])]))
        await client.state("x1", "TASK_RUNNING")
        message = {
            "agent_id": offer["agent_id"],
            "executor_id": {"value": "e1"},
            "data": base64.b64encode(b"exit").decode(),
        }
        await client.call({"type": "MESSAGE", "message": message})
        failure = await client.wait(lambda e: e["type"] == "FAILURE")
        assert failure["failure"]["status"] == 1280
        assert (await client.state("x1", "TASK_FAILED"))["message"] == "Executor terminated"


@pytest.mark.parametrize("victim", ["master", "agent"])
async def test_separate_processes_are_killed_and_restarted(tmp_path: Path, victim: str) -> None:
    """Master and agent on their own: either may die, the task goes on."""
    flags = ("--agent_ping_timeout=15secs",)
    async with minimesos("master", "--port=0", f"--work_dir={tmp_path}/m", *flags) as master:
        address = urlsplit(master.master).netloc
        agent_flags = (f"--master={address}", PATIENT, f"--work_dir={tmp_path}/a")
        async with (
            minimesos("agent", "--port=0", *agent_flags) as agent,
            scheduler(master.master) as client,
        ):
            offer = await client.offer()
            await client.call(launch_call(offer, [executor_task("x1", offer["agent_id"])]))
            await client.state("x1", "TASK_RUNNING")
            client.forget_offers()
            if victim == "master":
                await master.kill()
                same = (f"--port={port(master.master)}", f"--work_dir={tmp_path}/m", *flags)
                again = minimesos("master", *same)
            else:
                await agent.kill()
                again = minimesos("agent", f"--port={port(agent.agents[0])}", *agent_flags)
            async with again:
                if victim == "master":
                    again_at = await client.wait(lambda e: e["type"] == "BROKEN")
                    await client.wait(
                        lambda e: e["type"] == "SUBSCRIBED" and client.after(again_at, e)
                    )
                # A second launch proves that the agent is back.
                second = await client.launch(executor_task, "x2")
                assert second["agent_id"] == offer["agent_id"]
                assert updates(client.events, "x1") == ["TASK_RUNNING"]
                await client.call({"type": "TEARDOWN"})
                await lines(tmp_path, 1, "SHUTDOWN")


async def test_a_framework_without_checkpoint_loses_its_tasks(tmp_path: Path) -> None:
    """Agent killed: TASK_LOST at once."""
    info = {**FRAMEWORK, "checkpoint": False}
    async with minimesos("master", "--port=0") as master:
        address = urlsplit(master.master).netloc
        flags = (f"--master={address}", f"--work_dir={tmp_path}")
        async with (
            minimesos("agent", "--port=0", *flags) as agent,
            scheduler(master.master, info) as client,
        ):
            offer = await client.offer()
            await client.call(launch_call(offer, [task("t1", offer["agent_id"])]))
            await client.state("t1", "TASK_RUNNING")
            await agent.kill()
            status = await client.state("t1", "TASK_LOST")  # silence is noticed after 75 s
            assert status["reason"] == "REASON_AGENT_DISCONNECTED"
            assert status["message"].endswith("disconnected")
