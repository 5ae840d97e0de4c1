"""Breaking the glass at the gateway: who may, what is said of it, and that the deployer has it when it is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.bus.faults import NO_FAULTS, BusFaults, BusPoint
from libs.common.bus.memory import MemoryBus
from libs.common.errors import Unavailable
from services.gateway.api_apps import BUS_PATIENCE_S
from tests.fakes.gateway import World, running

STOP = "/v1/apps/acme/web/stop"
GLASS = {"break_glass": True, "reason": "the bus is gone"}


class Away(BusFaults):
    """No bus."""

    def draw(self, point: BusPoint, what: str) -> float:
        return float(point is BusPoint.PUBLISH_FAILS or point is BusPoint.FETCH_FAILS)


async def app_without_bus(world: World) -> None:
    """An app runs; then the bus goes away."""
    await world.put_app()
    await world.deployed("/v1/apps/acme/web/deploys")
    world.deployer.heard.clear()
    world.bus.faults = Away()


@pytest.mark.parametrize(
    ("what", "more"),
    [("stop", {}), ("scale", {"instances": 1}), ("restart", {}), ("rollback", {"release": 1})],
)
async def test_the_deployer_has_it_when_it_is_accepted(
    world: World, what: str, more: dict[str, Any]
) -> None:
    await app_without_bus(world)
    world.deployer.slow = True
    accepted = await world.call("POST", f"/v1/apps/acme/web/{what}", {**GLASS, **more})
    assert accepted.status == 202
    (heard,) = world.deployer.heard
    assert (heard.break_glass, heard.actor_role) == ("the bus is gone", "admin")
    view = (await world.call("GET", accepted.json()["url"])).json()
    assert (view["state"], view["delayed"]) == ("rolling", False)


async def test_it_is_audited_loudly_once_the_bus_is_back_and_heard_once(world: World) -> None:
    await app_without_bus(world)
    world.deployer.slow = True
    await world.call("POST", STOP, GLASS)
    world.bus.faults = NO_FAULTS

    async def audited() -> Any:
        lines = (await world.call("GET", "/v1/audit")).json()["entries"]
        return [each for each in lines if each["action"] == "deploy.stop"]

    (line,) = await world.eventually(audited)
    assert line["detail"] == "BREAK GLASS: the bus is gone" and line["allowed"]
    assert line["after"]["break_glass"] == "the bus is gone"
    assert len(world.deployer.heard) == 1


@pytest.mark.parametrize(
    "body",
    [{"break_glass": True}, {"break_glass": True, "reason": " "}, {"reason": "why"},
     {"break_glass": True, "reason": "x" * 501}],
)  # fmt: skip
async def test_a_reason_goes_with_it_and_with_nothing_else(
    world: World, body: dict[str, Any]
) -> None:
    await world.put_app()
    answer = await world.call("POST", STOP, body)
    assert answer.status == 422
    assert [each["field"] for each in answer.json()["errors"]] == ["reason"]


async def test_a_release_is_not_for_emergencies(world: World) -> None:
    await world.put_app()
    answer = await world.call("POST", "/v1/apps/acme/web/deploys", GLASS)
    assert answer.status == 422 and not world.deployer.heard


async def test_only_an_admin_may_and_who_tries_is_recorded(world: World) -> None:
    await world.put_app()
    key = await world.key("acme", "deployer")
    assert (await world.call("POST", STOP, GLASS, key=key)).status == 403
    other = await world.key("beta", "admin")
    assert (await world.call("POST", STOP, GLASS, key=other)).status == 404
    own = await world.key("acme", "admin")
    assert (await world.call("POST", STOP, GLASS, key=own)).status == 202
    (heard,) = world.deployer.heard
    assert heard.actor_bu == "acme"

    async def refused() -> Any:
        lines = (await world.call("GET", "/v1/audit")).json()["entries"]
        return [each for each in lines if each["action"] == "deploy.stop" and not each["allowed"]]

    assert await world.eventually(refused)


async def test_a_deployer_that_is_away_is_told_of_by_the_same_request_again(world: World) -> None:
    await app_without_bus(world)
    world.deployer.slow = True
    key = {"Idempotency-Key": "k1"}
    take, world.deployer.inbox = world.deployer.inbox, None
    assert (await world.call("POST", STOP, GLASS, headers=key)).status == 503
    assert not world.deployer.heard
    world.deployer.inbox = take
    again = await world.call("POST", STOP, GLASS, headers=key)
    assert again.status == 202 and again.headers["idempotency-replayed"] == "true"
    assert [each.deployment for each in world.deployer.heard] == [again.json()["deployment"]]


async def test_what_waits_for_the_bus_says_so_and_what_can_be_done(world: World) -> None:
    await app_without_bus(world)
    accepted = (await world.call("POST", STOP, {})).json()
    view = (await world.call("GET", accepted["url"])).json()
    assert (view["state"], view["delayed"]) == ("accepted", False)
    world.clock.ahead_s += BUS_PATIENCE_S + 1
    view = (await world.call("GET", accepted["url"])).json()
    assert view["delayed"] and "acme/web with --break-glass --reason" in view["reason"]
    listed = (await world.call("GET", "/v1/deployments?app=acme/web")).json()["deployments"]
    assert listed[0]["delayed"] and listed[0]["reason"] == view["reason"]
    world.bus.faults = NO_FAULTS

    async def begun() -> Any:
        return (await world.call("GET", accepted["url"])).json()["state"] == "succeeded"

    await world.eventually(begun)


async def test_a_gateway_starts_and_works_where_there_never_was_a_bus(world: World) -> None:
    """Its topics are made when there is one."""
    bus = AbsentBus(world.clock)
    world.shared.bus = bus
    await app_without_bus(world)
    del world.shared.local.apps["gateway"]
    async with running(world.shared):
        world.deployer.slow = True
        assert (await world.call("POST", STOP, GLASS)).status == 202
        assert len(world.deployer.heard) == 1
        bus.there = True

        async def made() -> Any:
            return "job.run.missed" in await bus.topics()

        await world.eventually(made)


class AbsentBus(MemoryBus):
    """Nobody listens at its address."""

    there = False

    def check_open(self) -> None:
        if not self.there:
            raise Unavailable("connection refused")
        super().check_open()
