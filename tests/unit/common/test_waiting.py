"""Waiting for an event or for time to pass."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from aiokafka.errors import KafkaError

from libs.common.bus.kafka_errors import guarded
from libs.common.errors import TimedOut, Unavailable
from libs.common.waiting import TaskGroup, contained, is_being_cancelled, lasting, set_or_due
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


async def leaked() -> None:
    """As a library does that cancels a future of its own."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def test_work_that_ends_by_itself_is_an_error_and_cancelled_work_is_not() -> None:
    async def returns() -> None:
        return

    for work in (returns(), leaked()):
        with pytest.raises(ExceptionGroup) as failed:
            async with asyncio.TaskGroup() as group:
                group.create_task(lasting(work))
        assert "has ended by itself" in str(failed.value.exceptions[0])
    task = asyncio.create_task(lasting(asyncio.Event().wait()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_a_client_cancels_for_itself_is_an_error_of_the_bus_and_a_time_out_still_one() -> (
    None
):
    with pytest.raises(Unavailable, match="fetch: the client gave it up"):
        async with guarded("fetch", 1.0):
            await leaked()
    with pytest.raises(TimedOut):
        async with guarded("fetch", 0.01):
            await asyncio.Event().wait()

    async def call() -> None:
        async with guarded("fetch", 1.0):
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def keep_connected(group_of: type[asyncio.TaskGroup], fails: asyncio.Event) -> None:
    """A loop that connects again when its connection breaks, until it is cancelled."""

    async def connection() -> None:
        await fails.wait()
        raise Unavailable("it broke")

    async def reader() -> None:
        await asyncio.Event().wait()

    while True:
        try:
            async with group_of() as group:
                group.create_task(connection())
                group.create_task(reader())
        except* Unavailable:
            fails.clear()
        await asyncio.sleep(1.0)


@virtual
async def test_a_cancellation_that_meets_an_error_is_not_lost(world: World) -> None:
    for steps in range(8):
        fails = asyncio.Event()
        task = asyncio.create_task(keep_connected(TaskGroup, fails))
        await world.clock.sleep(1.0)
        fails.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=10.0)
        assert done, f"it goes on, {steps} steps after the error"
        assert task.cancelled()


async def test_a_group_that_failed_leaves_no_cancellation_behind() -> None:
    async def fails(steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        raise Unavailable("it broke")

    for steps in range(4):
        with pytest.raises(ExceptionGroup):
            async with TaskGroup() as group:
                group.create_task(fails(steps))
                group.create_task(fails(steps + 1))
                await asyncio.sleep(0)
        assert not is_being_cancelled(), steps


async def test_groups_within_groups_end_with_the_outer_ones_error() -> None:
    async def fails(steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        raise Unavailable(f"after {steps}")

    for outer in range(5):
        for inner in range(5):
            with pytest.raises(ExceptionGroup):
                async with TaskGroup() as around:
                    around.create_task(fails(outer))
                    try:
                        async with TaskGroup() as group:
                            group.create_task(fails(inner))
                            await asyncio.Event().wait()
                    except* Unavailable:
                        await asyncio.Event().wait()
            assert not is_being_cancelled(), (outer, inner)
            await asyncio.sleep(0)


@virtual
async def test_a_cancellation_that_a_library_swallows_counts_all_the_same(world: World) -> None:
    async def stop(fails: bool) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # as aiokafka does
            await asyncio.Event().wait()
        if fails:
            raise KafkaError("the broker is gone")

    async def consume(fails: bool) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                async with guarded("leave", 5.0):
                    await stop(fails)
            await world.clock.sleep(1.0)

    for fails in (False, True):
        for after_s in (1.0, 5.0):  # also in the very moment in which the time is up
            task = asyncio.create_task(consume(fails))
            await world.clock.sleep(after_s)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=10.0)
            assert done, (fails, after_s)
            assert task.cancelled()


async def test_what_a_library_cancels_by_itself_is_an_error_and_what_we_cancel_is_not() -> None:
    with pytest.raises(Unavailable, match="given up"), contained("given up"):
        raise asyncio.CancelledError
    with contained("all is well"):
        pass

    async def wait() -> None:
        with contained("given up"):
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await wait()
