"""The unversioned endpoints: /state, /slaves, /frameworks, /tasks, /roles, /state-summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import orjson

from libs.minimesos import MESOS_VERSION
from libs.minimesos.config import flags
from libs.minimesos.master.core import Core
from libs.minimesos.master.model import Agent, Executor, Framework, Task
from libs.minimesos.master.views import sum_offers
from libs.minimesos.resources import NOTHING
from libs.minimesos.schema import Json

BUILD: Json = {
    "build_date": "2026-11-23 07:47:05 UTC",
    "build_time": 1795420025.0,
    "build_user": "root",
}
VERSION: Json = {**BUILD, "version": MESOS_VERSION}
_SUMMARY_STATES = [
    "TASK_STAGING",
    "TASK_STARTING",
    "TASK_RUNNING",
    "TASK_KILLING",
    "TASK_FINISHED",
    "TASK_KILLED",
    "TASK_FAILED",
    "TASK_LOST",
    "TASK_ERROR",
    "TASK_UNREACHABLE",
]


def attributes(messages: Iterable[Json]) -> Json:
    """Attributes as a plain object."""
    out: Json = {}
    for message in messages:
        if "text" in message:
            out[message["name"]] = message["text"]["value"]
        elif "scalar" in message:
            out[message["name"]] = message["scalar"]["value"]
        elif "ranges" in message:
            pairs = ", ".join(f"{r['begin']}-{r['end']}" for r in message["ranges"]["range"])
            out[message["name"]] = f"[{pairs}]"
        else:
            out[message["name"]] = "{" + ", ".join(message["set"]["item"]) + "}"
    return out


def agent_summary(agent: Agent) -> Json:
    """An agent as /state shows it."""
    offered = sum_offers(agent.offers.values())
    out: Json = {
        "id": agent.id,
        "hostname": agent.hostname,
        "port": agent.port,
        "attributes": attributes(agent.attributes_json),
        "pid": agent.pid_text,
        "registered_time": agent.registered_time,
    }
    if agent.reregistered_time is not None:
        out["reregistered_time"] = agent.reregistered_time
    out |= {
        "resources": agent.total.summary(),
        "used_resources": agent.used.summary(),
        "offered_resources": offered.summary(),
        "reserved_resources": {r: x.summary() for r, x in agent.total.reserved_roles().items()},
        "unreserved_resources": agent.total.unreserved().summary(),
        "active": agent.active,
        "deactivated": agent.deactivated,
        "version": agent.version,
        "capabilities": list(agent.capabilities),
    }
    return out


def agent_full(agent: Agent) -> Json:
    """An agent as /slaves shows it."""
    offered = sum_offers(agent.offers.values())
    out = agent_summary(agent)
    reserved = agent.total.reserved_roles()
    out["reserved_resources_full"] = {r: x.to_json(refined=False) for r, x in reserved.items()}
    out["unreserved_resources_full"] = agent.total.unreserved().to_json(refined=False)
    out["used_resources_full"] = agent.used.to_json(refined=False)
    out["offered_resources_full"] = offered.to_json(refined=False)
    return out


def recovered_agents(core: Core) -> list[Json]:
    """Agents of a former master that are not back yet."""
    return [
        {
            "id": agent_id,
            "hostname": entry["info"]["hostname"],
            "port": entry["info"].get("port", 5051),
            "attributes": attributes(entry["info"].get("attributes", [])),
        }
        for agent_id, entry in core.registry.recovered.items()
    ]


def status_summary(raw: bytes) -> Json:
    """A status as the legacy endpoints shorten it."""
    status = orjson.loads(raw)
    out: Json = {"state": status["state"], "timestamp": status["timestamp"]}
    if "labels" in status:
        out["labels"] = status["labels"]["labels"]
    container = status.get("container_status")
    if container is not None:
        shown = {k: container[k] for k in ("container_id", "network_infos") if k in container}
        out["container_status"] = shown
    if "healthy" in status:
        out["healthy"] = status["healthy"]
    return out


def task_summary(task: Task) -> Json:
    """A task as /tasks and /state show it."""
    info = orjson.loads(task.info)
    roles = {kind.allocated_to for kind, _ in task.resources}
    out: Json = {
        "id": task.task_id,
        "name": task.name,
        "framework_id": task.framework_id,
        "executor_id": task.executor_id,
        "slave_id": task.agent_id,
        "state": task.state,
        "resources": task.resources.summary(),
        "role": min(roles, default="*"),
        "statuses": [status_summary(raw) for raw in task.statuses],
    }
    user = info.get("command", {}).get("user")
    if user:
        out["user"] = user
    if "labels" in info:
        out["labels"] = info["labels"].get("labels", [])
    for name in ("discovery", "container", "health_check"):
        if name in info:
            out[name] = info[name]
    return out


def executor_summary(executor: Executor) -> Json:
    """An executor as /state shows it."""
    info = executor.info
    return {
        "executor_id": executor.executor_id,
        "name": info.get("name", ""),
        "framework_id": executor.framework_id,
        "command": {
            "shell": info.get("command", {}).get("shell", True),
            "value": info.get("command", {}).get("value", ""),
            "argv": info.get("command", {}).get("arguments", []),
            "environment": info.get("command", {}).get("environment", {}),
            "uris": info.get("command", {}).get("uris", []),
        },
        "resources": executor.resources.summary(),
        "role": min({k.allocated_to for k, _ in executor.resources}, default="*"),
        "source": info.get("source", ""),
        "slave_id": executor.agent_id,
        "type": info.get("type", "UNKNOWN"),
    }


def framework_head(framework: Framework) -> Json:
    """A framework as /state-summary begins it."""
    info = framework.info
    out: Json = {
        "id": framework.id,
        "name": info["name"],
        "used_resources": framework.used.summary(),
        "offered_resources": sum_offers(framework.offers.values()).summary(),
        "capabilities": [c["type"] for c in info.get("capabilities", []) if "type" in c],
        "hostname": info.get("hostname", ""),
        "webui_url": info.get("webui_url", ""),
        "active": framework.active,
        "connected": framework.connected,
        "recovered": framework.recovered,
    }
    if "principal" in info:
        out["principal"] = info["principal"]
    return out


def framework_full(framework: Framework) -> Json:
    """A framework as /frameworks and /state show it."""
    info = framework.info
    out = framework_head(framework)
    out |= {
        "user": info["user"],
        "failover_timeout": framework.failover_timeout_s,
        "checkpoint": framework.checkpoint,
        "registered_time": framework.registered_time,
        "unregistered_time": framework.unregistered_time or 0.0,
    }
    if framework.reregistered_time is not None:
        out["reregistered_time"] = framework.reregistered_time
    total = framework.used
    for offer in framework.offers.values():
        total = total + offer.resources
    out["resources"] = total.summary()
    if framework.multi_role:
        out["roles"] = list(framework.roles)
    else:
        out["role"] = framework.roles[0]
    out |= {
        "tasks": [task_summary(t) for t in framework.tasks.values()],
        "unreachable_tasks": [task_summary(t) for t in framework.unreachable.values()],
        "completed_tasks": [task_summary(t) for t in framework.completed],
        "offers": [
            {
                "id": offer.id,
                "framework_id": offer.framework_id,
                "allocation_info": {"role": offer.role},
                "slave_id": offer.agent_id,
                "resources": offer.resources.summary(),
            }
            for offer in reversed(framework.offers.values())
        ],
        "executors": [executor_summary(e) for e in framework.executors.values()],
    }
    if "labels" in info:
        out["labels"] = info["labels"].get("labels", [])
    out["offer_constraints"] = framework.constraints
    return out


def state(core: Core) -> Json:
    """/state."""
    s = core.state
    out: Json = {"version": MESOS_VERSION, **BUILD}
    out |= {
        "start_time": s.start_time,
        "elected_time": s.start_time,
        "id": s.id,
        "pid": s.pid_text,
        "hostname": s.config.host,
        "capabilities": ["AGENT_UPDATE", "AGENT_DRAINING", "QUOTA_V2"],
        "activated_slaves": float(sum(a.active for a in s.agents.values())),
        "deactivated_slaves": float(sum(not a.active for a in s.agents.values())),
        "unreachable_slaves": float(len(core.registry.unreachable)),
        "leader": s.pid_text,
        "leader_info": {
            "id": s.id,
            "pid": s.pid_text,
            "port": s.config.port,
            "hostname": s.config.host,
        },
    }
    if s.config.cluster:
        out["cluster"] = s.config.cluster
    out |= {
        "flags": flags(s.config),
        "slaves": [agent_summary(a) for a in s.agents.values()],
        "recovered_slaves": recovered_agents(core),
        **frameworks(core),
        "orphan_tasks": [],
    }
    # Mesos ends with this list, which is always empty since frameworks are recovered from agents.
    out["unregistered_frameworks"] = out.pop("unregistered_frameworks")
    return out


def frameworks(core: Core, only: str = "") -> Json:
    """/frameworks; `only` is a framework id to filter by."""

    def shown(all_of_them: Iterable[Framework]) -> list[Json]:
        return [framework_full(f) for f in all_of_them if not only or f.id == only]

    return {
        "frameworks": shown(core.state.frameworks.values()),
        "completed_frameworks": shown(core.state.completed_frameworks.values()),
        "unregistered_frameworks": [],
    }


def slaves(core: Core, only: str = "") -> Json:
    """/slaves; `only` is an agent id to filter by."""
    agents = [agent_full(a) for a in core.state.agents.values() if not only or a.id == only]
    recovered = [a for a in recovered_agents(core) if not only or a["id"] == only]
    return {"slaves": agents, "recovered_slaves": recovered}


def tasks(core: Core, query: Mapping[str, str]) -> Json:
    """/tasks?limit=&offset=&order=&framework_id=&task_id=, the latest first unless order=asc."""
    everyone = [*core.state.completed_frameworks.values(), *core.state.frameworks.values()]
    found: list[Task] = []
    for framework in everyone:
        found.extend(framework.completed)
        found.extend(framework.unreachable.values())
        found.extend(framework.tasks.values())
    if "framework_id" in query:
        found = [t for t in found if t.framework_id == query["framework_id"]]
    if "task_id" in query:
        found = [t for t in found if t.task_id == query["task_id"]]
    ascending = query.get("order") == "asc"
    found.sort(key=_first_timestamp, reverse=not ascending)
    offset, limit = _number(query, "offset", 0), _number(query, "limit", 100)
    return {"tasks": [task_summary(t) for t in found[offset : offset + limit]]}


def _first_timestamp(task: Task) -> float:
    return float(orjson.loads(task.statuses[0])["timestamp"]) if task.statuses else 0.0


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    return int(text) if text.isdigit() else default


def state_summary(core: Core) -> Json:
    """/state-summary: counts instead of lists."""
    by_agent: dict[str, Counter[str]] = {}
    by_framework: dict[str, Counter[str]] = {}
    hosts: dict[str, set[str]] = {}
    for framework in core.state.frameworks.values():
        tasks_of = [*framework.tasks.values(), *framework.unreachable.values()]
        for task in [*tasks_of, *framework.completed]:
            by_agent.setdefault(task.agent_id, Counter())[task.state] += 1
            by_framework.setdefault(framework.id, Counter())[task.state] += 1
            hosts.setdefault(framework.id, set()).add(task.agent_id)
    agents = []
    for agent in core.state.agents.values():
        counts = by_agent.get(agent.id, Counter())
        ids = sorted(f for f, where in hosts.items() if agent.id in where)
        agents.append({**agent_summary(agent), **_counts(counts), "framework_ids": ids})
    shown = []
    for framework in core.state.frameworks.values():
        counts = by_framework.get(framework.id, Counter())
        ids = sorted(hosts.get(framework.id, ()))
        shown.append({**framework_head(framework), **_counts(counts), "slave_ids": ids})
    out: Json = {"hostname": core.config.host}
    if core.config.cluster:
        out["cluster"] = core.config.cluster
    return {**out, "slaves": agents, "frameworks": shown}


def _counts(counts: Counter[str]) -> Json:
    return {name: counts[name] for name in _SUMMARY_STATES}


def roles(core: Core) -> list[Json]:
    """/roles: every role somebody subscribes in, has a weight, a quota or a reservation."""
    subscribers: dict[str, list[Framework]] = {}
    for framework in core.state.frameworks.values():
        for role in framework.roles:
            subscribers.setdefault(role, []).append(framework)
    reserved: dict[str, list[Agent]] = {}
    for agent in core.state.agents.values():
        for role in agent.total.reserved_roles():
            reserved.setdefault(role, []).append(agent)
    names = {*subscribers, *reserved, *core.registry.weights, *core.registry.quotas}
    return [
        _role(core, name, subscribers.get(name, []), reserved.get(name, []))
        for name in sorted(names)
    ]


def _role(core: Core, name: str, subscribers: list[Framework], holders: list[Agent]) -> Json:
    offered = allocated = held = NOTHING
    for framework in core.state.frameworks.values():
        offered = offered + sum_offers(o for o in framework.offers.values() if o.role == name)
        used = {k: v for k, v in framework.used if k.allocated_to == name}
        allocated = allocated + type(NOTHING)(used)
    for agent in holders:
        held = held + agent.total.reserved_roles()[name]
    plain = allocated.unallocated()
    consumed = held + type(NOTHING)({k: v for k, v in plain if not k.reservations})
    quota = core.registry.quotas.get(name, {})
    return {
        "name": name,
        "weight": core.registry.weights.get(name, 1.0),
        "quota": {
            "role": name,
            "guarantee": quota.get("guarantees", {}),
            "limit": quota.get("limits", {}),
            "consumed": consumed.quantities(),
        },
        "resources": (allocated + offered).quantities(),
        "allocated": allocated.quantities(),
        "offered": offered.quantities(),
        "reserved": held.quantities(),
        "frameworks": [framework.id for framework in subscribers],
    }
