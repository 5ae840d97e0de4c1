"""A process that ended without being asked to is told of, by what the next one in its place says of itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from libs.common.http import Front
from libs.common.leaving import take_leave
from libs.common.runtime import CommonConfig
from services.monitor.restarts import COUNTED_S, TOLD_S, Restarts
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.monitor.test_service import Desk, within

DEPLOYER = "deployer@deployer"
RESTARTED = f"component-restarted:{DEPLOYER}"
WHY = "its process had ended without being asked to and was started anew"


def heard(runs: Sequence[str], left: str = "") -> str:
    """What is told after these answers, one a second."""
    restarts = Restarts()
    if left:
        restarts.leave(left)
    for at, run in enumerate(runs):
        restarts.hear(DEPLOYER, run, float(at))
    return restarts.why(DEPLOYER, float(len(runs)))


def test_another_process_in_its_place_is_told_unless_the_first_took_its_leave() -> None:
    assert heard(["r1", "r1"]) == ""
    assert heard(["r1", "r2"]) == WHY
    assert heard(["r1", "r2"], left="r1") == ""
    assert heard(["r1", "r2", "r3"], left="r1") == WHY
    assert heard(["r1", "r2", "r3"]) == f"{WHY}, and 2 were within 300 s"


def test_an_answer_that_says_nothing_of_it_changes_nothing() -> None:
    assert heard(["", ""]) == heard(["", "r1"]) == heard(["r1", ""]) == ""
    assert heard(["r1", "", "r2"]) == WHY


def test_it_is_told_for_a_while_and_of_each_component_alone() -> None:
    restarts = Restarts()
    for at, run in ((0.0, "r1"), (10.0, "r2")):
        restarts.hear(DEPLOYER, run, at)
    assert restarts.why("ipam@ipam", 10.0) == ""
    assert restarts.why(DEPLOYER, 9.9 + TOLD_S) == WHY
    assert restarts.why(DEPLOYER, 10.0 + TOLD_S) == ""
    restarts.hear(DEPLOYER, "r3", 11.0 + COUNTED_S)
    assert restarts.why(DEPLOYER, 11.0 + COUNTED_S) == WHY


async def test_a_service_that_stands_by_says_it_too() -> None:
    assert (await Front("ipam", run="r1").dispatch("GET", "/healthz", {})).json()["run"] == "r1"
    assert "run" not in (await Front("ipam").dispatch("GET", "/healthz", {})).json()


@virtual
async def test_a_killed_service_is_told_of_and_one_that_ended_in_order_is_not(world: World) -> None:
    small = SmallWorld(world.loop, common=CommonConfig(peers={"deployer": "deployer"}))
    desk = Desk(small)

    @asynccontextmanager
    async def process(run: str) -> AsyncIterator[None]:
        rt = replace(small.runtime("deployer", f"deployer-{run}"), run=run)
        async with rt.serve(rt.http_app([])):
            yield

    task = desk.start()
    async with process("r1"):
        await world.clock.sleep(20)
        await take_leave(small.runtime("deployer", "deployer-r1").peers, "r1")
    async with process("r2"):
        await world.clock.sleep(20)
        assert desk.mails.told == []
    async with process("r3"):
        await within(world, 20, (RESTARTED, True), desk=desk)
        body = small.store.body("monitor_alerts", RESTARTED)
        assert body and body["summary"] == f"{DEPLOYER}: {WHY}"
        await within(world, 90, (RESTARTED, True), (RESTARTED, False), desk=desk)
    task.cancel()
