"""Tasks over their life: added, updated, acknowledged, removed; and who is told of it."""

from __future__ import annotations

import orjson

from libs.minimesos.effects import Message
from libs.minimesos.master.core import Core
from libs.minimesos.master.model import Agent, Framework, Task, dumps
from libs.minimesos.master.views import task_json
from libs.minimesos.packed import packed
from libs.minimesos.resources import NOTHING
from libs.minimesos.schema import Json
from libs.minimesos.schema_common import TERMINAL_STATES
from libs.minimesos.statuses import MASTER, make_status, remembered


def add_task(core: Core, framework: Framework, agent: Agent, task: Task) -> None:
    """A launched or re-registered task. Its resources are booked unless it has ended."""
    framework.tasks[task.task_id] = task
    agent.tasks[(task.framework_id, task.task_id)] = task
    if not task.removable:
        framework.used = framework.used + task.resources
        agent.used = agent.used + task.resources
    core.operator_event("TASK_ADDED", lambda: {"task": task_json(task)})


def on_update(core: Core, agent: Agent, message: Message) -> None:
    """A status update from an agent: pass it on, then remember it.

    `message`: framework_id, task_id, status (JSON bytes), state, latest_state, uuid, reason, source.
    """
    core.counters["messages_status_update"] += 1
    framework = core.state.frameworks.get(message["framework_id"])
    if framework is None:
        core.counters["invalid_status_updates"] += 1
        return
    status: bytes = message["status_json"]
    core.event_bytes(framework, "UPDATE", b'{"status":' + status + b"}")
    task = agent.tasks.get((framework.id, message["task_id"]))
    if task is None:
        core.counters["invalid_status_updates"] += 1
        return
    core.counters["valid_status_updates"] += 1
    task.reported = message["state"]
    task.reported_uuid = message["uuid"]
    parts = (message.get("source", ""), message.get("reason", ""))
    _change(core, framework, agent, task, message["state"], message["latest_state"], status, parts)


def set_state(core: Core, framework: Framework, agent: Agent, task: Task, status: Json) -> None:
    """A state the master itself decided on; `status` is what the framework is told."""
    raw = packed(status)
    parts = (status["source"], status.get("reason", ""))
    core.event_bytes(framework, "UPDATE", b'{"status":' + raw + b"}")
    _change(core, framework, agent, task, status["state"], status["state"], raw, parts)


def _change(
    core: Core,
    framework: Framework,
    agent: Agent,
    task: Task,
    state: str,
    latest: str,
    status: bytes,
    parts: tuple[str, str],
) -> None:
    was_over = task.removable
    if not task.terminal:
        task.state = latest
    task.statuses = remembered(task.statuses, status, state)
    if task.removable and not was_over:
        release(core, framework, agent, task)
    if (task.terminal and not was_over) or task.state == "TASK_UNREACHABLE":
        count_end(core, framework, task.state, *parts)
    if core.operator_streams:
        body = b'{"framework_id":{"value":%b},"status":%b,"state":"%b"}' % (
            dumps(framework.id),
            status,
            task.state.encode(),
        )
        core.operator_bytes("TASK_UPDATED", body)


def release(core: Core, framework: Framework, agent: Agent, task: Task) -> None:
    """Give a task's resources back."""
    framework.used = framework.used - task.resources
    agent.used = agent.used - task.resources
    core.allocator.recover(framework.id, agent.id, task.resources, core.now)


def count_end(core: Core, framework: Framework, state: str, source: str, reason: str) -> None:
    """Metrics of a task's end, by reason where there is one."""
    name = state.lower()
    core.counters[name] += 1
    framework.counters[f"tasks/terminal/{name}"] += 1
    if reason:
        where = source.lower().replace("source_agent", "source_slave")
        core.counters[f"{name}/{where}/{reason.lower()}"] += 1


