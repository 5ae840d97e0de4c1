"""What the agent shows of itself: /state, the v1 GET calls, metrics."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from libs.minimesos import MESOS_VERSION
from libs.minimesos.agent.core import Core
from libs.minimesos.agent.model import Executor, ExecutorState, Framework, Task
from libs.minimesos.config import flags
from libs.minimesos.master.legacy import BUILD, attributes, status_summary
from libs.minimesos.master.views import TASK_INFO_FIELDS
from libs.minimesos.resources import NOTHING, Resources
from libs.minimesos.schema import Json


# ---- v1 -----------------------------------------------------------------------------------------
def task_v1(core: Core, executor: Executor, task: Task) -> Json:
    """A Task message."""
    info = orjson.loads(task.info)
    out: Json = {
        "name": task.name,
        "task_id": {"value": task.task_id},
        "framework_id": {"value": executor.framework_id},
    }
    if not executor.command_task:
        out["executor_id"] = {"value": executor.executor_id}
    out["agent_id"] = {"value": core.agent_id}
    out["state"] = task.state
    out["resources"] = task.resources.to_json(refined=True)
    if task.statuses:
        out["statuses"] = [orjson.Fragment(s) for s in task.statuses]
        last = task.pending[0].status if task.pending else task.statuses[-1]
        shown = orjson.loads(last)
        out["status_update_state"] = shown["state"]
        out["status_update_uuid"] = shown["uuid"]
    for name in TASK_INFO_FIELDS:
        if name in info:
            out[name] = info[name]
    return out


def tasks_v1(core: Core) -> Json:
    """GET_TASKS."""
    out: Json = {
        "pending_tasks": [],
        "queued_tasks": [],
        "launched_tasks": [],
        "terminated_tasks": [],
        "completed_tasks": [],
    }
    for framework in [*core.frameworks.values(), *core.completed_frameworks]:
        for executor in [*framework.executors.values(), *framework.completed]:
            for name, tasks in (
                ("queued_tasks", executor.queued.values()),
                ("launched_tasks", executor.tasks.values()),
                ("terminated_tasks", executor.ended.values()),
                ("completed_tasks", executor.completed),
            ):
                out[name].extend(task_v1(core, executor, t) for t in tasks if t.name)
    return out


def frameworks_v1(core: Core) -> Json:
    """GET_FRAMEWORKS."""
    out: Json = {"frameworks": [{"framework_info": f.info} for f in core.frameworks.values()]}
    out["completed_frameworks"] = [{"framework_info": f.info} for f in core.completed_frameworks]
    return out


def executors_v1(core: Core) -> Json:
    """GET_EXECUTORS."""
    done = [e for f in [*core.frameworks.values(), *core.completed_frameworks] for e in f.completed]
    return {
        "executors": [{"executor_info": e.info} for e in core.executors()],
        "completed_executors": [{"executor_info": e.info} for e in done],
    }


def state_v1(core: Core) -> Json:
    """GET_STATE."""
    return {
        "get_tasks": tasks_v1(core),
        "get_executors": executors_v1(core),
        "get_frameworks": frameworks_v1(core),
    }


def containers(core: Core) -> Iterator[Executor]:
    """Executors whose container runs."""
    return (e for e in core.executors() if e.alive)


def limits(executor: Executor) -> Json:
    """The statistics that follow from an executor's resources."""
    used = executor.used()
    memory = int(used.scalar("mem") * 1024 * 1024)
    return {
        "cpus_soft_limit": round(used.scalar("cpus"), 3),
        "mem_limit_bytes": memory,
        "mem_soft_limit_bytes": memory,
    }


def containers_v1(core: Core) -> Json:
    """GET_CONTAINERS."""
    shown = []
    for executor in containers(core):
        container_id = {"value": executor.container_id}
        status: Json = {"container_id": container_id}
        if executor.pid is not None:
            status["executor_pid"] = executor.pid
        shown.append(
            {
                "framework_id": {"value": executor.framework_id},
                "executor_id": {"value": executor.executor_id},
                "executor_name": executor.info.get("name", ""),
                "container_id": container_id,
                "container_status": status,
                "resource_statistics": {"timestamp": core.now, **limits(executor)},
            }
        )
    return {"containers": shown}


# ---- legacy -------------------------------------------------------------------------------------
def containers_legacy(core: Core, *, status: bool) -> list[Json]:
    """/containers and /monitor/statistics."""
    shown = []
    for executor in containers(core):
        entry: Json = {"container_id": executor.container_id} if status else {}
        entry |= {
            "executor_id": executor.executor_id,
            "executor_name": executor.info.get("name", ""),
            "framework_id": executor.framework_id,
            "source": executor.info.get("source", ""),
            "statistics": {**limits(executor), "timestamp": core.now},
        }
        if status:
            entry["status"] = {"container_id": {"value": executor.container_id}}
            if executor.pid is not None:
                entry["status"]["executor_pid"] = executor.pid
        shown.append(entry)
    return shown


def used(core: Core) -> Resources:
    """Everything that executors and tasks hold."""
    total = NOTHING
    for executor in core.executors():
        total = total + executor.used()
    return total


