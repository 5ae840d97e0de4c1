"""The scheduler's standing at Mesos over HTTP: for admins of all business units only, and audited."""

from __future__ import annotations

from tests.fakes.gateway import World
from tests.unit.gateway.test_access import audit_of


async def test_it_is_shown_and_begins_anew(world: World) -> None:
    well = {"framework": "f1", "subscribed": True, "removed": False, "alarm": ""}
    assert (await world.call("GET", "/v1/scheduler")).json() == well
    assert (await world.call("POST", "/v1/scheduler/reregister")).status == 409
    world.others.subscribed = False
    shown = (await world.call("GET", "/v1/scheduler")).json()
    assert (shown["subscribed"], shown["removed"]) == (False, True)
    assert "removed" in shown["alarm"]
    done = await world.call("POST", "/v1/scheduler/reregister")
    assert (done.status, done.json()) == (202, well)

    async def told() -> bool:
        audited = await audit_of(world, "scheduler.reregister")
        return any(each["allowed"] and each["target"] == "*/scheduler" for each in audited)

    await world.eventually(told)


async def test_a_units_admin_may_neither_look_nor_begin_anew(world: World) -> None:
    await world.put_app("acme/web")
    world.others.subscribed = False
    admin = await world.key("acme", "admin")
    for method, path in (("GET", "/v1/scheduler"), ("POST", "/v1/scheduler/reregister")):
        assert (await world.call(method, path, key=admin)).status == 403
    assert not world.others.subscribed
