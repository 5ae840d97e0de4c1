"""Waiting for an event or for time to pass."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.waiting import set_or_due
from tests.simulation.loop import World, virtual


@virtual
async def test_it_ends_when_the_event_is_set_or_the_time_is_up(world: World) -> None:
    event = asyncio.Event()
    world.loop.call_later(2.0, event.set)
    await set_or_due(event, 5.0)
    assert world.clock.monotonic() == 2.0
    event.clear()
    await set_or_due(event, 5.0)
    assert world.clock.monotonic() == 7.0
    event.clear()
    await world.clock.sleep(10.0)
    assert not event.is_set()  # no timer is left that would set it
    world.loop.call_later(1000.0, event.set)
    await set_or_due(event, None)
    assert world.clock.monotonic() == 1017.0


@virtual
async def test_a_cancellation_is_nobody_elses(world: World) -> None:
    event = asyncio.Event()
    task = asyncio.create_task(set_or_due(event, 5.0))
    await world.clock.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.clock.sleep(10.0)
    assert not event.is_set()
