"""Recovery: from the checkpoint back to frameworks, executors, tasks and updates."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from libs.minimesos.agent import executors, virtual
from libs.minimesos.agent.core import Core
from libs.minimesos.agent.model import Executor, ExecutorState, Framework, Task, Termination, Update
from libs.minimesos.effects import WatchRecovered
from libs.minimesos.resources_read import parse_resources
from libs.minimesos.schema import Json
from libs.minimesos.statuses import remembered
from libs.minimesos.units import format_duration


def recover(core: Core, saved: Mapping[str, bytes]) -> None:
    """Rebuild the state; ends by asking which containers still live (WatchRecovered)."""
    if "agent" in saved:
        agent = orjson.loads(saved["agent"])
        core.agent_id = agent["id"]
        core.info = {**core.info, "id": {"value": core.agent_id}}
        if "total" in agent:
            core.total = parse_resources(agent["total"])
    if "drain" in saved:
        core.drain = orjson.loads(saved["drain"])
    for key, raw in saved.items():
        if key.startswith("fw/"):
            info = orjson.loads(raw)
            core.frameworks[info["id"]["value"]] = Framework(info["id"]["value"], info)
    for key, raw in saved.items():
        if key.startswith("ex/"):
            _executor(core, key, orjson.loads(raw), saved)
    updates = _updates(saved)
    for key in sorted(k for k in saved if k.startswith("task/")):
        _task(core, key, saved, updates)
    found = [e for e in core.by_container.values() if e.pid is not None and not e.virtual]
    core.recovering = True
    containers = tuple((e.container_id, e.pid or 0, e.start_ticks) for e in found)
    core.out.append(WatchRecovered(containers))


def _executor(core: Core, key: str, entry: Json, saved: Mapping[str, bytes]) -> None:
    framework = core.frameworks.get(entry["framework_id"])
    if framework is None:
        return
    executor = Executor(
        entry["framework_id"],
        entry["executor_id"],
        entry["container_id"],
        entry["info"],
        entry["command_task"],
        checkpoint=True,
        sandbox=entry["sandbox"],
        virtual=entry["virtual"],
    )
    executor.resources = parse_resources(executor.info.get("resources", []))
    process = saved.get("pid/" + key.removeprefix("ex/"))
    if process is not None:
        parsed = orjson.loads(process)
        executor.pid, executor.start_ticks = parsed["pid"], parsed["ticks"]
    if executor.virtual:
        executor.state = ExecutorState.RUNNING
    framework.executors[executor.executor_id] = executor
    core.by_container[executor.container_id] = executor


def _updates(saved: Mapping[str, bytes]) -> dict[str, list[tuple[int, bytes]]]:
    out: dict[str, list[tuple[int, bytes]]] = {}
    for key, raw in saved.items():
        if key.startswith("upd/"):
            base, _, seq = key.removeprefix("upd/").rpartition("/")
            out.setdefault(base, []).append((int(seq), raw))
    for entries in out.values():
        entries.sort()
    return out


def _task(
    core: Core,
    key: str,
    saved: Mapping[str, bytes],
    updates: Mapping[str, list[tuple[int, bytes]]],
) -> None:
    _, framework_part, executor_part, task_part = key.split("/")
    raw = saved[key]
    info = orjson.loads(raw)
    framework = core.frameworks.get(_unsafe(framework_part))
    executor = framework.executors.get(_unsafe(executor_part)) if framework else None
    if executor is None:
        return
    task = Task(info["task_id"]["value"], info["name"], raw, parse_resources(info["resources"]))
    base = f"{framework_part}/{task_part}"
    acked = int(saved.get(f"ack/{base}", b"0"))
    for seq, status in updates.get(base, []):
        _replay(task, seq, status, acked)
    task.retry_s = core.config.status_update_retry_interval_s
    if task.terminal:
        executor.ended[task.task_id] = task
        return
    if executor.virtual and not task.statuses:
        executor.queued[task.task_id] = task
        return
    executor.tasks[task.task_id] = task
    if executor.virtual:
        started_at = float(orjson.loads(task.statuses[-1])["timestamp"])
        virtual.schedule(core, executor, task, started_at)


def _replay(task: Task, seq: int, raw: bytes, acked: int) -> None:
    status = orjson.loads(raw)
    update = Update(
        seq, status["uuid"], status["state"], raw, status["source"], status.get("reason", "")
    )
    task.seq = seq
    task.seen = (*task.seen, update.uuid)
    if not task.terminal:
        task.state = update.state
    task.statuses = remembered(task.statuses, raw, update.state)
    if seq > acked:
        task.pending = (*task.pending, update)
    else:
        task.acked = (seq, update.state)


def _unsafe(part: str) -> str:
    return part.replace("%2F", "/").replace("%25", "%")


def alive(core: Core, containers: frozenset[str]) -> None:
    """The driver says which recovered containers still run; the others' tasks fail.

    The living get `executor_reregistration_timeout` to subscribe again.
    """
    for executor in list(core.by_container.values()):
        if executor.virtual:
            executors.deliver(core, executor)
        elif executor.container_id not in containers:
            executors.ended(core, executor.container_id, None)
        elif core.config.recover == "cleanup":
            executors.shutdown(core, executor)
    timeout = core.config.executor_reregistration_timeout_s
    core.timers.set(("recovery",), core.now + timeout)
    check_done(core)


def check_done(core: Core) -> None:
    """Recovery ends as soon as every living executor has subscribed again."""
    if not core.recovering:
        return
    waiting = [e for e in core.by_container.values() if e.state is ExecutorState.REGISTERING]
    if not waiting and ("recovery",) in core.timers:
        core.timers.cancel(("recovery",))
        core.recovering = False


def on_timeout(core: Core) -> None:
    """Executors that did not subscribe again in time are killed."""
    core.recovering = False
    text = format_duration(core.config.executor_reregistration_timeout_s)
    for executor in list(core.by_container.values()):
        if executor.state is ExecutorState.REGISTERING and not executor.virtual:
            executor.termination = Termination(
                "TASK_FAILED",
                "REASON_EXECUTOR_REREGISTRATION_TIMEOUT",
                f"Executor did not reregister within {text}",
            )
            executor.state = ExecutorState.TERMINATING
            executors.kill(core, executor)
