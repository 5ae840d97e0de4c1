"""Routes of apps and deployments: what changes something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libs.client.model import (
    Accepted,
    Apps,
    AppView,
    Deployments,
    DeploymentView,
    Force,
    Instances,
    Plan,
    Release,
    Releases,
    Rollback,
    Scale,
    Urgent,
)
from libs.common.errors import NotFound, Unavailable
from libs.common.events.model import DeployAction
from libs.common.http import Access, Request, Response, Role, Route, reply
from libs.common.serve import segment
from libs.common.spec import AppSpec
from services.gateway.core import bu_of_target, incomplete
from services.gateway.parts import Gateway, actor_of, app_filter, app_of, guarded, reading, whole
from services.gateway.peers import DEPLOYER, SCHEDULER
from services.gateway.store import Versioned
from services.gateway.views import list_apps, list_instances

IDEMPOTENT = {"Idempotency-Key": "a fresh UUID; the same one again gets the same answer"}
APP = "/v1/apps/{bu}/{app}"
DEPLOYMENT = "/v1/deployments/{deployment}"
BUS_PATIENCE_S = 3.0  # so long the bus may take before we say that it is away


def app_routes(gateway: Gateway) -> tuple[Route, ...]:
    """All of them, guarded."""
    return (*_spec_routes(gateway), *_deploy_routes(gateway), *_deployment_routes(gateway))


# -- specs -----------------------------------------------------------------------------------------


def _spec_routes(gateway: Gateway) -> tuple[Route, ...]:
    async def put_app(request: Request) -> Response:
        request.parse(AppSpec)
        kept = ("if-match", "if-none-match")
        conditions = {name: request.headers[name] for name in kept if name in request.headers}

        async def perform() -> Response:
            response = await gateway.peers.ask(
                actor_of(request),
                DEPLOYER,
                "PUT",
                request.path,
                body=request.body,
                headers=conditions,
                request_id=request.headers.get("x-request-id", ""),
            )
            return passed_on(response)

        return await gateway.operations.through(request, "app.put", app_of(request), perform)

    async def get_app(request: Request) -> Response:
        response = await gateway.peers.ask(actor_of(request), DEPLOYER, "GET", request.path)
        return passed_on(response)

    async def all_apps(request: Request) -> Response:
        return reply(await list_apps(gateway, actor_of(request)))

    async def list_releases(request: Request) -> Response:
        part = await gateway.peers.part(actor_of(request), DEPLOYER, request.path)
        content = {"releases": part.rows("releases"), "incomplete": incomplete(part)}
        return reply(Releases.model_validate(content))

    async def list_own_instances(request: Request) -> Response:
        return reply(await list_instances(gateway, actor_of(request), app_of(request)))

    put = Route(
        "PUT",
        APP,
        put_app,
        Access.KEY,
        "Write an app's spec, whole",
        role=Role.DEPLOYER,
        request=AppSpec,
        response=AppView,
        headers={"If-Match": "the ETag of the spec that this one replaces"},
    )
    return (
        reading(gateway, "/v1/apps", all_apps, "All apps", Apps),
        guarded(gateway, put, "app.put", app_of),
        reading(gateway, APP, get_app, "An app's spec and state", AppView),
        reading(gateway, f"{APP}/releases", list_releases, "An app's releases", Releases),
        reading(gateway, f"{APP}/instances", list_own_instances, "Its instances", Instances),
    )


def passed_on(response: Response) -> Response:
    """An owner's answer as ours: status, body and ETag."""
    kept = {name: response.headers[name] for name in ("etag",) if name in response.headers}
    for name, value in response.headers.items():  # a peer in this process writes its own case
        if name.lower() == "etag":
            kept = {"etag": value}
    return Response(response.status, response.body, kept)


# -- deployments asked for -------------------------------------------------------------------------


