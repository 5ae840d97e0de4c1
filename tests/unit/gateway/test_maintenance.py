"""Hosts are closed and opened over HTTP, by admins of all business units only, and audited."""

from __future__ import annotations

import pytest

from tests.fakes.gateway import World
from tests.unit.gateway.test_access import audit_of

DRAIN = "/v1/nodes/host-1/drain"


async def _shown(world: World, key: str | None = None) -> str:
    answer = (
        await world.call("GET", "/v1/nodes", key=key)
        if key
        else await world.call("GET", "/v1/nodes")
    )
    return str(answer.json()["nodes"][0]["maintenance"])


async def test_a_host_is_drained_and_opened(world: World) -> None:
    assert await _shown(world) == ""
    done = await world.call("POST", DRAIN, {"deadline_s": 60, "force": True, "reason": "new disk"})
    assert (done.status, done.json()["left"]) == (200, {"acme/web": 2, "beta/api": 1})
    asked = world.others.doors["host-1"]
    assert (asked["deadline_s"], asked["force"], asked["door"]) == (60.0, True, "draining")
    assert await _shown(world) == "draining, 3 left: 2 of acme/web, 1 of beta/api (new disk)"
    await world.call("POST", "/v1/nodes/host-1/cordon", {})
    assert await _shown(world) == "cordoned"
    await world.call("POST", "/v1/nodes/host-1/undrain", {})
    assert world.others.doors["host-1"]["door"] == "open"

    async def told() -> bool:
        audited = await audit_of(world, "node.drain")
        return any(each["allowed"] and each["target"] == "*/nodes/host-1" for each in audited)

    await world.eventually(told)


async def test_a_units_people_see_that_a_host_is_closed_but_not_whose_apps_are_there(
    world: World,
) -> None:
    await world.call("POST", DRAIN, {})
    assert (
        await _shown(world, await world.key("beta", "viewer")) == "draining, 3 left: 1 of beta/api"
    )


@pytest.mark.parametrize("what", ["drain", "cordon", "undrain"])
async def test_a_units_admin_may_not(world: World, what: str) -> None:
    admin = await world.key("acme", "admin")
    refused = await world.call("POST", f"/v1/nodes/host-1/{what}", {}, key=admin)
    assert refused.status == 403 and not world.others.doors


async def test_an_unknown_host_or_wish_is_refused(world: World) -> None:
    assert (await world.call("POST", "/v1/nodes/host-9/drain", {})).status == 404
    assert (await world.call("POST", DRAIN, {"deadline_s": -1})).status == 422
    assert (await world.call("POST", DRAIN, {"force": True})).status == 422
    assert not world.others.doors
