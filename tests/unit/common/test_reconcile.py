"""The reconcile queue, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

from libs.common.backoff import Backoff
from libs.common.errors import Unavailable
from libs.common.reconcile import ListKeys, Reconcile, ReconcileQueue
from tests.simulation.loop import World, virtual
from tests.unit.common.helpers import Lines


@asynccontextmanager
async def running(
    world: World,
    reconcile: Reconcile,
    *,
    workers: int = 3,
    keys: ListKeys | None = None,
    log: Lines | None = None,
) -> AsyncIterator[ReconcileQueue]:
    """A queue at work (it is cancelled at the end)."""
    queue = ReconcileQueue(
        "q",
        reconcile,
        clock=world.clock,
        rng=world.rng,
        log=log or Lines(),
        workers=workers,
        backoff=Backoff(1.0, 8.0),
    )
    task = asyncio.create_task(queue.run(keys, 30.0))
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@virtual
async def test_a_key_that_waits_is_queued_once(world: World) -> None:
    handled: list[str] = []

    async def reconcile(key: str) -> None:
        handled.append(key)

    async with running(world, reconcile) as queue:
        for _ in range(5):
            queue.add("a")
        queue.add("b")
        assert len(queue) == 2
        await world.clock.sleep(1)
    assert handled == ["a", "b"]


@virtual
async def test_a_key_is_never_handled_twice_at_a_time_nor_more_than_workers(world: World) -> None:
    at_work: Counter[str] = Counter()
    peak = 0
    handled: Counter[str] = Counter()

    async def reconcile(key: str) -> None:
        nonlocal peak
        at_work[key] += 1
        peak = max(peak, at_work.total())
        assert at_work[key] == 1
        await world.clock.sleep(world.rng.random())
        at_work[key] -= 1
        handled[key] += 1

    async with running(world, reconcile, workers=3) as queue:
        for _ in range(300):
            queue.add(f"k{world.rng.randrange(6)}")
            await world.clock.sleep(world.rng.random() / 10)
        await world.clock.sleep(10)
        assert len(queue) == 0
    assert peak == 3
    assert len(handled) == 6 and handled.total() < 300


@virtual
async def test_a_key_added_while_running_is_handled_once_more(world: World) -> None:
    state, seen = 0, []

    async def reconcile(key: str) -> None:
        seen.append(state)
        await world.clock.sleep(1)

    async with running(world, reconcile) as queue:
        queue.add("a")
        await world.clock.sleep(0.5)
        for state in (1, 2, 3):
            queue.add("a")
        await world.clock.sleep(10)
    assert seen == [0, 3]


@virtual
async def test_an_answer_takes_the_place_of_the_one_before(world: World) -> None:
    times: list[float] = []

    async def reconcile(key: str) -> float:
        times.append(world.clock.monotonic())
        return 5.0

    async with running(world, reconcile) as queue:
        queue.add("a")
        await world.clock.sleep(3)
        queue.add("a")  # whoever looks now need not look again at 5
        await world.clock.sleep(11)
    assert times == [0, 3, 8, 13]


@virtual
async def test_a_later_look_that_was_asked_for_is_kept(world: World) -> None:
    times: list[float] = []

    async def reconcile(key: str) -> float:
        times.append(world.clock.monotonic())
        return 50.0

    async with running(world, reconcile) as queue:
        queue.add("a")
        await world.clock.sleep(1)
        queue.add("a", 3.0)
        await world.clock.sleep(1)
        queue.add("a")
        await world.clock.sleep(20)
    assert times == [0, 2, 4]


@virtual
async def test_a_failure_comes_back_after_a_growing_pause(world: World) -> None:
    times: list[float] = []
    log = Lines()

    async def reconcile(key: str) -> None:
        times.append(world.clock.monotonic())
        if len(times) < 6:
            raise Unavailable("not yet") if len(times) % 2 else ValueError("a bug")

    async with running(world, reconcile, log=log) as queue:
        queue.add("a")
        await world.clock.sleep(100)
        queue.add("a")
        await world.clock.sleep(1)
    pauses = [b - a for a, b in pairwise(times[:6])]
    for pause, ceiling in zip(pauses, (1, 2, 4, 8, 8), strict=True):
        assert ceiling / 2 <= pause <= ceiling
    assert len(times) == 7
    # What was expected is a warning; a bug shows its traceback.
    assert [level for level, _, _ in log.lines] == ["warning", "exception"] * 2 + ["warning"]


@virtual
async def test_a_success_forgets_the_failures(world: World) -> None:
    times: list[float] = []

    async def reconcile(key: str) -> None:
        times.append(world.clock.monotonic())
        if len(times) in (1, 2, 4):
            raise Unavailable("down")

    async with running(world, reconcile) as queue:
        queue.add("a")
        await world.clock.sleep(20)
        queue.add("a")
        await world.clock.sleep(20)
    assert len(times) == 5
    assert times[4] - times[3] <= 1.0  # the first step again, not the third


@virtual
async def test_one_failing_key_holds_up_no_other(world: World) -> None:
    handled: list[str] = []

    async def reconcile(key: str) -> None:
        if key == "bad":
            raise Unavailable("always")
        handled.append(key)

    async with running(world, reconcile, workers=1) as queue:
        queue.add("bad")
        queue.add("good")
        await world.clock.sleep(0.1)
        assert handled == ["good"]


@virtual
async def test_later_keys_come_when_due_and_the_earliest_wins(world: World) -> None:
    times: list[tuple[str, float]] = []

    async def reconcile(key: str) -> float | None:
        times.append((key, round(world.clock.monotonic(), 3)))
        return 5.0 if key == "again" and len(times) < 4 else None

    async with running(world, reconcile) as queue:
        queue.add("a", 3.0)
        queue.add("a", 1.0)
        queue.add("a", 2.0)
        queue.add("again")
        await world.clock.sleep(60)
    assert times == [("again", 0.0), ("a", 1.0), ("again", 5.0), ("again", 10.0)]


@virtual
async def test_the_sweep_finds_what_no_event_told(world: World) -> None:
    keys = ["a"]
    handled: list[tuple[str, float]] = []
    failures = 2

    async def reconcile(key: str) -> None:
        handled.append((key, world.clock.monotonic()))

    async def list_keys() -> list[str]:
        nonlocal failures
        if keys == ["a", "b"] and failures:
            failures -= 1
            raise Unavailable("the store is away")
        return keys

    async with running(world, reconcile, keys=list_keys):
        await world.clock.sleep(1)
        assert [key for key, _ in handled] == ["a"]
        keys.append("b")
        await world.clock.sleep(35)
    assert [key for key, _ in handled] == ["a", "a", "b"]
    assert 30 < handled[-1][1] < 34  # two failed sweeps cost two pauses, not another round


@virtual
async def test_what_was_woken_goes_before_what_is_swept(world: World) -> None:
    handled: list[str] = []

    async def reconcile(key: str) -> None:
        handled.append(key)
        await world.clock.sleep(0.01)

    async def keys() -> list[str]:
        return [f"idle-{n}" for n in range(1000)]

    async with running(world, reconcile, keys=keys) as queue:
        await world.clock.sleep(0.5)
        assert len(queue) > 800
        queue.add("busy")
        queue.add("idle-999")
        await world.clock.sleep(0.03)
        assert {"busy", "idle-999"} <= set(handled[-9:])
        await world.clock.sleep(5)
    assert len(handled) == 1001  # and nobody is forgotten, or handled twice
