"""Which path does what on an agent, and the executor API itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libs.minimesos.agent import executors, tokens, updates, views
from libs.minimesos.agent.core import Core
from libs.minimesos.agent.model import Executor, Framework
from libs.minimesos.config import flags
from libs.minimesos.effects import HttpRequest, OpenStream, Respond
from libs.minimesos.errors import CallError
from libs.minimesos.http import (
    JSON_TYPE,
    NOT_FOUND,
    accepted,
    authenticate,
    invalid_call,
    json_response,
    parse_call,
    require,
    require_json_accept,
)
from libs.minimesos.ids import is_uuid_bytes64
from libs.minimesos.master.legacy import BUILD, VERSION
from libs.minimesos.schema import Json
from libs.minimesos.schema_calls import AGENT_CALL, EXECUTOR_CALL

_READONLY_REALM = "mesos-agent-readonly"
_READWRITE_REALM = "mesos-agent-readwrite"


def handle_http(core: Core, request: HttpRequest) -> None:
    """Answer one request. Raises CallError for everything that is not a success."""
    path = request.path.removeprefix("/slave(1)")
    if path == "/api/v1/executor":
        _executor(core, request)
        return
    if path.startswith("/api/v1"):
        wanted = core.config.authenticate_http_readwrite
        authenticate(request, core.config.credentials if wanted else None, _READWRITE_REALM)
        _operator(core, request)
        return
    core.out.append(_get(core, request, path))


def _get(core: Core, request: HttpRequest, name: str) -> Respond:
    if name == "/health":
        return Respond(request.conn, 200, {}, b"")
    if name == "/version":
        return json_response(request, VERSION)
    view = _VIEWS.get(name)
    if view is None or request.method != "GET":
        raise NOT_FOUND
    wanted = core.config.authenticate_http_readonly
    authenticate(request, core.config.credentials if wanted else None, _READONLY_REALM)
    return json_response(request, view(core))


_VIEWS: dict[str, Callable[[Core], Any]] = {
    "/state": views.state,
    "/flags": lambda core: {"flags": flags(core.config)},
    "/containers": lambda core: views.containers_legacy(core, status=True),
    "/monitor/statistics": lambda core: views.containers_legacy(core, status=False),
    "/metrics/snapshot": views.metrics,
    "/system/stats.json": lambda core: core.host.read().stats(),
    "/files/debug": lambda core: {
        f"/frameworks/{e.framework_id}/executors/{e.executor_id}/runs/latest": e.sandbox
        for e in core.executors()
    },
}


# ---- the operator API ---------------------------------------------------------------------------
def _operator(core: Core, request: HttpRequest) -> None:
    call = parse_call(request, AGENT_CALL, recordio=True)
    kind = call.get("type")
    if kind is None:
        raise invalid_call("agent", "Expecting 'type' to be present")
    if kind in ("GET_METRICS", "LIST_FILES", "READ_FILE", "ATTACH_CONTAINER_OUTPUT"):
        require(call, "agent", kind.lower())
    if kind == "ATTACH_CONTAINER_OUTPUT":
        raise CallError(500, "I/O switchboard server was disabled for this container")
    require_json_accept(request, agent=True)
    if kind in ("LIST_FILES", "READ_FILE"):
        raise CallError(404, "")
    body = _CALLS[kind](core)
    core.out.append(json_response(request, {"type": kind, kind.lower(): body}))


_CALLS: dict[str, Callable[[Core], Json]] = {
    "GET_HEALTH": lambda core: {"healthy": True},
    "GET_FLAGS": lambda core: {
        "flags": [{"name": n, "value": v} for n, v in flags(core.config).items()]
    },
    "GET_VERSION": lambda core: {"version_info": {"version": VERSION["version"], **BUILD}},
    "GET_METRICS": lambda core: {
        "metrics": [{"name": n, "value": v} for n, v in views.metrics(core).items()]
    },
    "GET_LOGGING_LEVEL": lambda core: {"level": 0},
    "GET_STATE": views.state_v1,
    "GET_CONTAINERS": views.containers_v1,
    "GET_FRAMEWORKS": views.frameworks_v1,
    "GET_EXECUTORS": views.executors_v1,
    "GET_OPERATIONS": lambda core: {},
    "GET_TASKS": views.tasks_v1,
    "GET_AGENT": lambda core: {"agent_info": core.info},
    "GET_RESOURCE_PROVIDERS": lambda core: {},
}


# ---- the executor API ---------------------------------------------------------------------------
def _executor(core: Core, request: HttpRequest) -> None:
    config = core.config
    asked = config.authenticate_http_executors
    header = request.headers.get("authorization")
    claimed = tokens.claims(config.jwt_secret_key, header) if asked else None
    call = parse_call(request, EXECUTOR_CALL)
    _validate(call)
    framework = core.frameworks.get(call["framework_id"]["value"])
    if framework is None:
        raise CallError(400, "Framework cannot be found")
    executor = framework.executors.get(call["executor_id"]["value"])
    if executor is None or not executor.alive or executor.virtual:
        raise CallError(400, "Executor cannot be found")
    if claimed is not None and claimed != tokens.claims_of(executor):
        raise CallError(403, "The authenticated principal's claims are not those of this executor")
    kind = call["type"]
    if kind == "SUBSCRIBE":
        require_json_accept(request)
        stream = core.ids.uuid()
        core.out.append(OpenStream(request.conn, stream, {"Content-Type": JSON_TYPE}))
        executors.subscribed(core, framework, executor, stream, call["subscribe"])
        return
    if kind == "UPDATE":
        updates.from_executor(core, framework, executor, call["update"]["status"])
    elif kind == "MESSAGE":
        _message(core, framework, executor, call["message"])
    core.out.append(accepted(request.conn))


def _message(core: Core, framework: Framework, executor: Executor, body: Json) -> None:
    core.to_master(
        {
            "type": "MESSAGE",
            "framework_id": framework.id,
            "executor_id": executor.executor_id,
            "data": body["data"],
        }
    )


def _validate(call: Json) -> None:
    kind = call.get("type")
    api = "Executor"
    if kind is None:
        raise invalid_call(api, "Expecting 'type' to be present")
    if kind in ("SUBSCRIBE", "UPDATE", "MESSAGE"):
        require(call, api, kind.lower())
    if kind == "UPDATE":
        _validate_update(call)
    if kind == "SUBSCRIBE":
        for update in call["subscribe"].get("unacknowledged_updates", []):
            _validate_update({**call, "update": update})


def _validate_update(call: Json) -> None:
    api = "Executor"
    status = call["update"]["status"]
    executor_id = call["executor_id"]["value"]
    framework_id = call["framework_id"]["value"]
    if "uuid" not in status:
        raise invalid_call(api, "Expecting 'uuid' to be present")
    if not is_uuid_bytes64(status["uuid"]):
        raise invalid_call(api, "Not a valid UUID")
    given = status.get("executor_id", {}).get("value", executor_id)
    if given != executor_id:
        raise invalid_call(
            api,
            f"ExecutorID in Call: {executor_id} does not match ExecutorID in TaskStatus: {given}",
        )
    who = f"executor {executor_id} of framework {framework_id}"
    if status.get("source") != "SOURCE_EXECUTOR":
        raise invalid_call(
            api, f"Received Call from {who} with invalid source, expecting 'SOURCE_EXECUTOR'"
        )
    if status["state"] == "TASK_STAGING":
        raise invalid_call(api, f"Received TASK_STAGING from {who} which is not allowed")
