"""The gateway's deployer in memory: answers as the real one does to what the gateway asks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from libs.common.actor import Actor
from libs.common.bus.base import Bus
from libs.common.clock import Clock
from libs.common.direct import INBOX
from libs.common.errors import Conflict, NotFound, Stale, Unavailable
from libs.common.events import Envelope, Event, seal, to_record
from libs.common.events import model as ev
from libs.common.http import Handler, Request, Response, Role, Route, reply
from libs.common.spec import AppSpec, InstanceSpec

ENDED = ("succeeded", "failed", "aborted")


@dataclass
class FakeDeployer:
    """Apps, deployments and instances. `away` makes it unreachable, `deaf` lets events wait unheard."""

    bus: Bus
    clock: Clock
    away: bool = False
    deaf: bool = False
    slow: bool = False  # leaves a deployment rolling
    silent: bool = False  # its events are for later
    apps: dict[str, dict[str, Any]] = field(default_factory=dict)
    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    instances: dict[str, dict[str, Any]] = field(default_factory=dict)
    heard: list[ev.DeployRequested] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    sequence: int = 0
    vault: Sequence[Route] = ()  # the real one's, on a store in memory
    inbox: Handler | None = None

    def routes(self) -> list[Route]:
        """As the real one's."""
        app, deployment = "/v1/apps/{bu}/{app}", "/v1/deployments/{id}"
        return [
            Route("PUT", app, self._up(self.put_app)),
            Route("GET", app, self._up(self.get_app)),
            Route("GET", "/v1/apps", self._up(self.list_apps)),
            Route("GET", f"{app}/releases", self._up(self.releases)),
            Route("POST", f"{app}/plan", self._up(self.plan)),
            Route("GET", "/v1/deployments", self._up(self.list_deployments)),
            Route("GET", deployment, self._up(self.get_deployment)),
            *(
                Route("POST", f"{deployment}/{verb}", self._up(self.change))
                for verb in ("pause", "resume", "abort")
            ),
            Route("GET", "/v1/instances", self._up(self.list_instances)),
            *(replace(each, handler=self._up(each.handler)) for each in self.vault),
            Route("PUT", INBOX, self._up(self.take)),
        ]

    def _up(self, handler: Any) -> Any:
        async def checked(request: Request) -> Response:
            if self.away:
                raise Unavailable("the deployer's store is away")
            return await handler(request)  # type: ignore[no-any-return]

        return checked

    async def put_app(self, request: Request) -> Response:
        name = f"{request.params['bu']}/{request.params['app']}"
        Actor.of(request).require(request.params["bu"], Role.DEPLOYER)
        self.request_ids.append(request.headers.get("x-request-id", ""))
        spec = request.parse(AppSpec)
        known = self.apps.get(name)
        wanted = request.headers.get("if-match", "").strip('"')
        if wanted and (known is None or wanted != str(known["version"])):
            raise Stale(f"{name} is at version {known['version'] if known else 0}")
        version = known["version"] + 1 if known else 1
        kept = known or {"release": None, "wanted": 0, "deployment": None}
        self.apps[name] = {
            **kept,
            "app": name,
            "version": version,
            "spec": spec.model_dump(mode="json", by_alias=True),
        }
        status = 200 if known else 201
        return reply(self.apps[name], status, {"ETag": f'"{version}"'})

    async def get_app(self, request: Request) -> Response:
        app = self._app(request)
        return reply(app, headers={"ETag": f'"{app["version"]}"'})

    async def list_apps(self, request: Request) -> Response:
        bu = request.query.get("bu", "")
        return reply({"apps": [a for a in self.apps.values() if of_unit(a["app"], bu)]})

    async def releases(self, request: Request) -> Response:
        app = self._app(request)
        made = [
            {"release": n, "image": _pinned(app["spec"]["image"]), "actor": "x", "created_at": 1.0}
            for n in range(app["release"] or 0, 0, -1)
        ]
        return reply({"releases": made})

    async def plan(self, request: Request) -> Response:
        asked = orjson.loads(request.body or b"{}")
        if "spec" in asked:
            name = f"{request.params['bu']}/{request.params['app']}"
            app = {"app": name, "release": None, "wanted": 0, **self.apps.get(name, {})}
            app["spec"] = AppSpec.model_validate(asked["spec"]).model_dump(mode="json")
        else:
            app = self._app(request)
        spec = AppSpec.model_validate(app["spec"])
        return reply(
            {
                "app": app["app"],
                "steps": [{"make": spec.instances, "stop": app["wanted"], "old": 0, "new": 0}],
                "instance": InstanceSpec.of(spec, spec.image).model_dump(
                    mode="json", exclude={"env", "secrets"}
                ),
                "wanted": spec.instances,
                "release": (app["release"] or 0) + 1,
                "image": asked.get("image", app["spec"]["image"]),
                "start": app["spec"]["instances"],
                "stop": app["wanted"],
            }
        )

    async def list_deployments(self, request: Request) -> Response:
        actor, app = Actor.of(request), request.query.get("app", "")
        found = [
            each
            for each in reversed(self.deployments.values())
            if app in ("", each["app"]) and actor.sees(each["app"].partition("/")[0])
        ]
        return reply({"deployments": found[: int(request.query.get("limit", "100"))]})

    async def get_deployment(self, request: Request) -> Response:
        return reply(self._deployment(request))

    async def change(self, request: Request) -> Response:
        deployment = self._deployment(request)
        Actor.of(request).require(deployment["app"].partition("/")[0], Role.DEPLOYER)
        verb = request.path.rpartition("/")[2]
        moves = {("rolling", "pause"): "paused", ("paused", "resume"): "rolling"}
        moves |= {(state, "abort"): "aborted" for state in ("rolling", "paused")}
        state = moves.get((deployment["state"], verb))
        if state is None:
            raise Conflict(f"a deployment that is {deployment['state']} can't be {verb}d")
        deployment["state"] = state
        return reply(deployment)

    async def list_instances(self, request: Request) -> Response:
        app, bu = request.query.get("app", ""), request.query.get("bu", "")
        found = [
            each
            for each in self.instances.values()
            if app in ("", each["app"]) and of_unit(each["app"], bu)
        ]
        return reply({"instances": found})

    def _app(self, request: Request) -> dict[str, Any]:
        name = f"{request.params['bu']}/{request.params['app']}"
        if not Actor.of(request).sees(request.params["bu"]) or name not in self.apps:
            raise NotFound(f"there is no app {name!r}")
        return self.apps[name]

    def _deployment(self, request: Request) -> dict[str, Any]:
        found = self.deployments.get(request.params["id"])
        if found is None or not Actor.of(request).sees(found["app"].partition("/")[0]):
            raise NotFound(f"there is no deployment {request.params['id']!r}")
        return found

    async def take(self, request: Request) -> Response:
        """The real inbox, whatever `deaf` says of the bus."""
        assert self.inbox is not None
        deaf, self.deaf = self.deaf, False
        try:
            return await self.inbox(request)
        finally:
            self.deaf = deaf

    # -- events ----------------------------------------------------------------------------------

    async def on_requested(self, event: ev.DeployRequested, envelope: Envelope) -> None:
        """Carry the deployment out."""
        if self.deaf:
            raise Unavailable("deaf")
        if event.deployment in self.deployments:
            return
        self.heard.append(event)
        app = self.apps[event.app]
        self.deployments[event.deployment] = {
            "deployment": event.deployment,
            "app": event.app,
            "action": event.action.value,
            "state": "rolling",
            "release": app["release"],
            "counts": None,
            "reason": "",
            "created_at": envelope.time,
        }
        if self.slow:
            app["deployment"] = {"id": event.deployment, "state": "rolling"}
            return
        image = event.image or app["spec"]["image"]
        if "missing" in image:
            await self._end(event, "failed", f"the image {image} does not exist")
            return
        await self._carry_out(event, app)

    async def _carry_out(self, event: ev.DeployRequested, app: dict[str, Any]) -> None:
        release = app["release"] or 0
        new_ones = event.action in (ev.DeployAction.RELEASE, ev.DeployAction.RESTART)
        if event.action is ev.DeployAction.RELEASE:
            release += 1
        if event.action is ev.DeployAction.ROLLBACK:
            release, new_ones = event.release or release - 1, True
        wanted = {
            ev.DeployAction.RELEASE: app["spec"]["instances"],
            ev.DeployAction.SCALE: event.instances,
            ev.DeployAction.STOP: 0,
        }.get(event.action, app["wanted"])
        mine = [i for i, each in self.instances.items() if each["app"] == event.app]
        for instance in mine if new_ones else mine[wanted:]:
            del self.instances[instance]
        kept = 0 if new_ones else min(len(mine), wanted)
        for n in range(kept, wanted):
            await self._start(event, release, n)
        app.update(release=release, wanted=wanted)
        self.deployments[event.deployment]["release"] = release
        await self._end(event, "succeeded", "")

    async def _start(self, event: ev.DeployRequested, release: int, n: int) -> None:
        instance = f"{event.app.replace('/', '-')}-{event.deployment[-4:]}{n:03d}"
        where = {"agent": "agent-1", "hostname": "host-1"}
        container = f"gantry-test-{instance}.1"
        of = {"instance": instance, "app": event.app, "attempt": f"{instance}.1", **where}
        address = f"10.1.0.{n + 1}"
        await self.tell(
            ev.OfferAccepted(offer="o-1", cpus=0.1, mem_mib=64, **of),
            ev.ContainerStarted(container=container, address=address, **of),
            ev.ContainerHealthy(container=container, address=address, **of),
        )
        self.instances[instance] = {
            "instance": instance,
            "app": event.app,
            "release": release,
            "state": "healthy",
            "container": container,
            "address": address,
            "healthy": True,
            "waiting": "",
            **where,
        }

    async def _end(self, event: ev.DeployRequested, state: str, reason: str) -> None:
        deployment = self.deployments[event.deployment]
        deployment.update(state=state, reason=reason)
        kind = ev.DeploySucceeded if state == "succeeded" else ev.DeployFailed
        wanted = self.apps[event.app]["wanted"]
        counts = ev.Counts(wanted=wanted, new=wanted, started=wanted, healthy=wanted, ready=wanted)
        deployment["counts"] = counts.model_dump()
        await self.tell(
            kind(
                deployment=event.deployment,
                app=event.app,
                release=deployment["release"] or 0,
                state=state,
                counts=counts,
                reason=reason,
            )
        )

    async def tell(self, *events: Event) -> None:
        """Publish events as their owners would."""
        self.sequence += 1
        if self.silent:
            return
        sealed = seal(events, source="fake", sequence=self.sequence, now=self.clock.now())
        await self.bus.publish([to_record(each) for each in sealed])


def of_unit(app: str, bu: str) -> bool:
    return bu in ("", "*", app.partition("/")[0])


def _pinned(image: str) -> str:
    return f"{image.partition('@')[0]}@sha256:{hashlib.sha256(image.encode()).hexdigest()}"
