"""Executors: subscribed, given tasks, shut down, ended."""

from __future__ import annotations

import orjson

from libs.minimesos.agent import updates, virtual
from libs.minimesos.agent.core import (
    Core,
    ack_key,
    executor_key,
    framework_key,
    pid_key,
    task_key,
    update_key,
)
from libs.minimesos.agent.model import (
    Executor,
    ExecutorState,
    Framework,
    Task,
    Termination,
)
from libs.minimesos.effects import CloseStream, Forget, Kill, Message
from libs.minimesos.schema import Json
from libs.minimesos.units import format_duration

# Mesos sends executors a sign of life every half an hour.
HEARTBEAT_S = 1800.0


# ---- subscribed ---------------------------------------------------------------------------------
def subscribed(
    core: Core, framework: Framework, executor: Executor, stream: str, body: Json
) -> None:
    """SUBSCRIBE: the first time, or again with what it has no answers for."""
    if executor.stream is not None:
        core.out.append(CloseStream(executor.stream))
        core.by_stream.pop(executor.stream, None)
    again = executor.state is ExecutorState.RUNNING or bool(executor.tasks)
    executor.stream = stream
    core.by_stream[stream] = executor
    core.timers.cancel(("register", executor.container_id))
    core.timers.set(("executor-heartbeat", stream), core.now + HEARTBEAT_S)
    event = {
        "executor_info": executor.info,
        "framework_info": framework.info,
        "agent_info": {**core.info, "id": {"value": core.agent_id}},
        "container_id": {"value": executor.container_id},
    }
    core.to_executor(executor, "SUBSCRIBED", event)
    if executor.state is ExecutorState.TERMINATING:
        core.to_executor(executor, "SHUTDOWN")
        return
    executor.state = ExecutorState.RUNNING
    for update in body.get("unacknowledged_updates", []):
        updates.from_executor(core, framework, executor, update["status"])
    if again:
        known = {t["task_id"]["value"] for t in body.get("unacknowledged_tasks", [])}
        _drop_undelivered(core, framework, executor, known)
    deliver(core, executor)


def _drop_undelivered(
    core: Core, framework: Framework, executor: Executor, known: set[str]
) -> None:
    """Tasks sent while the executor was away and that it does not know."""
    state = "TASK_DROPPED" if framework.partition_aware else "TASK_LOST"
    for task in list(executor.tasks.values()):
        if task.state == "TASK_STAGING" and task.task_id not in known:
            text = "Task launched during agent restart"
            updates.from_agent(
                core, framework, executor, task, state, "REASON_AGENT_RESTARTED", text
            )


def deliver(core: Core, executor: Executor) -> None:
    """Hand queued tasks to a running executor, groups whole."""
    grouped = {task_id: group for group in executor.groups for task_id in group}
    while executor.queued:
        task_id, task = next(iter(executor.queued.items()))
        group = grouped.get(task_id, (task_id,))
        tasks = [executor.queued.pop(i) for i in group if i in executor.queued]
        for item in tasks:
            executor.tasks[item.task_id] = item
        if executor.virtual:
            for item in tasks:
                virtual.begin(core, executor, item)
        elif task_id in grouped:
            infos = [_task_info(executor, item) for item in tasks]
            core.to_executor(executor, "LAUNCH_GROUP", {"task_group": {"tasks": infos}})
        else:
            core.to_executor(executor, "LAUNCH", {"task": _task_info(executor, task)})
    executor.groups = [g for g in executor.groups if any(i in executor.queued for i in g)]


def _task_info(executor: Executor, task: Task) -> Json:
    info: Json = orjson.loads(task.info)
    if executor.command_task:
        return info
    out: Json = {}
    for name, value in info.items():
        out[name] = value
        if name == "resources":
            out["executor"] = executor.info
    return out


def stream_closed(core: Core, stream: str) -> None:
    """The executor's stream broke; it may come back while its process lives."""
    executor = core.by_stream.pop(stream, None)
    core.timers.cancel(("executor-heartbeat", stream))
    if executor is not None and executor.stream == stream:
        executor.stream = None


def grace_s(core: Core, executor: Executor) -> float:
    """How long an executor may take to end."""
    given = executor.info.get("shutdown_grace_period")
    if given is None:
        return core.config.executor_shutdown_grace_period_s
    return float(given["nanoseconds"]) / 1e9


# ---- ending -------------------------------------------------------------------------------------
def kill_task(core: Core, message: Message) -> None:
    """KILL from the master."""
    framework = core.frameworks.get(message["framework_id"])
    found = core.find_task(message["framework_id"], message["task_id"])
    if framework is None or found is None:
        return
    executor, task = found
    if task.terminal:
        return
    if task.task_id in executor.queued:
        text = "Task killed before delivery to the executor"
        reason = "REASON_TASK_KILLED_DURING_LAUNCH"
        updates.from_agent(core, framework, executor, task, "TASK_KILLED", reason, text)
        if not executor.queued and not executor.tasks:
            shutdown(core, executor)
        return
    if executor.virtual:
        virtual.kill(core, framework, executor, task)
        return
    body: Json = {"task_id": {"value": task.task_id}}
    if "kill_policy" in message:
        body["kill_policy"] = message["kill_policy"]
    core.to_executor(executor, "KILL", body)


