"""The monitor on a store and a bus in virtual time, with a master and a mailbox of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from libs.common.errors import Unavailable
from libs.common.events import model as ev
from libs.common.events.base import seal, to_record
from libs.common.http import Request, Response, Route, reply
from libs.common.leader import Candidate, Election, Leadership, LeaseLost, StoreElection
from libs.common.runtime import Runtime
from libs.common.store.base import Write
from services.monitor import core
from services.monitor.mesos import Operator
from services.monitor.model import Alert, MonitorConfig, Node, alert_body
from services.monitor.service import run
from services.monitor.store import ALERTS, NODES
from tests.fakes.disk import FakeDisk
from tests.simulation.faults import Point
from tests.simulation.loop import EPOCH_S, World, virtual
from tests.simulation.small import SmallWorld


@dataclass
class Master:
    """An Operator, and what it would answer."""

    agents: list[Node] = field(default_factory=list)
    away: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def nodes(self) -> Sequence[Node]:
        """See Operator."""
        if self.away:
            raise Unavailable("no master")
        return list(self.agents)

    async def changes(self) -> AsyncIterator[None]:
        """See Operator."""
        while True:
            await self.news.wait()
            self.news.clear()
            yield


@dataclass
class Mails:
    """A Notifier that can fail before or after the deed."""

    told: list[tuple[str, bool]] = field(default_factory=list)
    failing: int = 0
    on_tell: Callable[[], Awaitable[object]] | None = None  # once, when a mail was handed over

    async def tell(self, alert: Alert) -> None:
        """See Notifier."""
        if self.failing > 0:
            self.failing -= 1
            raise Unavailable("SMTP")
        self.told.append((alert.id, alert.firing))
        if self.on_tell is not None:
            work, self.on_tell = self.on_tell, None
            await work()


@dataclass
class Desk:
    """A running monitor."""

    small: SmallWorld
    master: Master = field(default_factory=Master)
    mails: Mails = field(default_factory=Mails)
    disk: FakeDisk = field(default_factory=lambda: FakeDisk({}))
    sequence: int = 0
    election: Election = field(default_factory=StoreElection)

    def start(self) -> asyncio.Task[None]:
        """Run it until cancelled."""
        rt = replace(self.small.runtime("monitor", "monitor-1"), election=self.election)

        @asynccontextmanager
        async def open_operator(_rt: Runtime, _config: MonitorConfig) -> AsyncIterator[Operator]:
            yield self.master

        return asyncio.create_task(run(rt, open_operator, self.mails, self.disk.measure))

    async def crash(self, count: int = 1) -> None:
        """Instances of acme/web end."""
        for _ in range(count):
            self.sequence += 1
            exited = ev.ContainerExited(
                instance=f"acme-web-{self.sequence}",
                app="acme/web",
                attempt=f"acme-web-{self.sequence}.1",
                agent="a1",
                hostname="h1",
                state="TASK_FAILED",
            )
            now = EPOCH_S + self.small.loop.time()
            sealed = seal([exited], source="scheduler", sequence=self.sequence, now=now)
            await self.small.bus.publish([to_record(each) for each in sealed])

    def alert(self, name: str) -> bool:
        """Does it fire, by what is stored."""
        body = self.small.store.body("monitor_alerts", name)
        return bool(body and body["firing"])


async def within(
    world: World, limit_s: float, *expected: tuple[str, bool], desk: Desk, about: str = ""
) -> None:
    """Wait until exactly these mails (about one alert, or all) have been sent, and see that no more follow."""

    def told() -> list[tuple[str, bool]]:
        return [each for each in desk.mails.told if about in ("", each[0])]

    deadline = world.clock.monotonic() + limit_s
    while told() != list(expected) and world.clock.monotonic() < deadline:
        await world.clock.sleep(0.5)
    assert told() == list(expected)


CRASHING = "app-crashing:acme/web"
NO_MASTER = "component-down:mesos"
LOST = "node-lost:a1"


@virtual
async def test_a_removed_framework_is_told_and_so_is_its_coming_back(world: World) -> None:
    desk = Desk(SmallWorld(world.loop))
    removed = False

    async def status(_request: Request) -> Response:
        known = {"framework": "f1", "breaker_open": False, "unknown_tasks": []}
        return reply({**known, "framework_removed": removed})

    rt = desk.small.runtime("scheduler", "scheduler-1")
    async with rt.serve(rt.http_app([Route("GET", "/v1/status", status)])):
        task = desk.start()
        await world.clock.sleep(30)
        assert desk.mails.told == []
        removed = True
        told = ("framework-removed", True)
        await within(world, 30, told, desk=desk)
        body = desk.small.store.body("monitor_alerts", "framework-removed")
        assert body and "f1" in body["summary"] and "gantry scheduler reregister" in body["summary"]
        removed = False
        await within(world, 30, told, ("framework-removed", False), desk=desk)
        task.cancel()


@virtual
async def test_a_crashing_app_is_told_once_and_so_is_its_end(world: World) -> None:
    desk = Desk(SmallWorld(world.loop))
    task = desk.start()
    await desk.crash(2)
    await world.clock.sleep(20)
    assert desk.mails.told == []
    await desk.crash(5)
    await within(world, 10, (CRASHING, True), desk=desk)
    await world.clock.sleep(60)
    assert desk.mails.told == [(CRASHING, True)]
    await within(world, 120, (CRASHING, True), (CRASHING, False), desk=desk)
    task.cancel()


@virtual
async def test_a_mail_that_fails_is_sent_later_and_once(world: World) -> None:
    desk = Desk(SmallWorld(world.loop), mails=Mails(failing=3))
    task = desk.start()
    await desk.crash(3)
    await within(world, 30, (CRASHING, True), desk=desk)
    task.cancel()


HOST = Node("a1", "h1")


@virtual
async def test_what_turns_while_it_is_being_mailed_is_told_each_time(world: World) -> None:
    desk = Desk(SmallWorld(world.loop), Master([HOST]))
    task = desk.start()
    await world.clock.sleep(10)

    async def meanwhile(agents: list[Node]) -> None:
        """The mail server takes its time."""
        desk.master.agents = agents
        await world.clock.sleep(20)

    desk.mails.on_tell = partial(meanwhile, [HOST])
    desk.master.agents = []
    told = [(LOST, True), (LOST, False)]
    await within(world, 60, *told, desk=desk)

    desk.master.agents = []
    told.append((LOST, True))
    await within(world, 60, *told, desk=desk)
    desk.mails.on_tell = partial(meanwhile, [])
    desk.master.agents = [HOST]
    await within(world, 60, *told, (LOST, False), (LOST, True), desk=desk)
    task.cancel()


@virtual
async def test_the_end_is_told_of_what_a_dead_monitor_had_mailed(world: World) -> None:
    desk = Desk(SmallWorld(world.loop), Master([HOST]))
    task = desk.start()
    await world.clock.sleep(10)
    desk.mails.on_tell = asyncio.Event().wait
    desk.master.agents = []
    await within(world, 60, (LOST, True), desk=desk)
    task.cancel()  # before it could keep that people know
    await world.clock.sleep(1)
    desk.master.agents = [HOST]
    task = desk.start()
    await world.clock.sleep(60)
    *before, last = desk.mails.told
    assert set(before) == {(LOST, True)}  # perhaps again: the next can't know of the first
    assert last == (LOST, False)
    task.cancel()


@virtual
async def test_a_host_lost_and_back(world: World) -> None:
    desk = Desk(SmallWorld(world.loop))
    desk.master.agents = [Node("a1", "h1", cpus=4.0)]
    task = desk.start()
    await world.clock.sleep(10)
    desk.master.away = True  # without a master nobody is lost
    await world.clock.sleep(100)
    assert desk.mails.told == [(NO_MASTER, True)]
    desk.master.away = False
    desk.master.news.set()
    told = ((NO_MASTER, True), (NO_MASTER, False))
    await within(world, 40, *told, desk=desk)
    desk.master.agents = []
    desk.master.news.set()
    await within(world, 40, *told, (LOST, True), desk=desk)
    desk.master.agents = [Node("a1", "h1", cpus=4.0)]
    desk.master.news.set()
    await within(world, 10, *told, (LOST, True), (LOST, False), desk=desk)
    task.cancel()


@virtual
async def test_what_the_scheduler_waits_for_people_to_look_at(world: World) -> None:
    desk = Desk(SmallWorld(world.loop))
    told: dict[str, Any] = {"framework": "f1", "breaker_open": False, "unknown_tasks": []}
    told["overdue_drains"] = ["h1"]

    async def status(_request: Request) -> Response:
        return reply(told)

    rt = desk.small.runtime("scheduler", "scheduler-1")
    async with rt.serve(rt.http_app([Route("GET", "/v1/status", status)])):
        task = desk.start()
        late, held = core.DRAIN_OVERDUE, core.BREAKER_OPEN
        await within(world, 60, (late, True), desk=desk, about=late)
        told.update(breaker_open=True, unknown_tasks=["a.1"], overdue_drains=[])
        await within(world, 60, (late, True), (late, False), desk=desk, about=late)
        await within(world, 60, (held, True), desk=desk, about=held)
        task.cancel()


@virtual
async def test_a_crash_between_the_nodes_document_and_its_alert_loses_no_alert(
    world: World,
) -> None:
    desk = Desk(SmallWorld(world.loop))
    desk.master.agents = [Node("a1", "h1", cpus=4.0)]
    first = desk.start()
    await world.clock.sleep(10)
    first.cancel()
    await asyncio.wait([first])
    store = desk.small.store
    body = {**store.bodies("monitor_nodes")["a1"], "state": "lost"}
    collection = await store.collection(NODES)
    await collection.replace_many([Write("a1", 1, body)])
    desk.master.agents = []
    second = desk.start()
    await within(world, 20, (LOST, True), desk=desk)
    second.cancel()


@virtual
async def test_under_a_failing_store_alerts_still_come_and_go_once_each(world: World) -> None:
    small = SmallWorld(world.loop, seed=5)
    desk = Desk(small)
    task = desk.start()
    await world.clock.sleep(1)  # a start that fails is its supervisor's business
    small.faults.rates = dict.fromkeys(Point, 0.0) | {Point.STORE_FAILS: 0.2}
    small.faults.on = True
    await desk.crash(4)
    # The store itself is told of as well, and rightly.
    told = (CRASHING, True), (CRASHING, False)
    await within(world, 60, told[0], desk=desk, about=CRASHING)
    await within(world, 200, *told, desk=desk, about=CRASHING)
    small.faults.on = False
    assert not desk.alert(CRASHING)
    assert not small.bugs
    task.cancel()


@virtual
async def test_what_is_long_over_is_forgotten(world: World) -> None:
    desk = Desk(
        SmallWorld(
            world.loop, settings={"monitor": MonitorConfig(keep_lost_s=3600, keep_alerts_s=7200)}
        )
    )
    desk.master.agents = [Node("a1", "h1"), Node("a2", "h2")]
    task = desk.start()
    await world.clock.sleep(10)
    desk.master.agents = [Node("a2", "h2")]
    await within(world, 60, (LOST, True), desk=desk)
    low = Alert("disk-low:h1", "disk-low", firing=True, notified=True)
    down = Alert("component-down:host@h1", "component-down", firing=True, notified=True)
    alerts = await desk.small.store.collection(ALERTS)
    await alerts.replace_many([Write(each.id, 0, alert_body(each)) for each in (low, down)])
    await world.clock.sleep(3000)
    assert desk.small.store.body("monitor_nodes", "a1")
    await world.clock.sleep(1500)
    # A host that is lost for good is no trouble any more: its alert is resolved before it is forgotten.
    assert desk.small.store.body("monitor_nodes", "a1") is None
    assert desk.small.store.body("monitor_nodes", "a2")
    over = [(LOST, True), (LOST, False), (down.id, False), (low.id, False)]
    assert sorted(desk.mails.told) == sorted(over)
    await world.clock.sleep(6000)
    assert desk.small.store.body("monitor_alerts", LOST)
    await world.clock.sleep(3000)
    assert desk.small.store.body("monitor_alerts", LOST) is None
    assert sorted(desk.mails.told) == sorted(over)
    task.cancel()


NO_ELECTION = "component-down:zookeeper"


@dataclass
class Electorate:
    """An Election with one candidate, that goes away."""

    away: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def lead(self, _rt: Candidate, _name: str, _ttl_s: float) -> AsyncIterator[Leadership]:
        """See Election."""
        yield self

    def certain(self) -> bool:
        """See Leadership."""
        return not self.away.is_set()

    async def hold(self) -> None:
        """See Leadership."""
        await self.away.wait()
        raise LeaseLost("what elects is away", "zookeeper")


@virtual
async def test_that_nobody_leads_is_mailed(world: World) -> None:
    assert await mailed_when_nobody_leads(world, None) == [(NO_ELECTION, True)]


@virtual
async def test_that_nobody_leads_is_not_mailed_again_when_its_own_probe_failed_before(
    world: World,
) -> None:
    down = Alert(NO_ELECTION, core.COMPONENT_DOWN, firing=True, since=1.0, notified=True)
    assert await mailed_when_nobody_leads(world, down) == []
    over = replace(down, firing=False, notified=False)
    assert await mailed_when_nobody_leads(world, over) == [(NO_ELECTION, True)]


async def mailed_when_nobody_leads(world: World, kept: Alert | None) -> list[tuple[str, bool]]:
    electorate = Electorate()
    desk = Desk(SmallWorld(world.loop), election=electorate)
    task = desk.start()
    if kept is not None:
        alerts = await desk.small.store.collection(ALERTS)
        await alerts.replace_many([Write(kept.id, 0, alert_body(kept))])
    await world.clock.sleep(10)
    electorate.away.set()
    await asyncio.wait([task])
    assert task.exception() is not None
    return desk.mails.told
