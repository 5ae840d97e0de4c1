"""What users do: three apps released, scaled, rolled back, restarted, through the gateway with API keys."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from libs.common.clock import RngIds
from libs.common.errors import Unavailable
from libs.common.http import Response
from libs.common.spec import AppSpec
from tests.fakes.docker import FakeImage
from tests.simulation.cloud import Cloud, SimulationFailed
from tests.simulation.faults import Point
from tests.simulation.life import Life
from tests.simulation.promises import Acked
from tests.simulation.wire import NetClient

REGISTRY = "registry.sim"
RETRY_S = 2.0
MAX_INSTANCES = 8
MOST = {"acme/api": 5}  # where all are well, there is room for all


SECRET_VARIABLE = "API_TOKEN"
SECRETS = {"acme/api": "the token of acme's api"}
"""What an app's containers find in SECRET_VARIABLE; others have none."""

APPS: Mapping[str, Mapping[str, Any]] = {
    "acme/web": {
        "network": "web",
        "instances": 4,
        "health": [{"type": "http", "port": 80, "interval_s": 5, "grace_s": 20}],
        "load_balancer": {"driver": "webhook", "port": 80, "drain_s": 5, "deadline_s": 20},
        "strategy": {"max_surge": "50%", "deadline_s": 150},
        "constraints": [{"attribute": "hostname", "operator": "GROUP_BY"}],
        "priority": 10,
        "resources": {"cpus": 1.2, "mem_mib": 64},
    },
    "acme/api": {
        "network": "web",
        "instances": 3,
        "health": [{"type": "tcp", "port": 9000, "interval_s": 5, "grace_s": 20}],
        "strategy": {"max_surge": 1, "max_unavailable": 1, "deadline_s": 150, "min_ready_s": 3},
        "constraints": [{"attribute": "hostname", "operator": "MAX_PER", "value": "3"}],
        "secrets": [{"name": "token", "env": SECRET_VARIABLE}],
        "unreachable": {"replace_after_s": 20, "keep": "first"},
        "disruption_budget": "50%",
        "resources": {"cpus": 1.6, "mem_mib": 64},  # with a host away there is not enough for all
    },
    "beta/worker": {
        "network": "work",
        "environment": "lab",
        "instances": 2,
        "strategy": {"max_surge": 0, "max_unavailable": 1, "deadline_s": 150, "min_ready_s": 4},
        "spread": ["zone", "hostname"],
        "stop_grace_s": 3,
        "keep_address": True,
    },
}


async def begin(cloud: Cloud, after_step: Callable[[], None] | None = None) -> None:
    """Put images out, start everything, look on after each step; returns when users have a key."""
    stock(cloud)
    cloud.start()
    cloud.loop.after_step = after_step
    while not cloud.keys.key:
        await asyncio.sleep(0.5)


def stock(cloud: Cloud) -> None:
    """Put images into the registry and onto the hosts: good ones, and two that are no good."""
    rng = random.Random(f"{cloud.seed}:images")
    for app in APPS:
        name = app.partition("/")[2]
        for tag in ("1", "2", "3", "4", "unhealthy", "crashing"):
            image = FakeImage(
                healthy_after_s=rng.uniform(0, 8), ends_on_term_s=rng.choice([0.0, 1.0, None])
            )
            if tag == "unhealthy":
                image.healthy_after_s = None
            if tag == "crashing":
                image.exits_after_s, image.exit_code = rng.uniform(0.2, 2), 1
            digest = "sha256:" + hashlib.sha256(f"{name}:{tag}".encode()).hexdigest()
            cloud.registry.digests[f"{REGISTRY}/{name}:{tag}"] = digest
            cloud.images[f"{REGISTRY}/{name}@{digest}"] = image


