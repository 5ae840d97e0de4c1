"""Doors of hosts: saved before they are gone by, told of when they are empty or late, and kept by the next leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
import pytest

from libs.common.errors import Fenced
from libs.common.store.base import OutboxEvent
from libs.common.store.memory import MemoryStore
from libs.common.telemetry import make_log
from services.scheduler.maintenance import LOOK_S, Asked, Maintenance
from services.scheduler.model import Door, NodeSet
from services.scheduler.store import SchedulerStore
from tests.unit.scheduler.world import Desk

HOST = "host-a1"


class Hands:
    """A clock that is moved by hand: `sleep` ends when `turn` has moved it far enough."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.desk.now

    def monotonic(self) -> float:
        return self.desk.now

    async def sleep(self, delay_s: float) -> None:
        done = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.desk.now + delay_s, done))
        await done

    async def turn(self, by_s: float) -> None:
        self.desk.now += by_s
        due = [each for each in self._sleepers if each[0] <= self.desk.now]
        self._sleepers = [each for each in self._sleepers if each not in due]
        for _, done in due:
            done.set_result(None)
        for _ in range(50):
            await asyncio.sleep(0)


class Leader:
    """The doors of one leader, on a store that outlives it."""

    def __init__(self, store: SchedulerStore, desk: Desk) -> None:
        self.store = store
        self.desk = desk
        self.hands = Hands(desk)
        self.told: list[OutboxEvent] = []
        log = make_log("scheduler", level="critical")
        self.doors = Maintenance(store.nodes, desk.cluster, self.submit, self.kick, self.hands, log)

    async def submit(self, given: NodeSet) -> None:
        stored = await self.store.nodes.load()
        assert stored[given.node.hostname] == given.node, "it is not saved yet"
        self.desk.give(given)

    def kick(self, events: Sequence[OutboxEvent]) -> None:
        self.told.extend(events)

    def topics(self) -> list[str]:
        return [each.topic for each in self.told]

    async def drain(self, **more: float | bool) -> None:
        await self.doors.change(Asked(HOST, Door.DRAINING, "disk", "ann", **more))  # type: ignore[arg-type]

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self.doors.run())
            await asyncio.sleep(0)
            yield
            work.cancel()


async def _leader(store: MemoryStore, desk: Desk) -> Leader:
    opened = await SchedulerStore.open(store)
    desk.cluster.volatile.nodes = await opened.nodes.load()
    return Leader(opened, desk)


async def test_a_drain_is_followed_until_the_host_is_empty_and_that_is_told_once() -> None:
    desk = Desk()
    desk.running()
    leader = await _leader(MemoryStore(), desk)
    async with leader.looking():
        await leader.drain()
        await leader.hands.turn(LOOK_S)
        assert leader.told == []
        desk.tell("i1.1", "TASK_FAILED")
        for _ in range(3):
            await leader.hands.turn(LOOK_S)
        assert leader.topics() == ["node.drained"]
        assert orjson.loads(leader.told[0].value)["agent"] == "a1"
        assert desk.cluster.volatile.nodes[HOST].drained_at > 0


@pytest.mark.parametrize("force", [False, True])
async def test_a_deadline_that_passes_is_audited_once_and_forced_only_if_asked(force: bool) -> None:
    desk = Desk()
    desk.running()
    leader = await _leader(MemoryStore(), desk)
    async with leader.looking():
        await leader.drain(deadline_s=60.0, force=force)
        await leader.hands.turn(30.0)
        assert (leader.told, desk["i1"].leaving) == ([], "asked")
        await leader.hands.turn(31.0)
        await leader.hands.turn(31.0)
        (audit,) = [orjson.loads(each.value) for each in leader.told]
        assert audit["action"] == ("node.drain-forced" if force else "node.drain-overdue")
        assert "1 of acme/web" in audit["detail"]
        assert desk["i1"].leaving == ("forced" if force else "asked")


async def test_the_next_leader_goes_on_and_the_one_before_is_fenced() -> None:
    store, desk = MemoryStore(), Desk()
    desk.running()
    before = await _leader(store, desk)
    await before.drain()
    after = await _leader(store, Desk())
    assert after.desk.cluster.volatile.nodes[HOST].door is Door.DRAINING
    with pytest.raises(Fenced):
        await before.doors.change(Asked(HOST, Door.OPEN, "", "ann"))
    await after.doors.change(Asked(HOST, Door.OPEN, "", "bob"))
    assert (await after.store.nodes.load())[HOST].door is Door.OPEN


async def test_a_write_whose_answer_was_lost_does_not_stop_the_next_one() -> None:
    desk = Desk()
    leader = await _leader(MemoryStore(), desk)
    await leader.drain()
    desk.cluster.volatile.nodes.clear()  # the answer of that write never came
    await leader.doors.change(Asked(HOST, Door.CORDONED, "", "ann"))
    assert desk.cluster.volatile.nodes[HOST].door is Door.CORDONED
