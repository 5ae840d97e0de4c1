"""HTTP conventions of all services: routes as data, problem+json, authentication on every one of them.

A service's `api.py` makes `Route`s; `HttpApp` matches, authenticates, calls and turns errors into
`application/problem+json` (RFC 9457), in a span of the caller's trace. It knows no sockets: `libs/common/serve.py`
puts it behind aiohttp, and the embedded form and the simulation call it directly, with the same serialised bytes.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol, TypeVar, runtime_checkable
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson
from opentelemetry.trace import Span
from pydantic import BaseModel, ValidationError

from libs.common import errors
from libs.common.errors import GantryError, Unavailable
from libs.common.problems import INTERNAL, PROBLEM, MethodNotAllowed, Problem, error_of, invalid

JSON = "application/json"
MAX_BODY_BYTES = 1_000_000


class Role(StrEnum):
    """What a principal may do, each including the ones before it."""

    VIEWER = "viewer"
    DEPLOYER = "deployer"
    ADMIN = "admin"


class Kind(StrEnum):
    """Who a principal is."""

    ANONYMOUS = "anonymous"
    SERVICE = "service"
    HOST = "host"
    KEY = "key"
    SCRAPER = "scraper"  # reads metrics, and nothing else


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `bu` "*" is every business unit."""

    kind: Kind
    name: str
    bu: str = ""
    role: Role = Role.VIEWER


ANONYMOUS = Principal(Kind.ANONYMOUS, "anonymous")


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a handler gets it. Header names are lower case."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    principal: Principal = ANONYMOUS

    def parse(self, model: type[ModelT]) -> ModelT:
        """The body as `model`. Raises InvalidInput naming each wrong field."""
        try:
            return model.model_validate_json(self.body)
        except ValidationError as error:
            raise invalid(error) from None


ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: `body`, or a `stream` of chunks that ends when the iterator does."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON
    stream: AsyncIterator[bytes] | None = None

    def json(self) -> Any:
        """The body, decoded."""
        return orjson.loads(self.body)


