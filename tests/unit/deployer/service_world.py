"""The deployer with all its loops on memory bus and store in virtual time, a scheduler of few rules, and a client."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from libs.common.actor import Actor
from libs.common.bus.base import TopicSpec
from libs.common.bus.faults import NO_FAULTS, BusFaults, BusPoint
from libs.common.bus.memory import MemoryBus
from libs.common.clock import Ids
from libs.common.direct import INBOX, Courier
from libs.common.errors import NotFound, Unavailable
from libs.common.events import EVENT_TYPES, Event
from libs.common.events import model as ev
from libs.common.events.model import DeployAction
from libs.common.http import Dispatcher, Kind, Response, Role, problem, reply
from libs.common.keys import Secret
from libs.common.peers import LocalServices, PeerClient
from libs.common.proofs import ServiceProofs
from libs.common.runtime import CommonConfig, Runtime
from libs.common.store.base import CollectionSpec, OutboxEvent, Query
from libs.common.store.memory import MemoryStore
from libs.common.telemetry import Telemetry, make_log
from libs.common.tokens import TokenSigner, TokenVerifier, derive_key
from services.deployer.hooks import Balancers
from services.deployer.loadbalancer.base import LoadBalancerDriver
from services.deployer.model import DeployerConfig
from services.deployer.registry import ImageRef, Login
from services.deployer.service import run
from tests.fakes.loadbalancer import FakeLoadBalancer
from tests.unit.deployer.fake_scheduler import (
    APP,
    SECRET,
    FakeScheduler,
    World,
    publish,
    sealed_now,
)

ANN = Actor("ann", "shop", Role.DEPLOYER)
SPEC: Mapping[str, Any] = {
    "image": "reg:5000/web:1",
    "instances": 4,
    "network": "blue",
    "strategy": {"max_surge": 2, "deadline_s": 60},
}
BALANCED = {"load_balancer": {"driver": "haproxy", "port": 80, "drain_s": 5, "deadline_s": 10}}


@dataclass
class FakeImages:
    """A registry in memory: `known` maps references without digest to digests' last byte."""

    known: dict[str, int] = field(
        default_factory=lambda: {"reg:5000/web:1": 1, "reg:5000/web:2": 2, "reg:5000/web:3": 3}
    )
    down: bool = False
    private: dict[str, Login] = field(default_factory=dict)  # image -> who may read it
    asked: list[Login | None] = field(default_factory=list)

    async def resolve(self, image: str, login: Login | None = None) -> str:
        self.asked.append(login)
        if self.down:
            raise Unavailable("registry reg:5000 can't be reached")
        if image not in self.known or self.private.get(image, login) != login:
            raise NotFound("registry reg:5000 has no such image")
        return ImageRef.parse(image).pinned(f"sha256:{self.known[image]:064x}")

    async def close(self) -> None:
        """Nothing is open."""


class BusAway(BusFaults):
    """Nothing goes in, nothing comes out."""

    def draw(self, point: BusPoint, what: str) -> float:
        return float(point in (BusPoint.PUBLISH_FAILS, BusPoint.FETCH_FAILS))


@dataclass
class Site:
    """A running deployer and all around it."""

    world: World
    bus: MemoryBus
    store: MemoryStore
    scheduler: FakeScheduler
    images: FakeImages
    balancer: FakeLoadBalancer
    apps: list[Dispatcher]
    ids: Ids
    peers: Peers
    secret: Secret = SECRET
    events: list[Event] = field(default_factory=list)
    log: io.StringIO = field(default_factory=io.StringIO)

    async def call(
        self, method: str, path: str, content: Any = None, actor: Actor = ANN, **headers: str
    ) -> Response:
        """A call as the gateway makes it."""
        key = derive_key(SECRET, Kind.SERVICE, "gateway")
        signed = TokenSigner(Kind.SERVICE, "gateway", key, self.world.clock).headers()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        body = b"" if content is None else orjson.dumps(content)
        return await self.apps[0].dispatch(
            method, path, {**signed, **actor.headers(), **sent}, body
        )

    async def get(self, path: str) -> Any:
        response = await self.call("GET", path)
        assert response.status == 200, response.body
        return response.json()

    async def put(self, **changes: Any) -> Response:
        """Write the app's spec."""
        return await self.call("PUT", f"/v1/apps/{APP}", {**SPEC, **changes})

    def asked(
        self, action: DeployAction, name: str, actor: Actor = ANN, **fields: Any
    ) -> tuple[OutboxEvent, ...]:
        """The request for a deployment as the gateway makes it."""
        event = ev.DeployRequested(
            deployment=name,
            app=fields.pop("app", APP),
            action=action,
            actor=actor.name,
            actor_bu=actor.bu,
            actor_role=actor.role.value,
            **fields,
        )
        return sealed_now(event, "gateway", 1, self.world)

    async def ask(self, action: DeployAction, name: str, actor: Actor = ANN, **fields: Any) -> None:
        """Ask for a deployment as the gateway does."""
        await publish(self.bus, self.asked(action, name, actor, **fields))

    async def hand(self, sealed: Sequence[OutboxEvent], writer: str = "gateway") -> None:
        """Hand events over, as their writer does."""
        await self.courier(writer).deliver(sealed)

    def courier(self, writer: str) -> Courier:
        """Of another service, to the first replica."""
        world = self.world
        signer = TokenSigner(
            Kind.SERVICE, writer, derive_key(SECRET, Kind.SERVICE, writer), world.clock
        )
        peers = PeerClient(signer, {}, LocalServices({"deployer": self.apps[0]}))
        sign = ServiceProofs(SECRET).sign
        log = make_log(writer, stream=self.log)
        return Courier(peers, sign, clock=world.clock, rng=world.rng, log=log)

    def bus_away(self) -> None:
        """From now on."""
        self.bus.faults = BusAway()
        self.scheduler.courier = self.courier("scheduler")

    def bus_back(self) -> None:
        """As if nothing had been."""
        self.bus.faults = NO_FAULTS
        self.scheduler.courier = None

    async def deploy(self, name: str, action: DeployAction = DeployAction.RELEASE, **f: Any) -> Any:
        """Ask and wait for the end."""
        await self.ask(action, name, **f)
        return await self.ended(name)

    async def ended(self, name: str, limit_s: float = 600.0) -> Any:
        """The deployment when it has ended."""

        async def over() -> Any:
            response = await self.call("GET", f"/v1/deployments/{name}")
            found = response.json() if response.status == 200 else {}
            return found if found.get("ended_at") else None

        return await self.until(over, limit_s)

    async def until(self, what: Callable[[], Awaitable[Any]], limit_s: float = 120.0) -> Any:
        """What `what` gives as soon as it is true."""
        async with asyncio.timeout(limit_s):
            while not (found := await what()):
                await self.world.clock.sleep(0.05)
        return found

    async def instances(self, **query: str) -> list[Any]:
        """The app's instances."""
        extra = "".join(f"&{name}={value}" for name, value in query.items())
        rows: list[Any] = (await self.get(f"/v1/instances?app={APP}{extra}"))["instances"]
        return rows

    async def store_ids(self, spec: CollectionSpec) -> set[str]:
        """What documents a collection has."""
        found = await (await self.store.collection(spec)).find(Query())
        return {doc.id for doc in found.docs}

    def of(self, kind: type[Event]) -> list[Any]:
        """Events of a kind that were published."""
        return [each for each in self.events if type(each) is kind]

    async def follow(self) -> None:
        """Collect all that the deployer publishes."""
        topics = sorted({each.TOPIC for each in ev.ALL})
        async for delivered in self.bus.read(topics):
            self.events.append(EVENT_TYPES.open(delivered.record)[0])