def _deploy_routes(gateway: Gateway) -> tuple[Route, ...]:
    async def ask(request: Request, action: DeployAction, body: Force, **fields: Any) -> Response:
        app = app_of(request)
        if isinstance(body, Urgent) and body.break_glass:
            actor_of(request).require(request.params["bu"], Role.ADMIN)
            fields["break_glass"] = body.reason

        async def exists() -> object:
            path = f"/v1/apps/{app}"
            return await gateway.peers.get(actor_of(request), DEPLOYER, path)

        return await gateway.operations.deploy(
            request, app, action, exists, force=body.force, **fields
        )

    async def release(request: Request) -> Response:
        body = request.parse(Release) if request.body else Release()
        if body.dry_run:
            return await _plan(gateway, request, body)
        return await ask(request, DeployAction.RELEASE, body, image=body.image)

    async def scale(request: Request) -> Response:
        body = request.parse(Scale)
        return await ask(request, DeployAction.SCALE, body, instances=body.instances)

    async def rollback(request: Request) -> Response:
        body = request.parse(Rollback) if request.body else Rollback()
        return await ask(request, DeployAction.ROLLBACK, body, release=body.release)

    async def restart(request: Request) -> Response:
        body = request.parse(Urgent) if request.body else Urgent()
        return await ask(request, DeployAction.RESTART, body)

    async def stop(request: Request) -> Response:
        body = request.parse(Urgent) if request.body else Urgent()
        return await ask(request, DeployAction.STOP, body)

    def route(name: str, handler: Any, text: str, model: Any, action: DeployAction) -> Route:
        made = Route(
            "POST",
            f"{APP}/{name}",
            handler,
            Access.KEY,
            text,
            role=Role.DEPLOYER,
            request=model,
            response=Accepted,
            status=202,
            headers=IDEMPOTENT,
        )
        return guarded(gateway, made, f"deploy.{action}", app_of)

    return (
        route("deploys", release, "Release the spec as it stands", Release, DeployAction.RELEASE),
        route("scale", scale, "Change the number of instances", Scale, DeployAction.SCALE),
        route("rollback", rollback, "Go back to a release", Rollback, DeployAction.ROLLBACK),
        route("restart", restart, "Replace all instances", Urgent, DeployAction.RESTART),
        route("stop", stop, "Stop all instances; the app stays", Urgent, DeployAction.STOP),
    )


async def _plan(gateway: Gateway, request: Request, body: Release) -> Response:
    content = body.model_dump(
        mode="json", by_alias=True, include={"image", "spec", "force"}, exclude_none=True
    )
    response = await gateway.peers.ask(
        actor_of(request),
        DEPLOYER,
        "POST",
        f"/v1/apps/{app_of(request)}/plan",
        body=reply(content).body,
    )
    planned = response.json()
    instance = planned.pop("instance", None)
    placing = await _places(gateway, request, instance, planned) if instance else {}
    return reply(Plan.model_validate({**planned, **placing}))


