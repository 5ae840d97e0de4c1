"""The v1 operator API of the master: POST /api/v1."""

from __future__ import annotations

from collections.abc import Callable

from libs.minimesos.config import flags
from libs.minimesos.effects import HttpRequest, OpenStream, Respond, Send
from libs.minimesos.errors import CallError
from libs.minimesos.http import (
    JSON_TYPE,
    accepted,
    invalid_call,
    json_response,
    parse_call,
    require,
    require_json_accept,
)
from libs.minimesos.master import drain, legacy, maintenance, manual
from libs.minimesos.master import registry as keys
from libs.minimesos.master.agents import mark_gone, remove
from libs.minimesos.master.core import Core
from libs.minimesos.master.frameworks import remove as remove_framework
from libs.minimesos.master.metrics import snapshot
from libs.minimesos.master.model import dumps, id_json, master_info
from libs.minimesos.master.views import agent_json, executor_json, framework_json, task_json
from libs.minimesos.schema import Json
from libs.minimesos.schema_calls import MASTER_CALL

_API = "master"
# Calls that need the submessage named after them.
_NEEDS_BODY = frozenset(
    [
        "GET_METRICS",
        "LIST_FILES",
        "READ_FILE",
        "UPDATE_WEIGHTS",
        "RESERVE_RESOURCES",
        "UNRESERVE_RESOURCES",
        "CREATE_VOLUMES",
        "DESTROY_VOLUMES",
        "UPDATE_MAINTENANCE_SCHEDULE",
        "START_MAINTENANCE",
        "STOP_MAINTENANCE",
        "UPDATE_QUOTA",
        "TEARDOWN",
        "MARK_AGENT_GONE",
        "DRAIN_AGENT",
        "DEACTIVATE_AGENT",
        "REACTIVATE_AGENT",
    ]
)


def handle(core: Core, request: HttpRequest) -> None:
    """One call. Raises CallError for everything that is not a success."""
    call = parse_call(request, MASTER_CALL)
    kind = call.get("type")
    if kind is None:
        raise invalid_call(_API, "Expecting 'type' to be present")
    if kind in _NEEDS_BODY:
        require(call, _API, kind.lower())
    require_json_accept(request)
    if kind == "SUBSCRIBE":
        _subscribe(core, request)
        return
    view = _VIEWS.get(kind)
    if view is not None:
        name = kind.lower()
        body = view(core)
        answer: Json = {"type": kind}
        if body is not None:
            answer[name] = body
        core.out.append(json_response(request, answer))
        return
    core.out.append(_act(core, request, kind, call.get(kind.lower(), {})))


def _act(core: Core, request: HttpRequest, kind: str, body: Json) -> Respond:
    if kind in ("LIST_FILES", "READ_FILE"):
        raise CallError(404, "")
    if kind in manual.CALLS:
        manual.apply(core, kind, body)
        return accepted(request.conn)
    action = _ACTIONS.get(kind)
    if action is None:
        raise CallError(501, f"{kind} is not supported")
    action(core, body)
    return accepted(request.conn, 200)


# ---- the event stream ---------------------------------------------------------------------------
def _subscribe(core: Core, request: HttpRequest) -> None:
    stream = core.ids.uuid()
    core.out.append(OpenStream(request.conn, stream, {"Content-Type": JSON_TYPE}))
    subscribed = {
        "get_state": _state(core),
        "heartbeat_interval_seconds": core.config.heartbeat_interval_s,
    }
    core.out.append(Send(stream, dumps({"type": "SUBSCRIBED", "subscribed": subscribed})))
    core.out.append(Send(stream, b'{"type":"HEARTBEAT"}'))
    core.operator_streams[stream] = None
    while len(core.operator_streams) > core.config.max_operator_event_stream_subscribers:
        del core.operator_streams[next(iter(core.operator_streams))]
    core.timers.set(("operator", stream), core.now + core.config.heartbeat_interval_s)


def heartbeat(core: Core, stream: str) -> None:
    """A sign of life every 15 s."""
    if stream in core.operator_streams:
        core.out.append(Send(stream, b'{"type":"HEARTBEAT"}'))
        core.timers.set(("operator", stream), core.now + core.config.heartbeat_interval_s)


# ---- views --------------------------------------------------------------------------------------
def _state(core: Core) -> Json:
    return {
        "get_tasks": _tasks(core),
        "get_executors": _executors(core),
        "get_frameworks": _frameworks(core),
        "get_agents": _agents(core),
    }


def _tasks(core: Core) -> Json:
    everyone = [*core.state.frameworks.values(), *core.state.completed_frameworks.values()]
    return {
        "tasks": [task_json(t) for f in everyone for t in f.tasks.values()],
        "unreachable_tasks": [task_json(t) for f in everyone for t in f.unreachable.values()],
        "completed_tasks": [task_json(t) for f in everyone for t in f.completed],
    }


def _executors(core: Core) -> Json:
    everyone = core.state.frameworks.values()
    return {"executors": [executor_json(e) for f in everyone for e in f.executors.values()]}


def _frameworks(core: Core) -> Json:
    agents = core.state.agents
    return {
        "frameworks": [framework_json(f, agents) for f in core.state.frameworks.values()],
        "completed_frameworks": [
            framework_json(f, agents) for f in core.state.completed_frameworks.values()
        ],
    }


def _agents(core: Core) -> Json:
    recovered = core.registry.recovered.values()
    return {
        "agents": [agent_json(a, event=False) for a in core.state.agents.values()],
        "recovered_agents": [{**entry["info"], "checkpoint": True} for entry in recovered],
    }


