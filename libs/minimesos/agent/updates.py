"""Status updates: taken from executors or made here, kept until acknowledged, one at a time.

As in Mesos, one update of a task is outstanding; it is sent again after 10 s, 20 s, … until the
framework acknowledges it. The executor is answered as soon as the update is on disk.
"""

from __future__ import annotations

from libs.minimesos.agent.core import Core, ack_key, task_key, update_key
from libs.minimesos.agent.model import Executor, Framework, Task, Update
from libs.minimesos.effects import Message
from libs.minimesos.ids import uuid_bytes64
from libs.minimesos.packed import packed
from libs.minimesos.resources import NOTHING
from libs.minimesos.schema import Json
from libs.minimesos.schema_calls import V1
from libs.minimesos.schema_common import TERMINAL_STATES
from libs.minimesos.statuses import AGENT, make_status, remembered

# An executor repeats only updates it has no answer for, so the latest few are enough.
_SEEN = 8
# Ended tasks that an executor shows in /state, as Mesos keeps them.
_MAX_COMPLETED = 200
_ORDER = tuple(field.name for field in V1["TaskStatus"].fields)


def from_executor(core: Core, framework: Framework, executor: Executor, status: Json) -> None:
    """An UPDATE call. Repeated ones are only acknowledged again."""
    task_id = status["task_id"]["value"]
    status.setdefault("timestamp", core.now)
    status["agent_id"] = {"value": core.agent_id}
    status["executor_id"] = {"value": executor.executor_id}
    task = (
        executor.tasks.get(task_id) or executor.queued.get(task_id) or executor.ended.get(task_id)
    )
    if task is None:
        _from_stray(core, framework, executor, status)
        return
    if status["uuid"] not in task.seen:
        core.counters["valid_status_updates"] += 1
        _add_container(core, executor, status)
        _mark_drained(core, framework, status)
        _take(core, framework, executor, task, _ordered(status))
    body = {"task_id": {"value": task_id}, "uuid": status["uuid"]}
    core.to_executor(executor, "ACKNOWLEDGED", body)


def _from_stray(core: Core, framework: Framework, executor: Executor, status: Json) -> None:
    """A task that was never launched or is long over: told to the framework, never answered."""
    core.counters["invalid_status_updates"] += 1
    task_id = status["task_id"]["value"]
    task = executor.strays.setdefault(task_id, Task(task_id, "", b"{}", NOTHING))
    if status["uuid"] not in task.seen:
        _take(core, framework, executor, task, _ordered(status))


def _ordered(status: Json) -> Json:
    return {name: status[name] for name in _ORDER if name in status}


def _add_container(core: Core, executor: Executor, status: Json) -> None:
    given = status.get("container_status")
    container: Json = {"container_id": {"value": executor.container_id}}
    networks = [{"ip_addresses": [{"protocol": "IPv4", "ip_address": core.config.ip}]}]
    if given is not None and "container_id" in given:
        if "executor_pid" in given and "network_infos" not in given:
            given["network_infos"] = networks
        return
    container["network_infos"] = (given or {}).get("network_infos", networks)
    if executor.pid is not None:
        container["executor_pid"] = executor.pid
    status["container_status"] = container


def _mark_drained(core: Core, framework: Framework, status: Json) -> None:
    if core.drain is None or status["state"] not in TERMINAL_STATES:
        return
    status["reason"] = "REASON_AGENT_DRAINING"
    if core.drain["mark_gone"] and framework.partition_aware:
        status["state"] = "TASK_GONE_BY_OPERATOR"


def from_agent(
    core: Core,
    framework: Framework,
    executor: Executor,
    task: Task,
    state: str,
    reason: str,
    message: str,
) -> None:
    """An update the agent makes itself (SOURCE_AGENT)."""
    status = make_status(
        task.task_id,
        state,
        AGENT,
        core.now,
        message=message,
        reason=reason,
        agent_id=core.agent_id,
        executor_id=executor.executor_id,
        uuid=uuid_bytes64(core.ids.uuid()),
    )
    _mark_drained(core, framework, status)
    _take(core, framework, executor, task, status)


