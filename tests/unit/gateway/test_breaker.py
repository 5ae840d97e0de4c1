"""The scheduler's breaker over HTTP: seen and released by admins of all business units only, and audited."""

from __future__ import annotations

from tests.fakes.gateway import World
from tests.unit.gateway.test_access import audit_of


async def test_it_is_shown_and_released(world: World) -> None:
    closed = {"open": False, "unknown_tasks": []}
    assert (await world.call("GET", "/v1/breaker")).json() == closed
    assert (await world.call("POST", "/v1/breaker/release")).status == 409
    world.others.unknown_tasks = ["b.1", "a.2"]
    held = {"open": True, "unknown_tasks": ["a.2", "b.1"]}
    assert (await world.call("GET", "/v1/breaker")).json() == held
    done = await world.call("POST", "/v1/breaker/release")
    assert (done.status, done.json()) == (200, closed)
    assert (await world.call("GET", "/v1/breaker")).json() == closed

    async def told() -> bool:
        audited = await audit_of(world, "breaker.release")
        return any(each["allowed"] and each["target"] == "*/breaker" for each in audited)

    await world.eventually(told)


async def test_a_units_admin_may_neither_look_nor_release(world: World) -> None:
    await world.put_app("acme/web")
    world.others.unknown_tasks = ["other-web-1.1"]
    admin = await world.key("acme", "admin")
    for method, path in (("GET", "/v1/breaker"), ("POST", "/v1/breaker/release")):
        refused = await world.call(method, path, key=admin)
        assert refused.status == 403
        assert "other-web" not in refused.body.decode()
    assert world.others.unknown_tasks
