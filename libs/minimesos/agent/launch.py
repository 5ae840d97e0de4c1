"""Launching: a task from the master finds or makes its executor."""

from __future__ import annotations

from functools import lru_cache

import orjson

from libs.minimesos.agent import tokens, updates
from libs.minimesos.agent.core import Core, executor_key, framework_key, pid_key, task_key
from libs.minimesos.agent.executors import deliver, ended, grace_s
from libs.minimesos.agent.model import (
    Executor,
    ExecutorState,
    Framework,
    Task,
    Termination,
    command_text,
)
from libs.minimesos.effects import Kill, Launch, Message
from libs.minimesos.packed import packed
from libs.minimesos.resources_read import parse_resources
from libs.minimesos.schema import Json
from libs.minimesos.units import format_duration

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COMMAND_EXECUTOR: Json = {
    "shell": False,
    "value": "/usr/libexec/mesos/mesos-executor",
    "arguments": ["mesos-executor", "--launcher_dir=/usr/libexec/mesos"],
}


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
        core.save(executor_key(executor), packed(saved_executor(executor)))
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
    task_id = task["task_id"]["value"]
    out: Json = {
        "executor_id": {"value": task_id},
        "framework_id": framework.info["id"],
        "command": _COMMAND_EXECUTOR,
        "resources": _command_executor_resources(min(roles, default="*")),
        "name": f"Command Executor (Task: {task_id}) (Command: {command_text(task)})",
        "source": task_id,
    }
    if "labels" in task:
        out["labels"] = task["labels"]
    return out


@lru_cache(maxsize=1024)
def _command_executor_resources(role: str) -> list[Json]:
    # What Mesos adds to a command task for the executor that it makes for it; shared by all.
    allocation = {"allocation_info": {"role": role}}
    return [
        {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}, **allocation},
        {"name": "mem", "type": "SCALAR", "scalar": {"value": 32.0}, **allocation},
    ]


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
    shutdown_s = grace_s(core, executor)
    out = {
        "LIBPROCESS_IP": config.ip,
        "LIBPROCESS_PORT": "0",
        "MESOS_AGENT_ENDPOINT": f"{config.ip}:{config.port}",
        "MESOS_CHECKPOINT": "1" if executor.checkpoint else "0",
        "MESOS_DIRECTORY": executor.sandbox,
        "MESOS_EXECUTOR_ID": executor.executor_id,
        "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": format_duration(shutdown_s),
        "MESOS_FRAMEWORK_ID": executor.framework_id,
        "MESOS_HTTP_COMMAND_EXECUTOR": "0",
        "MESOS_SANDBOX": executor.sandbox,
        "MESOS_SLAVE_ID": core.agent_id,
        "MESOS_SLAVE_PID": core.pid_text,
        "PATH": _PATH,
        **config.executor_variables,
    }
    if checkpointing:
        out["MESOS_RECOVERY_TIMEOUT"] = format_duration(config.recovery_timeout_s)
        backoff = format_duration(config.subscription_backoff_max_s)
        out["MESOS_SUBSCRIPTION_BACKOFF_MAX"] = backoff
    for variable in command.get("environment", {}).get("variables", []):
        if "value" in variable:
            out[variable["name"]] = variable["value"]
    if config.jwt_secret_key:
        own = tokens.token(config.jwt_secret_key, tokens.claims_of(executor))
        out["MESOS_EXECUTOR_AUTHENTICATION_TOKEN"] = own
    return out


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