@asynccontextmanager
async def site(
    world: World,
    *,
    replicas: int = 1,
    config: DeployerConfig | None = None,
    driver: LoadBalancerDriver | None = None,
    secret: Secret = SECRET,
    make_scheduler: Callable[[MemoryBus, World], FakeScheduler] = FakeScheduler,
) -> AsyncIterator[Site]:
    """A deployer (or more than one) until the block is left; `driver` in place of the fake load balancer."""
    bus, store = MemoryBus(world.clock), MemoryStore()
    images, balancer = FakeImages(), FakeLoadBalancer(world.clock)
    scheduler = make_scheduler(bus, world)
    peers = Peers(scheduler)
    here = Site(world, bus, store, scheduler, images, balancer, [], world.ids, peers, secret)
    await bus.ensure_topics([TopicSpec(each.TOPIC) for each in ev.ALL])
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(here.follow()), tasks.create_task(scheduler.run())]
        for number in range(replicas):
            rt = make_runtime(here, number, config or DeployerConfig())
            balancers: Balancers = {"haproxy": driver or balancer}
            running.append(tasks.create_task(run(rt, images=images, balancers=balancers)))
        while len(here.apps) < replicas:
            await world.clock.sleep(0.01)
        try:
            yield here
        finally:
            for task in running:
                task.cancel()


def make_runtime(here: Site, number: int, config: DeployerConfig) -> Runtime:
    """The Runtime of one replica."""

    @asynccontextmanager
    async def server(service: str, app: Dispatcher) -> AsyncIterator[str]:
        here.apps.append(app)
        yield ""

    world = here.world
    return Runtime(
        service="deployer",
        instance=f"deployer-{number}",
        common=CommonConfig(),
        settings={"deployer": config},
        clock=world.clock,
        rng=world.rng,
        ids=world.ids,
        bus=here.bus,
        store=here.store.share(),
        peers=here.peers,
        verify=TokenVerifier(SECRET, world.clock),
        telemetry=Telemetry("deployer", make_log("deployer", stream=here.log)),
        server=server,
        secret=here.secret,
    )


@dataclass
class Peers:
    """The deployer asks nobody but the scheduler, for instances, and the gateway, for producers' keys."""

    scheduler: FakeScheduler
    gateway_away: bool = False

    async def call(
        self, service: str, method: str, path: str, *, body: bytes = b"", **_: Any
    ) -> Response:
        if self.scheduler.deaf or (service == "gateway" and self.gateway_away):
            raise Unavailable(f"{service} is not there")
        if service == "gateway":
            return problem(NotFound(f"no such key: {path}"))
        if (service, method, path) == ("scheduler", "PUT", INBOX):
            await self.scheduler.take(body)
            return Response(204)
        assert (service, method) == ("scheduler", "GET")
        rows = self.scheduler.rows()
        for each in self.scheduler.runs:
            if path == f"/v1/runs/{each['run']}":
                return reply(each)
        if path.startswith("/v1/jobs?bu="):
            own = [job for job in self.scheduler.jobs if path == f"/v1/jobs?bu={job['bu']}"]
            return reply({"jobs": own})
        if path == "/v1/instances?app=shop%2Fweb":
            return reply({"instances": rows})
        found = [each for each in rows if path == f"/v1/instances/{each['instance']}"]
        return reply(found[0]) if found else problem(NotFound(f"there is nothing at {path}"))
