"""The agent and its master: registering, re-registering, answering pings, leaving."""

from __future__ import annotations

import orjson

from libs.minimesos import MESOS_VERSION
from libs.minimesos.agent import updates
from libs.minimesos.agent.core import Core, framework_key
from libs.minimesos.agent.executors import shutdown
from libs.minimesos.agent.model import Executor, Task
from libs.minimesos.effects import LinkSend, Message, Stop
from libs.minimesos.resources import Resources
from libs.minimesos.schema import Json


def introduce(core: Core) -> None:
    """First words on a new link, once recovery is over."""
    if core.link is None or core.recovering or core.registered or core.stopped:
        return
    message: Message = {
        "type": "REREGISTER" if core.agent_id else "REGISTER",
        "agent_info": core.info,
        "version": MESOS_VERSION,
        "capabilities": list(core.capabilities),
        "total": core.total.to_json(refined=True),
        "pid": core.pid_text,
        "ip": core.config.ip,
    }
    if core.agent_id:
        message["draining"] = core.drain is not None
        message["frameworks"] = [f.info for f in core.frameworks.values() if not f.terminating]
        message["executors"] = [
            {
                "framework_id": e.framework_id,
                "executor_id": e.executor_id,
                "info": e.info,
            }
            for e in core.executors()
            if e.alive and not e.command_task and not _leaving(core, e)
        ]
        message["tasks"] = [
            _task_message(executor, task)
            for executor in core.executors()
            if not _leaving(core, executor)
            for task in [*executor.active_tasks(), *executor.ended.values()]
            if task.name
        ]
    core.out.append(LinkSend(core.link, message))


def _leaving(core: Core, executor: Executor) -> bool:
    return core.frameworks[executor.framework_id].terminating


def _task_message(executor: Executor, task: Task) -> Message:
    # As in Mesos, only an update that is not acknowledged yet is named.
    first = task.pending[0] if task.pending else None
    return {
        "framework_id": executor.framework_id,
        "task_id": task.task_id,
        "executor_id": "" if executor.command_task else executor.executor_id,
        "state": task.state,
        "reported": first.state if first else "",
        "reported_uuid": first.uuid if first else "",
        "info_json": task.info,
        "statuses_json": list(task.statuses),
    }


def registered(core: Core, message: Message) -> None:
    """REGISTERED or REREGISTERED: known to the master from now on."""
    agent_id: str = message["agent_id"]
    core.registered = True
    for info in message["frameworks"]:
        _keep_framework(core, info)
    if core.agent_id != agent_id:
        core.agent_id = agent_id
        core.info = {**core.info, "id": {"value": agent_id}}
        save(core)
    updates.resume(core)
    for message in core.operations.values():
        core.to_master(message)


def save(core: Core) -> None:
    """Checkpoint the agent's own entry."""
    entry: Json = {
        "id": core.agent_id,
        "info": core.info,
        "total": core.total.to_json(refined=True),
    }
    core.save("agent", orjson.dumps(entry))


def update_framework(core: Core, info: Json) -> None:
    """A framework is back or has changed: outstanding updates go out at once."""
    _keep_framework(core, info)
    updates.resume(core, info["id"]["value"])


def _keep_framework(core: Core, info: Json) -> None:
    framework_id = info["id"]["value"]
    framework = core.frameworks.get(framework_id)
    if framework is None or framework.info == info:
        return
    framework.info = info
    if framework.checkpoint:
        core.save(framework_key(framework_id), orjson.dumps(info))


def apply_operation(core: Core, message: Message, total: Resources) -> None:
    """An operation changed the agent's resources: keep them, confirm if the framework wants it."""
    core.total = total
    save(core)
    if message["operation_id"]:
        status: Message = {
            "type": "OPERATION_STATUS",
            "framework_id": message["framework_id"],
            "operation_id": message["operation_id"],
            "uuid": message["uuid"],
        }
        core.operations[message["uuid"]] = status
        core.to_master(status)
        key = ("operation", message["uuid"])
        core.timers.set(key, core.now + core.config.status_update_retry_interval_s)


def on_operation_retry(core: Core, uuid: str) -> None:
    """An operation's status was not acknowledged in time."""
    message = core.operations.get(uuid)
    if message is not None:
        core.to_master(message)
        key = ("operation", uuid)
        core.timers.set(key, core.now + core.config.status_update_retry_interval_s)


def stop(core: Core, reason: str) -> None:
    """SHUTDOWN: executors end, nothing is kept, the agent is over."""
    core.stopped = True
    for framework in core.frameworks.values():
        framework.terminating = True
    for executor in list(core.executors()):
        if executor.alive:
            shutdown(core, executor)
    for key in ("agent", "drain", "fw", "ex", "pid", "task", "upd", "ack"):
        core.forget(key)
    core.out.append(Stop(reason))


def unregister(core: Core) -> None:
    """SIGUSR1: leave for good."""
    core.to_master({"type": "UNREGISTER"})
    stop(core, "unregistered")
