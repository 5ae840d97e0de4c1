"""A replica of a service in the world: started with a Runtime, killed, started again by its supervisor."""

from __future__ import annotations

import asyncio
import os
import random
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from libs.common.backoff import Backoff
from libs.common.bus.memory import MemoryBus
from libs.common.clock import RngIds
from libs.common.config import Settings
from libs.common.errors import GantryError
from libs.common.http import Kind
from libs.common.runtime import CommonConfig, Runtime
from libs.common.store.schemas import SchemaStore
from libs.common.telemetry import Telemetry
from libs.common.tokens import TokenSigner, TokenVerifier, derive_key
from libs.common.waiting import is_being_cancelled
from libs.mesos.errors import MesosError
from tests.simulation.faults import BusHandleFaults, Faults, Point, StoreHandleFaults
from tests.simulation.life import Life, LifeClock
from tests.simulation.loop import VirtualLoop
from tests.simulation.tap import TapStore
from tests.simulation.trace import SimLog, Trace
from tests.simulation.wire import Net, NetClient

SECRET = b"the simulation's cluster secret!"
Main = Callable[[Runtime, Life], Awaitable[None]]


class Surroundings(Protocol):
    """What of the world a process needs."""

    loop: VirtualLoop
    seed: int
    faults: Faults
    trace: Trace
    net: Net
    bus: MemoryBus
    store: TapStore
    settings: Settings
    common: CommonConfig

    def bug(self, what: str) -> None:
        """Something happened that must never happen."""
        ...


@contextmanager
def _without_tracing() -> Iterator[None]:
    """OpenTelemetry's own tracer draws its ids from the global generator, and costs more than all the rest."""
    before = os.environ.get("OTEL_SDK_DISABLED")
    os.environ["OTEL_SDK_DISABLED"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OTEL_SDK_DISABLED"]
        else:
            os.environ["OTEL_SDK_DISABLED"] = before


def make_telemetry(world: Surroundings, service: str, who: str) -> Telemetry:
    """Telemetry whose log is the trace."""
    with _without_tracing():
        return Telemetry(service, SimLog(world.trace, who, world.bug))


def client_of(world: Surroundings, life: Life, kind: Kind, name: str) -> NetClient:
    """A ServiceClient that signs as `kind:name`."""
    signer = TokenSigner(kind, name, derive_key(SECRET, kind, name), LifeClock(life))
    return NetClient(world.net, life, signer.headers)


def rng_of(world: Surroundings, life: Life) -> random.Random:
    """Randomness of one life."""
    return random.Random(f"{world.seed}:{life.name}:{world.loop.time()}")


def make_runtime(world: Surroundings, life: Life, service: str) -> Runtime:
    """The Runtime of one life of a service."""
    clock = LifeClock(life)
    rng = rng_of(world, life)
    return Runtime(
        service=service,
        instance=f"{life.name}-{RngIds(rng).short()}",
        common=world.common,
        settings=world.settings,
        clock=clock,
        rng=rng,
        ids=RngIds(rng),
        bus=world.bus.share(BusHandleFaults(world.faults, life)),
        store=SchemaStore(world.store.share(StoreHandleFaults(world.faults, life))),
        peers=client_of(world, life, Kind.SERVICE, service),
        verify=TokenVerifier(SECRET, clock),
        telemetry=make_telemetry(world, service, life.name),
        server=world.net.server(life),
        secret=SECRET,
    )


class Process:
    """One replica, over all its lives."""

    def __init__(
        self, world: Surroundings, name: str, service: str, main: Main, skew_s: float = 0.0
    ) -> None:
        self.world = world
        self.name = name
        self.service = service
        self.life: Life | None = None
        self.stopped = False
        self._main = main
        self.skew_s = skew_s
        self._failures = 0
        self._backoff = Backoff(0.2, 10.0)

    def start(self) -> None:
        """Begin a life, if there is none and it is not stopped."""
        if self.stopped or (self.life is not None and not self.life.dead):
            return
        life = self.life = Life(self.world.loop, self.name, self.skew_s)
        life.on_kill = self._killed
        life.on_skew = partial(self.world.faults.hit, Point.CLOCK_SKEW, self.name)
        self.world.trace.add(self.name, "starts")
        life.spawn(self._live(life))

    def stop(self) -> None:
        """End it; it stays so until `stopped` is taken back and it is started."""
        self.stopped = True
        self.kill()

    def kill(self) -> None:
        """kill -9; the supervisor starts it again."""
        if self.life is not None:
            self.life.kill()

    def _killed(self, _life: Life) -> None:
        self.world.trace.add(self.name, "is killed")
        self.world.loop.call_later(self.world.faults.rng.uniform(0.5, 8.0), self.start)

    async def _live(self, life: Life) -> None:
        rt = make_runtime(self.world, life, self.service)
        try:
            await self._main(rt, life)
        except (Exception, asyncio.CancelledError) as error:
            ended = isinstance(error, asyncio.CancelledError) and is_being_cancelled()
            if not life.dead and not ended:
                self._failed(life, error)
        finally:
            await rt.bus.close()

    def _failed(self, life: Life, error: BaseException) -> None:
        """It ended by itself: a bug is told, everything else is what supervision is for."""
        self._failures += 1
        self.world.trace.add(self.name, f"fails: {error!r:.300}")
        for each in leaves(error):
            if not isinstance(each, GantryError | MesosError):
                self.world.bug(f"{self.name} died of {described(each)}")
        life.dead = True
        pause_s = self._backoff.delay_s(self._failures, self.world.faults.rng)
        self.world.loop.call_later(pause_s, self.start)


def leaves(error: BaseException) -> list[BaseException]:
    """The errors of a group, of any depth."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


def described(error: BaseException) -> str:
    """An error and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{each.filename}:{each.lineno}" for each in reversed(frames))
    return f"{error!r} at {places}"
