"""The services that the gateway asks, in memory: real `HttpApp`s that check tokens and actors as the real ones do.

They answer in the shapes of the real ones' `api.py`. The deployer hears of deployments by `deploy.requested` and
carries them out at once, with the events that the real ones publish on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from libs.common.actor import Actor
from libs.common.bus.base import Bus
from libs.common.clock import Clock
from libs.common.errors import Conflict, NotFound, Stale, Unavailable
from libs.common.events import Envelope, Event, seal, to_record
from libs.common.events import model as ev
from libs.common.http import Authenticator, HttpApp, Kind, Request, Response, Role, Route, reply
from libs.common.spec import AppSpec
from libs.common.tokens import TokenVerifier, derive_key
from services.hostd.auth import OwnKeyVerifier

ENDED = ("succeeded", "failed", "aborted")


@dataclass
class FakeDeployer:
    """Apps, deployments and instances. `away` makes it unreachable, `deaf` lets events wait unheard."""

    bus: Bus
    clock: Clock
    away: bool = False
    deaf: bool = False
    slow: bool = False  # leaves a deployment rolling
    apps: dict[str, dict[str, Any]] = field(default_factory=dict)
    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    instances: dict[str, dict[str, Any]] = field(default_factory=dict)
    heard: list[ev.DeployRequested] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    sequence: int = 0

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
        return reply({"apps": [a for a in self.apps.values() if _of(a["app"], bu)]})

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
        return reply(
            {
                "app": app["app"],
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
            if app in ("", each["app"]) and _of(each["app"], bu)
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
        sealed = seal(events, source="fake", sequence=self.sequence, now=self.clock.now())
        await self.bus.publish([to_record(each) for each in sealed])


def _of(app: str, bu: str) -> bool:
    return bu in ("", "*", app.partition("/")[0])


def _pinned(image: str) -> str:
    return f"{image.partition('@')[0]}@sha256:{hashlib.sha256(image.encode()).hexdigest()}"


@dataclass
class FakeOthers:
    """Scheduler, ipam, monitor and a host's hostd. Names in `away` are unreachable."""

    deployer: FakeDeployer
    hostd_url: str = ""
    away: set[str] = field(default_factory=set)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    networks: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"network": "blue", "vlan": 100, "cidr": "10.1.0.0/24", "bus": [], "free": 250},
            {"network": "secret", "vlan": 200, "cidr": "10.2.0.0/24", "bus": ["other"], "free": 9},
        ]
    )
    log_lines: int = 3

    def routes(self, service: str) -> list[Route]:
        """The routes of one of them."""
        table: dict[str, dict[str, Any]] = {
            "scheduler": {"/v1/instances": self.instances, "/v1/agents": self.agents},
            "monitor": {"/v1/nodes": self.nodes, "/v1/alerts": self.list_alerts},
            "ipam": {"/v1/networks": self.list_networks, "/v1/networks/{network}": self.network},
            "hostd": {"/v1/containers/{container}/logs": self.logs},
        }

        def up(handler: Any) -> Any:
            async def checked(request: Request) -> Response:
                if service in self.away:
                    raise Unavailable(f"{service} is away")
                return await handler(request)  # type: ignore[no-any-return]

            return checked

        return [Route("GET", path, up(handler)) for path, handler in table[service].items()]

    async def instances(self, request: Request) -> Response:
        app = request.query.get("app", "")
        rows = [
            {
                **{name: each[name] for name in ("instance", "app", "release", "agent")},
                "state": "running",
                "hostname": each["hostname"],
                "cpus": 0.1,
                "mem_mib": 64,
                "waiting": "",
            }
            for each in self.deployer.instances.values()
            if app in ("", each["app"])
        ]
        return reply({"instances": rows})

    async def agents(self, _request: Request) -> Response:
        return reply({"agents": [self._agent()]})

    def _agent(self) -> dict[str, Any]:
        n = len(self.deployer.instances)
        return {
            "agent": "agent-1",
            "hostname": "host-1",
            "attributes": {"zone": "a", "hostd": self.hostd_url},
            "instances": n,
            "reserved_cpus": 0.1 * n,
            "reserved_mem_mib": 64 * n,
            "offered_cpus": 8.0 - 0.1 * n,
            "offered_mem_mib": 8192 - 64 * n,
        }

    async def nodes(self, _request: Request) -> Response:
        node = {
            "agent": "agent-1",
            "hostname": "host-1",
            "state": "up",
            "attributes": {"zone": "a", "class": "thin", "hostd": self.hostd_url},
            "cpus": 8.0,
            "mem_mib": 8192.0,
            "used_cpus": 0.5,
            "used_mem_mib": 512.0,
        }
        return reply({"nodes": [node]})

    async def list_alerts(self, request: Request) -> Response:
        state = request.query.get("state", "")
        return reply({"alerts": [a for a in self.alerts if state in ("", a["state"])]})

    async def list_networks(self, _request: Request) -> Response:
        return reply({"networks": self.networks})

    async def network(self, request: Request) -> Response:
        for each in self.networks:
            if each["network"] == request.params["network"]:
                return reply(each)
        raise NotFound(f"there is no network {request.params['network']!r}")

    async def logs(self, request: Request) -> Response:
        container = request.params["container"]
        if not container.startswith("gantry-test-"):
            raise NotFound(f"there is no container {container!r}")

        async def lines() -> AsyncIterator[bytes]:
            tail = int(request.query.get("tail", "100"))
            for n in range(max(0, self.log_lines - tail), self.log_lines):
                line = {"time": 1.5 + n, "stream": "stdout", "line": f"line {n} of {container}"}
                yield orjson.dumps(line) + b"\n"

        return Response(200, b"", content_type="application/x-ndjson", stream=lines())


def make_apps(
    deployer: FakeDeployer, others: FakeOthers, secret: bytes, clock: Clock
) -> dict[str, HttpApp]:
    """All of them as apps, by service name."""

    def app(routes: Iterable[Route], verify: Authenticator) -> HttpApp:
        return HttpApp(list(routes), verify, monotonic=clock.monotonic)

    verify = TokenVerifier(secret, clock)
    own_key = OwnKeyVerifier("host-1", derive_key(secret, Kind.HOST, "host-1"), clock)
    made = {name: app(others.routes(name), verify) for name in ("scheduler", "ipam", "monitor")}
    return {
        "deployer": app(deployer.routes(), verify),
        "hostd": app(others.routes("hostd"), own_key),
        **made,
    }
