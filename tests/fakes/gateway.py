"""A gateway in memory with a real ipam, its other peers faked: for tests of the gateway, the client and the CLI."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from libs.common.bus.memory import MemoryBus
from libs.common.clock import RngIds, SystemClock
from libs.common.direct import inbox
from libs.common.events import model as ev
from libs.common.http import Dispatcher, Kind, Response, Route
from libs.common.peers import PeerClient
from libs.common.runtime import CommonConfig, Runtime, Shared, open_runtime
from libs.common.sealing import Sealer
from libs.common.serve import serve
from libs.common.store.base import Store
from libs.common.store.memory import MemoryStore
from libs.common.store.schemas import SchemaStore
from libs.common.telemetry import Telemetry, make_log
from libs.common.tokens import TokenSigner, derive_key, party_keys
from services.deployer import api_images, api_vault
from services.deployer.registry import DigestsOnly
from services.deployer.store import Repository
from services.deployer.vault import PURPOSE, Vault
from services.gateway.model import GatewayConfig
from services.gateway.service import KEY_FILE, run
from services.ipam.model import IpamConfig
from services.ipam.service import run as run_ipam
from tests.fakes.deployer import FakeDeployer
from tests.fakes.jobs import FakeJobs
from tests.fakes.peers import Door, FakeOthers, make_apps

SECRET = bytes(range(32))
GENEROUS = GatewayConfig(rate_per_s=100_000.0, rate_burst=100_000.0)  # tests poll
NETWORKS = (
    {"name": "blue", "vlan": 100, "cidr": "10.1.0.0/24", "gateway": "10.1.0.254"},
    {"name": "secret", "vlan": 200, "cidr": "10.2.0.0/28", "bus": ["other"]},
)
SPEC: Mapping[str, Any] = {"image": "registry.test/web:1", "instances": 3, "network": "blue"}


Service = Callable[[Runtime], Coroutine[None, None, None]]


@dataclass
class ShiftedClock(SystemClock):
    """The machine's clock, moved by `ahead_s`."""

    ahead_s: float = 0.0

    def now(self) -> float:
        """Seconds since the Unix epoch, moved."""
        return super().now() + self.ahead_s

    def monotonic(self) -> float:
        """Seconds of the monotonic clock, moved."""
        return super().monotonic() + self.ahead_s


