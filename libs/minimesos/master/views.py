"""Messages as the v1 APIs show what the master knows: offers, tasks, frameworks, agents."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from libs.minimesos.master.model import (
    Agent,
    Executor,
    Framework,
    InverseOffer,
    Offer,
    Task,
    id_json,
)
from libs.minimesos.resources import NOTHING, Resources
from libs.minimesos.schema import Json
from libs.minimesos.units import nanoseconds

TASK_INFO_FIELDS = (
    "labels",
    "discovery",
    "container",
    "health_check",
    "kill_policy",
    "max_completion_time",
)
_ZERO_TIME = {"nanoseconds": 0}


def url_json(agent: Agent) -> Json:
    """The URL of an agent, as offers carry it."""
    return {
        "scheme": "http",
        "address": {"hostname": agent.hostname, "ip": agent.ip, "port": agent.port},
        "path": "/slave(1)",
    }


def offer_json(offer: Offer, agent: Agent, *, multi_role: bool, refined: bool) -> Json:
    """An Offer in the shape its framework's capabilities ask for."""
    resources = offer.resources.to_json(refined)
    if not multi_role:
        resources = [
            {k: v for k, v in resource.items() if k != "allocation_info"} for resource in resources
        ]
    out: Json = {
        "id": id_json(offer.id),
        "framework_id": id_json(offer.framework_id),
        "agent_id": id_json(offer.agent_id),
        "hostname": agent.hostname,
        "url": url_json(agent),
        "resources": resources,
    }
    if agent.attributes_json:
        out["attributes"] = agent.attributes_json
    executors = [
        id_json(e.executor_id)
        for e in agent.executors.values()
        if e.framework_id == offer.framework_id
    ]
    if executors:
        out["executor_ids"] = executors
    if agent.unavailability is not None:
        out["unavailability"] = agent.unavailability
    if multi_role:
        out["allocation_info"] = {"role": offer.role}
    return out


def inverse_offer_json(offer: InverseOffer, agent: Agent) -> Json:
    """An InverseOffer."""
    return {
        "id": id_json(offer.id),
        "url": url_json(agent),
        "framework_id": id_json(offer.framework_id),
        "agent_id": id_json(offer.agent_id),
        "unavailability": offer.unavailability,
    }


def task_json(task: Task) -> Json:
    """A Task message; a command task has no executor id here."""
    info = orjson.loads(task.info)
    out: Json = {
        "name": task.name,
        "task_id": id_json(task.task_id),
        "framework_id": id_json(task.framework_id),
    }
    if task.executor_id:
        out["executor_id"] = id_json(task.executor_id)
    out["agent_id"] = id_json(task.agent_id)
    out["state"] = task.state
    out["resources"] = task.resources.to_json(refined=True)
    if task.statuses:
        out["statuses"] = [orjson.Fragment(status) for status in task.statuses]
    if task.reported:
        out["status_update_state"] = task.reported
        out["status_update_uuid"] = task.reported_uuid
    for name in TASK_INFO_FIELDS:
        if name in info:
            out[name] = info[name]
    user = info.get("command", {}).get("user")
    if user:
        out["user"] = user
    return out


def executor_json(executor: Executor) -> Json:
    """An entry of GET_EXECUTORS."""
    return {"executor_info": executor.info, "agent_id": id_json(executor.agent_id)}


def framework_json(framework: Framework, agents: dict[str, Agent]) -> Json:
    """An entry of GET_FRAMEWORKS."""
    out = framework_event_json(framework)
    if framework.unregistered_time is None:
        del out["unregistered_time"]
    offers = [
        offer_json(offer, agents[offer.agent_id], multi_role=True, refined=True)
        for offer in reversed(framework.offers.values())
        if offer.agent_id in agents
    ]
    if offers:
        out["offers"] = offers
    inverse = [
        inverse_offer_json(offer, agents[offer.agent_id])
        for offer in framework.inverse_offers.values()
        if offer.agent_id in agents
    ]
    if inverse:
        out["inverse_offers"] = inverse
    if framework.used:
        out["allocated_resources"] = framework.used.to_json(refined=False)
    offered = sum_offers(framework.offers.values())
    if offered:
        out["offered_resources"] = offered.to_json(refined=False)
    out["offer_constraints"] = framework.constraints
    return out


def framework_event_json(framework: Framework) -> Json:
    """A framework as FRAMEWORK_ADDED and FRAMEWORK_UPDATED carry it."""
    reregistered = framework.reregistered_time
    if reregistered is None:
        reregistered = framework.registered_time
    unregistered = framework.unregistered_time
    return {
        "framework_info": framework.info,
        "active": framework.active,
        "connected": framework.connected,
        "recovered": framework.recovered,
        "registered_time": nanoseconds(framework.registered_time),
        "reregistered_time": nanoseconds(reregistered),
        "unregistered_time": _ZERO_TIME if unregistered is None else nanoseconds(unregistered),
    }


def agent_json(agent: Agent, *, event: bool) -> Json:
    """An agent as GET_AGENTS and AGENT_ADDED (`event`) show it."""
    info = agent.info if event else {**agent.info, "checkpoint": True}
    out: Json = {
        "agent_info": info,
        "active": agent.active,
        "deactivated": agent.deactivated,
        "version": agent.version,
        "pid": agent.pid_text,
        "registered_time": nanoseconds(agent.registered_time),
    }
    if agent.reregistered_time is not None:
        out["reregistered_time"] = nanoseconds(agent.reregistered_time)
    out["total_resources"] = agent.total.to_json(refined=False)
    if agent.used:
        out["allocated_resources"] = agent.used.to_json(refined=False)
    offered = sum_offers(agent.offers.values())
    if offered:
        out["offered_resources"] = offered.to_json(refined=False)
    out["capabilities"] = [{"type": name} for name in agent.capabilities]
    if agent.drain is not None:
        config = {"max_grace_period": agent.drain.get("max_grace_period")}
        config["mark_gone"] = agent.drain["mark_gone"]
        out["drain_info"] = {
            "state": agent.drain["state"],
            "config": {k: v for k, v in config.items() if v is not None},
        }
        out["estimated_drain_start_time"] = nanoseconds(int(agent.drain["start_time"]))
    return out


def sum_offers(offers: Iterable[Offer]) -> Resources:
    """All resources of some offers."""
    total = NOTHING
    for offer in offers:
        total = total + offer.resources
    return total
