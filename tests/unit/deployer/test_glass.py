"""Somebody breaks the glass: the deployer and a scheduler do without the bus, and what waited for it comes too late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from libs.common.actor import Actor
from libs.common.errors import Forbidden
from libs.common.events import model as ev
from libs.common.events.model import DeployAction
from libs.common.http import Role
from services.deployer.instances import NUDGE_AFTER_S, NUDGE_DIRECT_S, doomed, nudge_s, nudged
from services.deployer.model import Wanted
from tests.simulation.loop import World, virtual
from tests.unit.deployer.service_world import BALANCED, Site, site
from tests.unit.deployer.world import make_instance

ADMIN = Actor("ada", "shop", Role.ADMIN)
GLASS: Mapping[str, Any] = {"actor": ADMIN, "break_glass": "the bus is gone"}


async def four(here: Site, **spec: object) -> None:
    """Four instances run, then the bus goes away."""
    await here.put(**spec)
    assert (await here.deploy("d1"))["state"] == "succeeded"
    here.bus_away()


@virtual
async def test_scale_and_stop_without_the_bus_and_nothing_doubled_with_it(world: World) -> None:
    async with site(world) as here:
        await four(here)
        began = world.clock.now()
        await here.hand(here.asked(DeployAction.SCALE, "up", instances=6, **GLASS))
        assert (await here.ended("up"))["state"] == "succeeded"
        assert len(here.scheduler.running) == 6
        await here.hand(here.asked(DeployAction.STOP, "stop", **GLASS))
        ended = await here.ended("stop")
        assert (ended["state"], ended["break_glass"]) == ("succeeded", "the bus is gone")
        assert here.scheduler.running == {} and await here.instances() == []
        assert world.clock.now() - began < 20
        here.bus_back()
        await world.clock.sleep(60)
        assert here.scheduler.running == {}
        assert len(here.scheduler.requested) == len(here.scheduler.stopped) == 6
        told = [each.state for each in here.of(ev.DeploySucceeded)]
        assert told == ["succeeded"] * 3
        loud = [each for each in here.of(ev.AuditRecorded) if "BREAK GLASS" in each.detail]
        assert [(each.actor, each.action) for each in loud] == [
            ("ada", "deploy.scale"),
            ("ada", "deploy.stop"),
        ]
        assert here.log.getvalue().count("glass broken") == 2


@virtual
async def test_any_replica_takes_it_and_a_second_time_changes_nothing(world: World) -> None:
    async with site(world, replicas=2) as here:
        await four(here, **BALANCED)
        asked = here.asked(DeployAction.STOP, "stop", **GLASS)
        await here.hand(asked)
        here.apps.reverse()
        await here.hand(asked)
        assert (await here.ended("stop"))["state"] == "succeeded"
        assert here.scheduler.running == {}
        here.bus_back()
        await here.bus.publish([])
        await here.ask(DeployAction.STOP, "stop", **GLASS)  # the copy on the bus
        await world.clock.sleep(10)
        assert len(here.of(ev.DeploySucceeded)) == 2
        assert len(here.scheduler.stopped) == 4


@virtual
async def test_what_hangs_in_an_outbox_is_asked_for_again_at_once(world: World) -> None:
    async with site(world) as here:
        await four(here)
        # Without breaking the glass: the requests to stop two of them wait for the bus.
        await here.hand(here.asked(DeployAction.SCALE, "down", instances=2))
        await world.clock.sleep(20)
        assert len(here.scheduler.running) == 4
        assert {row["wanted"] for row in await here.instances()} == {"run", "stop"}
        await here.hand(here.asked(DeployAction.STOP, "stop", **GLASS))
        assert (await here.ended("stop", 15.0))["state"] == "succeeded"
        assert here.scheduler.running == {}
        over = (await here.get("/v1/deployments/down"))["reason"]
        assert over == "deployment stop of ada took over"


@virtual
async def test_a_scheduler_whose_answers_are_lost_is_asked(world: World) -> None:
    async with site(world) as here:
        await four(here)
        here.scheduler.mute = True
        await here.hand(here.asked(DeployAction.SCALE, "up", instances=6, **GLASS))
        assert (await here.ended("up", 15.0))["state"] == "succeeded"


@virtual
async def test_requests_from_before_come_too_late(world: World) -> None:
    async with site(world) as here:
        await four(here)
        before = here.asked(DeployAction.SCALE, "queued", instances=9)
        await world.clock.sleep(5)
        await here.hand(here.asked(DeployAction.SCALE, "glass", instances=1, **GLASS))
        assert (await here.ended("glass"))["state"] == "succeeded"
        after = here.asked(DeployAction.SCALE, "after", instances=2)
        here.bus_back()
        await here.hand(before)
        refused = await here.ended("queued")
        assert (
            refused["state"] == "refused" and "before somebody broke the glass" in refused["reason"]
        )
        await here.hand(after)
        assert (await here.ended("after"))["state"] == "succeeded"
        assert len(here.scheduler.running) == 2


@virtual
async def test_breaking_the_glass_needs_an_admin_and_the_gateway(world: World) -> None:
    async with site(world) as here:
        await four(here)
        await here.hand(here.asked(DeployAction.STOP, "no", break_glass="why not"))
        refused = await here.ended("no")
        assert (
            refused["state"] == "refused" and "breaking the glass needs admin" in refused["reason"]
        )
        asked = here.asked(DeployAction.STOP, "stop", **GLASS)
        for other in ("scheduler", "monitor"):
            with pytest.raises(Forbidden):
                await here.hand(asked, other)
        assert len(here.scheduler.running) == 4


def test_a_request_is_made_again_at_once_when_the_glass_is_broken_and_sooner_from_then_on() -> None:
    stopping, event = doomed(make_instance("i"), "enough", 100.0)
    assert event is not None and stopping.direct_until == 0.0
    grace_s = stopping.stop_grace_s
    assert nudge_s(stopping, 100.0) == NUDGE_AFTER_S + grace_s
    assert nudge_s(stopping, 100.0, 4000.0) == 0.0
    asked, event = nudged(stopping, {}, 100.0, 4000.0)
    assert event is not None and (asked.direct_until, asked.nudges) == (4000.0, 0)
    assert nudge_s(asked, 100.0, 4000.0) == NUDGE_DIRECT_S + grace_s
    assert nudge_s(asked, 4001.0, 4000.0) == NUDGE_AFTER_S + grace_s - 3901.0
    assert asked.wanted is Wanted.STOP