def _take(core: Core, framework: Framework, executor: Executor, task: Task, status: Json) -> None:
    raw = packed(status)
    task.seq += 1
    update = Update(
        task.seq, status["uuid"], status["state"], raw, status["source"], status.get("reason", "")
    )
    if framework.checkpoint and task.name:
        core.save(f"{update_key(framework.id, task.task_id)}/{task.seq:08d}", raw)
    task.seen = (*task.seen[-_SEEN:], update.uuid)
    _set_state(core, executor, task, update)
    task.pending = (*task.pending, update)
    if len(task.pending) == 1:
        task.retry_s = core.config.status_update_retry_interval_s
        forward(core, framework.id, executor, task)


def _set_state(core: Core, executor: Executor, task: Task, update: Update) -> None:
    was_over = task.terminal
    if not was_over:
        task.state = update.state
    task.statuses = remembered(task.statuses, update.status, update.state)
    if task.terminal and not was_over:
        if not task.name:
            return
        core.counters[task.state.lower()] += 1
        executor.tasks.pop(task.task_id, None)
        executor.queued.pop(task.task_id, None)
        executor.ended[task.task_id] = task


def forward(core: Core, framework_id: str, executor: Executor, task: Task) -> None:
    """Send the oldest unacknowledged update and set the time of its repetition."""
    if not task.pending:
        return
    update = task.pending[0]
    message: Message = {
        "type": "UPDATE",
        "framework_id": framework_id,
        "executor_id": executor.executor_id,
        "task_id": task.task_id,
        "state": update.state,
        "latest_state": task.pending[-1].state if not task.terminal else task.state,
        "uuid": update.uuid,
        "status_json": update.status,
        "source": update.source,
        "reason": update.reason,
    }
    core.to_master(message)
    key = ("update", framework_id, executor.executor_id, task.task_id)
    core.timers.set(key, core.now + task.retry_s)


def on_retry(core: Core, framework_id: str, executor_id: str, task_id: str) -> None:
    """An update was not acknowledged in time."""
    framework = core.frameworks.get(framework_id)
    executor = framework.executors.get(executor_id) if framework else None
    if executor is None:
        return
    tables = (executor.tasks, executor.ended, executor.strays)
    task = next((t[task_id] for t in tables if task_id in t), None)
    if task is not None and task.pending:
        limit = core.config.status_update_retry_interval_max_s
        task.retry_s = min(task.retry_s * 2, limit)
        forward(core, framework_id, executor, task)


def resume(core: Core, only: str = "") -> None:
    """Registered again, or a framework is back: send what is outstanding at once."""
    for framework in list(core.frameworks.values()):
        if only and framework.id != only:
            continue
        for executor in framework.executors.values():
            for task in executor.reporting():
                if task.pending:
                    forward(core, framework.id, executor, task)


def acknowledge(core: Core, message: Message) -> tuple[Framework, Executor] | None:
    """The framework acknowledged an update.

    Returns the executor when its task has thereby left for good.
    """
    framework = core.frameworks.get(message["framework_id"])
    found = core.find_task(message["framework_id"], message["task_id"])
    if framework is None or found is None:
        return None
    executor, task = found
    if not task.pending or task.pending[0].uuid != message["uuid"]:
        return None
    done = task.pending[0]
    task.pending = task.pending[1:]
    key = ("update", framework.id, executor.executor_id, task.task_id)
    if done.state in TERMINAL_STATES:
        core.timers.cancel(key)
        if executor.ended.pop(task.task_id, None) is None:
            executor.strays.pop(task.task_id, None)
            return None
        executor.completed.append(task)
        del executor.completed[:-_MAX_COMPLETED]
        if framework.checkpoint:
            _forget(core, executor, task)
        return framework, executor
    if framework.checkpoint and task.name:
        base = update_key(framework.id, task.task_id)
        core.save(ack_key(framework.id, task.task_id), str(done.seq).encode())
        # Of a run of the same state (health changes) only the last is worth keeping.
        if task.acked[1] == done.state:
            core.forget(f"{base}/{task.acked[0]:08d}")
    task.acked = (done.seq, done.state)
    if task.pending:
        task.retry_s = core.config.status_update_retry_interval_s
        forward(core, framework.id, executor, task)
    else:
        core.timers.cancel(key)
    return None


def _forget(core: Core, executor: Executor, task: Task) -> None:
    core.forget(task_key(executor, task.task_id))
    core.forget(update_key(executor.framework_id, task.task_id))
    core.forget(ack_key(executor.framework_id, task.task_id))
