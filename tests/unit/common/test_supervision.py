"""A service that fails is started again, alone; one that fails always ends the process."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.bus.memory import MemoryBus
from libs.common.clock import RngIds
from libs.common.errors import Unavailable
from libs.common.runtime import CommonConfig, Runtime, Shared
from libs.common.store.memory import MemoryStore
from libs.common.store.schemas import SchemaStore
from libs.common.supervision import RESTARTS, run_services, supervise
from tests.simulation.loop import World, virtual


def shared_of(world: World) -> Shared:
    """A process in virtual time."""
    return Shared(
        CommonConfig(log_level="critical"),
        settings={},
        bus=MemoryBus(world.clock),
        store=SchemaStore(MemoryStore()),
        clock=world.clock,
        rng=world.rng,
        ids=RngIds(world.rng),
        secret=b"a secret of the cluster, 32 bytes",
    )


class Service:
    """Fails as often as it is told to, each time in another way, then works for a minute."""

    def __init__(self, world: World, failures: int) -> None:
        self.world = world
        self.failures = failures
        self.starts: list[float] = []

    async def run(self, _rt: Runtime) -> None:
        """See ServiceMain."""
        self.starts.append(self.world.clock.monotonic())
        if len(self.starts) > self.failures:
            await self.world.clock.sleep(60.0)
        elif len(self.starts) % 2:
            raise Unavailable("a server is away")
        else:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()  # as a library does that cancels what is its own
            await future


@virtual
async def test_who_fails_is_started_again_and_the_others_go_on(world: World) -> None:
    shared = shared_of(world)
    good, bad = Service(world, 0), Service(world, 4)
    await run_services(shared, {"good": good.run, "bad": bad.run})
    assert (len(good.starts), len(bad.starts)) == (1, 5)
    pauses = [after - before for before, after in zip(bad.starts, bad.starts[1:], strict=False)]
    assert all(0.0 < pause <= 10.0 for pause in pauses)
    assert max(pauses) > pauses[0]


@virtual
async def test_who_fails_always_ends_the_process(world: World) -> None:
    bad = Service(world, 2 * RESTARTS)
    with pytest.raises(Unavailable):
        await supervise(shared_of(world), "bad", bad.run)
    assert len(bad.starts) == RESTARTS + 1


@virtual
async def test_a_service_that_is_to_end_ends(world: World) -> None:
    service = Service(world, 0)
    task = asyncio.create_task(supervise(shared_of(world), "good", service.run))
    await world.clock.sleep(5.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(service.starts) == 1