async def _places(
    gateway: Gateway, request: Request, instance: Any, planned: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Where the instances would go that are made, by the scheduler; without it the plan is told all the same."""
    steps = planned.get("steps") or ()
    made = sum(step["make"] for step in steps)
    asked = {
        "app": app_of(request),
        "spec": instance,
        "count": min(made, planned.get("wanted") or made),
        "replacing": any(step["stop"] for step in steps),
    }
    try:
        answer = await gateway.peers.ask(
            actor_of(request), SCHEDULER, "POST", "/v1/plan", body=reply(asked).body
        )
    except (Unavailable, NotFound):  # an older scheduler does not know of plans
        return {"incomplete": [SCHEDULER]}
    found = answer.json()
    return {name: found[name] for name in ("places", "unplaced", "why")}


# -- deployments as they are -----------------------------------------------------------------------


def _deployment_routes(gateway: Gateway) -> tuple[Route, ...]:
    async def get_deployment(request: Request) -> Response:
        return reply(await read_deployment(gateway, request, request.params["deployment"]))

    async def list_deployments(request: Request) -> Response:
        app, limit, actor = app_filter(request), whole(request, "limit"), actor_of(request)
        query: dict[str, str | int] = {"app": app, "limit": limit}
        part = await gateway.peers.part(actor, DEPLOYER, "/v1/deployments", query)
        rows = [row for row in part.rows("deployments") if actor.sees(bu_of_target(row["app"]))]
        own = await gateway.repository.operations_on(app, limit) if app else []
        merged = [*_unknown(own, rows, limit, gateway.clock.now()), *rows][:limit]
        content = {"deployments": merged, "incomplete": incomplete(part)}
        return reply(Deployments.model_validate(content))

    def change(verb: str, text: str) -> Route:
        async def handler(request: Request) -> Response:
            return await _change(gateway, request, verb)

        made = Route(
            "POST",
            f"{DEPLOYMENT}/{verb}",
            handler,
            Access.KEY,
            text,
            role=Role.DEPLOYER,
            response=DeploymentView,
            headers=IDEMPOTENT,
        )
        return guarded(gateway, made, f"deployment.{verb}")

    page = {"app": "of this app, bu/app", "limit": "at most so many"}
    text = "Deployments, newest first"
    return (
        reading(gateway, "/v1/deployments", list_deployments, text, Deployments, query=page),
        reading(gateway, DEPLOYMENT, get_deployment, "How a deployment goes", DeploymentView),
        change("pause", "Hold a deployment where it stands"),
        change("resume", "Let a paused deployment go on"),
        change("abort", "End a deployment by going back to what was there before"),
    )


async def read_deployment(gateway: Gateway, request: Request, deployment: str) -> DeploymentView:
    """The deployment as the deployer knows it; before that, `accepted` by our own record. Raises NotFound."""
    actor = actor_of(request)
    path = f"/v1/deployments/{segment(deployment)}"
    away: Unavailable | None = None
    try:
        return DeploymentView.model_validate(await gateway.peers.get(actor, DEPLOYER, path))
    except NotFound:
        pass
    except Unavailable as error:
        away = error
    own = await gateway.repository.operation_of(deployment)
    if own is not None and actor.sees(own.operation.bu):
        missing = {"incomplete": [DEPLOYER]} if away else {}
        accepted = _accepted(own, gateway.clock.now())
        return DeploymentView.model_validate({**accepted, **missing})
    if away is not None:
        raise away
    raise NotFound(f"there is no deployment {deployment!r}")


async def _change(gateway: Gateway, request: Request, verb: str) -> Response:
    deployment = request.params["deployment"]
    known = await read_deployment(gateway, request, deployment)
    path = f"/v1/deployments/{segment(deployment)}/{verb}"

    async def perform() -> Response:
        asker = actor_of(request)
        response = await gateway.peers.ask(
            asker,
            DEPLOYER,
            "POST",
            path,
            request_id=request.headers.get("x-request-id", ""),
        )
        return passed_on(response)

    target = f"{known.app}/deployments/{deployment}"
    return await gateway.operations.through(request, f"deployment.{verb}", target, perform)


def _accepted(own: Versioned, now: float) -> Mapping[str, Any]:
    asked, waits_s = own.operation, now - own.operation.started_at
    # What was handed over besides does not wait for the bus, though its events do.
    delayed = waits_s >= BUS_PATIENCE_S and bool(own.unsent) and not asked.break_glass
    reason = "accepted; not begun yet"
    if delayed:
        reason = (
            f"accepted and kept; the event bus has not taken it for {waits_s:.0f} s, and it begins"
            " when the bus is back. Until then an admin can stop, scale, restart or roll back"
            f" {asked.target} with --break-glass --reason WHY"
        )
    return {
        "deployment": asked.deployment,
        "app": asked.target,
        "action": asked.action.removeprefix("deploy."),
        "state": "accepted",
        "actor": asked.actor,
        "created_at": asked.started_at,
        "reason": reason,
        "delayed": delayed,
    }


def _unknown(
    own: list[Versioned], rows: list[dict[str, Any]], limit: int, now: float
) -> list[Mapping[str, Any]]:
    """Those of our own that the deployer does not list, unless they may be further down its list."""
    listed = {row["deployment"] for row in rows}
    oldest = min((row.get("created_at", 0.0) for row in rows), default=0.0)
    reach = oldest if len(rows) >= limit else 0.0
    return [
        _accepted(each, now)
        for each in own
        if each.operation.deployment not in listed and each.operation.started_at >= reach
    ]