def _roles(core: Core) -> Json:
    shown = []
    for role in legacy.roles(core):
        resources = [
            {"name": name, "type": "SCALAR", "scalar": {"value": value}}
            for name, value in role["resources"].items()
            if name != "ports"
        ]
        entry: Json = {"name": role["name"], "weight": role["weight"]}
        if role["frameworks"]:
            entry["frameworks"] = [id_json(i) for i in role["frameworks"]]
        if resources:
            entry["resources"] = resources
        shown.append(entry)
    return {"roles": shown}


def _weights(core: Core) -> Json | None:
    infos = [{"weight": w, "role": role} for role, w in sorted(core.registry.weights.items())]
    return {"weight_infos": infos} if infos else None


def _quota(core: Core) -> Json:
    quotas = core.registry.quotas
    if not quotas:
        return {"status": {}}
    names = sorted(quotas)
    return {
        "status": {"infos": [{"role": n} for n in names], "configs": [quotas[n] for n in names]}
    }


def _master(core: Core) -> Json:
    started = core.state.start_time
    return {
        "master_info": master_info(core.state),
        "start_time": started,
        "elected_time": started,
    }


def _schedule(core: Core) -> Json:
    windows = core.registry.windows
    return {"schedule": {"windows": windows} if windows else {}}


_VIEWS: dict[str, Callable[[Core], Json | None]] = {
    "GET_HEALTH": lambda core: {"healthy": True},
    "GET_FLAGS": lambda core: {
        "flags": [{"name": n, "value": v} for n, v in flags(core.config).items()]
    },
    "GET_VERSION": lambda core: {
        "version_info": {"version": legacy.VERSION["version"], **legacy.BUILD}
    },
    "GET_METRICS": lambda core: {
        "metrics": [{"name": n, "value": v} for n, v in snapshot(core).items()]
    },
    "GET_LOGGING_LEVEL": lambda core: {"level": 0},
    "GET_STATE": _state,
    "GET_AGENTS": _agents,
    "GET_FRAMEWORKS": _frameworks,
    "GET_EXECUTORS": _executors,
    "GET_OPERATIONS": lambda core: {},
    "GET_TASKS": _tasks,
    "GET_ROLES": _roles,
    "GET_WEIGHTS": _weights,
    "GET_MASTER": _master,
    "GET_QUOTA": _quota,
    "GET_MAINTENANCE_STATUS": lambda core: {"status": maintenance.status(core)},
    "GET_MAINTENANCE_SCHEDULE": _schedule,
}


# ---- actions ------------------------------------------------------------------------------------
def _update_weights(core: Core, body: Json) -> None:
    for info in body.get("weight_infos", []):
        if info["weight"] <= 0:
            raise CallError(400, f"Invalid weight '{info['weight']}': Weights must be positive")
        core.registry.weights[info.get("role", "*")] = info["weight"]
    core.allocator.weights = dict(core.registry.weights)
    core.save(keys.WEIGHTS, core.registry.weights)


def _update_quota(core: Core, body: Json) -> None:
    for config in body.get("quota_configs", []):
        if config.get("limits") or config.get("guarantees"):
            core.registry.quotas[config["role"]] = config
        else:
            core.registry.quotas.pop(config["role"], None)
    core.save(keys.QUOTAS, core.registry.quotas)


def _teardown(core: Core, body: Json) -> None:
    teardown(core, body["framework_id"]["value"])


def teardown(core: Core, framework_id: str) -> None:
    """Remove a framework by an operator's wish. Raises CallError 400."""
    framework = core.state.frameworks.get(framework_id)
    if framework is None:
        raise CallError(400, "No framework found with specified ID")
    remove_framework(core, framework)


def _mark_gone(core: Core, body: Json) -> None:
    agent_id = body["agent_id"]["value"]
    agent = core.state.agents.get(agent_id)
    if agent is not None:
        mark_gone(core, agent)
        return
    registry = core.registry
    known = agent_id in registry.unreachable or agent_id in registry.recovered
    if not known and agent_id not in registry.gone:
        raise CallError(404, f"Agent '{agent_id}' not found")
    registry.unreachable.pop(agent_id, None)
    registry.recovered.pop(agent_id, None)
    registry.gone[agent_id] = core.now
    core.forget(keys.UNREACHABLE + agent_id)
    core.save(keys.GONE + agent_id, {"time": core.now})


def _start_maintenance(core: Core, body: Json) -> None:
    for agent in maintenance.start(core, body.get("machines", [])):
        text = f"Agent {agent.hostname} removed: Machine was scheduled for maintenance"
        core.to_agent(agent, {"type": "SHUTDOWN", "message": "Operator initiated 'Machine DOWN'"})
        remove(core, agent, text)


_ACTIONS: dict[str, Callable[[Core, Json], None]] = {
    "UPDATE_WEIGHTS": _update_weights,
    "UPDATE_QUOTA": _update_quota,
    "TEARDOWN": _teardown,
    "MARK_AGENT_GONE": _mark_gone,
    "UPDATE_MAINTENANCE_SCHEDULE": lambda core, body: maintenance.update_schedule(
        core, body["schedule"]
    ),
    "START_MAINTENANCE": _start_maintenance,
    "STOP_MAINTENANCE": lambda core, body: maintenance.stop(core, body.get("machines", [])),
    "DRAIN_AGENT": drain.drain,
    "DEACTIVATE_AGENT": drain.deactivate,
    "REACTIVATE_AGENT": drain.reactivate,
}
