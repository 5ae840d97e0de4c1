"""Jobs whose runs fail: told once, and so is their end."""

from __future__ import annotations

import pytest

from libs.common.errors import Unavailable
from libs.common.http import Request, Response, Route, reply
from services.monitor.jobs import ask
from tests.simulation.loop import World, virtual
from tests.simulation.small import SmallWorld
from tests.unit.monitor.test_components import Hosts
from tests.unit.monitor.test_service import Desk, within

FAILING = "job-failing:acme/nightly"


async def test_what_the_scheduler_does_not_tell_is_not_judged() -> None:
    with pytest.raises(Unavailable):
        await ask(Hosts({}), 1.0)
    with pytest.raises(Unavailable, match="can't be read"):
        await ask(Hosts({"scheduler": reply({"jobs": ["acme/nightly"]})}), 1.0)


@virtual
async def test_a_job_that_fails_is_told_once_and_so_is_its_end(world: World) -> None:
    trouble = {"acme/nightly": "its last run failed"}

    async def answer(_request: Request) -> Response:
        return reply({"jobs": trouble})

    small = SmallWorld(world.loop)
    desk = Desk(small)
    rt = small.runtime("scheduler", "scheduler-1")
    async with rt.serve(rt.http_app([Route("GET", "/v1/job-trouble", answer)])):
        monitor = desk.start()
        await within(world, 60, (FAILING, True), desk=desk, about=FAILING)
        alert = small.store.bodies("monitor_alerts")[FAILING]
        assert alert["summary"] == "acme/nightly: its last run failed"
        assert alert["labels"] == {"job": "acme/nightly", "bu": "acme"}
        trouble["acme/nightly"] = "its last 2 runs failed"
        await world.clock.sleep(120)
        trouble.clear()
        await within(world, 60, (FAILING, True), (FAILING, False), desk=desk, about=FAILING)
        monitor.cancel()
