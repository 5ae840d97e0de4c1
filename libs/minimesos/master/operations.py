"""RESERVE, UNRESERVE, CREATE and DESTROY on offered resources, with their status events."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from libs.minimesos.effects import Message
from libs.minimesos.ids import uuid_bytes64
from libs.minimesos.master.core import Core
from libs.minimesos.master.model import Agent, Framework, id_json
from libs.minimesos.resources import Kind, Resources, Value, plus
from libs.minimesos.resources_read import ResourceError, parse_resources
from libs.minimesos.schema import Json


class Refused(ValueError):
    """An operation that cannot be done; the text is Mesos' own."""


def apply(
    core: Core, framework: Framework, agent: Agent, op: Json, held: Resources, role: str
) -> Resources:
    """Do `op` on what is held of an offer; what is held afterwards.

    Without an id a refusal is silent, as in Mesos; with one it is OPERATION_ERROR.
    """
    kind: str = op["type"]
    core.counters[f"operations/{kind.lower()}/total"] += 1
    try:
        old, new = convert(op, role)
        if kind == "CREATE":
            _check_unique(agent, new)
        if not held.contains(old):
            raise Refused(f"{held} does not contain {old}")
    except (Refused, ResourceError) as error:
        text = str(error)
        if isinstance(error, Refused) and "does not contain" not in text:
            text += f"; on agent {agent.id} at {agent.pid_text} ({agent.hostname})"
        refuse(core, framework, op, text)
        return held
    rebook(core, agent, old, new)
    message: Message = {
        "type": "APPLY_OPERATION",
        "framework_id": framework.id,
        "operation_id": op.get("id", {}).get("value", ""),
        "uuid": uuid_bytes64(core.ids.uuid()),
        "total": core.allocator.total(agent.id).to_json(refined=True),
    }
    operation_id = message["operation_id"]
    if operation_id:
        pending = {"state": "OPERATION_PENDING", "agent_id": agent.id, "kind": kind.lower()}
        framework.operations[operation_id] = pending
    core.to_agent(agent, message)
    return held - old + new


def rebook(core: Core, agent: Agent, old: Resources, new: Resources) -> None:
    """The agent's total changes: `old` becomes `new`, both held by somebody."""
    core.allocator.occupied_replace(agent.id, old.unallocated(), new.unallocated())
    agent.total = core.allocator.total(agent.id)


def convert(op: Json, role: str) -> tuple[Resources, Resources]:
    """What an operation consumes and what it makes. Raises Refused or ResourceError."""
    kind = op["type"]
    if kind == "RESERVE":
        new = parse_resources(op.get("reserve", {}).get("resources", [])).allocated(role)
        _check_reserve(new, role)
        return Resources(_map(new, lambda k: k._replace(reservations=k.reservations[:-1]))), new
    if kind == "UNRESERVE":
        old = parse_resources(op.get("unreserve", {}).get("resources", [])).allocated(role)
        if any(not k.reservations or k.reservations[-1].type != "DYNAMIC" for k, _ in old):
            raise Refused("Resource is not dynamically reserved")
        return old, Resources(_map(old, lambda k: k._replace(reservations=k.reservations[:-1])))
    if kind == "CREATE":
        new = parse_resources(op.get("create", {}).get("volumes", [])).allocated(role)
        if any('"persistence"' not in k.disk for k, _ in new):
            raise Refused("Invalid volumes: 'persistence' is not set")
        return Resources(_map(new, lambda k: k._replace(disk=""))), new
    old = parse_resources(op.get("destroy", {}).get("volumes", [])).allocated(role)
    return old, Resources(_map(old, lambda k: k._replace(disk="")))


def _map(resources: Resources, change: Callable[[Kind], Kind]) -> dict[Kind, Value]:
    out: dict[Kind, Value] = {}
    for kind, value in resources:
        changed = change(kind)
        out[changed] = plus(out[changed], value) if changed in out else value
    return out


