"""Is a task launchable? Mesos' checks in Mesos' order and words.

Each function returns the text of the first problem, or None.
"""

from __future__ import annotations

from libs.minimesos.master.model import Agent, Executor, Framework
from libs.minimesos.resources import NOTHING, Resources
from libs.minimesos.resources_read import ResourceError, parse_resources
from libs.minimesos.schema import Json
from libs.minimesos.schema_calls import EXECUTOR_INFO

_RULE = "-" * 60


class Invalid(ValueError):
    """A task or group that cannot be launched; the text goes into the TASK_ERROR."""


def id_error(value: str) -> str | None:
    """Why an id chosen by a framework is not usable."""
    if not value:
        return "ID must not be empty"
    if len(value) > 255:
        return f"ID must not be greater than 255 characters: {value}"
    if value in (".", ".."):
        return f"'{value}' is disallowed"
    if "/" in value or "\\" in value or any(ord(c) < 32 or ord(c) == 127 for c in value):
        return f"'{value}' contains invalid characters"
    return None


def check_identity(task: Json, framework: Framework, agent: Agent) -> None:
    """The task's id and agent. Raises Invalid."""
    task_id = task["task_id"]["value"]
    error = id_error(task_id)
    if error is not None:
        raise Invalid(error)
    if task_id in framework.tasks:
        raise Invalid(f"Task has duplicate ID: {task_id}")
    agent_id = task["agent_id"]["value"]
    if agent_id != agent.id:
        raise Invalid(f"Task uses invalid agent {agent_id} while agent {agent.id} is expected")
    grace = task.get("kill_policy", {}).get("grace_period", {}).get("nanoseconds", 0)
    if grace < 0:
        raise Invalid("Task's 'kill_policy.grace_period' must be non-negative")
    if task.get("max_completion_time", {}).get("nanoseconds", 0) < 0:
        raise Invalid("Task's `max_completion_time` must be non-negative")


def check_checks(task: Json) -> None:
    """Health check and check. Raises Invalid."""
    health = task.get("health_check")
    if health is not None:
        kind = health.get("type")
        if kind is None:
            raise Invalid("Task uses invalid health check: HealthCheck must specify 'type'")
        if kind.lower() not in health:
            what = kind.lower()
            raise Invalid(
                f"Task uses invalid health check: Expecting '{what}' to be set for {kind} health check"
            )
    check = task.get("check")
    if check is not None:
        kind = check.get("type")
        if kind is None:
            raise Invalid("Task uses invalid check: CheckInfo must specify 'type'")
        if kind.lower() not in check:
            what = kind.lower()
            raise Invalid(f"Task uses invalid check: Expecting '{what}' to be set for {kind} check")


def task_resources(task: Json, role: str) -> Resources:
    """The task's resources, allocated to the offer's role. Raises Invalid."""
    try:
        resources = parse_resources(task.get("resources", []))
    except ResourceError as error:
        raise Invalid(str(error)) from error
    if not resources:
        raise Invalid("Task uses no resources")
    return _of_one_role(resources.allocated(role), "task")


def check_shape(task: Json) -> None:
    """Exactly one of command and executor. Raises Invalid."""
    if ("command" in task) == ("executor" in task):
        raise Invalid(
            "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"
        )


def executor_resources(info: Json, role: str) -> Resources:
    """The executor's own resources, allocated to the offer's role. Raises Invalid."""
    if not info.get("resources"):
        return NOTHING
    try:
        resources = parse_resources(info["resources"]).allocated(role)
    except ResourceError as error:
        raise Invalid(f"Executor uses invalid resources: {error}") from error
    return _of_one_role(resources, "executor")


def _of_one_role(resources: Resources, what: str) -> Resources:
    """The same, if all are allocated to one role. Raises Invalid."""
    first, *others = dict.fromkeys(kind.allocated_to for kind, _ in resources)
    if others:
        raise Invalid(
            f"Invalid {what} resources: The resources have multiple allocation roles"
            f" ('{others[0]}' and '{first}') but only one allocation role is allowed"
        )
    return resources


def check_executor(info: Json, framework: Framework, existing: Executor | None) -> None:
    """The executor a task names, against the one that already runs. Raises Invalid.

    `info` is complete: framework id and allocation are filled in.
    """
    executor_id = info["executor_id"]["value"]
    error = id_error(executor_id)
    if error is not None:
        raise Invalid(f"Executor has invalid ID: {error}")
    given = info.get("framework_id", {}).get("value", framework.id)
    if given != framework.id:
        raise Invalid(
            f"ExecutorInfo has an invalid FrameworkID (Actual: {given} vs Expected: {framework.id})"
        )
    if info.get("type") == "CUSTOM" and "command" not in info:
        raise Invalid("'ExecutorInfo.command' must be set for 'CUSTOM' executor")
    if info.get("type") == "DEFAULT" and "command" in info:
        raise Invalid("'ExecutorInfo.command' must not be set for 'DEFAULT' executor")
    if existing is not None and existing.info != info:
        raise Invalid(
            "ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID.\n"
            f"{_RULE}\nExisting ExecutorInfo:\n{EXECUTOR_INFO.debug_string(existing.info)}\n"
            f"{_RULE}\nExecutorInfo:\n{EXECUTOR_INFO.debug_string(info)}\n{_RULE}\n"
        )


def check_fits(required: Resources, available: Resources, what: str) -> None:
    """The offer holds enough; `what` is `task` or `task group`. Raises Invalid."""
    if available.contains(required):
        return
    verb = "is" if what == "task" else "are"
    raise Invalid(
        f"Total resources {required} required by {what} and its executor"
        f" {verb} more than available {available}"
    )


def check_group_executor(info: Json, resources: Resources) -> None:
    """A task group's executor must bring its own cpus, mem and disk. Raises Invalid."""
    if info.get("type") != "DEFAULT" and info.get("type") != "CUSTOM":
        raise Invalid("Unknown executor type in ExecutorInfo")
    for name in ("cpus", "mem", "disk"):
        if resources.scalar_milli(name) == 0:
            executor_id = info["executor_id"]["value"]
            raise Invalid(f"Executor '{executor_id}' uses no {name}")