class User:
    """One who looks after one app. Every change is repeated with its idempotency key until it is answered."""

    def __init__(self, cloud: Cloud, app: str, acked: Acked) -> None:
        self.cloud = cloud
        self.app = app
        self.acked = acked
        self.rng = random.Random(f"{cloud.seed}:user:{app}")
        self.ids = RngIds(self.rng)
        self.most = MOST.get(app, MAX_INSTANCES)
        self.version = 1
        self.good = "1"
        self.refused: list[str] = []
        self.key = ""  # its own API key; "": the first admin's
        self._client = NetClient(
            cloud.net, Life(cloud.loop, f"user:{app}"), lambda: self._credentials
        )
        self._credentials: Mapping[str, str] = {}

    # -- talking

    async def call(
        self, method: str, path: str, content: Any = None, tries: int = 200, key: str = ""
    ) -> Response:
        """The gateway's answer, other than that it or a peer is away. `key`: makes repetitions one."""
        headers = {"content-type": "application/json"}
        if method == "POST" or key:
            headers["idempotency-key"] = key or self.ids.uuid()
        body = orjson.dumps(content) if content is not None else b""
        for _ in range(tries):
            self._credentials = {"authorization": f"Bearer {self.key or self.cloud.keys.key}"}
            try:
                response = await self._client.call(
                    "gateway", method, path, body=body, headers=headers, timeout_s=8.0
                )
            except Unavailable:
                response = None
            if response is not None and response.status < 500 and response.status != 429:
                return response
            await asyncio.sleep(RETRY_S)
        raise SimulationFailed(f"{self.app}: no answer to {method} {path} after {tries} tries")

    async def ask(self, what: str, content: Any = None) -> str | None:
        """Ask for a deployment; its id when it was taken."""
        response = await self.call("POST", f"/v1/apps/{self.app}/{what}", content)
        if response.status != 202:
            self.refused.append(f"{what}: {response.status} {response.body.decode()}")
            return None
        deployment = str(response.json()["deployment"])
        self.acked.take(deployment, self.app)
        if what == "scale":
            self.acked.scales[deployment] = int(content["instances"])
        return deployment

    async def put(self, **changes: Any) -> None:
        """Write the spec; its MARK tells it from all others."""
        mark = self.ids.short()
        spec = {
            "resources": {"cpus": 0.2, "mem_mib": 64},
            **APPS[self.app],
            "image": self.image(self.good),
            "env": {"MARK": mark},
            **changes,
        }
        valid = AppSpec.model_validate(spec)
        self.acked.begin_put(self.app)
        response = await self.call("PUT", f"/v1/apps/{self.app}", spec)
        if response.status not in (200, 201):
            raise SimulationFailed(f"PUT {self.app}: {response.status} {response.body.decode()}")
        self.acked.end_put(self.app, mark, valid.instances)

    def image(self, tag: str) -> str:
        """A tag of the app's image."""
        return f"{REGISTRY}/{self.app.partition('/')[2]}:{tag}"

    async def state(self, deployment: str) -> Mapping[str, Any]:
        """A deployment as the gateway tells it."""
        response = await self.call("GET", f"/v1/deployments/{deployment}")
        if response.status != 200:
            raise SimulationFailed(
                f"{deployment} was promised: {response.status} {response.body.decode()}"
            )
        content: Mapping[str, Any] = response.json()
        return content

    # -- doing

    async def first(self) -> None:
        """The app's first release."""
        if self.app in SECRETS:
            bu = self.app.partition("/")[0]
            value = {"value": SECRETS[self.app]}
            response = await self.call("PUT", f"/v1/bus/{bu}/secrets/token", value)
            if response.status != 200:
                raise SimulationFailed(f"PUT of a secret: {response.body.decode()}")
        await self.put()
        await self.ask("deploys")

    async def work(self, until: float) -> None:
        """Release, scale, roll back and restart until a time of the loop's."""
        turns = 0
        while True:
            await asyncio.sleep(self.rng.uniform(40, 150))
            if self.cloud.loop.time() > until:
                return
            turns += 1
            await self._turn(turns)

    async def last(self) -> str | None:
        """After all that has happened, a good release must simply work.

        Not a restart: where nothing checks health, late events may have let a bad release pass.
        """
        await self.resume_paused()
        return await self.ask("deploys", {"image": self.image(self.good)})

    async def resume_paused(self) -> None:
        """Nothing stays paused because a word about it got lost."""
        for deployment, app in self.acked.deployments.items():
            if app == self.app and (await self.state(deployment))["state"] == "paused":
                await self.call("POST", f"/v1/deployments/{deployment}/resume")

    async def _turn(self, turns: int) -> None:
        # The first turns make sure that each kind is there, the rest is the seed's.
        kinds = ["release", "scale", "bad", "rollback", "restart", "missing", "pause", "abort"]
        kinds.append("glass")
        kind = kinds[turns - 1] if turns <= 4 else self.rng.choice(kinds)
        match kind:
            case "release":
                self.version += 1
                self.good = str(1 + self.version % 4)
                await self.put()
                await self.ask("deploys")
            case "bad":
                await self.ask(
                    "deploys", {"image": self.image(self.rng.choice(["unhealthy", "crashing"]))}
                )
            case "missing":
                await self.ask("deploys", {"image": self.image("missing")})
            case "scale":
                least = (
                    3 if self.app == "acme/web" else 1
                )  # one on each host, so that each has an executor
                await self.ask("scale", {"instances": self.rng.randint(least, self.most)})
            case "rollback":
                await self.ask("rollback")
            case "restart":
                await self.ask("restart")
            case "pause" | "abort":
                await self._interrupt(kind)
            case "glass":
                await self._break_glass()

    async def _break_glass(self) -> None:
        """What is asked for so is the deployer's when it is accepted, bus or no bus."""
        faults = self.cloud.faults
        away = faults.on
        if away:
            faults.hit(Point.BUS_AWAY_LONG, self.app)
            faults.away["bus"] += 1
        await asyncio.sleep(self.rng.uniform(5, 60))
        glass = {"break_glass": True, "reason": "a drill"}
        what, more = self.rng.choice(
            [("stop", {}), ("scale", {"instances": self.rng.randint(0, self.most)})]
        )
        deployment = await self.ask(what, {**glass, **more})
        if deployment is not None:
            state = await self.state(deployment)
            if state["delayed"] and not state.get("incomplete"):
                raise SimulationFailed(f"{self.app}: the glass was broken for nothing: {state}")
        await asyncio.sleep(self.rng.uniform(20, 150))
        if away:
            faults.away["bus"] -= 1

    async def _interrupt(self, kind: str) -> None:
        deployment = await self.ask("deploys", {"image": self.image(self.good)})
        if deployment is None:
            return
        await asyncio.sleep(self.rng.uniform(0, 20))
        await self.call("POST", f"/v1/deployments/{deployment}/{kind}")
        if kind == "pause":
            await asyncio.sleep(self.rng.uniform(5, 60))
            await self.call("POST", f"/v1/deployments/{deployment}/resume")
