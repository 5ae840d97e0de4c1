"""What the master says about tasks when asked: RECONCILE and KILL; messages to executors."""

from __future__ import annotations

from libs.minimesos.effects import Message
from libs.minimesos.master.core import Core
from libs.minimesos.master.model import Agent, Framework, Task, id_json
from libs.minimesos.schema import Json
from libs.minimesos.statuses import MASTER, latest_extra, make_status

_REASON = "REASON_RECONCILIATION"


def reconcile(core: Core, framework: Framework, body: Json) -> None:
    """RECONCILE: the named tasks, or all the master knows when none is named."""
    core.counters["messages_reconcile_tasks"] += 1
    asked: list[Json] = body.get("tasks", [])
    if not asked:
        for task in list(framework.tasks.values()):
            _tell_known(core, framework, task)
        return
    for item in asked:
        answer(core, framework, item["task_id"]["value"], item.get("agent_id", {}).get("value", ""))


def answer(core: Core, framework: Framework, task_id: str, agent_id: str) -> None:
    """One task's state, as well as it can be known. Silence while its agent may still return."""
    task = framework.tasks.get(task_id)
    if task is not None:
        _tell_known(core, framework, task)
        return
    registry = core.registry
    if agent_id in core.state.agents:
        _tell(core, framework, task_id, agent_id, "TASK_GONE", "Task is unknown to the agent")
    elif agent_id in registry.unreachable:
        since = registry.unreachable[agent_id]["time"]
        _tell(core, framework, task_id, agent_id, "TASK_UNREACHABLE", "Task is unreachable", since)
    elif agent_id in registry.gone:
        _tell(core, framework, task_id, agent_id, "TASK_GONE_BY_OPERATOR", "Task is gone")
    elif agent_id in registry.recovered or (not agent_id and registry.recovered):
        return
    else:
        _tell(core, framework, task_id, agent_id, "TASK_UNKNOWN", "Task is unknown")


def _tell_known(core: Core, framework: Framework, task: Task) -> None:
    status = make_status(
        task.task_id,
        task.reported or task.state,
        MASTER,
        core.now,
        message="Reconciliation: Latest task state",
        reason=_REASON,
        agent_id=task.agent_id,
        executor_id=task.executor_id,
        extra=latest_extra(task.statuses),
    )
    core.event(framework, "UPDATE", {"status": status})


def _tell(
    core: Core,
    framework: Framework,
    task_id: str,
    agent_id: str,
    state: str,
    text: str,
    unreachable_time: float | None = None,
) -> None:
    status = make_status(
        task_id,
        state if framework.partition_aware else "TASK_LOST",
        MASTER,
        core.now,
        message=f"Reconciliation: {text}",
        reason=_REASON,
        agent_id=agent_id,
        unreachable_time=unreachable_time,
    )
    core.event(framework, "UPDATE", {"status": status})


def kill(core: Core, framework: Framework, body: Json) -> None:
    """KILL: to the agent, or kept until the agent is back; unknown tasks are reconciled."""
    core.counters["messages_kill_task"] += 1
    task_id = body["task_id"]["value"]
    task = framework.tasks.get(task_id)
    if task is None:
        answer(core, framework, task_id, body.get("agent_id", {}).get("value", ""))
        return
    agent = core.state.agents.get(task.agent_id)
    if agent is None or ("agent_id" in body and body["agent_id"]["value"] != task.agent_id):
        return
    message = kill_message(framework.id, task_id, body.get("kill_policy"))
    if not core.to_agent(agent, message):
        agent.killed[(framework.id, task_id)] = message


def kill_message(framework_id: str, task_id: str, policy: Json | None) -> Message:
    """The message that makes an agent kill a task."""
    message: Message = {"type": "KILL", "framework_id": framework_id, "task_id": task_id}
    if policy is not None:
        message["kill_policy"] = policy
    return message


def shutdown(core: Core, framework: Framework, body: Json) -> None:
    """SHUTDOWN of an executor; unknown agents are ignored."""
    agent = core.state.agents.get(body["agent_id"]["value"])
    if agent is not None:
        executor_id = body["executor_id"]["value"]
        core.to_agent(
            agent,
            {
                "type": "SHUTDOWN_EXECUTOR",
                "framework_id": framework.id,
                "executor_id": executor_id,
            },
        )


def message_to_executor(core: Core, framework: Framework, body: Json) -> None:
    """MESSAGE: best effort, as in Mesos."""
    core.counters["messages_framework_to_executor"] += 1
    agent = core.state.agents.get(body["agent_id"]["value"])
    sent = agent is not None and core.to_agent(
        agent,
        {
            "type": "MESSAGE",
            "framework_id": framework.id,
            "executor_id": body["executor_id"]["value"],
            "data": body["data"],
        },
    )
    valid = "valid" if sent else "invalid"
    core.counters[f"{valid}_framework_to_executor_messages"] += 1


def message_to_framework(core: Core, agent: Agent, message: Message) -> None:
    """An executor's message on its way to the framework."""
    core.counters["messages_executor_to_framework"] += 1
    framework = core.state.frameworks.get(message["framework_id"])
    if framework is None or not framework.connected:
        core.counters["invalid_executor_to_framework_messages"] += 1
        return
    core.counters["valid_executor_to_framework_messages"] += 1
    body = {
        "agent_id": id_json(agent.id),
        "executor_id": id_json(message["executor_id"]),
        "data": message["data"],
    }
    core.event(framework, "MESSAGE", body)
