"""Constructors of the calls, and of the objects in them that are tedious to write.

Every function returns the JSON object as it goes over the wire. `framework_id` is put in by the
client that sends the call.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any

from libs.mesos.messages import (
    Call,
    Filters,
    FrameworkInfo,
    KillPolicy,
    Operation,
    Resource,
    TaskInfo,
    TaskStatus,
    UpdateCall,
    Value,
)

NS_PER_S = 1_000_000_000


def value(text: str) -> Value:
    """`{"value": text}`, the shape of every id."""
    return {"value": text}


def scalar(name: str, amount: float, **fields: Any) -> Resource:
    """A SCALAR resource, e.g. `scalar("mem", 128)` for 128 MiB."""
    resource: Resource = {"name": name, "type": "SCALAR", "scalar": {"value": amount}}
    resource.update(fields)  # type: ignore[typeddict-item]
    return resource


def ranges(name: str, spans: Iterable[tuple[int, int]], **fields: Any) -> Resource:
    """A RANGES resource; both ends of a span belong to it."""
    resource: Resource = {
        "name": name,
        "type": "RANGES",
        "ranges": {"range": [{"begin": begin, "end": end} for begin, end in spans]},
    }
    resource.update(fields)  # type: ignore[typeddict-item]
    return resource


def filters(refuse_s: float) -> Filters:
    """Do not offer these resources again for `refuse_s` seconds."""
    return {"refuse_seconds": refuse_s}


def kill_policy(grace_s: float) -> KillPolicy:
    """KILL follows TERM after `grace_s` seconds."""
    return {"grace_period": {"nanoseconds": round(grace_s * NS_PER_S)}}


def subscribe(framework: FrameworkInfo, suppressed_roles: Sequence[str] = ()) -> Call:
    """SUBSCRIBE; a framework that has an id re-subscribes (both places must carry it)."""
    body: dict[str, Any] = {"framework_info": framework}
    if suppressed_roles:
        body["suppressed_roles"] = list(suppressed_roles)
    call: Call = {"type": "SUBSCRIBE", "subscribe": body}
    if "id" in framework:
        call["framework_id"] = framework["id"]
    return call


def update_framework(framework: FrameworkInfo, suppressed_roles: Sequence[str] = ()) -> Call:
    """UPDATE_FRAMEWORK: replace the framework's info without a new subscription."""
    body: dict[str, Any] = {"framework_info": framework}
    if suppressed_roles:
        body["suppressed_roles"] = list(suppressed_roles)
    return {"type": "UPDATE_FRAMEWORK", "update_framework": body}


def launch(tasks: Sequence[TaskInfo]) -> Operation:
    """The LAUNCH operation of an ACCEPT."""
    return {"type": "LAUNCH", "launch": {"task_infos": list(tasks)}}


def accept(
    offer_ids: Iterable[str], operations: Sequence[Operation], filters: Filters | None = None
) -> Call:
    """ACCEPT offers of one agent. What is wrong with it is told by events only."""
    body: dict[str, Any] = {
        "offer_ids": [value(offer_id) for offer_id in offer_ids],
        "operations": list(operations),
    }
    if filters is not None:
        body["filters"] = filters
    return {"type": "ACCEPT", "accept": body}


def decline(offer_ids: Iterable[str], filters: Filters | None = None) -> Call:
    """DECLINE offers, of any agents."""
    body: dict[str, Any] = {"offer_ids": [value(offer_id) for offer_id in offer_ids]}
    if filters is not None:
        body["filters"] = filters
    return {"type": "DECLINE", "decline": body}


def revive(roles: Sequence[str] = ()) -> Call:
    """REVIVE: forget filters and suppression, of all roles or of these."""
    return {"type": "REVIVE", "revive": {"roles": list(roles)}} if roles else {"type": "REVIVE"}


def suppress(roles: Sequence[str] = ()) -> Call:
    """SUPPRESS: no more offers, for all roles or for these."""
    if roles:
        return {"type": "SUPPRESS", "suppress": {"roles": list(roles)}}
    return {"type": "SUPPRESS"}


def kill(task_id: str, agent_id: str | None = None, grace_s: float | None = None) -> Call:
    """KILL a task. Without `agent_id` an unreachable or gone one is answered as unknown."""
    body: dict[str, Any] = {"task_id": value(task_id)}
    if agent_id is not None:
        body["agent_id"] = value(agent_id)
    if grace_s is not None:
        body["kill_policy"] = kill_policy(grace_s)
    return {"type": "KILL", "kill": body}


def acknowledge(status: TaskStatus) -> Call | None:
    """ACKNOWLEDGE for an update, or None when it carries no uuid and needs none."""
    if "uuid" not in status or "agent_id" not in status:
        return None
    body = {
        "agent_id": status["agent_id"],
        "task_id": status["task_id"],
        "uuid": status["uuid"],
    }
    return {"type": "ACKNOWLEDGE", "acknowledge": body}


def reconcile(tasks: Iterable[tuple[str, str | None]] = ()) -> Call:
    """RECONCILE (task id, agent id) pairs; with none, everything the master knows is told."""
    wanted = [
        {"task_id": value(task_id), **({"agent_id": value(agent_id)} if agent_id else {})}
        for task_id, agent_id in tasks
    ]
    return {"type": "RECONCILE", "reconcile": {"tasks": wanted}}


def message(agent_id: str, executor_id: str, data: bytes) -> Call:
    """MESSAGE to an executor; delivery is not guaranteed."""
    body = {
        "agent_id": value(agent_id),
        "executor_id": value(executor_id),
        "data": b64encode(data).decode(),
    }
    return {"type": "MESSAGE", "message": body}


def shutdown(executor_id: str, agent_id: str) -> Call:
    """SHUTDOWN an executor and all its tasks."""
    return {
        "type": "SHUTDOWN",
        "shutdown": {"executor_id": value(executor_id), "agent_id": value(agent_id)},
    }


def teardown() -> Call:
    """TEARDOWN: end the framework for good and kill all its tasks."""
    return {"type": "TEARDOWN"}


def executor_subscribe(tasks: Sequence[TaskInfo], updates: Sequence[UpdateCall]) -> Call:
    """An executor's SUBSCRIBE with what no ACKNOWLEDGED has covered yet."""
    return {
        "type": "SUBSCRIBE",
        "subscribe": {
            "unacknowledged_tasks": list(tasks),
            "unacknowledged_updates": list(updates),
        },
    }


def executor_update(status: TaskStatus) -> Call:
    """An executor's UPDATE; the status must have a uuid and the source SOURCE_EXECUTOR."""
    return {"type": "UPDATE", "update": {"status": status}}


def executor_message(data: bytes) -> Call:
    """An executor's MESSAGE to its scheduler; delivery is not guaranteed."""
    return {"type": "MESSAGE", "message": {"data": b64encode(data).decode()}}