def _check_reserve(new: Resources, role: str) -> None:
    for kind, _ in new:
        if not kind.reservations or kind.reservations[-1].type != "DYNAMIC":
            raise Refused("A reserve operation was attempted without a dynamic reservation")
        wanted = kind.reservations[-1].role
        if wanted != role and not role.startswith(wanted + "/"):
            raise Refused(
                f"A reserve operation was attempted for a resource with role '{wanted}',"
                f" but the resource was allocated to role '{role}'"
            )


def _check_unique(agent: Agent, new: Resources) -> None:
    existing = {kind.disk for kind, _ in agent.total if '"persistence"' in kind.disk}
    ids = {_volume_id(disk) for disk in existing}
    for kind, _ in new:
        volume_id = _volume_id(kind.disk)
        if volume_id in ids:
            raise Refused(f"Persistence ID '{volume_id}' is not unique")


def _volume_id(disk: str) -> str:
    return str(orjson.loads(disk)["persistence"]["id"])


# ---- status -------------------------------------------------------------------------------------
def refuse(core: Core, framework: Framework, op: Json, text: str) -> None:
    """OPERATION_ERROR for an operation with an id."""
    kind = op.get("type", "UNKNOWN").lower()
    core.counters["operations/error"] += 1
    core.counters[f"operations/{kind}/error"] += 1
    if "id" in op:
        status = {"operation_id": op["id"], "state": "OPERATION_ERROR", "message": text}
        _tell(core, framework, status)


def on_status(core: Core, agent: Agent, message: Message) -> None:
    """The agent has done an operation (or re-sends that it has)."""
    framework = core.state.frameworks.get(message["framework_id"])
    operation_id = message["operation_id"]
    if framework is None:
        return
    operation = framework.operations.get(operation_id)
    if operation is not None and operation["state"] == "OPERATION_PENDING":
        operation["state"] = "OPERATION_FINISHED"
        operation["uuid"] = message["uuid"]
        core.counters["operations/finished"] += 1
        core.counters[f"operations/{operation['kind']}/finished"] += 1
    status = {
        "operation_id": id_json(operation_id),
        "state": "OPERATION_FINISHED",
        "uuid": message["uuid"],
        "agent_id": id_json(agent.id),
    }
    _tell(core, framework, status)


def acknowledge(core: Core, framework: Framework, body: Json) -> None:
    """ACKNOWLEDGE_OPERATION_STATUS: the operation is forgotten."""
    operation = framework.operations.get(body["operation_id"]["value"])
    if operation is None or operation.get("uuid") != body["uuid"]:
        core.counters["invalid_operation_status_update_acknowledgements"] += 1
        return
    core.counters["valid_operation_status_update_acknowledgements"] += 1
    del framework.operations[body["operation_id"]["value"]]
    agent = core.state.agents.get(operation["agent_id"])
    if agent is not None:
        core.to_agent(agent, {"type": "OPERATION_ACK", "uuid": body["uuid"]})


def reconcile(core: Core, framework: Framework, body: Json) -> None:
    """RECONCILE_OPERATIONS: the state of the named operations, or of all."""
    core.counters["messages_reconcile_operations"] += 1
    asked = body.get("operations", [])
    if not asked:
        asked = [
            {"operation_id": id_json(i), "agent_id": id_json(o["agent_id"])}
            for i, o in framework.operations.items()
        ]
    for item in asked:
        operation = framework.operations.get(item["operation_id"]["value"])
        status: Json = {"operation_id": item["operation_id"]}
        if operation is not None:
            status["state"] = operation["state"]
            status["agent_id"] = id_json(operation["agent_id"])
        else:
            status["state"] = "OPERATION_UNKNOWN"
            status["message"] = "Reconciliation: Operation is unknown"
            if "agent_id" in item:
                status["agent_id"] = item["agent_id"]
            else:
                status["message"] += " and no 'agent_id' was provided"
        _tell(core, framework, status)


def _tell(core: Core, framework: Framework, status: Json) -> None:
    core.event(framework, "UPDATE_OPERATION_STATUS", {"status": status})
