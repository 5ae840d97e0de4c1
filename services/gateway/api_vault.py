"""Routes of business units' secrets and registry logins. The values go on to the deployer and are kept nowhere here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydantic import BaseModel

from libs.client.vault import (
    Registries,
    RegistryLogin,
    RegistryView,
    Secrets,
    SecretValue,
    SecretView,
)
from libs.common.http import Access, Request, Response, Role, Route, reply
from services.gateway.parts import Gateway, actor_of, flag, guarded, reading
from services.gateway.peers import DEPLOYER, with_query

SECRETS = "/v1/bus/{bu}/secrets"
REGISTRIES = "/v1/bus/{bu}/registries"


def vault_routes(gateway: Gateway) -> tuple[Route, ...]:
    """All of them, guarded."""

    async def secrets(request: Request) -> Response:
        path = f"/v1/bus/{request.params['bu']}/secrets"
        found = await gateway.peers.get(actor_of(request), DEPLOYER, path)
        return reply(Secrets.model_validate(found))

    async def registries(request: Request) -> Response:
        path = f"/v1/bus/{request.params['bu']}/registries"
        found = await gateway.peers.get(actor_of(request), DEPLOYER, path)
        return reply(Registries.model_validate(found))

    # Who may deploy may have a secret's value shown by what they deploy; nobody else needs to know of it.
    role = {"role": Role.DEPLOYER}
    return (
        reading(gateway, SECRETS, secrets, "A business unit's secrets", Secrets, **role),
        _put(gateway, f"{SECRETS}/{{secret}}", "secret", SecretValue, SecretView),
        _remove(
            gateway, f"{SECRETS}/{{secret}}", "secret", SecretView, {"force": "even if in use"}
        ),
        reading(gateway, REGISTRIES, registries, "Its registry logins", Registries, **role),
        _put(gateway, f"{REGISTRIES}/{{registry}}", "registry", RegistryLogin, RegistryView),
        _remove(gateway, f"{REGISTRIES}/{{registry}}", "registry", RegistryView, {}),
    )


def _put(
    gateway: Gateway, path: str, what: str, model: type[BaseModel], view: type[BaseModel]
) -> Route:
    async def put(request: Request) -> Response:
        request.parse(model)
        return await _through(gateway, request, f"{what}.put", what, request.path, request.body)

    text = "Write a secret's value" if what == "secret" else "Write a registry login"
    route = Route("PUT", path, put, Access.KEY, text, Role.DEPLOYER, model, view)
    return guarded(gateway, route, f"{what}.put", _target(what))


def _remove(
    gateway: Gateway, path: str, what: str, view: type[BaseModel], query: dict[str, str]
) -> Route:
    async def remove(request: Request) -> Response:
        force = {"force": "true"} if "force" in query and flag(request, "force") else None
        path = with_query(request.path, force)
        return await _through(gateway, request, f"{what}.remove", what, path, b"")

    text = "Forget a secret" if what == "secret" else "Forget a registry login"
    route = Route(
        "DELETE", path, remove, Access.KEY, text, Role.DEPLOYER, response=view, query=query
    )
    return guarded(gateway, route, f"{what}.remove", _target(what))


async def _through(
    gateway: Gateway, request: Request, action: str, what: str, path: str, body: bytes
) -> Response:
    async def perform() -> Response:
        response = await gateway.peers.ask(
            actor_of(request),
            DEPLOYER,
            request.method,
            path,
            body=body,
            request_id=request.headers.get("x-request-id", ""),
        )
        return Response(response.status, response.body)

    if body:
        # The record of an operation has a hash of its body, by which a poor password could be guessed; and the same
        # value put again changes nothing anyway.
        headers = {k: v for k, v in request.headers.items() if k != "idempotency-key"}
        request = replace(request, body=b"", headers=headers)
    return await gateway.operations.through(request, action, _target(what)(request), perform)


def _target(what: str) -> Callable[[Request], str]:
    def target(request: Request) -> str:
        return f"{request.params['bu']}/{what}/{request.params[what]}"

    return target