def reply(
    content: BaseModel | Mapping[str, Any] | Sequence[Any],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A JSON answer."""
    body = (
        content.model_dump_json(by_alias=True).encode()
        if isinstance(content, BaseModel)
        else orjson.dumps(content, default=_plain)
    )
    return Response(status, body, headers or {})


def _plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"not JSON: {type(value).__name__}")


Handler = Callable[[Request], Awaitable[Response]]


class Access(StrEnum):
    """Who may call a route at all; finer rules are the handler's."""

    PUBLIC = "public"  # health, documentation, and what asks for another proof itself
    SERVICE = "service"  # the control plane's own services
    HOST = "host"  # services, and hostd or executor on behalf of their own host
    KEY = "key"  # holders of an API key (the gateway's routes)
    METRICS = "metrics"  # services, and who scrapes metrics


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `path` is a template such as `/v1/apps/{bu}/{app}`; `{rest:path}` spans slashes.

    The models are for OpenAPI; `query` maps a parameter's name to its description. What is not `traced` gets no span:
    it is asked for every few seconds, on behalf of nobody.
    """

    method: str
    path: str
    handler: Handler
    access: Access = Access.SERVICE
    summary: str = ""
    role: Role = Role.VIEWER
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    status: int = 200
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    produces: str = JSON
    traced: bool = True


class Authenticator(Protocol):
    """Tells who a request comes from. Raises Unauthenticated for wrong credentials."""

    async def __call__(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Principal:
        """The principal; ANONYMOUS when the request carries no credentials."""
        ...


Observer = Callable[[Route | None, Request, int, float], None]
"""Told of each finished request: route (None if unmatched), request, status, seconds."""


class Tracer(Protocol):
    """Opens spans, as `Telemetry` does."""

    def span(
        self, name: str, traceparent: str = "", **attributes: Any
    ) -> AbstractContextManager[Span]:
        """A span under `traceparent`, or under the current one when that is empty."""
        ...


_ALLOWED: Mapping[Access, frozenset[Kind]] = {
    Access.PUBLIC: frozenset(Kind),
    Access.SERVICE: frozenset({Kind.SERVICE}),
    Access.HOST: frozenset({Kind.SERVICE, Kind.HOST}),
    Access.KEY: frozenset({Kind.KEY}),
    Access.METRICS: frozenset({Kind.SERVICE, Kind.SCRAPER}),
}


class Dispatcher(Protocol):
    """Whatever answers requests: an `HttpApp`, or something around one."""

    async def dispatch(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """Answer one request; never raises (other than cancellation)."""
        ...


class HttpApp:
    """Routes of one service behind one `dispatch`."""

    def __init__(
        self,
        routes: Sequence[Route],
        authenticate: Authenticator,
        *,
        monotonic: Callable[[], float],
        observe: Observer | None = None,
        on_error: Callable[[Request, BaseException], None] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.routes = tuple(routes)
        self._authenticate = authenticate
        self._monotonic = monotonic
        self._observe = observe
        self._on_error = on_error
        self._tracer = tracer
        self._table = [(route, _compile(route.path)) for route in self.routes]

    async def dispatch(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """Answer one request; never raises (other than cancellation)."""
        started = self._monotonic()
        parts = urlsplit(target)
        request = Request(
            method,
            parts.path,
            body,
            {name.lower(): value for name, value in headers.items()},
            dict(parse_qsl(parts.query, keep_blank_values=True)),
        )
        route: Route | None = None
        try:
            route, params = self._match(request)
        except GantryError as error:
            response = problem(error)
        else:
            response = await self._traced(route, replace(request, params=params))
        if self._observe:
            self._observe(route, request, response.status, self._monotonic() - started)
        return response

    async def _traced(self, route: Route, request: Request) -> Response:
        if self._tracer is None or not route.traced:
            return await self._answer(route, request)
        name = f"{route.method} {route.path}"
        known = {"request_id": id_} if (id_ := request.headers.get("x-request-id")) else {}
        with self._tracer.span(name, request.headers.get("traceparent", ""), **known) as span:
            response = await self._answer(route, request)
            span.set_attribute("status", response.status)
            return response

    async def _answer(self, route: Route, request: Request) -> Response:
        try:
            return await self._call(route, request)
        except GantryError as error:
            return problem(error)
        except Exception as error:  # a bug: tell the log everything, and the asker nothing
            if self._on_error:
                self._on_error(request, error)
            return _telling(INTERNAL)

    async def _call(self, route: Route, request: Request) -> Response:
        if route.access is not Access.PUBLIC:
            principal = await self._authenticate(request.headers, request.query)
            if principal.kind is Kind.ANONYMOUS:
                raise errors.Unauthenticated(
                    "credentials are missing: send `Authorization: Bearer …`"
                )
            if principal.kind not in _ALLOWED[route.access]:
                raise errors.Forbidden(
                    f"a {principal.kind} may not call {route.method} {route.path}"
                )
            request = replace(request, principal=principal)
        return await route.handler(request)

    def _match(self, request: Request) -> tuple[Route, dict[str, str]]:
        other_methods: set[str] = set()
        for route, pattern in self._table:
            found = pattern.fullmatch(request.path)
            if found is None:
                continue
            if route.method == request.method:
                return route, {name: unquote(value) for name, value in found.groupdict().items()}
            other_methods.add(route.method)
        if other_methods:
            raise MethodNotAllowed(tuple(sorted(other_methods)))
        raise errors.NotFound(f"there is nothing at {request.path}")


def _compile(template: str) -> re.Pattern[str]:
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(template))
    pattern = re.sub(r"\\{(\w+):path\\}", r"(?P<\1>.+)", pattern)
    return re.compile(pattern)


# -- errors as answers, and back -------------------------------------------------------------------


WAITING = "x-gantry-waiting"
"""The header of an answer of a process that can't do its service's work now: another replica may."""


@dataclass
class Front:
    """What a service's address answers from the process's first moment on: the app, once there is one.

    Until then (a standby, or a service whose store is away) it is alive, not ready, and sends callers on. `run`: see
    Runtime.
    """

    service: str
    app: Dispatcher | None = None
    run: str = ""

    async def dispatch(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """See Dispatcher."""
        if self.app is not None:
            return await self.app.dispatch(method, target, headers, body)
        path = target.partition("?")[0]
        if path == "/healthz":
            run = {"run": self.run} if self.run else {}
            return reply({"service": self.service, "status": "alive", **run})
        why = f"{self.service} waits here: for leadership, or for what it needs to start"
        if path == "/readyz":
            content = {"service": self.service, "status": "not ready", "reason": why}
            return reply(content, 503)
        told = problem(Unavailable(why))
        return replace(told, headers={**told.headers, WAITING: "1"})


def problem(error: GantryError) -> Response:
    """The problem+json answer for an error."""
    return _telling(Problem.of(error))


def _telling(told: Problem) -> Response:
    return Response(told.status, told.body(), told.headers, PROBLEM)


def raise_problem(service: str, response: Response) -> None:
    """Raise the error that an answer of a peer stands for; nothing for a success."""
    if response.status >= 400:
        raise error_of(service, response.status, response.body)


# -- calling peers ---------------------------------------------------------------------------------


class ServiceClient(Protocol):
    """Calls other services by name, as this service."""

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """The peer's answer, whatever its status. Raises Unavailable or TimedOut when there is none."""
        ...


@runtime_checkable
class StreamClient(Protocol):
    """What a `ServiceClient` offers besides when it can carry answers that don't end."""

    async def open(
        self,
        service: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """GET; the head of the answer within `timeout_s`, its body as `stream` (close it by `aclose`).

        Raises Unavailable or TimedOut when there is no answer.
        """
        ...


async def call_json(
    client: ServiceClient,
    service: str,
    method: str,
    path: str,
    content: BaseModel | Mapping[str, Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
) -> Any:
    """The peer's decoded JSON answer (None if empty); its problems are raised as the errors they stand for."""
    body = b"" if content is None else reply(content).body
    response = await client.call(
        service, method, path, body=body, headers=headers, timeout_s=timeout_s
    )
    raise_problem(service, response)
    return response.json() if response.body else None