def shutdown(core: Core, executor: Executor) -> None:
    """Ask an executor to end; its container is killed after the grace period."""
    if executor.state in (ExecutorState.TERMINATING, ExecutorState.TERMINATED):
        return
    executor.state = ExecutorState.TERMINATING
    if executor.virtual:
        ended(core, executor.container_id, 0)
        return
    core.to_executor(executor, "SHUTDOWN")
    deadline = core.now + grace_s(core, executor)
    core.timers.set(("shutdown", executor.container_id), deadline)


def kill(core: Core, executor: Executor) -> None:
    """Kill the container now, or as soon as its process is known."""
    executor.kill_wanted = True
    if executor.pid is not None:
        core.out.append(Kill(executor.container_id, executor.pid))


def on_register_timeout(core: Core, container_id: str) -> None:
    """The executor did not subscribe in time."""
    executor = core.by_container.get(container_id)
    if executor is None or executor.state is not ExecutorState.REGISTERING:
        return
    text = format_duration(core.config.executor_registration_timeout_s)
    executor.termination = Termination(
        "TASK_FAILED",
        "REASON_EXECUTOR_REGISTRATION_TIMEOUT",
        f"Executor did not register within {text}",
    )
    executor.state = ExecutorState.TERMINATING
    kill(core, executor)


def ended(core: Core, container_id: str, status: int | None) -> None:
    """The container is over: FAILURE to the framework, its tasks fail."""
    executor = core.by_container.pop(container_id, None)
    if executor is None:
        return
    core.counters["executors_terminated"] += 1
    framework = core.frameworks[executor.framework_id]
    for key in ("register", "shutdown"):
        core.timers.cancel((key, container_id))
    executor.state = ExecutorState.TERMINATED
    if executor.stream is not None:
        core.out.append(CloseStream(executor.stream))
        stream_closed(core, executor.stream)
    core.out.append(Forget(container_id))
    if not executor.command_task and not framework.terminating:
        core.to_master(
            {
                "type": "EXITED",
                "framework_id": framework.id,
                "executor_id": executor.executor_id,
                "status": status,
            }
        )
    if not framework.terminating:
        why = executor.termination or Termination(
            "TASK_FAILED", "REASON_EXECUTOR_TERMINATED", "Executor terminated"
        )
        for task in list(executor.active_tasks()):
            updates.from_agent(core, framework, executor, task, *why)
    settle(core, framework, executor)


def settle(core: Core, framework: Framework, executor: Executor) -> None:
    """Move a terminated executor whose updates are all acknowledged to history."""
    if executor.alive:
        if executor.command_task and executor.virtual and executor.idle:
            ended(core, executor.container_id, 0)
        return
    if not executor.idle and not framework.terminating:
        return
    if framework.executors.pop(executor.executor_id, None) is None:
        return
    for task in [*executor.active_tasks(), *executor.ended.values()]:
        core.timers.cancel(("update", framework.id, executor.executor_id, task.task_id))
        forget_task(core, executor, task)
    framework.completed.append(executor)
    while len(framework.completed) > core.config.max_completed_executors_per_framework:
        framework.completed.popleft()
    if executor.checkpoint:
        core.forget(executor_key(executor))
        core.forget(pid_key(executor))
    if framework.terminating and not framework.executors:
        remove_framework(core, framework)


def forget_task(core: Core, executor: Executor, task: Task) -> None:
    """Drop the checkpoint of a task that nobody will acknowledge any more."""
    if executor.checkpoint:
        core.forget(task_key(executor, task.task_id))
        core.forget(update_key(executor.framework_id, task.task_id))
        core.forget(ack_key(executor.framework_id, task.task_id))


def shutdown_framework(core: Core, framework_id: str) -> None:
    """SHUTDOWN_FRAMEWORK: all its executors end, nothing more is reported."""
    framework = core.frameworks.get(framework_id)
    if framework is None or framework.terminating:
        return
    framework.terminating = True
    for executor in list(framework.executors.values()):
        if executor.alive:
            shutdown(core, executor)
        else:
            settle(core, framework, executor)
    if not framework.executors:
        remove_framework(core, framework)


def remove_framework(core: Core, framework: Framework) -> None:
    """The last executor of a removed framework is gone."""
    if core.frameworks.pop(framework.id, None) is not None:
        core.completed_frameworks.append(framework)
        if framework.checkpoint:
            core.forget(framework_key(framework.id))
