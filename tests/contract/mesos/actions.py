"""What the person recording did beside HTTP: `do` steps of fixtures, by name."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from tests.contract.mesos.cluster import wipe_agent
from tests.contract.mesos.worker import run_worker

if TYPE_CHECKING:
    from tests.contract.mesos.replay import Action, Replay
    from tests.contract.mesos.steps import Step


async def _kill_agent(replay: Replay, step: Step) -> None:
    await replay.mesos.agents[step.get("agent", 0)].kill()


async def _start_agent(replay: Replay, step: Step) -> None:
    await replay.mesos.agents[step.get("agent", 0)].start()


async def _wipe_agent(replay: Replay, step: Step) -> None:
    wipe_agent(replay.mesos.agents[step.get("agent", 0)])


async def _pause_agent(replay: Replay, step: Step) -> None:
    replay.mesos.agents[step.get("agent", 0)].signal(signal.SIGSTOP)


async def _continue_agent(replay: Replay, step: Step) -> None:
    replay.mesos.agents[step.get("agent", 0)].signal(signal.SIGCONT)


async def _unregister_agent(replay: Replay, step: Step) -> None:
    replay.mesos.agents[step.get("agent", 0)].signal(signal.SIGUSR1)


async def _await_agent(replay: Replay, step: Step) -> None:
    await replay.mesos.await_agents(step.get("count", 1))


async def _await_agent_exit(replay: Replay, step: Step) -> None:
    process = replay.mesos.agents[step.get("agent", 0)].process
    assert process is not None
    async with asyncio.timeout(30.0):
        await process.wait()


async def _kill_master(replay: Replay, step: Step) -> None:
    assert replay.mesos.master is not None
    await replay.mesos.master.kill()


async def _start_master(replay: Replay, step: Step) -> None:
    assert replay.mesos.master is not None
    await replay.mesos.master.start()


async def _exit_executor(replay: Replay, step: Step) -> None:
    proxy = await replay.hub.get(step["executor"])
    await proxy.exit(step["code"])


async def _start_worker(replay: Replay, step: Step) -> None:
    proxy = await replay.hub.get(step["executor"])
    subscribed = asyncio.Event()
    replay.workers[step["executor"]] = replay.spawn(run_worker(proxy, step["pid"], subscribed))
    async with asyncio.timeout(30.0):
        await subscribed.wait()


async def _kill_worker(replay: Replay, step: Step) -> None:
    replay.workers[step["executor"]].cancel()


ACTIONS: dict[str, Action] = {
    "kill_agent": _kill_agent,
    "start_agent": _start_agent,
    "wipe_agent": _wipe_agent,
    "pause_agent": _pause_agent,
    "continue_agent": _continue_agent,
    "unregister_agent": _unregister_agent,
    "await_agent": _await_agent,
    "await_agent_exit": _await_agent_exit,
    "kill_master": _kill_master,
    "start_master": _start_master,
    "exit_executor": _exit_executor,
    "start_worker": _start_worker,
    "kill_worker": _kill_worker,
}
