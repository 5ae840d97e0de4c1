"""What a host's hostd says of its executor is an alert, told by the real hostd on a host of fakes."""

from __future__ import annotations

from services.executor.model import Identity
from services.executor.signs import Signs
from services.hostd.api import SocketAuthenticator, read_routes
from services.hostd.main import make_app
from services.monitor import core
from services.monitor.model import Alert, Node
from services.monitor.watching import Watching, _of_hosts
from tests.fakes.hostd import fake_hostd
from tests.fakes.ipam import FakeIpam
from tests.fakes.network import FakeHost
from tests.simulation.faults import Point
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.executor.test_signs import alive
from tests.unit.monitor.test_service import Desk, within

SILENT, RESTARTED = "executor-silent:h1", "executor-restarted:h1"


@virtual
async def test_an_executor_that_stands_still_or_was_started_anew_is_told(world: World) -> None:
    desk = Desk(SmallWorld(world.loop))
    desk.master.agents = [Node("a1", "h1", attributes={"hostd": "hostd-of-h1"})]
    place = desk.small.runtime("hostd-of-h1", "hostd")
    ipam = FakeIpam(red=(100, "10.0.0.0/28"))
    async with fake_hostd(FakeHost(), ipam, world.clock, world.rng) as hostd:
        routes = read_routes(hostd.service)
        app = make_app(hostd.service, routes, SocketAuthenticator("h1"))

        def worker(name: str) -> Signs:
            identity = Identity("sim", "h1", "r1")
            return Signs(hostd, identity, name, lambda: 0.0, world.clock)

        async with place.serve(app):
            task = desk.start()
            async with alive(worker("w1")):
                await world.clock.sleep(60)
                assert desk.mails.told == []
            await within(world, 30, (SILENT, True), desk=desk)
            body = desk.small.store.body("monitor_alerts", SILENT)
            assert body and body["summary"].startswith("h1: the executor of h1 has given no sign")
            async with alive(worker("w2")):
                await within(world, 10, (SILENT, True), (SILENT, False), desk=desk, about=SILENT)
                await within(world, 10, (RESTARTED, True), desk=desk, about=RESTARTED)
                turns = (RESTARTED, True), (RESTARTED, False)
                await within(world, 90, *turns, desk=desk, about=RESTARTED)
            task.cancel()


@virtual
async def test_what_the_store_could_not_keep_is_kept_when_it_takes_again(world: World) -> None:
    desk = Desk(SmallWorld(world.loop))
    desk.master.agents = [Node("a1", "h1", attributes={"hostd": "hostd-of-h1"})]
    place = desk.small.runtime("hostd-of-h1", "hostd")
    ipam = FakeIpam(red=(100, "10.0.0.0/28"))
    async with fake_hostd(FakeHost(), ipam, world.clock, world.rng) as hostd:
        app = make_app(hostd.service, read_routes(hostd.service), SocketAuthenticator("h1"))
        async with place.serve(app):
            task = desk.start()
            unheard_s = 0.0
            signs = Signs(hostd, Identity("sim", "h1"), "w1", lambda: unheard_s, world.clock)
            async with alive(signs):
                await world.clock.sleep(20)
                unheard_s = 60.0
                desk.small.faults.rates = dict.fromkeys(Point, 0.0) | {Point.STORE_FAILS: 1.0}
                desk.small.faults.on = True
                await world.clock.sleep(60)
                assert not desk.alert(SILENT)
                desk.small.faults.on = False
                await world.clock.sleep(60)
                assert desk.alert(SILENT)
            task.cancel()


async def test_a_store_that_is_away_is_asked_once_a_turn_for_all_hosts() -> None:
    """There are many, and each would wait for it."""
    asked: list[str] = []

    class Away:
        async def tell(self, fresh: Alert, holds: bool, _summary: str) -> bool:
            asked.append(fresh.id)
            return False

    watching = Watching.__new__(Watching)
    watching._kept, watching._alerting = {}, Away()  # type: ignore[assignment]
    said = {"service": "hostd", "executor_silent": "", "executor_restarted": ""}
    heard = {f"h{n:03}": said for n in range(200)} | {"h150": {**said, "executor_silent": "still"}}
    await watching._tell_said(_of_hosts(heard))
    assert asked == ["executor-silent:h000", "executor-silent:h150"]


def test_an_older_hostd_and_whatever_else_listens_there_say_nothing_of_it() -> None:
    silent, restarted = core.executor_alerts("h1")
    assert core.of_executor("h1", {"reason": ""}) == []
    assert core.of_executor("h1", {"executor_silent": "x", "executor_restarted": "x"}) == []
    # What was told by a newer hostd, before it went back, is over.
    older = {"service": "hostd", "executor_silent": ["x"]}
    assert core.of_executor("h1", older) == [(silent, ""), (restarted, "")]
    said = {"service": "hostd", "executor_silent": "", "executor_restarted": "anew"}
    assert core.of_executor("h1", said) == [(silent, ""), (restarted, "anew")]
