"""A call that gets no answer holds up its like, and nothing else; what needs an order has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.scheduler.model import (
    Acknowledge,
    Action,
    AgentId,
    AttemptId,
    Decline,
    Kill,
    Launch,
    OfferId,
    Reconcile,
    Revive,
    Suppress,
)
from services.scheduler.sending import AT_A_TIME, UNSENT, Sender
from tests.simulation.loop import World, virtual

HANGS_S = 10.0


class Master:
    """Does what it is told; calls that hang take HANGS_S, others 1 ms."""

    def __init__(self) -> None:
        self.hanging: list[Action] = []
        self.began: list[Action] = []
        self.done: list[Action] = []

    async def do(self, action: Action) -> None:
        """One call."""
        self.began.append(action)
        await asyncio.sleep(HANGS_S if action in self.hanging else 0.001)
        self.done.append(action)


@asynccontextmanager
async def sending(master: Master) -> AsyncIterator[Sender]:
    sender = Sender(master.do)
    running = asyncio.create_task(sender.run())
    try:
        yield sender
    finally:
        running.cancel()
        await asyncio.wait([running])


def launch(number: int) -> Launch:
    return Launch((OfferId(f"o{number}"),), AgentId("a"), ())


def named(number: int) -> Reconcile:
    return Reconcile(((AttemptId(f"i{number}.1"), None),))


def kill(number: int) -> Kill:
    return Kill(AttemptId(f"i{number}.1"), AgentId("a"), 1.0)


async def put_all(sender: Sender, *decisions: Sequence[Action]) -> None:
    for each in decisions:
        await sender.put(each)
    await asyncio.sleep(0.1)


@virtual
async def test_a_call_without_an_answer_holds_up_no_later_launch(_world: World) -> None:
    for lost in (Acknowledge(({"uuid": "u"},)), Suppress(), kill(1), Reconcile()):  # type: ignore[typeddict-item]
        master = Master()
        master.hanging = [lost]
        async with sending(master) as sender:
            await put_all(sender, [launch(1), lost], [launch(2), kill(2)])
            assert master.done == [launch(1), launch(2), kill(2)], lost


@virtual
async def test_launches_and_wishes_for_offers_keep_their_order(_world: World) -> None:
    master = Master()
    master.hanging = [launch(1), Revive()]
    async with sending(master) as sender:
        await put_all(sender, [launch(1), Revive()])
        await put_all(sender, [launch(2), Suppress()], [launch(3)])
        assert master.began == [Revive(), launch(1)] or master.began == [launch(1), Revive()]
        await asyncio.sleep(HANGS_S)
        launches = [each for each in master.done if isinstance(each, Launch)]
        assert launches == [launch(1), launch(2), launch(3)]
        assert [each for each in master.done if not isinstance(each, Launch)] == [
            Revive(),
            Suppress(),
        ]


@virtual
async def test_a_wish_without_an_answer_holds_up_wishes_only_and_the_last_one_counts(
    _world: World,
) -> None:
    master = Master()
    master.hanging = [Suppress()]
    later = range(2, 2 + 3 * (AT_A_TIME + UNSENT))
    async with sending(master) as sender:
        await put_all(sender, [launch(1), Suppress()])
        for number in later:
            async with asyncio.timeout(1.0):
                await sender.put([launch(number), Revive() if number % 2 else Suppress()])
        await sender.put([Decline((OfferId("o99"),), 3600.0), Revive()])
        await asyncio.sleep(1.0)
        assert master.done == [launch(1), *map(launch, later)]
        master.hanging = []
        await asyncio.sleep(HANGS_S)
        # No filter comes after the call that is to clear it.
        assert master.done[-3:] == [Suppress(), Decline((OfferId("o99"),), 3600.0), Revive()]


@virtual
async def test_nobody_asks_for_a_task_whose_launch_is_under_way(_world: World) -> None:
    master = Master()
    master.hanging = [launch(1)]
    async with sending(master) as sender:
        await put_all(sender, [launch(1)], [named(1)])
        assert master.began == [launch(1)]
        await asyncio.sleep(HANGS_S)
        assert master.done == [launch(1), named(1)]


@virtual
async def test_few_decisions_are_acted_upon_at_a_time(_world: World) -> None:
    master = Master()
    master.hanging = [kill(number) for number in range(100)]
    async with sending(master) as sender:
        taken = 0
        for number in range(100):
            try:
                async with asyncio.timeout(1.0):
                    await sender.put([kill(number)])
            except TimeoutError:
                break
            taken += 1
        assert len(master.began) == AT_A_TIME
        assert taken == AT_A_TIME + 1 + UNSENT  # one is at hand
