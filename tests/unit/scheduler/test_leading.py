"""Who may have been replaced makes no call to Mesos: there is no epoch in those that would fence it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from libs.common.clock import Clock
from libs.common.errors import Fenced
from libs.common.runtime import Runtime
from libs.mesos import events as mesos
from libs.mesos.framework import Permit
from libs.mesos.messages import FrameworkInfo
from services.scheduler.cluster import Cluster
from services.scheduler.mesos import MesosDriver
from services.scheduler.model import Action
from services.scheduler.service import Scheduler, run
from services.scheduler.settings import SchedulerConfig
from services.scheduler.store import Framework, Memory, SchedulerStore
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.scheduler.world import offer


@dataclass
class Driver:
    """Subscribed to a Mesos that `says` no more than this, but that a stream may be `cut`."""

    clock: Clock
    says: tuple[mesos.SchedulerEvent, ...] = ()
    done: list[Action] = field(default_factory=list)
    subscribed: int = 0
    cut: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def open(
        self, _rt: Runtime, _config: SchedulerConfig, _info: FrameworkInfo
    ) -> AsyncIterator[MesosDriver]:
        """See OpenDriver."""
        yield self

    @asynccontextmanager
    async def subscribe(self, permit: Permit) -> AsyncIterator[AsyncIterator[mesos.SchedulerEvent]]:
        """See MesosDriver."""

        async def events() -> AsyncIterator[mesos.SchedulerEvent]:
            while True:
                permit()
                self.subscribed += 1
                yield mesos.Subscribed("f1", 15.0, {})
                for each in self.says:
                    yield each
                await self.cut.wait()
                self.cut.clear()
                yield mesos.Disconnected("the peer closed the stream", True, 0.25)
                await self.clock.sleep(0.25)

        yield events()

    async def do(self, action: Action) -> None:
        """See MesosDriver."""
        self.done.append(action)


@dataclass
class Led:
    """A leadership that can be doubted."""

    sure: bool = True

    def certain(self) -> bool:
        """See Leadership."""
        return self.sure

    async def hold(self) -> None:
        """See Leadership."""
        await asyncio.Event().wait()


async def _leading(
    world: World, driver: Driver, led: Led, cluster: Cluster | None = None
) -> asyncio.Task[None]:
    """A scheduler that has led for ten seconds."""
    rt = SmallWorld(world.loop).runtime("scheduler", "scheduler-1")
    store = await SchedulerStore.open(rt.store)
    memory = cluster or Cluster()
    given = (rt, SchedulerConfig(), store, Framework(), memory, led, driver.open)
    running = asyncio.create_task(Scheduler(*given).run())
    await world.clock.sleep(10)
    assert driver.done and driver.subscribed == 1 and not running.done()
    return running


@virtual
async def test_who_is_not_certain_calls_nobody(world: World) -> None:
    driver, led = Driver(world.clock), Led()
    running = await _leading(world, driver, led)
    calls = len(driver.done)
    led.sure = False
    await world.clock.sleep(1000)
    assert len(driver.done) == calls
    with pytest.raises(BaseExceptionGroup) as found:
        await running
    assert found.group_contains(Fenced)


@virtual
async def test_it_hears_which_hosts_are_lost(world: World) -> None:
    cluster, told = Cluster(), mesos.Offers((offer(1, "a1"), offer(2, "a2")))  # type: ignore[arg-type]
    driver = Driver(world.clock, (told, mesos.Failure("a1", None, None)))
    running = await _leading(world, driver, Led(), cluster)
    assert cluster.volatile.lost == {"a1"}
    running.cancel()


@virtual
async def test_who_is_not_certain_does_not_subscribe_again(world: World) -> None:
    """It would throw out whoever leads by now."""
    driver, led = Driver(world.clock), Led()
    running = await _leading(world, driver, led)
    driver.cut.set()
    await world.clock.sleep(0.3)
    assert driver.subscribed == 2 and not running.done()
    led.sure = False
    driver.cut.set()
    with pytest.raises(BaseExceptionGroup) as found:
        async with asyncio.timeout(0.3):  # sooner than anything else is done at Mesos
            await running
    assert found.group_contains(Fenced)
    assert driver.subscribed == 2


@virtual
async def test_the_lease_is_kept_while_a_leader_loads(world: World) -> None:
    """Else another would be elected meanwhile, and it would be no more certain after that."""
    small = SmallWorld(world.loop, settings={"scheduler": SchedulerConfig(leader_lease_s=6.0)})
    recall, loads = SchedulerStore.recall, 0

    async def slowly(store: SchedulerStore, memory: Memory, clock: Clock) -> int:
        nonlocal loads
        loads += 1
        await world.clock.sleep(60)
        return await recall(store, memory, clock)

    drivers = [Driver(world.clock) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SchedulerStore, "recall", slowly)
        replicas = [
            asyncio.create_task(run(small.runtime("scheduler", f"scheduler-{n}"), each.open))
            for n, each in enumerate(drivers)
        ]
        await world.clock.sleep(100)
        assert loads == 1 and sorted(each.subscribed for each in drivers) == [0, 1]
    for each in replicas:
        each.cancel()
