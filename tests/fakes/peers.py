"""The services that the gateway asks, in memory: real `HttpApp`s that check tokens and actors as the real ones do.

They answer in the shapes of the real ones' `api.py`. The deployer hears of deployments by `deploy.requested` and
carries them out at once, with the events that the real ones publish on the way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from libs.common.actor import Actor
from libs.common.clock import Clock
from libs.common.errors import Conflict, NotFound, Unavailable
from libs.common.http import (
    Authenticator,
    Dispatcher,
    HttpApp,
    Kind,
    Request,
    Response,
    Role,
    Route,
    problem,
    reply,
)
from libs.common.spec import InstanceSpec
from libs.common.tokens import TokenVerifier, derive_key
from services.hostd.auth import OwnKeyVerifier
from tests.fakes.deployer import FakeDeployer
from tests.fakes.jobs import FakeJobs


@dataclass
class FakeOthers:
    """Scheduler, monitor and a host's hostd. Names in `away` are unreachable, that of the real ipam, too."""

    deployer: FakeDeployer
    jobs: FakeJobs
    hostd_url: str = ""
    away: set[str] = field(default_factory=set)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    log_lines: int = 3
    outputs: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # (container, run)
    growing: dict[str, asyncio.Queue[str | None]] = field(default_factory=dict)  # by run; None ends
    looks: Counter[str] = field(default_factory=Counter)  # at numbers, by container
    findings: list[dict[str, str]] = field(default_factory=list)  # of host-1's network
    unknown_tasks: list[str] = field(default_factory=list)
    doors: dict[str, dict[str, Any]] = field(default_factory=dict)  # of hosts, as they were asked
    subscribed: bool = True  # else Mesos has removed the framework
    why: dict[str, Any] | None = None  # no instance is placed

    def routes(self, service: str) -> list[Route]:
        """The routes of one of them."""
        table: dict[str, dict[str, Any]] = {
            "scheduler": {
                "/v1/instances": self.instances,
                "/v1/agents": self.agents,
                "/v1/status": self.status,
                "/v1/plan": self.plan,
                "/v1/breaker/release": self.release_breaker,
                "/v1/nodes/{host}": self.set_door,
                "/v1/framework/reregister": self.reregister,
            },
            "monitor": {"/v1/nodes": self.nodes, "/v1/alerts": self.list_alerts},
            "hostd": {
                "/v1/containers/{container}/logs": self.logs,
                "/v1/containers/{container}/runs/{run}/output": self.output,
                "/v1/containers/{container}/stats": self.stats,
                "/v1/doctor": self.doctor,
            },
        }

        def up(handler: Any) -> Any:
            async def checked(request: Request) -> Response:
                if service in self.away:
                    raise Unavailable(f"{service} is away")
                return await handler(request)  # type: ignore[no-any-return]

            return checked

        def method(path: str) -> str:
            if path.endswith("{host}"):
                return "PUT"
            return "POST" if path.endswith(("/release", "/plan", "/reregister")) else "GET"

        own = [Route(method(path), path, up(handler)) for path, handler in table[service].items()]
        if service == "scheduler":
            own += [replace(each, handler=up(each.handler)) for each in self.jobs.routes()]
        return own

    async def status(self, _request: Request) -> Response:
        held = sorted(self.unknown_tasks)
        return reply(
            {
                "breaker_open": bool(held),
                "unknown_tasks": held,
                "framework": "f1" if self.subscribed else "f0",
                "subscribed": self.subscribed,
                "framework_removed": not self.subscribed,
                "alarm": "" if self.subscribed else "Mesos: Framework has been removed",
            }
        )

    async def reregister(self, request: Request) -> Response:
        if self.subscribed:
            raise Conflict("Mesos has not removed the framework")
        self.subscribed = True
        return reply((await self.status(request)).json(), 202)

    async def release_breaker(self, request: Request) -> Response:
        if not self.unknown_tasks:
            raise Conflict("the breaker is not open")
        self.unknown_tasks.clear()
        return await self.status(request)

    async def set_door(self, request: Request) -> Response:
        """Every instance of acme's is on every host."""
        Actor.of(request).require("*", Role.ADMIN)
        host, asked = request.params["host"], orjson.loads(request.body)
        left = {"acme/web": 2, "beta/api": 1} if asked["door"] == "draining" else {}
        self.doors[host] = {**asked, "hostname": host, "by": Actor.of(request).name, "left": left}
        return reply(self.doors[host])

    async def plan(self, request: Request) -> Response:
        """One host with room for five; the request must be one that the scheduler takes."""
        asked = orjson.loads(request.body)
        InstanceSpec.model_validate(asked["spec"])
        fits = min(asked["count"], 5)
        nearest = "1 of 1 agent would do, none of them has the memory (64 MiB): the most is 0 MiB"
        why = {"agents": 1, "failed": {"mem": 1}, "nearest": nearest}
        return reply(
            {
                "places": [{"agent": "agent-1", "hostname": "host-1", "zone": "a", "count": fits}],
                "unplaced": asked["count"] - fits,
                "why": why if asked["count"] > fits else None,
                "agents": 1,
            }
        )

    async def instances(self, request: Request) -> Response:
        app = request.query.get("app", "")
        rows = [
            {
                **{name: each[name] for name in ("instance", "app", "release", "agent")},
                "state": "running",
                "hostname": each["hostname"],
                "cpus": 0.1,
                "mem_mib": 64,
                "waiting": f"not placed: {self.why['nearest']}" if self.why else "",
                "why": self.why,
            }
            for each in self.deployer.instances.values()
            if app in ("", each["app"])
        ]
        return reply({"instances": rows})

    async def agents(self, _request: Request) -> Response:
        return reply({"agents": [self._agent()], "nodes": list(self.doors.values())})

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

    async def doctor(self, _request: Request) -> Response:
        content = {"host": "host-1", "at": 5.0, "attachments": 3, "findings": self.findings}
        return reply(content)

    async def logs(self, request: Request) -> Response:
        container = request.params["container"]
        if not container.startswith("gantry-"):
            raise NotFound(f"there is no container {container!r}")

        async def lines() -> AsyncIterator[bytes]:
            tail = int(request.query.get("tail", "100"))
            for n in range(max(0, self.log_lines - tail), self.log_lines):
                line = {"time": 1.5 + n, "stream": "stdout", "line": f"line {n} of {container}"}
                yield orjson.dumps(line) + b"\n"

        return Response(200, b"", content_type="application/x-ndjson", stream=lines())

    async def output(self, request: Request) -> Response:
        """Lines of runs in shared containers; the last says whether it was followed, or else more come."""
        known = self.outputs.get((request.params["container"], request.params["run"]))
        if known is None:
            raise NotFound("it does not run in there")

        async def lines() -> AsyncIterator[bytes]:
            followed = request.query.get("follow")
            more = self.growing.get(request.params["run"])
            for each in known if more is not None else (*known, f"follow={followed}"):
                yield told(each)
            while more is not None and followed == "1" and (line := await more.get()) is not None:
                yield told(line)

        def told(line: str) -> bytes:
            return orjson.dumps({"time": "", "stream": "output", "line": line}) + b"\n"

        return Response(200, b"", content_type="application/x-ndjson", stream=lines())

    async def stats(self, request: Request) -> Response:
        """Half a processor is used, and a second passes with each look."""
        container = request.params["container"]
        if not container.startswith("gantry-test-"):
            raise NotFound(f"there is no container {container!r}")
        self.looks[container] += 1
        looks = self.looks[container]
        numbers = {"cpu_ns": looks * 500_000_000, "mem_bytes": 12 * 2**20, "pids": 3}
        network = {"rx_bytes": 2048, "tx_bytes": 3 * 2**20, "rx_packets": 7, "tx_packets": 9}
        content = {"at": 1000.0 + looks, **numbers, "mem_limit_bytes": 64 * 2**20}
        return reply({**content, "network": {**network, "rx_dropped": 0, "tx_dropped": 1}})


@dataclass(frozen=True)
class Door:
    """A `Dispatcher` in front of a real service, shut while the others say that it is away."""

    service: str
    inner: Dispatcher
    others: FakeOthers

    async def dispatch(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """See Dispatcher."""
        if self.service in self.others.away:
            return problem(Unavailable(f"{self.service} is away"))
        return await self.inner.dispatch(method, target, headers, body)


def make_apps(
    deployer: FakeDeployer, others: FakeOthers, secret: bytes, clock: Clock
) -> dict[str, HttpApp]:
    """All of them as apps, by service name."""

    def app(routes: Iterable[Route], verify: Authenticator) -> HttpApp:
        return HttpApp(list(routes), verify, monotonic=clock.monotonic)

    verify = TokenVerifier(secret, clock)
    own_key = OwnKeyVerifier("host-1", derive_key(secret, Kind.HOST, "host-1"), clock)
    made = {name: app(others.routes(name), verify) for name in ("scheduler", "monitor")}
    return {
        "deployer": app(deployer.routes(), verify),
        "hostd": app(others.routes("hostd"), own_key),
        **made,
    }
