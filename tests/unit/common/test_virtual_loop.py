"""The virtual loop: time passes at once, a seed repeats everything, the real world is refused."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from tests.simulation.loop import NothingWillHappen, RealWorld, World, run, virtual

MONTH_S = 30 * 86400.0


async def _busy(world: World) -> list[object]:
    """Tasks, sets of tasks, time-outs, queues: what a run leaves behind."""
    trace: list[object] = []
    queue: asyncio.Queue[int] = asyncio.Queue(3)

    async def work(n: int) -> int:
        for _ in range(5):
            await world.clock.sleep(world.rng.random())
            trace.append((n, world.clock.now()))
            await queue.put(n)
        return n

    async def drain() -> None:
        while True:
            trace.append(("got", await queue.get()))

    drainer = asyncio.create_task(drain())
    tasks = {asyncio.create_task(work(n)) for n in range(30)}
    done, pending = await asyncio.wait(tasks, timeout=1.2)
    trace.append([task.result() for task in done])
    for task in pending:  # a set: its order shows
        try:
            async with asyncio.timeout(world.rng.random()):
                await task
        except TimeoutError:
            trace.append(("late", task.get_name()))
    drainer.cancel()
    trace.append(world.ids.uuid())
    return trace


def test_a_seed_repeats_everything_and_another_does_not() -> None:
    first, second, other = run(_busy, 1), run(_busy, 1), run(_busy, 2)
    assert first == second
    assert first != other
    assert len(first) > 100


def test_a_seed_repeats_in_another_process() -> None:
    code = "from tests.unit.common.test_virtual_loop import _busy; from tests.simulation.loop import run;"
    code += "import hashlib; print(hashlib.sha256(repr(run(_busy, 5)).encode()).hexdigest())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for _ in range(2)
    }
    assert len(seen) == 1


@virtual
async def test_a_month_passes_at_once_and_exactly(world: World) -> None:
    start = world.clock.now()
    await world.clock.sleep(MONTH_S)
    assert world.clock.now() - start == pytest.approx(MONTH_S)
    assert world.clock.monotonic() == MONTH_S
    for n in range(1, 1001):
        await asyncio.sleep(0.1)
    assert world.clock.monotonic() == pytest.approx(MONTH_S + n * 0.1)


@virtual
async def test_timers_run_in_the_order_they_are_due(world: World) -> None:
    order: list[float] = []

    async def at(delay_s: float) -> None:
        await world.clock.sleep(delay_s)
        assert world.clock.monotonic() == delay_s
        order.append(delay_s)

    delays = [world.rng.uniform(0, 1e5) for _ in range(500)]
    await asyncio.gather(*map(at, delays))
    assert order == sorted(delays)


def test_waiting_for_nothing_is_an_error_that_carries_the_seed() -> None:
    async def stuck(world: World) -> None:
        await world.clock.sleep(3)
        await asyncio.Event().wait()

    with pytest.raises(NothingWillHappen) as raised:
        run(stuck, 17)
    assert "seed 17, virtual time 3.0" in raised.value.__notes__[0]


@pytest.mark.parametrize("what", ["executor", "connection", "server", "thread"])
def test_the_real_world_is_refused(what: str) -> None:
    async def main(world: World) -> None:
        if what == "executor":
            await asyncio.to_thread(print)
        elif what == "connection":
            await asyncio.open_connection("127.0.0.1", 1)
        elif what == "server":
            await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        else:
            errors: list[BaseException] = []

            def call() -> None:
                try:
                    world.loop.call_soon_threadsafe(print)
                except RealWorld as error:
                    errors.append(error)

            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            raise errors[0]

    with pytest.raises(RealWorld):
        run(main)


def test_a_check_after_each_step_can_stop_the_run() -> None:
    async def main(world: World) -> None:
        def check() -> None:
            assert world.clock.monotonic() < 5, "too late"

        world.loop.after_step = check
        for _ in range(10):
            await world.clock.sleep(1)

    with pytest.raises(AssertionError, match="too late"):
        run(main)


def test_what_is_left_running_is_cancelled() -> None:
    ended = []

    async def main(world: World) -> None:
        async def forever() -> None:
            try:
                while True:
                    await world.clock.sleep(1)
            finally:
                ended.append(world.clock.monotonic())

        world.loop.create_task(forever())
        await world.clock.sleep(2.5)

    run(main)
    assert ended == [2.5]
