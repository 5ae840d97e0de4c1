"""Who may have been replaced makes no call to Mesos: there is no epoch in those that would fence it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from libs.common.errors import Fenced
from libs.common.runtime import Runtime
from libs.mesos import events as mesos
from libs.mesos.messages import FrameworkInfo
from services.scheduler.cluster import Cluster
from services.scheduler.mesos import MesosDriver
from services.scheduler.model import Action
from services.scheduler.service import Scheduler
from services.scheduler.settings import SchedulerConfig
from services.scheduler.store import Framework, SchedulerStore
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld


@dataclass
class Driver:
    """Subscribed to a Mesos that says nothing more."""

    done: list[Action] = field(default_factory=list)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[mesos.SchedulerEvent]]:
        """See MesosDriver."""

        async def events() -> AsyncIterator[mesos.SchedulerEvent]:
            yield mesos.Subscribed("f1", 15.0, {})
            await asyncio.Event().wait()

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


@virtual
async def test_who_is_not_certain_calls_nobody(world: World) -> None:
    small, driver, led = SmallWorld(world.loop), Driver(), Led()
    rt = small.runtime("scheduler", "scheduler-1")

    @asynccontextmanager
    async def open_driver(
        _rt: Runtime, _config: SchedulerConfig, _info: FrameworkInfo
    ) -> AsyncIterator[MesosDriver]:
        yield driver

    store = await SchedulerStore.open(rt.store)
    given = (rt, SchedulerConfig(), store, Framework(), Cluster(), led, open_driver)
    running = asyncio.create_task(Scheduler(*given).run())
    await world.clock.sleep(10)
    calls = len(driver.done)
    assert calls > 0 and not running.done()
    led.sure = False
    await world.clock.sleep(1000)
    assert len(driver.done) == calls
    with pytest.raises(BaseExceptionGroup) as found:
        await running
    assert found.group_contains(Fenced)
