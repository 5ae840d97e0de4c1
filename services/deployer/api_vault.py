"""The vault's HTTP face: secrets and registry logins of business units, and what hosts are told of their attempts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from libs.client.vault import REGISTRY_PATTERN, RegistryLogin, RegistryView, SecretValue, SecretView
from libs.common.actor import Actor
from libs.common.errors import Conflict, Forbidden, InvalidInput, NotFound
from libs.common.http import (
    Access,
    Kind,
    Request,
    Response,
    Role,
    Route,
    ServiceClient,
    call_json,
    reply,
)
from libs.common.serve import segment
from libs.common.spec import NAME_PATTERN
from services.deployer import entries as kept
from services.deployer.delivery import Deliveries
from services.deployer.entries import Entry
from services.deployer.registry import Login, registry_name
from services.deployer.store import Repository
from services.deployer.vault import Vault

SECRETS = "/v1/bus/{bu}/secrets"
REGISTRIES = "/v1/bus/{bu}/registries"


def routes(repo: Repository, vault: Vault, peers: ServiceClient) -> Sequence[Route]:
    """What the gateway asks for people."""
    return (*_secret_routes(repo, vault, peers), *_registry_routes(vault))


def host_routes(deliveries: Deliveries) -> Sequence[Route]:
    """What hosts ask."""

    async def deliver(request: Request) -> Response:
        host = request.principal
        if host.kind is not Kind.HOST:
            raise Forbidden("only a host is told what an attempt of its own needs")
        return reply(await deliveries.of_attempt(host.name, request.params["attempt"]))

    path, text = (
        "/v1/attempts/{attempt}/delivery",
        "What an attempt on the asking host needs, sealed",
    )
    return (Route("GET", path, deliver, Access.HOST, text),)


def _secret_routes(repo: Repository, vault: Vault, peers: ServiceClient) -> Sequence[Route]:
    async def put(request: Request) -> Response:
        bu, actor, name = *_of(request), _secret(request)
        value = request.parse(SecretValue)
        return reply(secret_view(await vault.put_secret(bu, name, value.content, actor)))

    async def list_all(request: Request) -> Response:
        bu, _ = _of(request)
        found = await vault.list(bu, kept.Kind.SECRET)
        return reply({"secrets": [secret_view(each) for each in found]})

    async def remove(request: Request) -> Response:
        bu, actor, name = *_of(request), _secret(request)
        if request.query.get("force") != "true":
            users = [*await _apps_with(repo, bu, name), *await _jobs_with(peers, bu, name)]
            if users:
                them = ", ".join(users[:5]) + (", …" if len(users) > 5 else "")
                raise Conflict(
                    f"secret {name!r} is named by {them}; their next attempts would fail"
                )
        return reply(secret_view(await vault.remove(bu, kept.Kind.SECRET, name, actor)))

    one = f"{SECRETS}/{{secret}}"
    return (
        Route("PUT", one, put, summary="A secret's value", request=SecretValue),
        Route("GET", SECRETS, list_all, summary="Secrets, without values"),
        Route("DELETE", one, remove, summary="Forget one", query={"force": "even if it is named"}),
    )


def _registry_routes(vault: Vault) -> Sequence[Route]:
    async def put(request: Request) -> Response:
        bu, actor, registry = *_of(request), _registry(request)
        given = request.parse(RegistryLogin)
        login = Login(given.user, given.password)
        return reply(registry_view(await vault.put_login(bu, registry, login, actor)))

    async def list_all(request: Request) -> Response:
        bu, _ = _of(request)
        found = await vault.list(bu, kept.Kind.REGISTRY)
        return reply({"registries": [registry_view(each) for each in found]})

    async def remove(request: Request) -> Response:
        bu, actor, registry = *_of(request), _registry(request)
        return reply(registry_view(await vault.remove(bu, kept.Kind.REGISTRY, registry, actor)))

    one = f"{REGISTRIES}/{{registry}}"
    return (
        Route("PUT", one, put, summary="A registry login", request=RegistryLogin),
        Route("GET", REGISTRIES, list_all, summary="Registry logins, without passwords"),
        Route("DELETE", one, remove, summary="Forget one"),
    )


def secret_view(entry: Entry) -> SecretView:
    """A secret as it is shown."""
    return SecretView.model_validate(entry.model_dump(exclude={"boxes", "sealed_by"}))


def registry_view(entry: Entry) -> RegistryView:
    """A login as it is shown."""
    shown = entry.model_dump(exclude={"boxes", "sealed_by"})
    return RegistryView.model_validate({**shown, "registry": entry.name})


async def _apps_with(repo: Repository, bu: str, secret: str) -> list[str]:
    """Apps whose spec, or a release that runs or is to run, names the secret."""
    found: list[str] = []
    for app in await repo.list_apps(bu):
        running = app.deployment
        numbers = {app.release, running.goal.release if running else None} - {None}
        releases = [await repo.release(app.id, number) for number in sorted(filter(None, numbers))]
        specs = [app.spec, *(each.spec for each in releases if each is not None)]
        if any(ref.name == secret for spec in specs for ref in spec.secrets):
            found.append(app.id)
    return found


async def _jobs_with(peers: ServiceClient, bu: str, secret: str) -> list[str]:
    """Jobs that name the secret. Raises Unavailable when the scheduler can't be asked."""
    try:
        answer = await call_json(peers, "scheduler", "GET", f"/v1/jobs?bu={segment(bu)}")
    except NotFound:  # an older scheduler has no jobs
        return []
    named = {job["job"]: job["spec"].get("secrets", ()) for job in answer["jobs"]}
    return [f"job {job}" for job, refs in named.items() if any(r["name"] == secret for r in refs)]


# -- reading requests ------------------------------------------------------------------------------


def _of(request: Request) -> tuple[str, Actor]:
    """The business unit, and who may deploy in it."""
    bu, actor = request.params["bu"], Actor.of(request)
    if not re.fullmatch(NAME_PATTERN, bu):
        raise InvalidInput.of("bu", "not a name", NAME_PATTERN)
    actor.require(bu, Role.DEPLOYER)
    return bu, actor


def _secret(request: Request) -> str:
    name = request.params["secret"]
    if not re.fullmatch(NAME_PATTERN, name):
        text = "not a name: lower-case letters, digits and -, at most 40"
        raise InvalidInput.of("secret", text, NAME_PATTERN)
    return name


def _registry(request: Request) -> str:
    host = request.params["registry"]
    if not re.fullmatch(REGISTRY_PATTERN, host):
        raise InvalidInput.of("registry", "not a registry's host[:port]", "registry.example:5000")
    return registry_name(host)
