"""The deployer's HTTP face: specs, releases, deployments, instances, plans."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import Field

from libs.common.actor import Actor
from libs.common.errors import InvalidInput, NotFound
from libs.common.events.model import DeployAction
from libs.common.http import Request, Response, Role, Route, reply
from libs.common.spec import NAME_PATTERN, AppSpec, Strict
from services.deployer.desk import Desk
from services.deployer.model import App
from services.deployer.views import (
    app_view,
    deployment_view,
    instance_view,
    plan_view,
    release_view,
)

APP = "/v1/apps/{bu}/{app}"
DEPLOYMENT = "/v1/deployments/{deployment}"
MAX_LIMIT = 1000
DEFAULT_LIMIT = 50


class PlanRequest(Strict):
    """What to plan: a release of the spec as it stands, unless said otherwise.

    With `spec` it is planned as if that one were written first; the app need not exist then.
    """

    spec: AppSpec | None = None
    action: DeployAction = DeployAction.RELEASE
    image: str | None = None
    instances: int | None = Field(None, ge=0, le=10_000)
    release: int | None = Field(None, ge=1)
    force: bool = True


def routes(desk: Desk) -> Sequence[Route]:
    """All routes."""
    return (*_app_routes(desk), *_deployment_routes(desk), *_instance_routes(desk))


def _app_routes(desk: Desk) -> Sequence[Route]:
    async def put_app(request: Request) -> Response:
        app, actor = _app_of(request, Role.DEPLOYER), Actor.of(request)
        spec = request.parse(AppSpec)
        must_be = _versions(request.headers.get("if-match", ""), "If-Match")
        fresh = request.headers.get("if-none-match", "").strip() == "*"
        request_id = request.headers.get("x-request-id", "")
        after, created = await desk.put_app(app, spec, actor, must_be, fresh, request_id)
        return reply(app_view(after), 201 if created else 200, _etag(after))

    async def get_app(request: Request) -> Response:
        app = await desk.app(_app_of(request))
        return reply(app_view(app), headers=_etag(app))

    async def list_apps(request: Request) -> Response:
        actor = Actor.of(request)
        bu = request.query.get("bu", "") or ("" if actor.bu == "*" else actor.bu)
        apps = await desk.repo.list_apps(bu)
        return reply({"apps": [app_view(each) for each in apps if actor.sees(each.bu)]})

    async def list_releases(request: Request) -> Response:
        app = await desk.app(_app_of(request))
        releases = await desk.repo.list_releases(app.id, _limit(request))
        return reply({"releases": [release_view(each, app) for each in releases]})

    async def make_plan(request: Request) -> Response:
        name = _app_of(request)
        asked = request.parse(PlanRequest) if request.body else PlanRequest()
        spec = asked.spec
        app = await desk.app_with(name, spec) if spec is not None else await desk.app(name)
        image, plan = await desk.plan(
            app, asked.action, asked.image, asked.instances, asked.release, asked.force
        )
        return reply(plan_view(app, plan, image))

    match = {"If-Match": "the ETag of the spec that this one replaces"}
    return (
        Route("PUT", APP, put_app, summary="Write an app's spec", request=AppSpec, headers=match),
        Route("GET", APP, get_app, summary="An app's spec and state"),
        Route("GET", "/v1/apps", list_apps, summary="Apps", query={"bu": "of this BU"}),
        Route("GET", f"{APP}/releases", list_releases, summary="Releases, newest first"),
        Route("POST", f"{APP}/plan", make_plan, summary="A dry run", request=PlanRequest),
    )


def _deployment_routes(desk: Desk) -> Sequence[Route]:
    async def list_deployments(request: Request) -> Response:
        actor, app = Actor.of(request), request.query.get("app", "")
        if app:
            actor.require(app.partition("/")[0], Role.VIEWER)
        bu = "" if actor.bu == "*" else actor.bu
        found = await desk.deployments.list(app, _limit(request), bu)
        seen = [each for each in found if actor.sees(each.app.partition("/")[0])]
        return reply({"deployments": [deployment_view(each) for each in seen]})

    async def get_deployment(request: Request) -> Response:
        found = await desk.deployments.find(request.params["deployment"])
        if not Actor.of(request).sees(found.app.partition("/")[0]):
            raise NotFound(f"there is no deployment {found.id!r}")
        return reply(deployment_view(found))

    async def pause(request: Request) -> Response:
        return reply(deployment_view(await desk.pause(_id(request), Actor.of(request))))

    async def resume(request: Request) -> Response:
        return reply(deployment_view(await desk.resume(_id(request), Actor.of(request))))

    async def abort(request: Request) -> Response:
        return reply(deployment_view(await desk.abort(_id(request), Actor.of(request))))

    query = {"app": "of this app, bu/app", "limit": f"at most so many, up to {MAX_LIMIT}"}
    return (
        Route("GET", "/v1/deployments", list_deployments, summary="Newest first", query=query),
        Route("GET", DEPLOYMENT, get_deployment, summary="How a deployment goes"),
        Route("POST", f"{DEPLOYMENT}/pause", pause, summary="Hold it where it stands"),
        Route("POST", f"{DEPLOYMENT}/resume", resume, summary="Let it go on"),
        Route("POST", f"{DEPLOYMENT}/abort", abort, summary="Go back to what was there before"),
    )


def _instance_routes(desk: Desk) -> Sequence[Route]:
    async def list_instances(request: Request) -> Response:
        actor = Actor.of(request)
        app, bu = request.query.get("app", ""), request.query.get("bu", "")
        if app or bu:
            actor.require(bu or app.partition("/")[0], Role.VIEWER)
        found = await desk.repo.list_instances(app, bu)
        gone = request.query.get("gone", "") in ("1", "true")
        now = desk.now()
        rows = [
            instance_view(each, now)
            for each in found
            if actor.sees(each.app.partition("/")[0]) and (gone or each.state != "gone")
        ]
        return reply({"instances": rows})

    query = {
        "app": "of this app, bu/app",
        "bu": "of this business unit",
        "gone": "1: also those that ended lately",
    }
    return (Route("GET", "/v1/instances", list_instances, summary="Instances", query=query),)


# -- reading requests ------------------------------------------------------------------------------


def _app_of(request: Request, role: Role = Role.VIEWER) -> str:
    """The app of the path, which the actor may see, or change."""
    bu, app = request.params["bu"], request.params["app"]
    for field, value in (("bu", bu), ("app", app)):
        if not re.fullmatch(NAME_PATTERN, value):
            text = "not a name: lower-case letters, digits and -, at most 40"
            raise InvalidInput.of(field, text, NAME_PATTERN)
    Actor.of(request).require(bu, role)
    return f"{bu}/{app}"


def _id(request: Request) -> str:
    return request.params["deployment"]


def _etag(app: App) -> Mapping[str, str]:
    return {"ETag": f'"{app.spec_version}"'}


def _versions(header: str, name: str) -> frozenset[int] | None:
    """The versions that a precondition allows; None for any."""
    if not header or header.strip() == "*":
        return frozenset() if header else None
    found = [re.fullmatch(r'(?:W/)?"?(\d+)"?', part.strip()) for part in header.split(",")]
    if not all(found):
        raise InvalidInput.of(name, "not an ETag of an app's spec", '"3"')
    return frozenset(int(each.group(1)) for each in found if each)


def _limit(request: Request) -> int:
    text = request.query.get("limit", "")
    if not text:
        return DEFAULT_LIMIT
    if not text.isdecimal() or not 1 <= int(text) <= MAX_LIMIT:
        raise InvalidInput.of("limit", "not a number in range", f"1 to {MAX_LIMIT}")
    return int(text)
