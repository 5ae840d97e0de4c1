"""Which path does what on a master, and the scheduler API itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from libs.minimesos.config import flags
from libs.minimesos.effects import HttpRequest, Respond
from libs.minimesos.errors import CallError
from libs.minimesos.http import (
    NOT_FOUND,
    accepted,
    authenticate,
    invalid_call,
    json_response,
    method_not_allowed,
    parse_call,
    require,
    require_json_accept,
)
from libs.minimesos.ids import is_uuid_bytes64
from libs.minimesos.master import (
    frameworks,
    legacy,
    maintenance,
    offers,
    operations,
    operator,
    reconcile,
    tasks,
)
from libs.minimesos.master.accept import accept
from libs.minimesos.master.core import Core
from libs.minimesos.master.metrics import snapshot
from libs.minimesos.master.model import Framework
from libs.minimesos.schema import Json
from libs.minimesos.schema_calls import SCHEDULER_CALL

_API = "scheduler"
_FRAMEWORK_REALM = "mesos-master-scheduler"
_READONLY_REALM = "mesos-master-readonly"
_READWRITE_REALM = "mesos-master-readwrite"
_NO_LEADER = CallError(503, "No leader elected")
_INDEX = b"<!DOCTYPE html>\n<html><head><title>Mesos</title></head><body>minimesos</body></html>\n"


def handle_http(core: Core, request: HttpRequest) -> None:
    """Answer one request. Raises CallError for everything that is not a success."""
    path = request.path
    if path in ("/api/v1/scheduler", "/master/api/v1/scheduler"):
        _scheduler(core, request)
        return
    if path.startswith(("/api/v1", "/master/api/v1")):
        _authenticate(core, request, _READWRITE_REALM, core.config.authenticate_http_readwrite)
        _require_leader(core, request)
        operator.handle(core, request)
        return
    core.out.append(_get(core, request, path.removeprefix("/master")))


def _authenticate(core: Core, request: HttpRequest, realm: str, wanted: bool) -> str | None:
    return authenticate(request, core.config.credentials if wanted else None, realm)


def _require_leader(core: Core, request: HttpRequest) -> None:
    config = core.config
    if config.leader:
        query = f"?{urlencode(request.query)}" if request.query else ""
        path = "" if request.path.endswith("/redirect") else request.path + query
        raise CallError(307, "", {"Location": f"//{config.leader}{path}"})
    if not config.elected:
        raise _NO_LEADER


# ---- plain endpoints ----------------------------------------------------------------------------
def _get(core: Core, request: HttpRequest, name: str) -> Respond:
    if name in ("/health", ""):
        return Respond(request.conn, 200, {}, b"")
    if name == "/":
        return Respond(request.conn, 200, {"Content-Type": "text/html"}, _INDEX)
    if name == "/version":
        return json_response(request, legacy.VERSION)
    if name == "/redirect":
        _require_leader(core, request)
        location = f"//{core.config.host}:{core.config.port}"
        return Respond(request.conn, 307, {"Location": location}, b"")
    if name == "/logging/toggle":
        return Respond(request.conn, 200, {"Content-Type": "text/plain; charset=utf-8"}, b"0\n")
    if request.method == "POST":
        return _post(core, request, name)
    view = _VIEWS.get(name)
    if view is None:
        raise NOT_FOUND
    _authenticate(core, request, _READONLY_REALM, core.config.authenticate_http_readonly)
    if name not in ("/metrics/snapshot", "/system/stats.json", "/flags"):
        _require_leader(core, request)
    return json_response(request, view(core, request))


def _post(core: Core, request: HttpRequest, name: str) -> Respond:
    if name not in ("/teardown", "/machine/down", "/machine/up", "/maintenance/schedule"):
        raise method_not_allowed(request.method) if name in _VIEWS else NOT_FOUND
    _authenticate(core, request, _READWRITE_REALM, core.config.authenticate_http_readwrite)
    _require_leader(core, request)
    if name == "/teardown":
        key, _, value = request.body.decode("utf-8", "replace").partition("=")
        if key != "frameworkId" or not value:
            raise CallError(400, "Missing 'frameworkId' query parameter in the request body")
        operator.teardown(core, value)
        return accepted(request.conn, 200)
    kind, wrap = _MACHINE_CALLS[name]
    body = b'{"type":"%b","%b":{"%b":%b}}' % (
        kind.encode(),
        kind.lower().encode(),
        wrap.encode(),
        request.body or b"null",
    )
    headers = {"content-type": "application/json"}
    operator.handle(core, request._replace(body=body, headers=headers))
    core.out.pop()
    return accepted(request.conn, 200)


_MACHINE_CALLS = {
    "/machine/down": ("START_MAINTENANCE", "machines"),
    "/machine/up": ("STOP_MAINTENANCE", "machines"),
    "/maintenance/schedule": ("UPDATE_MAINTENANCE_SCHEDULE", "schedule"),
}


def _schedule(core: Core, request: HttpRequest) -> Json:
    windows = core.registry.windows
    return {"windows": windows} if windows else {}


def _quota(core: Core, request: HttpRequest) -> Json:
    names = sorted(core.registry.quotas)
    if not names:
        return {}
    configs = [core.registry.quotas[n] for n in names]
    return {"infos": [{"role": n} for n in names], "configs": configs}


_VIEWS: dict[str, Callable[[Core, HttpRequest], Any]] = {
    "/state": lambda core, request: legacy.state(core),
    "/state-summary": lambda core, request: legacy.state_summary(core),
    "/slaves": lambda core, request: legacy.slaves(core, request.query.get("slave_id", "")),
    "/frameworks": lambda core, request: legacy.frameworks(
        core, request.query.get("framework_id", "")
    ),
    "/tasks": lambda core, request: legacy.tasks(core, request.query),
    "/roles": lambda core, request: {"roles": legacy.roles(core)},
    "/flags": lambda core, request: {"flags": flags(core.config)},
    "/quota": _quota,
    "/weights": lambda core, request: [
        {"role": role, "weight": w} for role, w in sorted(core.registry.weights.items())
    ],
    "/maintenance/schedule": _schedule,
    "/maintenance/status": lambda core, request: maintenance.status(core),
    "/metrics/snapshot": lambda core, request: snapshot(core),
    "/system/stats.json": lambda core, request: core.host.read().stats(),
    "/files/debug": lambda core, request: {},
}


# ---- the scheduler API --------------------------------------------------------------------------
def _scheduler(core: Core, request: HttpRequest) -> None:
    principal = _authenticate(
        core, request, _FRAMEWORK_REALM, core.config.authenticate_http_frameworks
    )
    _require_leader(core, request)
    call = parse_call(request, SCHEDULER_CALL)
    _validate(call, principal)
    if call["type"] == "SUBSCRIBE":
        require_json_accept(request)
        if frameworks.stream_of(request) is not None:
            raise CallError(400, "Subscribe calls should not include the 'Mesos-Stream-Id' header")
        frameworks.subscribe(core, request, call, principal)
        return
    framework = _caller(core, request, call["framework_id"]["value"])
    core.out.append(_dispatch(core, request, framework, call))


def _validate(call: Json, principal: str | None) -> None:
    kind = call.get("type")
    if kind is None:
        raise invalid_call(_API, "Expecting 'type' to be present")
    if kind == "SUBSCRIBE":
        require(call, _API, "subscribe")
        info = call["subscribe"]["framework_info"]
        if call.get("framework_id") != info.get("id"):
            raise invalid_call(_API, "'framework_id' differs from 'subscribe.framework_info.id'")
        named = info.get("principal")
        if principal is not None and named is not None and named != principal:
            raise invalid_call(
                _API,
                f"Authenticated principal '{principal}' does not match"
                f" principal '{named}' set in `FrameworkInfo`",
            )
        return
    require(call, _API, "framework_id")
    if kind in _OPTIONAL_BODY:
        return
    require(call, _API, kind.lower())
    uuid = call[kind.lower()].get("uuid")
    if uuid is not None and not is_uuid_bytes64(uuid):
        raise invalid_call(_API, "Not a valid UUID")


_OPTIONAL_BODY = frozenset({"TEARDOWN", "REVIVE", "SUPPRESS"})


def _caller(core: Core, request: HttpRequest, framework_id: str) -> Framework:
    framework = core.state.frameworks.get(framework_id)
    if framework is None:
        raise CallError(400, "Framework cannot be found")
    if not framework.connected:
        raise CallError(403, "Framework is not subscribed")
    stream = frameworks.stream_of(request)
    if stream is None:
        raise CallError(400, "All non-subscribe calls should include the 'Mesos-Stream-Id' header")
    if stream != framework.stream:
        raise CallError(
            400,
            f"The stream ID '{stream}' included in this request didn't match"
            f" the stream ID currently associated with framework ID {framework_id}",
        )
    return framework


def _dispatch(core: Core, request: HttpRequest, framework: Framework, call: Json) -> Respond:
    kind: str = call["type"]
    framework.counters[f"calls/{kind.lower()}"] += 1
    if kind == "UPDATE_FRAMEWORK":
        error = frameworks.update_framework(core, framework, call)
        if error is not None:
            raise CallError(400, f"'UpdateFramework.framework_info' is not valid: {error}")
        return accepted(request.conn, 200)
    _CALLS[kind](core, framework, call.get(kind.lower(), {}))
    return accepted(request.conn)


def _revive(core: Core, framework: Framework, body: Json) -> None:
    core.counters["messages_revive_offers"] += 1
    core.allocator.revive(framework.id, body.get("roles") or framework.roles)
    core.allocation_wanted = True


def _suppress(core: Core, framework: Framework, body: Json) -> None:
    core.counters["messages_suppress_offers"] += 1
    core.allocator.suppress(framework.id, body.get("roles") or framework.roles)


def _request(core: Core, framework: Framework, body: Json) -> None:
    core.counters["messages_resource_request"] += 1


_CALLS: dict[str, Callable[[Core, Framework, Json], None]] = {
    "TEARDOWN": lambda core, framework, body: frameworks.remove(core, framework),
    "ACCEPT": accept,
    "DECLINE": offers.decline,
    "ACCEPT_INVERSE_OFFERS": lambda core, framework, body: maintenance.answer(
        core, framework, body, "ACCEPT"
    ),
    "DECLINE_INVERSE_OFFERS": lambda core, framework, body: maintenance.answer(
        core, framework, body, "DECLINE"
    ),
    "REVIVE": _revive,
    "SUPPRESS": _suppress,
    "KILL": reconcile.kill,
    "SHUTDOWN": reconcile.shutdown,
    "ACKNOWLEDGE": tasks.acknowledge,
    "ACKNOWLEDGE_OPERATION_STATUS": operations.acknowledge,
    "RECONCILE": reconcile.reconcile,
    "RECONCILE_OPERATIONS": operations.reconcile,
    "MESSAGE": reconcile.message_to_executor,
    "REQUEST": _request,
}
