"""The services of the world, each with the drivers that the simulation puts in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from libs.common.errors import NotFound, Unavailable
from libs.common.runtime import Runtime
from libs.mesos.messages import FrameworkInfo
from libs.mesos.operator import OperatorClient
from libs.mesos.scheduler import SchedulerClient
from services.deployer.registry import ImageRef, Login
from services.deployer.service import run as run_deployer
from services.gateway.service import run_with as run_gateway
from services.ipam.service import run as run_ipam
from services.monitor.mesos import HttpOperator, Operator
from services.monitor.model import Alert, MonitorConfig
from services.monitor.service import run as run_monitor
from services.scheduler.mesos import ClientDriver, MesosDriver
from services.scheduler.service import run as run_scheduler
from services.scheduler.settings import SchedulerConfig
from tests.fakes.disk import FakeDisk
from tests.simulation.balancer import Balancer
from tests.simulation.faults import Faults, Point
from tests.simulation.life import Life
from tests.simulation.mesosnet import MASTERS, MesosNet, MesosTransport
from tests.simulation.trace import Trace


class PartsWorld(Protocol):
    """What of the world the drivers need."""

    mesos: MesosNet
    faults: Faults
    trace: Trace
    mailbox: Mailbox
    keys: KeyBox
    registry: FakeResolver
    balancer: Balancer


@dataclass
class KeyBox:
    """Where the gateway puts its first admin key."""

    key: str = ""

    def write_once(self, key: str) -> None:
        """See KeyFile."""
        self.key = self.key or key


@dataclass(frozen=True, slots=True)
class Told:
    """What people were told of an alert: a turn of it, since when by the monitor's clock."""

    alert: str
    firing: bool
    since: float


@dataclass
class Mailbox:
    """The people who are told of alerts."""

    faults: Faults
    told: list[Told] = field(default_factory=list)

    async def tell(self, alert: Alert) -> None:
        """See Notifier."""
        if self.faults.strike(Point.SMTP_FAILS):
            raise Unavailable("SMTP: connection refused")
        self.told.append(Told(alert.id, alert.firing, alert.since))


@dataclass
class FakeResolver:
    """The image registry: tags that exist, by name:tag, and their digests."""

    faults: Faults
    digests: dict[str, str]

    async def resolve(self, image: str, login: Login | None = None) -> str:
        """See ImageResolver."""
        if self.faults.strike(Point.REGISTRY_FAILS):
            raise Unavailable("the registry can't be reached")
        ref = ImageRef.parse(image)
        if ref.digest:
            return ref.pinned(ref.digest)
        if image not in self.digests:
            raise NotFound("the registry has no such image")
        return ref.pinned(self.digests[image])

    async def close(self) -> None:
        """Nothing is open."""


async def scheduler(world: PartsWorld, rt: Runtime, life: Life) -> None:
    """The scheduler, on libs/mesos straight into minimesos' core."""

    @asynccontextmanager
    async def open_driver(
        rt: Runtime, _config: SchedulerConfig, info: FrameworkInfo
    ) -> AsyncIterator[MesosDriver]:
        transport = MesosTransport(world.mesos, life)
        yield ClientDriver(SchedulerClient(transport, MASTERS, info, clock=rt.clock, rng=rt.rng))

    await run_scheduler(rt, open_driver)


async def monitor(world: PartsWorld, rt: Runtime, life: Life) -> None:
    """The monitor, on the operator API of minimesos' core."""

    @asynccontextmanager
    async def open_operator(rt: Runtime, _config: MonitorConfig) -> AsyncIterator[Operator]:
        transport = MesosTransport(world.mesos, life)
        yield HttpOperator(OperatorClient(transport, MASTERS, clock=rt.clock, rng=rt.rng))

    await run_monitor(rt, open_operator, world.mailbox, FakeDisk({}).measure)


async def ipam(_world: PartsWorld, rt: Runtime, _life: Life) -> None:
    """ipam as it is."""
    await run_ipam(rt)


async def gateway(world: PartsWorld, rt: Runtime, _life: Life) -> None:
    """The gateway; its first key goes into the key box."""
    await run_gateway(rt, world.keys)


async def deployer(world: PartsWorld, rt: Runtime, _life: Life) -> None:
    """The deployer, with the world's registry and load balancer."""
    await run_deployer(rt, images=world.registry, balancers={"webhook": world.balancer})
