"""What the gateway's routes are built on: its parts in one record, and the guard in front of each route."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from libs.common.actor import Actor
from libs.common.bus.base import Bus
from libs.common.clock import Clock
from libs.common.errors import Forbidden, GantryError, InvalidInput, NotFound, Refused
from libs.common.http import Access, Handler, Request, Response, Route
from libs.common.spec import NAME_PATTERN
from libs.common.telemetry import Log
from services.gateway.auth import Gate, Sessions
from services.gateway.dead import DeadLetters
from services.gateway.feed import Slots, Spawn
from services.gateway.hosts import Hosts
from services.gateway.keys import KeyRing
from services.gateway.model import GatewayConfig
from services.gateway.operations import Operations
from services.gateway.peers import Peers
from services.gateway.producers import Producers
from services.gateway.store import Repository

NAME = re.compile(NAME_PATTERN)
SAFE_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class Gateway:
    """All that the routes need."""

    cluster: str
    config: GatewayConfig
    clock: Clock
    bus: Bus
    log: Log
    repository: Repository
    operations: Operations
    dead: DeadLetters
    keys: KeyRing
    producers: Producers
    hosts: Hosts
    gate: Gate
    sessions: Sessions
    peers: Peers
    slots: Slots
    spawn: Spawn


def actor_of(request: Request) -> Actor:
    """Who asks."""
    return Actor.of_principal(request.principal)


def require_all(request: Request) -> None:
    """Raises Forbidden unless the asker's key is for all business units: what it asks for concerns them all."""
    if request.principal.bu != "*":
        raise Forbidden("this is for all business units: use an admin key for '*'")


def app_of(request: Request) -> str:
    """The app that the path names, `bu/app`."""
    return f"{request.params['bu']}/{request.params['app']}"


Target = Callable[[Request], str]
"""What a change is about, for the audit trail: `bu/…`."""


def own_target(request: Request) -> str:
    """The target of changes whose business unit the path does not tell: the asker's."""
    return f"{request.principal.bu}{request.path.removeprefix('/v1')}"


def guarded(gateway: Gateway, route: Route, action: str = "", target: Target = own_target) -> Route:
    """The route with its courtesy checks: names, parameters, role and business unit; refused changes are audited.

    The owners check again (`libs/common/actor.py`); here it saves a round trip, and keeps what isn't the asker's away.
    """

    async def handler(request: Request) -> Response:
        try:
            _check_parameters(route, request)
            actor = actor_of(request)
            actor.require(request.params.get("bu", actor.bu), route.role)
            return await route.handler(request)
        except Refused as error:
            if route.method not in SAFE_METHODS:
                await audit(gateway, request, action, target(request), error)
            raise

    return replace(route, handler=handler)


def reading(
    gateway: Gateway,
    path: str,
    handler: Handler,
    text: str,
    response: type[BaseModel] | None,
    **more: Any,
) -> Route:
    """A guarded GET."""
    return guarded(
        gateway, Route("GET", path, handler, Access.KEY, text, response=response, **more)
    )


def _check_parameters(route: Route, request: Request) -> None:
    for name in ("bu", "app", "job", "network", "pool", "reservation"):
        value = request.params.get(name)
        if value is not None and not NAME.fullmatch(value):
            raise NotFound(f"there is no {name} {value!r}")
    for name in request.query:
        if name not in route.query:
            known = ", ".join(route.query) or "none here"
            raise InvalidInput.of(name, "unknown parameter", f"one of: {known}")


async def audit(
    gateway: Gateway, request: Request, action: str, target: str, error: Refused
) -> None:
    """Have the trail know that somebody asked for what they may not have."""
    try:
        await gateway.operations.refused(request, action, target, error)
    except GantryError as failure:  # a refusal does no harm; it stands even if the trail has a gap
        gateway.log.error("audit failed", action=action, target=target, error=str(failure))


# -- query parameters ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number in a query; also its schema in OpenAPI."""

    least: int
    most: int
    default: int

    def read(self, request: Request, name: str) -> int:
        """Its value. Raises InvalidInput."""
        text = request.query.get(name)
        if text is None:
            return self.default
        if not re.fullmatch(r"[0-9]{1,16}", text) or not self.least <= int(text) <= self.most:
            raise InvalidInput.of(
                name, "is not such a number", f"a whole number from {self.least} to {self.most}"
            )
        return int(text)


WHOLE = {
    "limit": Whole(1, 1000, 100),
    "tail": Whole(0, 10_000, 100),
    "since": Whole(0, 10**12 - 1, 0),
    "count": Whole(1, 2**52, 1024),
}
FLAGS = frozenset({"follow", "force", "states"})


def whole(request: Request, name: str) -> int:
    """The whole-number parameter `name`. Raises InvalidInput."""
    return WHOLE[name].read(request, name)


def flag(request: Request, name: str) -> bool:
    """The yes-or-no parameter `name`. Raises InvalidInput."""
    value = request.query.get(name, "false")
    if value not in ("true", "false"):
        raise InvalidInput.of(name, "is neither yes nor no", "true or false")
    return value == "true"


def app_filter(request: Request) -> str:
    """The `app` parameter, `bu/app` or "". Raises InvalidInput; NotFound for another business unit's."""
    app = request.query.get("app", "")
    if app:
        bu, _, name = app.partition("/")
        if not NAME.fullmatch(bu) or not NAME.fullmatch(name):
            raise InvalidInput.of("app", "is not an app", "bu/app")
        if not actor_of(request).sees(bu):
            raise NotFound(f"there is no app {app!r}")
    return app
