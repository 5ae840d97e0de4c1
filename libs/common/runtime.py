"""What a service is handed: clock, randomness, ids, bus, store, peers, telemetry, a place to serve.

A service is one `async def run(rt: Runtime)`. This module alone maps URL schemes to adapters; nobody else
asks which one it got. The simulation builds a `Runtime` of its own parts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from libs.common.bus.base import Bus
from libs.common.bus.retention import Retention
from libs.common.clock import Clock, Ids, RngIds, SystemClock, system_rng
from libs.common.config import Settings
from libs.common.consume import Handlers, Subscription, Together
from libs.common.direct import Courier
from libs.common.errors import InvalidInput
from libs.common.http import (
    Access,
    Authenticator,
    Dispatcher,
    Front,
    HttpApp,
    Kind,
    Request,
    Response,
    Route,
    ServiceClient,
    reply,
)
from libs.common.keys import Secret, open_secret
from libs.common.leader import Election, StoreElection
from libs.common.leaving import take_leave
from libs.common.outbox import Relay
from libs.common.peers import LocalServices, PeerClient
from libs.common.proofs import ServiceProofs
from libs.common.reconcile import Reconcile, ReconcileQueue
from libs.common.serve import serve
from libs.common.spans import open_sinks
from libs.common.spec import Name
from libs.common.store.base import Collection, Store
from libs.common.store.schemas import SchemaStore
from libs.common.telemetry import SpanSink, Telemetry, make_log
from libs.common.tokens import TokenSigner, TokenVerifier, party_keys

SectionT = TypeVar("SectionT", bound=BaseModel)


class CommonConfig(BaseModel):
    """The section `common`, the same for all services of a cluster.

    `bus` and `store` are URLs (memory:, sqlite:///path, kafka://host:port, mongodb://…/db). `listen` says where a
    service serves (`host:port` or `unix:/path`), `peers` where the others are; in one process both may be left out.
    `instance` is a name that stays over restarts, for a process that is the only one of its kind: it takes its own
    leases up again at once. `election` says who elects the leaders of scheduler and monitor: the store, or ZooKeeper
    (zk://host:port/path, `zookeeper_url.py`). `trace_file` gets finished spans as JSON lines. `retention` is how long
    topics are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: Name = "gantry"
    data_dir: Path = Path("/var/lib/gantry")
    bus: str = Field("", repr=False)  # they may hold a password
    store: str = Field("", repr=False)
    election: str = "store"
    secret_file: Path | None = None
    listen: dict[str, str] = {}
    peers: dict[str, str] = {}
    log_level: str = "info"
    instance: Name | None = None
    trace_file: Path | None = None
    retention: Retention = Retention()


class Server(Protocol):
    """Where a service's HTTP face is put."""

    def __call__(self, service: str, app: Dispatcher) -> AbstractAsyncContextManager[object]:
        """Serve until the context is left."""
        ...


Ready = Callable[[], Awaitable[str]]
"""Tells why the service is not ready, or "" when it is."""


@dataclass
class Runtime:
    """The world of one service."""

    service: str
    instance: str  # tells replicas of the service apart
    common: CommonConfig
    settings: Settings
    clock: Clock
    rng: random.Random
    ids: Ids
    bus: Bus
    store: Store
    peers: ServiceClient
    verify: Authenticator
    telemetry: Telemetry
    server: Server
    secret: Secret = field(repr=False)
    election: Election = field(default_factory=StoreElection)
    run: str = ""  # what this process calls itself: the next one in its place has another name

    def section(self, model: type[SectionT]) -> SectionT:
        """This service's own section of the configuration."""
        section = self.settings.get(self.service)
        if section is None:
            return model()
        if not isinstance(section, model):
            raise TypeError(f"section {self.service} is a {type(section).__name__}")
        return section

    def http_app(
        self,
        routes: Sequence[Route],
        *,
        authenticate: Authenticator | None = None,
        ready: Ready | None = None,
    ) -> HttpApp:
        """The service's routes with /healthz, /readyz and /metrics, authenticated, measured and traced."""
        seconds = self.telemetry.http_seconds

        def observe(route: Route | None, request: Request, status: int, took_s: float) -> None:
            template = route.path if route else "unmatched"
            seconds.labels(request.method, template, str(status)).observe(took_s)

        def on_error(request: Request, error: BaseException) -> None:
            self.telemetry.log.error(
                "handler failed", method=request.method, path=request.path, exc_info=error
            )

        return HttpApp(
            [*routes, *self._standard_routes(ready)],
            authenticate or self.verify,
            monotonic=self.clock.monotonic,
            observe=observe,
            on_error=on_error,
            tracer=self.telemetry,
        )

    def _standard_routes(self, ready: Ready | None) -> Sequence[Route]:
        async def healthz(_request: Request) -> Response:
            lags = self.telemetry.lags
            more: dict[str, object] = {"lag": sum(lags.values())} if lags else {}
            if self.run:
                more["run"] = self.run
            return reply({"service": self.service, "status": "alive", **more})

        async def readyz(_request: Request) -> Response:
            reason = await ready() if ready else ""
            status = "not ready" if reason else "ready"
            content = {"service": self.service, "status": status, "reason": reason}
            return reply(content, 503 if reason else 200)

        async def metrics(_request: Request) -> Response:
            text = "text/plain; version=0.0.4; charset=utf-8"
            return Response(200, self.telemetry.exposition(), content_type=text)

        return (
            Route("GET", "/healthz", healthz, Access.PUBLIC, "Is the process alive", traced=False),
            Route("GET", "/readyz", readyz, Access.PUBLIC, "Can it do its work", traced=False),
            Route(
                "GET",
                "/metrics",
                metrics,
                Access.METRICS,
                "Prometheus metrics",
                produces="text/plain",
                traced=False,
            ),
        )

    def serve(self, app: Dispatcher) -> AbstractAsyncContextManager[object]:
        """Make the app reachable to peers, and at its configured address if it has one."""
        return self.server(self.service, app)

    def queue(self, name: str, reconcile: Reconcile, *, workers: int = 8) -> ReconcileQueue:
        """A reconcile queue; run it in the service's task group."""
        return ReconcileQueue(
            f"{self.service}.{name}",
            reconcile,
            clock=self.clock,
            rng=self.rng,
            log=self.telemetry.log,
            workers=workers,
        )

    def relay(self, collections: Sequence[Collection], mine: Sequence[Collection] = ()) -> Relay:
        """The outbox relay over the service's collections; run it in the service's task group. `mine`: see Relay."""
        return Relay(
            self.service,
            self.instance,
            self.store,
            collections,
            self.bus,
            clock=self.clock,
            rng=self.rng,
            log=self.telemetry.log,
            sign=ServiceProofs(self.secret).sign,
            courier=self.courier(),
            mine=mine,
        )

    def courier(self) -> Courier:
        """Hands this service's events to their readers directly; a relay has one that it runs itself."""
        return Courier(
            self.peers,
            ServiceProofs(self.secret).sign,
            clock=self.clock,
            rng=self.rng,
            log=self.telemetry.log,
        )

    def subscription(
        self, handlers: Handlers, group: str = "", together: Together | None = None
    ) -> Subscription:
        """The service's consumer group (or another `group`); run it in the service's task group."""
        return Subscription(
            group or self.service,
            handlers,
            self.bus,
            self.clock,
            self.rng,
            self.telemetry,
            together=together or {},
        )


ServiceMain = Callable[[Runtime], Awaitable[None]]


@dataclass
class Shared:
    """What the services of one process have in common."""

    common: CommonConfig
    settings: Settings
    bus: Bus
    store: SchemaStore
    clock: Clock
    rng: random.Random
    ids: Ids
    secret: Secret = field(repr=False)
    local: LocalServices = field(default_factory=LocalServices)
    election: Election = field(default_factory=StoreElection)
    sinks: tuple[SpanSink, ...] = ()
    run: str = ""  # see Runtime


@asynccontextmanager
async def open_shared(common: CommonConfig, settings: Settings) -> AsyncIterator[Shared]:
    """Open bus and store by their URLs and read the cluster's secret (made at the first start)."""
    clock, rng = SystemClock(), system_rng()
    data_dir = common.data_dir
    await asyncio.to_thread(data_dir.mkdir, parents=True, exist_ok=True, mode=0o700)
    secret = await asyncio.to_thread(open_secret, common.secret_file or data_dir / "cluster.secret")
    election = open_election(common.election)
    url = common.bus or f"sqlite://{data_dir}/bus.db"
    bus = await open_bus(url, clock, common.retention)
    opened: list[Bus | Store] = [bus]
    try:
        store = await open_store(common.store or f"sqlite://{data_dir}/store.db")
        opened.append(store)
        yield Shared(
            common,
            settings,
            bus,
            store,
            clock,
            rng,
            RngIds(rng),
            secret=secret,
            election=election,
            sinks=open_sinks(common.trace_file),
            run=RngIds(rng).short(),
        )
    finally:
        # Side by side: each may wait a while for a server that does not answer.
        await asyncio.gather(*(each.close() for each in opened))


async def open_bus(url: str, clock: Clock, retention: Retention | None = None) -> Bus:
    """The bus adapter of a URL: memory:, sqlite:///path or kafka://host:port[,host:port].

    Raises InvalidInput for a wrong URL, and for a Kafka that refuses what it says.
    """
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        from libs.common.bus.memory import MemoryBus

        return MemoryBus(clock)
    if scheme == "sqlite":
        from libs.common.bus.sqlite import SqliteBus

        return await SqliteBus.open(url.removeprefix("sqlite://"), clock, retention=retention)
    if scheme == "kafka":
        from libs.common.bus.kafka import KafkaBus
        from libs.common.bus.kafka_doors import check_doors
        from libs.common.bus.kafka_url import parse_url

        await check_doors(parse_url(url))
        return await KafkaBus.open(url, clock, retention)
    raise InvalidInput.of("common.bus", f"unknown scheme {scheme!r}", "memory, sqlite or kafka")


def open_election(url: str) -> Election:
    """The election of a URL: store, or zk://host:port[,host:port]/path. Raises InvalidInput; connects to nothing."""
    if url == "store":
        return StoreElection()
    if urlsplit(url).scheme == "zk":
        from libs.common.zookeeper import ZooKeeperElection
        from libs.common.zookeeper_url import parse_url

        return ZooKeeperElection(parse_url(url))
    raise InvalidInput.of(
        "common.election", f"can't elect by {url!r}", "store or zk://host:port/path"
    )


async def open_store(url: str) -> SchemaStore:
    """The store of a URL: memory:, sqlite:///path or mongodb://host:port/database."""
    return SchemaStore(await _open_adapter(url))


async def _open_adapter(url: str) -> Store:
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        from libs.common.store.memory import MemoryStore

        return MemoryStore()
    if scheme == "sqlite":
        from libs.common.store.sqlite import SqliteStore

        return await SqliteStore.open(url.removeprefix("sqlite://"))
    if scheme == "mongodb":
        from libs.common.store.mongo import MongoStore

        return await MongoStore.open(url)
    raise InvalidInput.of("common.store", f"unknown scheme {scheme!r}", "memory, sqlite or mongodb")


@asynccontextmanager
async def open_runtime(shared: Shared, service: str) -> AsyncIterator[Runtime]:
    """The runtime of one service over what the process shares."""
    common = shared.common
    log = make_log(service, level=common.log_level)
    peers = PeerClient(_signer(shared, service), common.peers, shared.local)
    front = Front(service, run=shared.run)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(peers.close)
        if service in common.listen:
            await stack.enter_async_context(serve(front, common.listen[service]))
        yield Runtime(
            service=service,
            instance=f"{service}-{common.instance or shared.ids.short()}",
            common=common,
            settings=shared.settings,
            clock=shared.clock,
            rng=shared.rng,
            ids=shared.ids,
            bus=shared.bus,
            store=shared.store,
            peers=peers,
            verify=TokenVerifier(shared.secret, shared.clock),
            telemetry=Telemetry(service, log, shared.sinks),
            server=_server(shared.local, front),
            secret=shared.secret,
            election=shared.election,
            run=shared.run,
        )


async def say_farewell(shared: Shared, service: str) -> None:
    """This process, of that service at least, was told to end and does; no-op without a monitor elsewhere."""
    if "monitor" not in shared.common.peers:
        return
    client = PeerClient(_signer(shared, service), shared.common.peers)
    try:
        await take_leave(client, shared.run)
    finally:
        await client.close()


def _signer(shared: Shared, service: str) -> TokenSigner:
    own_keys = party_keys(shared.secret, Kind.SERVICE, service)
    return TokenSigner(Kind.SERVICE, service, own_keys, shared.clock)


def _server(local: LocalServices, front: Front) -> Server:
    @asynccontextmanager
    async def server(service: str, app: Dispatcher) -> AsyncIterator[None]:
        local.apps[service] = front.app = app
        try:
            yield
        finally:
            front.app = None
            if local.apps.get(service) is app:
                del local.apps[service]

    return server
