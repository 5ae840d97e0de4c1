"""RESERVE_RESOURCES and its like: operations that an operator does on free resources."""

from __future__ import annotations

from libs.minimesos.errors import CallError
from libs.minimesos.ids import uuid_bytes64
from libs.minimesos.master.core import Core
from libs.minimesos.master.model import Agent
from libs.minimesos.master.offers import rescind
from libs.minimesos.master.operations import Refused, convert
from libs.minimesos.resources_read import ResourceError
from libs.minimesos.schema import Json

CALLS = {
    "RESERVE_RESOURCES": ("RESERVE", "reserve", "resources"),
    "UNRESERVE_RESOURCES": ("UNRESERVE", "unreserve", "resources"),
    "CREATE_VOLUMES": ("CREATE", "create", "volumes"),
    "DESTROY_VOLUMES": ("DESTROY", "destroy", "volumes"),
}


def apply(core: Core, kind: str, body: Json) -> None:
    """Do the operation; offers are rescinded as far as needed. Raises CallError 400 or 409."""
    agent = core.state.agents.get(body["agent_id"]["value"])
    if agent is None:
        raise CallError(400, "No agent found with specified ID")
    operation, name, field = CALLS[kind]
    op: Json = {"type": operation, name: {field: body.get(field, [])}}
    reserved = {r["role"] for m in body.get(field, []) for r in m.get("reservations", [])[-1:]}
    try:
        old, new = convert(op, min(reserved, default="*"))
    except (Refused, ResourceError) as error:
        raise CallError(
            400, f"Invalid {operation} operation on agent {agent.id}: {error}"
        ) from error
    old, new = old.unallocated(), new.unallocated()
    for offer in list(agent.offers.values()):
        if core.allocator.free(agent.id).contains(old):
            break
        rescind(core, offer)
    free = core.allocator.free(agent.id)
    if not free.contains(old):
        raise CallError(409, f"{free} does not contain {old}")
    core.allocator.free_replace(agent.id, old, new)
    agent.total = core.allocator.total(agent.id)
    _tell(core, agent)


def _tell(core: Core, agent: Agent) -> None:
    core.to_agent(
        agent,
        {
            "type": "APPLY_OPERATION",
            "framework_id": "",
            "operation_id": "",
            "uuid": uuid_bytes64(core.ids.uuid()),
            "total": agent.total.to_json(refined=True),
        },
    )