def state(core: Core) -> Json:
    """/state."""
    reserved = core.total.reserved_roles()
    free = core.total.unreserved()
    held = used(core)
    by_role = {r: x.summary() for r, x in held.reserved_roles().items()}
    out: Json = {"version": MESOS_VERSION, **BUILD}
    out |= {
        "start_time": core.start_time,
        "id": core.agent_id,
        "pid": core.pid_text,
        "hostname": core.config.host,
        "capabilities": list(core.capabilities),
        "resources": core.total.summary(),
        "reserved_resources": {r: x.summary() for r, x in reserved.items()},
        "unreserved_resources": free.summary(),
        "reserved_resources_full": {r: x.to_json(refined=False) for r, x in reserved.items()},
        "unreserved_resources_full": free.to_json(refined=False),
        "reserved_resources_allocated": by_role,
        "unreserved_resources_allocated": held.unreserved().summary(),
        "resource_providers": [],
        "attributes": attributes(core.info.get("attributes", [])),
        "master_hostname": core.config.master.partition(":")[0],
        "flags": flags(core.config),
        "frameworks": [_framework(core, f) for f in core.frameworks.values()],
        "completed_frameworks": [_framework(core, f) for f in core.completed_frameworks],
    }
    return out


def _framework(core: Core, framework: Framework) -> Json:
    info = framework.info
    out: Json = {
        "id": framework.id,
        "name": info["name"],
        "user": info["user"],
        "failover_timeout": info.get("failover_timeout", 0.0),
        "checkpoint": framework.checkpoint,
        "hostname": info.get("hostname", ""),
    }
    if "roles" in info:
        out["roles"] = info["roles"]
    else:
        out["role"] = info.get("role", "*")
    out["executors"] = [_executor(core, e) for e in framework.executors.values()]
    out["completed_executors"] = [_executor(core, e) for e in framework.completed]
    return out


def _executor(core: Core, executor: Executor) -> Json:
    info = executor.info
    roles = {k.allocated_to for k, _ in executor.resources}
    out: Json = {
        "id": executor.executor_id,
        "name": info.get("name", ""),
        "source": info.get("source", ""),
        "container": executor.container_id,
        "directory": executor.sandbox,
        "resources": (executor.used() if executor.alive else executor.resources).summary(),
        "role": min(roles, default="*"),
    }
    if "labels" in info:
        out["labels"] = info["labels"].get("labels", [])
    out["tasks"] = [_task(core, executor, t) for t in executor.tasks.values()]
    out["queued_tasks"] = [_task(core, executor, t) for t in executor.queued.values()]
    done = [*executor.ended.values(), *executor.completed]
    out["completed_tasks"] = [_task(core, executor, t) for t in done if t.name]
    return out


def _task(core: Core, executor: Executor, task: Task) -> Json:
    info = orjson.loads(task.info)
    out: Json = {
        "id": task.task_id,
        "name": task.name,
        "framework_id": executor.framework_id,
        "executor_id": "" if executor.command_task else executor.executor_id,
        "slave_id": core.agent_id,
        "state": task.state,
        "resources": task.resources.summary(),
        "role": min({k.allocated_to for k, _ in task.resources}, default="*"),
        "statuses": [status_summary(raw) for raw in task.statuses],
    }
    if "labels" in info:
        out["labels"] = info["labels"].get("labels", [])
    for name in ("discovery", "container", "health_check"):
        if name in info:
            out[name] = info[name]
    return out


# ---- metrics ------------------------------------------------------------------------------------
_ENDS = ("failed", "finished", "gone", "killed", "lost")
_STATES = ("killing", "running", "staging", "starting")


def metrics(core: Core) -> dict[str, float]:
    """/metrics/snapshot under Mesos' own keys, sorted."""
    out: dict[str, float] = {
        "slave/uptime_secs": core.now - core.start_time,
        "slave/registered": float(core.registered),
        "slave/recovery_errors": 0.0,
        "slave/recovery_time_secs": 0.0,
        "slave/executors_preempted": 0.0,
        "slave/executor_directory_max_allowed_age_secs": 604800.0,
        "slave/frameworks_active": float(len(core.frameworks)),
        "slave/executors_terminated": float(core.counters["executors_terminated"]),
        "slave/container_launch_errors": float(core.counters["container_launch_errors"]),
        "containerizer/fetcher/task_fetches_failed": 0.0,
        "containerizer/fetcher/task_fetches_succeeded": 0.0,
        "containerizer/mesos/container_destroy_errors": 0.0,
        "gc/path_removals_failed": 0.0,
        "gc/path_removals_pending": 0.0,
        "gc/path_removals_succeeded": 0.0,
    }
    for name in (
        "valid_status_updates",
        "invalid_status_updates",
        "valid_framework_messages",
        "invalid_framework_messages",
    ):
        out[f"slave/{name}"] = float(core.counters[name])
    held = used(core)
    for name in ("cpus", "gpus", "mem", "disk"):
        total, mine = core.total.scalar(name), round(held.scalar(name), 3)
        out[f"slave/{name}_total"] = total
        out[f"slave/{name}_used"] = mine
        out[f"slave/{name}_percent"] = mine / total if total else 0.0
        for what in ("total", "used", "percent"):
            out[f"slave/{name}_revocable_{what}"] = 0.0
    states = [t.state for e in core.executors() for t in e.active_tasks()]
    for state_name in _STATES:
        out[f"slave/tasks_{state_name}"] = float(states.count(f"TASK_{state_name.upper()}"))
    for end in _ENDS:
        out[f"slave/tasks_{end}"] = float(core.counters[f"task_{end}"])
    executors = [e.state for e in core.executors()]
    for key in (ExecutorState.REGISTERING, ExecutorState.RUNNING, ExecutorState.TERMINATING):
        out[f"slave/executors_{key.lower()}"] = float(executors.count(key))
    out.update(core.host.read().metrics())
    return dict(sorted(out.items()))