@dataclass
class World:
    """A running gateway and all around it."""

    shared: Shared
    clock: ShiftedClock
    bus: MemoryBus
    deployer: FakeDeployer
    others: FakeOthers
    admin_key: str = ""
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def jobs(self) -> FakeJobs:
        """The scheduler's jobs."""
        return self.others.jobs

    @property
    def app(self) -> Dispatcher:
        """The gateway's face."""
        return self.shared.local.apps["gateway"]

    async def call(
        self,
        method: str,
        path: str,
        content: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """One request; by default with the admin key, `key=""` is without any."""
        sent = dict(headers or {})
        key = self.admin_key if key is None else key
        if key:
            sent["Authorization"] = f"Bearer {key}"
        body = b"" if content is None else orjson.dumps(content)
        return await self.app.dispatch(method, path, sent, body)

    async def key(self, bu: str, role: str, **more: Any) -> str:
        """A new key."""
        response = await self.call("POST", "/v1/keys", {"bu": bu, "role": role, **more})
        assert response.status == 201, response.body
        return str(response.json()["key"])

    async def put_app(self, app: str = "acme/web", **changes: Any) -> Response:
        """Write an app's spec."""
        response = await self.call("PUT", f"/v1/apps/{app}", {**SPEC, **changes})
        assert response.status in (200, 201), response.body
        return response

    async def attach(self, name: str, app: str = "acme/web", **more: Any) -> Response:
        """Have ipam give an attachment an address, as hostd on host-1 does."""
        key = party_keys(self.shared.secret, Kind.HOST, "host-1")
        sent = TokenSigner(Kind.HOST, "host-1", key, self.clock).headers()
        claim = {"network": "blue", "instance": name, "attempt": f"{name}.1", "host": "host-1"}
        body = orjson.dumps({**claim, "app": app, **more})
        ipam = self.shared.local.apps["ipam"]
        return await ipam.dispatch("PUT", f"/v1/attachments/{name}", sent, body)

    async def detach(self, name: str, generation: int) -> Response:
        """Have ipam take it back."""
        key = party_keys(self.shared.secret, Kind.HOST, "host-1")
        sent = TokenSigner(Kind.HOST, "host-1", key, self.clock).headers()
        path = f"/v1/attachments/{name}?generation={generation}&reason=del"
        return await self.shared.local.apps["ipam"].dispatch("DELETE", path, sent)

    async def eventually(self, what: Callable[[], Awaitable[Any]], within_s: float = 30.0) -> Any:
        """The first true answer of `what`; fails after `within_s`."""
        async with asyncio.timeout(within_s):
            while True:
                answer = await what()
                if answer:
                    return answer
                await asyncio.sleep(0.005)

    async def deployed(self, path: str, content: Any = None, **more: Any) -> dict[str, Any]:
        """POST a deploy and wait for its end."""
        response = await self.call("POST", path, content or {}, **more)
        assert response.status == 202, response.body
        url = response.json()["url"]

        async def ended() -> Any:
            view = (await self.call("GET", url)).json()
            return view if view["state"] in ("succeeded", "failed", "aborted") else None

        return dict(await self.eventually(ended))


def make_shared(
    data_dir: Path, config: GatewayConfig, clock: ShiftedClock, store: Store | None = None
) -> Shared:
    """What the services of a process have in common, all in memory."""
    rng = random.Random(7)
    return Shared(
        CommonConfig(data_dir=data_dir, bus="memory:", store="memory:", log_level="error"),
        {"gateway": config, "ipam": IpamConfig.model_validate({"networks": NETWORKS})},
        MemoryBus(clock),
        SchemaStore(store or MemoryStore()),
        clock,
        rng,
        RngIds(rng),
        secret=SECRET,
    )


@asynccontextmanager
async def gateway_world(
    data_dir: Path, config: GatewayConfig | None = None
) -> AsyncIterator[World]:
    """A gateway that serves, its admin key read from its file."""
    clock = ShiftedClock()
    shared = make_shared(data_dir, config or GENEROUS, clock)
    bus = shared.bus
    assert isinstance(bus, MemoryBus)
    deployer = FakeDeployer(bus, clock, vault=await vault_routes(shared))
    others = FakeOthers(deployer, FakeJobs(clock))
    apps = make_apps(deployer, others, SECRET, clock)
    shared.local.apps.update(apps)
    world = World(shared, clock, bus, deployer, others)
    async with (
        serve(apps["hostd"], "127.0.0.1:0") as others.hostd_url,
        open_runtime(shared, "deployer") as rt_deployer,
        open_runtime(shared, "scheduler") as rt_scheduler,
        serving_ipam(shared, others),
        running(shared),
        asyncio.TaskGroup() as group,
    ):
        listening = rt_deployer.subscription({ev.DeployRequested: deployer.on_requested})
        deployer.inbox = inbox("deployer", [listening]).handler
        jobs = rt_scheduler.subscription({ev.JobRequested: others.jobs.on_requested})
        tasks = [group.create_task(each.run()) for each in (listening, jobs)]
        world.admin_key = (data_dir / KEY_FILE).read_text().strip()
        yield world
        for task in tasks:
            task.cancel()


async def vault_routes(shared: Shared) -> Sequence[Route]:
    """The deployer's own, on a store of theirs."""
    repo = await Repository.open(MemoryStore())
    sealer = Sealer(shared.secret, PURPOSE, shared.rng)
    telemetry = Telemetry("deployer", make_log("deployer", level="error"))
    vault = Vault(repo.vault, sealer, shared.clock, telemetry, lambda: None, "docker.io")
    signer = TokenSigner(
        Kind.SERVICE, "deployer", derive_key(SECRET, Kind.SERVICE, "deployer"), shared.clock
    )
    peers = PeerClient(signer, {}, shared.local)
    return (*api_vault.routes(repo, vault, peers), *api_images.routes(vault, DigestsOnly()))


@asynccontextmanager
async def running(
    shared: Shared, service: str = "gateway", serve_it: Service = run
) -> AsyncIterator[Runtime]:
    """The gateway (or another service) alone, until the context is left."""
    async with open_runtime(shared, service) as rt, asyncio.TaskGroup() as group:
        task = group.create_task(serve_it(rt))
        async with asyncio.timeout(30):
            while service not in shared.local.apps:
                if task.done():
                    task.result()
                await asyncio.sleep(0.002)
        yield rt
        task.cancel()


@asynccontextmanager
async def serving_ipam(shared: Shared, others: FakeOthers) -> AsyncIterator[None]:
    """The real ipam, as the gateway's peer."""
    async with running(shared, "ipam", run_ipam):
        shared.local.apps["ipam"] = Door("ipam", shared.local.apps["ipam"], others)
        yield


@asynccontextmanager
async def live_gateway(
    data_dir: Path, config: GatewayConfig | None = None
) -> AsyncIterator[tuple[World, str]]:
    """The same behind a socket; yields the world and the URL."""
    async with gateway_world(data_dir, config) as world, serve(world.app, "127.0.0.1:0") as url:
        yield world, url
