"""The public API as OpenAPI 3.1, made of the route tables and the pydantic models; nothing is written twice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from libs.client.dead import GROUP_PATTERN, PLACE_PATTERN
from libs.client.jobs import JobRequestView
from libs.client.model import AppView, Plan, Problem
from libs.client.networks import STATES, Defined, QuotaView, ReservationView
from libs.client.vault import REGISTRY_PATTERN
from libs.common.http import Access, Route
from libs.common.problems import PROBLEM
from libs.common.spec import NAME_PATTERN
from services.gateway.core import IDEMPOTENCY_KEY
from services.gateway.parts import FLAGS, WHOLE

API_VERSION = "1.0.0"
REF = "#/components/schemas/{model}"

Json = dict[str, Any]
Model = tuple[type[BaseModel], JsonSchemaMode]

JOB_CHANGES = (
    ("PUT", "/v1/jobs/{bu}/{job}"),
    ("DELETE", "/v1/jobs/{bu}/{job}"),
    *(("POST", f"/v1/jobs/{{bu}}/{{job}}/{verb}") for verb in ("run", "pause", "resume", "kill")),
    ("POST", "/v1/runs/{run}/kill"),
)
# Answers beside a route's usual one.
_ALSO: Mapping[tuple[str, str], tuple[int, type[BaseModel]]] = {
    ("PUT", "/v1/apps/{bu}/{app}"): (201, AppView),
    ("POST", "/v1/apps/{bu}/{app}/deploys"): (200, Plan),
    **dict.fromkeys(JOB_CHANGES, (202, JobRequestView)),
    ("PUT", "/v1/networks/{network}"): (201, Defined),
    ("PUT", "/v1/networks/{network}/pools/{pool}"): (201, Defined),
    ("PUT", "/v1/networks/{network}/reservations/{reservation}"): (201, ReservationView),
    ("PUT", "/v1/quotas/{bu}"): (201, QuotaView),
}
_SAID: Mapping[int, str] = {200: "Done", 201: "Made", 202: "Accepted; Location tells how it goes"}
_OPTIONAL_BODY = ("/deploys", "/rollback", "/restart", "/stop")
_PATTERNS: Mapping[str, str] = {
    **dict.fromkeys(("bu", "app", "job", "network", "pool", "reservation", "secret"), NAME_PATTERN),
    "registry": REGISTRY_PATTERN,
    "group": GROUP_PATTERN,
    "place": PLACE_PATTERN,
}
_STATES: Mapping[str, tuple[str, ...]] = {
    "/v1/alerts": ("firing", "resolved"),
    "/v1/networks/{network}/addresses": STATES,
}


def document(routes: Sequence[Route]) -> Json:
    """The OpenAPI document of some routes."""
    names, schemas = _schemas(routes)
    paths: dict[str, Json] = {}
    for route in routes:
        operation = _operation(route, names)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gantry",
            "version": API_VERSION,
            "summary": "Releases in seconds, one routable address per container",
            "description": "Errors are application/problem+json (RFC 9457); each answer carries X-Request-Id.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, gk_…"}
            },
        },
    }


def document_bytes(routes: Sequence[Route]) -> bytes:
    """The same as JSON text."""
    return orjson.dumps(document(routes), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _schemas(routes: Sequence[Route]) -> tuple[Mapping[Any, Json], Json]:
    wanted: dict[Model, None] = {(Problem, "serialization"): None}
    for route in routes:
        if route.request is not None:
            wanted[(route.request, "validation")] = None
        if route.response is not None:
            wanted[(route.response, "serialization")] = None
    for _, model in _ALSO.values():
        wanted[(model, "serialization")] = None
    return _schemas_of(tuple(wanted))


@cache
def _schemas_of(models: tuple[Model, ...]) -> tuple[Mapping[Any, Json], Json]:
    refs, definitions = models_json_schema(models, by_alias=True, ref_template=REF)
    return refs, dict(sorted(definitions["$defs"].items()))


def _operation(route: Route, names: Mapping[Any, Json]) -> Json:
    operation: Json = {
        "operationId": operation_id(route),
        "summary": route.summary,
        "tags": [route.path.split("/")[2]],
        "responses": _responses(route, names),
    }
    if route.access is Access.KEY:
        operation["description"] = f"Needs the role {route.role}."
    else:
        operation["security"] = []
    parameters = _parameters(route)
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {
            "required": not route.path.endswith(_OPTIONAL_BODY),
            "content": {"application/json": {"schema": names[(route.request, "validation")]}},
        }
    return operation


def operation_id(route: Route) -> str:
    """A name of its own for each operation, such as `post_apps_scale`."""
    parts = [part for part in route.path.split("/")[2:] if not part.startswith("{")]
    one = "" if not route.path.endswith("}") else "_one"
    return "_".join([route.method.lower(), *parts]) + one


def _responses(route: Route, names: Mapping[Any, Json]) -> Json:
    answers: list[tuple[int, type[BaseModel] | None]] = [(route.status, route.response)]
    also = _ALSO.get((route.method, route.path))
    if also is not None:
        answers.append(also)
    responses: Json = {}
    for status, model in sorted(answers, key=lambda each: each[0]):
        # A stream's model is that of one item, not of the body.
        streams = route.produces.startswith(("text/", "application/x-ndjson"))
        schema = {} if model is None or streams else names[(model, "serialization")]
        responses[str(status)] = {
            "description": _SAID[status],
            "content": {route.produces: {"schema": schema} if schema else {}},
        }
    responses["default"] = {
        "description": "A problem: what is wrong, and where it can be said, what would be right",
        "content": {PROBLEM: {"schema": names[(Problem, "serialization")]}},
    }
    return responses


def _parameters(route: Route) -> list[Json]:
    found: list[Json] = []
    for name in re.findall(r"{(\w+)}", route.path):
        schema: Json = {"type": "string"}
        schema |= {"pattern": _PATTERNS[name]} if name in _PATTERNS else {"minLength": 1}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    for name, text in route.query.items():
        found.append(
            {
                "name": name,
                "in": "query",
                "description": text,
                "schema": _query_schema(route.path, name),
            }
        )
    for name, text in route.headers.items():
        schema = {"type": "string"}
        if name == "Idempotency-Key":
            schema["pattern"] = f"^{IDEMPOTENCY_KEY.pattern}$"
        found.append({"name": name, "in": "header", "description": text, "schema": schema})
    return found


def _query_schema(path: str, name: str) -> Json:
    if name in WHOLE:
        number = WHOLE[name]
        return {
            "type": "integer",
            "minimum": number.least,
            "maximum": number.most,
            "default": number.default,
        }
    if name in FLAGS:
        return {"type": "boolean", "default": False}
    if name == "state":
        return {"type": "string", "enum": list(_STATES[path])}
    return {"type": "string"}
