"""Executors: launched, subscribed, shut down, ended; and the tasks handed to them."""

from __future__ import annotations

import orjson

from libs.minimesos.agent import updates, virtual
from libs.minimesos.agent.core import Core, executor_key, framework_key, pid_key, task_key
from libs.minimesos.agent.model import (
    Executor,
    ExecutorState,
    Framework,
    Task,
    Termination,
    command_text,
)
from libs.minimesos.effects import CloseStream, Forget, Kill, Launch, Message
from libs.minimesos.resources import NOTHING
from libs.minimesos.resources_read import parse_resources
from libs.minimesos.schema import Json
from libs.minimesos.units import format_duration, nanoseconds

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What Mesos adds to a command task for the executor that it makes for it.
_COMMAND_EXECUTOR_RESOURCES: list[Json] = [
    {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
    {"name": "mem", "type": "SCALAR", "scalar": {"value": 32.0}},
]


# ---- launching ----------------------------------------------------------------------------------
def run(core: Core, message: Message) -> None:
    """RUN or RUN_GROUP from the master."""
    framework = _framework(core, message["framework_info"])
    raws: list[bytes] = message.get("tasks_json") or [message["task_json"]]
    infos = [orjson.loads(raw) for raw in raws]
    given: Json | None = message.get("executor_info")
    executor_id = given["executor_id"]["value"] if given else infos[0]["task_id"]["value"]
    executor = framework.executors.get(executor_id)
    fresh = executor is None
    if executor is None:
        executor = _new_executor(core, framework, executor_id, given, infos[0])
    tasks = [_new_task(core, framework, executor, *pair) for pair in zip(infos, raws, strict=True)]
    if message["type"] == "RUN_GROUP":
        executor.groups.append(tuple(task.task_id for task in tasks))
    if core.drain is not None or executor.state in (
        ExecutorState.TERMINATING,
        ExecutorState.TERMINATED,
    ):
        _refuse(core, framework, executor, tasks)
        return
    if fresh:
        _start(core, framework, executor, raws[0])
    if executor.state is ExecutorState.RUNNING:
        deliver(core, executor)


def _framework(core: Core, info: Json) -> Framework:
    framework_id = info["id"]["value"]
    framework = core.frameworks.get(framework_id)
    if framework is None:
        framework = Framework(framework_id, info)
        core.frameworks[framework_id] = framework
        if framework.checkpoint:
            core.save(framework_key(framework_id), orjson.dumps(info))
    return framework


def _new_executor(
    core: Core, framework: Framework, executor_id: str, given: Json | None, task: Json
) -> Executor:
    container_id = core.ids.uuid()
    directory = (
        f"{core.config.work_dir}/slaves/{core.agent_id}/frameworks/{framework.id}"
        f"/executors/{executor_id}/runs/{container_id}"
    )
    executor = Executor(
        framework.id,
        executor_id,
        container_id,
        given if given is not None else _command_executor(framework, task),
        command_task=given is None,
        checkpoint=framework.checkpoint,
        sandbox=directory,
        virtual=core.config.virtual,
    )
    executor.resources = parse_resources(executor.info.get("resources", []))
    framework.executors[executor_id] = executor
    core.by_container[container_id] = executor
    if framework.checkpoint:
        core.save(executor_key(executor), orjson.dumps(saved_executor(executor)))
    return executor


def saved_executor(executor: Executor) -> Json:
    """An executor's checkpoint."""
    return {
        "executor_id": executor.executor_id,
        "framework_id": executor.framework_id,
        "container_id": executor.container_id,
        "info": executor.info,
        "command_task": executor.command_task,
        "virtual": executor.virtual,
        "sandbox": executor.sandbox,
    }


def _command_executor(framework: Framework, task: Json) -> Json:
    roles = {r.get("allocation_info", {}).get("role", "*") for r in task["resources"]}
    allocation = {"allocation_info": {"role": min(roles, default="*")}}
    task_id = task["task_id"]["value"]
    out: Json = {
        "executor_id": {"value": task_id},
        "framework_id": {"value": framework.id},
        "command": {
            "shell": False,
            "value": "/usr/libexec/mesos/mesos-executor",
            "arguments": ["mesos-executor", "--launcher_dir=/usr/libexec/mesos"],
        },
        "resources": [{**r, **allocation} for r in _COMMAND_EXECUTOR_RESOURCES],
        "name": f"Command Executor (Task: {task_id}) (Command: {command_text(task)})",
        "source": task_id,
    }
    if "labels" in task:
        out["labels"] = task["labels"]
    return out


def _new_task(core: Core, framework: Framework, executor: Executor, info: Json, raw: bytes) -> Task:
    task = Task(info["task_id"]["value"], info["name"], raw, parse_resources(info["resources"]))
    executor.queued[task.task_id] = task
    if framework.checkpoint:
        core.save(task_key(executor, task.task_id), raw)
    return task


def _refuse(core: Core, framework: Framework, executor: Executor, tasks: list[Task]) -> None:
    state = "TASK_DROPPED" if framework.partition_aware else "TASK_LOST"
    reason, text = "REASON_EXECUTOR_TERMINATED", "Executor terminating"
    if core.drain is not None:
        reason, text = "REASON_AGENT_DRAINING", "Agent is draining"
    for task in tasks:
        updates.from_agent(core, framework, executor, task, state, reason, text)
    if executor.pid is None and executor.state is ExecutorState.REGISTERING:
        executor.state = ExecutorState.TERMINATED


def _start(core: Core, framework: Framework, executor: Executor, raw: bytes) -> None:
    if executor.virtual:
        executor.state = ExecutorState.RUNNING
        return
    info = orjson.loads(raw)
    command = info.get("command", {}) if executor.command_task else executor.info.get("command", {})
    default = executor.info.get("type") == "DEFAULT"
    user = command.get("user") or framework.info.get("user", "")
    core.out.append(
        Launch(
            executor.container_id,
            executor.sandbox,
            command,
            environment(core, executor, command),
            user if core.config.switch_user else "",
            builtin=executor.command_task or default,
            task=raw if executor.command_task else b"",
        )
    )
    timeout = core.config.executor_registration_timeout_s
    core.timers.set(("register", executor.container_id), core.now + timeout)


def environment(core: Core, executor: Executor, command: Json) -> dict[str, str]:
    """The environment Mesos gives an executor; what the command sets itself wins."""
    config = core.config
    checkpointing = executor.checkpoint and config.recover == "reconnect"
    grace_s = _grace_s(core, executor)
    out = {
        "LIBPROCESS_IP": config.ip,
        "LIBPROCESS_PORT": "0",
        "MESOS_AGENT_ENDPOINT": f"{config.ip}:{config.port}",
        "MESOS_CHECKPOINT": "1" if executor.checkpoint else "0",
        "MESOS_DIRECTORY": executor.sandbox,
        "MESOS_EXECUTOR_ID": executor.executor_id,
        "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": format_duration(grace_s),
        "MESOS_FRAMEWORK_ID": executor.framework_id,
        "MESOS_HTTP_COMMAND_EXECUTOR": "0",
        "MESOS_SANDBOX": executor.sandbox,
        "MESOS_SLAVE_ID": core.agent_id,
        "MESOS_SLAVE_PID": core.pid_text,
        "PATH": _PATH,
    }
    if checkpointing:
        out["MESOS_RECOVERY_TIMEOUT"] = format_duration(config.recovery_timeout_s)
        backoff = format_duration(config.subscription_backoff_max_s)
        out["MESOS_SUBSCRIPTION_BACKOFF_MAX"] = backoff
    for variable in command.get("environment", {}).get("variables", []):
        if "value" in variable:
            out[variable["name"]] = variable["value"]
    return out


def _grace_s(core: Core, executor: Executor) -> float:
    given = executor.info.get("shutdown_grace_period")
    if given is None:
        return core.config.executor_shutdown_grace_period_s
    return float(given["nanoseconds"]) / 1e9


def launched(core: Core, container_id: str, pid: int, start_ticks: int) -> None:
    """The launcher started the process."""
    executor = core.by_container.get(container_id)
    if executor is None:
        return
    executor.pid = pid
    executor.start_ticks = start_ticks
    if executor.checkpoint:
        body = orjson.dumps({"pid": pid, "ticks": start_ticks})
        core.save(pid_key(executor), body)
    if executor.kill_wanted:
        core.out.append(Kill(container_id, pid))


def launch_failed(core: Core, container_id: str, stage: str, text: str) -> None:
    """The process could not be started; `stage` "directory" means the sandbox could not be made."""
    executor = core.by_container.get(container_id)
    if executor is None:
        return
    core.counters["container_launch_errors"] += 1
    framework = core.frameworks[executor.framework_id]
    if stage == "directory":
        state = "TASK_DROPPED" if framework.partition_aware else "TASK_LOST"
        executor.termination = Termination(state, "REASON_EXECUTOR_TERMINATED", text)
    else:
        message = f"Failed to launch container: {text}"
        reason = "REASON_CONTAINER_LAUNCH_FAILED"
        executor.termination = Termination("TASK_FAILED", reason, message)
    ended(core, container_id, None)


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
    core.timers.set(("executor-heartbeat", stream), core.now + 1800.0)
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
    deadline = core.now + _grace_s(core, executor)
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
    executor.resources = NOTHING if executor.virtual else executor.resources
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
        core.forget(updates.update_key(executor.framework_id, task.task_id))
        core.forget(updates.ack_key(executor.framework_id, task.task_id))


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


def drain(core: Core, config: Json | None) -> None:
    """DRAIN: kill all tasks, each within the given grace; None ends the draining."""
    core.drain = config
    if config is None:
        core.forget("drain")
        return
    core.save("drain", orjson.dumps(config))
    limit = config.get("max_grace_period")
    for executor in list(core.executors()):
        for task in list(executor.active_tasks()):
            message: Message = {
                "type": "KILL",
                "framework_id": executor.framework_id,
                "task_id": task.task_id,
            }
            policy = orjson.loads(task.info).get("kill_policy", {}).get("grace_period")
            if limit is not None:
                own_ns = policy["nanoseconds"] if policy else limit["nanoseconds"]
                grace = nanoseconds(min(own_ns, limit["nanoseconds"]) / 1e9)
                message["kill_policy"] = {"grace_period": grace}
            kill_task(core, message)
