"""Routes of hosts: for admins of the cluster; for hosts, which prove who they are in what they send; for services."""

from __future__ import annotations

import re

from libs.client.hosts import (
    HOST_PATTERN,
    Enrol,
    Hosts,
    HostTokenCreated,
    HostTokenView,
    HostView,
    NewHostToken,
    Renew,
    SealedSecrets,
)
from libs.common.errors import NotFound
from libs.common.generations import PATH as GENERATIONS
from libs.common.http import Access, Request, Response, Role, Route, reply
from services.gateway.api_apps import IDEMPOTENT
from services.gateway.parts import Gateway, flag, guarded, reading, require_all

PATH = "/v1/hosts"
_NAME = re.compile(HOST_PATTERN)


def host_routes(gateway: Gateway) -> tuple[Route, ...]:
    """The public ones."""
    return (*_admin_routes(gateway), *_open_routes(gateway))


def _admin_routes(gateway: Gateway) -> tuple[Route, ...]:
    async def make(request: Request) -> Response:
        require_all(request)
        return await gateway.hosts.make_token(request, request.parse(NewHostToken))

    async def list_hosts(request: Request) -> Response:
        require_all(request)
        return reply(await gateway.hosts.listed())

    async def revoke(request: Request) -> Response:
        require_all(request)
        return await gateway.hosts.revoke_token(request, request.params["token"])

    async def remove(request: Request) -> Response:
        require_all(request)
        name, force = request.params["host"], flag(request, "force")
        if not _NAME.fullmatch(name):
            raise NotFound(f"there is no host {name!r}")
        return await gateway.hosts.remove(request, name, force)

    made = Route(
        "POST",
        f"{PATH}/tokens",
        make,
        Access.KEY,
        "Make a one-time token for a host; it is shown once",
        Role.ADMIN,
        NewHostToken,
        HostTokenCreated,
        201,
        headers=IDEMPOTENT,
    )
    end = Route(
        "DELETE", f"{PATH}/tokens/{{token}}", revoke, Access.KEY, "Revoke a host's token",
        Role.ADMIN, response=HostTokenView,
    )  # fmt: skip
    gone = Route(
        "DELETE", f"{PATH}/{{host}}", remove, Access.KEY, "Void a host's key and tokens",
        Role.ADMIN, response=HostView, query={"force": "also one that has never enrolled"},
    )  # fmt: skip
    text = "Hosts that enrolled, renewed or were removed, and their tokens"
    return (
        guarded(gateway, made, "host.token"),
        reading(gateway, PATH, list_hosts, text, Hosts, role=Role.ADMIN),
        guarded(gateway, end, "host.token-revoke"),
        guarded(gateway, gone, "host.remove"),
    )


def _open_routes(gateway: Gateway) -> tuple[Route, ...]:
    async def enrol(request: Request) -> Response:
        return await gateway.hosts.enrol(request, request.parse(Enrol))

    async def renew(request: Request) -> Response:
        return await gateway.hosts.renew(request, request.parse(Renew))

    return (
        Route(
            "POST", f"{PATH}/enrol", enrol, Access.PUBLIC,
            "Have a host's secrets for a one-time token; proven in the body",
            request=Enrol, response=SealedSecrets,
        ),
        Route(
            "POST", f"{PATH}/renew", renew, Access.PUBLIC,
            "Have a host's secrets of today for its present key; proven in the body",
            request=Renew, response=SealedSecrets,
        ),
    )  # fmt: skip


def inner_host_routes(gateway: Gateway) -> tuple[Route, ...]:
    """What the other services ask; no part of the public API."""

    async def tell(_request: Request) -> Response:
        return reply({"generations": await gateway.repository.generations()})

    return (Route("GET", GENERATIONS, tell, Access.SERVICE, "Generations of hosts' keys"),)