def remove_task(
    core: Core, framework: Framework, agent: Agent | None, task: Task, unreachable: bool = False
) -> None:
    """Take a task out of the running ones; it goes to the completed or the unreachable."""
    framework.tasks.pop(task.task_id, None)
    if agent is not None:
        if not task.removable:
            release(core, framework, agent, task)
        agent.tasks.pop((task.framework_id, task.task_id), None)
    if unreachable:
        limit = core.config.max_unreachable_tasks_per_framework
        framework.unreachable[(task.agent_id, task.task_id)] = task
        while len(framework.unreachable) > limit:
            del framework.unreachable[next(iter(framework.unreachable))]
        return
    framework.completed.append(task)
    while len(framework.completed) > core.config.max_completed_tasks_per_framework:
        framework.completed.popleft()


def lose(
    core: Core,
    framework: Framework,
    agent: Agent,
    task: Task,
    state: str,
    reason: str,
    message: str,
    unreachable_time: float | None = None,
    as_unreachable: bool = False,
) -> None:
    """End a task because of its agent: tell the framework and move the task away."""
    if not task.terminal:
        status = make_status(
            task.task_id,
            state,
            MASTER,
            core.now,
            message=message,
            reason=reason,
            agent_id=agent.id,
            executor_id=task.executor_id,
            unreachable_time=unreachable_time,
        )
        set_state(core, framework, agent, task, status)
    unreachable = as_unreachable or unreachable_time is not None
    remove_task(core, framework, agent, task, unreachable)


def acknowledge(core: Core, framework: Framework, call: Json) -> None:
    """ACKNOWLEDGE: pass it to the agent; an acknowledged end removes the task."""
    core.counters["messages_status_update_acknowledgement"] += 1
    agent = core.state.agents.get(call["agent_id"]["value"])
    task_id = call["task_id"]["value"]
    if agent is None or not agent.connected:
        core.counters["invalid_status_update_acknowledgements"] += 1
        return
    core.counters["valid_status_update_acknowledgements"] += 1
    core.to_agent(
        agent,
        {
            "type": "ACK",
            "framework_id": framework.id,
            "task_id": task_id,
            "uuid": call["uuid"],
        },
    )
    task = agent.tasks.get((framework.id, task_id))
    if task is not None and task.reported in TERMINAL_STATES and task.reported_uuid == call["uuid"]:
        remove_task(core, framework, agent, task)


def remove_executor(
    core: Core, agent: Agent, framework: Framework | None, key: tuple[str, str]
) -> None:
    """An executor is gone: its own resources are free."""
    executor = agent.executors.pop(key, None)
    if executor is None:
        return
    agent.used = agent.used - executor.resources
    if framework is not None:
        framework.executors.pop((agent.id, executor.executor_id), None)
        framework.used = framework.used - executor.resources
    core.allocator.recover(key[0], agent.id, executor.resources, core.now)


def on_exited(core: Core, agent: Agent, message: Message) -> None:
    """An executor ended: FAILURE to its framework. Command executors are unknown here: silence."""
    core.counters["messages_exited_executor"] += 1
    framework = core.state.frameworks.get(message["framework_id"])
    key = (message["framework_id"], message["executor_id"])
    if key not in agent.executors:
        return
    remove_executor(core, agent, framework, key)
    if framework is not None:
        body: Json = {
            "agent_id": {"value": agent.id},
            "executor_id": {"value": message["executor_id"]},
        }
        if message["status"] is not None:
            body["status"] = message["status"]
        core.event(framework, "FAILURE", body)


def tasks_by_state(core: Core) -> dict[str, int]:
    """How many tasks are in each active state."""
    out = dict.fromkeys(
        ("TASK_STAGING", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLING", "TASK_UNREACHABLE"), 0
    )
    for framework in core.state.frameworks.values():
        for task in framework.tasks.values():
            if task.state in out:
                out[task.state] += 1
        out["TASK_UNREACHABLE"] += len(framework.unreachable)
    return out


def task_from_agent(message: Message, agent_id: str) -> Task:
    """A task as a re-registering agent describes it."""
    info: bytes = message["info_json"]
    parsed = orjson.loads(info)
    task = Task(
        message["task_id"],
        parsed["name"],
        message["framework_id"],
        agent_id,
        message["executor_id"],
    )
    task.info = info
    task.state = message["state"]
    task.reported = message["reported"]
    task.reported_uuid = message["reported_uuid"]
    task.statuses = tuple(message["statuses_json"])
    task.resources = NOTHING
    return task
