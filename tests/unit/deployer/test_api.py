"""The deployer's HTTP face: specs with versions, bad input, who may what, plans."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.actor import Actor
from libs.common.errors import InvalidInput
from libs.common.events import model as ev
from libs.common.events.model import DeployAction
from libs.common.http import Role
from services.deployer.api import _versions
from tests.simulation.loop import World, run, virtual
from tests.unit.deployer.fake_scheduler import APP
from tests.unit.deployer.service_world import SPEC, site

PATH = f"/v1/apps/{APP}"


@virtual
async def test_specs_have_versions(world: World) -> None:
    async with site(world) as here:
        first = await here.put()
        assert (first.status, first.headers["ETag"]) == (201, '"1"')
        same = await here.put()
        assert (same.status, same.headers["ETag"]) == (200, '"1"')
        spec = {**SPEC, "instances": 5}
        second = await here.call("PUT", PATH, spec, if_match='"1"')
        assert (second.status, second.headers["ETag"], second.json()["version"]) == (200, '"2"', 2)
        stale = await here.call("PUT", PATH, SPEC, if_match='"1"')
        assert (stale.status, stale.json()["type"]) == (412, "urn:gantry:problem:stale")
        assert (await here.call("PUT", PATH, SPEC, if_none_match="*")).status == 412
        assert (await here.call("PUT", PATH, SPEC, if_match="*")).status == 200
        new = "/v1/apps/shop/new"
        assert (await here.call("PUT", new, SPEC, if_match='"1"')).status == 412
        assert (await here.call("PUT", new, SPEC, if_none_match="*")).status == 201
        shown = await here.call("GET", PATH)
        assert (shown.headers["ETag"], shown.json()["spec"]["instances"]) == ('"3"', 4)
        assert [each["app"] for each in (await here.get("/v1/apps?bu=shop"))["apps"]] == [
            "shop/new",
            "shop/web",
        ]


@virtual
async def test_the_audit_trail_names_variables_and_never_their_values(world: World) -> None:
    async with site(world) as here:
        await here.put(env={"PASSWORD": "hunter2"})
        await here.put(env={"PASSWORD": "hunter3"}, instances=7)

        async def told() -> Any:
            found = here.of(ev.AuditRecorded)
            return found if len(found) == 2 else None

        first, second = await here.until(told)
        assert (first.actor, first.action, first.target) == ("ann", "app.put", APP)
        assert first.before is None
        assert (second.before["instances"], second.after["instances"]) == (4, 7)
        assert "hunter" not in f"{first}{second}"


BAD: list[tuple[str, Any]] = [
    ("image", "UPPER CASE"),
    ("instances", -1),
    ("network", "Blue!"),
    ("resources.cpus", {"resources": {"cpus": 0}}),
    ("strategy.max_surge", {"strategy": {"max_surge": "200%"}}),
    ("strategy", {"strategy": {"max_surge": 0, "max_unavailable": 0}}),
    ("strategy.max_sruge", {"strategy": {"max_sruge": 1}}),
    ("health.0", {"health": [{"type": "tcp"}]}),
    ("load_balancer", {"load_balancer": {"driver": "haproxy"}}),
    ("imgae", "reg/web:1"),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_each_wrong_field_is_named(field: str, value: Any) -> None:
    async def check(world: World) -> None:
        async with site(world) as here:
            body = value if isinstance(value, dict) else {field: value}
            response = await here.call("PUT", PATH, {**SPEC, **body})
            assert response.status == 422
            assert field in {each["field"] for each in response.json()["errors"]}

    run(check)


@virtual
async def test_who_may_what(world: World) -> None:
    viewer = Actor("vic", "shop", Role.VIEWER)
    other = Actor("eve", "bank", Role.ADMIN)
    async with site(world) as here:
        await here.put()
        await here.deploy("d1")
        assert (await here.call("PUT", PATH, SPEC, viewer)).status == 403
        assert (await here.call("POST", "/v1/deployments/d1/abort", None, viewer)).status == 403
        assert (await here.call("GET", PATH, None, viewer)).status == 200
        for path in (PATH, f"{PATH}/releases", "/v1/deployments/d1", f"/v1/instances?app={APP}"):
            assert (await here.call("GET", path, None, other)).status == 404
        assert (await here.call("PUT", PATH, SPEC, other)).status == 404
        for path, name in (("/v1/apps", "apps"), ("/v1/deployments", "deployments")):
            assert (await here.call("GET", path, None, other)).json() == {name: []}
        assert (await here.call("GET", "/v1/instances", None, other)).json() == {"instances": []}
        assert (await here.apps[0].dispatch("GET", PATH, {})).status == 401


@virtual
async def test_others_deployments_push_none_of_ours_off_the_list(world: World) -> None:
    viewer = Actor("vic", "shop", Role.VIEWER)
    busy = Actor("bob", "shop-two", Role.ADMIN)
    async with site(world) as here:
        await here.put()
        await here.deploy("d1")
        assert (await here.call("PUT", "/v1/apps/shop-two/web", SPEC, busy)).status == 201
        await here.ask(DeployAction.RELEASE, "d2", app="shop-two/web", actor=busy)

        async def newest_of(who: Actor) -> list[str]:
            found = (await here.call("GET", "/v1/deployments?limit=1", None, who)).json()
            return [each["deployment"] for each in found["deployments"]]

        async def known() -> bool:
            return await newest_of(busy) == ["d2"]

        await here.until(known)
        assert await newest_of(viewer) == ["d1"]
        assert await newest_of(Actor("root", "*", Role.ADMIN)) == ["d2"]


@virtual
async def test_wrong_names_and_numbers(world: World) -> None:
    async with site(world) as here:
        assert (await here.call("PUT", "/v1/apps/shop/Web_1", SPEC)).status == 422
        assert (await here.call("GET", "/v1/apps/shop/none")).status == 404
        assert (await here.call("GET", "/v1/deployments?limit=none")).status == 422
        assert (await here.call("GET", "/v1/deployments?limit=100000")).status == 422
        assert (await here.call("PUT", PATH, SPEC, if_match="yes")).status == 422
        assert (await here.call("DELETE", PATH)).status == 405


@virtual
async def test_a_plan_says_what_would_happen_and_does_nothing(world: World) -> None:
    async with site(world) as here:
        await here.put(env={"A": "1"})
        await here.deploy("d1")
        await here.put(env={"A": "2", "B": "x"}, instances=6, image="reg:5000/web:2")
        response = await here.call("POST", f"{PATH}/plan")
        assert response.status == 200
        plan = response.json()
        assert (plan["refused"], plan["release"], plan["wanted"]) == ("", 2, 6)
        assert plan["image"] == f"reg:5000/web@sha256:{2:064x}"
        assert plan["ends"] == "succeeded"
        assert sum(step["make"] for step in plan["steps"]) == 6
        assert sum(step["stop"] for step in plan["steps"]) == 4
        changes = {each["field"]: (each["before"], each["after"]) for each in plan["changes"]}
        assert set(changes) == {"image", "env.A", "env.B", "instances"}
        assert changes["instances"] == (4, 6)
        assert changes["env.B"] == (None, True)
        missing = await here.call("POST", f"{PATH}/plan", {"image": "reg:5000/web:nope"})
        assert "no such image" in missing.json()["refused"]
        scale = await here.call("POST", f"{PATH}/plan", {"action": "scale", "instances": 1})
        assert sum(step["stop"] for step in scale.json()["steps"]) == 3
        back = await here.call("POST", f"{PATH}/plan", {"action": "rollback"})
        assert back.json()["refused"] == "there is no release before the current one"
        wrong = await here.call("POST", f"{PATH}/plan", {"instnces": 3})
        assert wrong.status == 422
        await world.clock.sleep(30)
        assert len(here.of(ev.InstanceRequested)) == 4
        assert (await here.get(PATH))["release"] == 1


@virtual
async def test_a_plan_of_a_spec_that_is_not_put(world: World) -> None:
    async with site(world) as here:
        await here.put(env={"A": "1"})
        await here.deploy("d1")
        before, told = await here.get(PATH), len(here.events)
        spec = {**SPEC, "instances": 6, "image": "reg:5000/web:2", "env": {"A": "2"}}
        plan = (await here.call("POST", f"{PATH}/plan", {"spec": spec})).json()
        assert (plan["refused"], plan["release"], plan["wanted"]) == ("", 2, 6)
        assert plan["image"] == f"reg:5000/web@sha256:{2:064x}"
        assert {each["field"] for each in plan["changes"]} == {"image", "env.A", "instances"}
        assert sum(step["make"] for step in plan["steps"]) == 6
        other = {"spec": spec, "image": "reg:5000/web:3"}
        plan = (await here.call("POST", f"{PATH}/plan", other)).json()
        assert plan["image"] == f"reg:5000/web@sha256:{3:064x}"
        stored = (await here.call("POST", f"{PATH}/plan")).json()
        assert (stored["wanted"], stored["changes"]) == (4, [])
        slow = {**spec, "strategy": {"max_surge": 0, "max_unavailable": 1}}
        plan = (await here.call("POST", f"{PATH}/plan", {"spec": slow})).json()
        assert max(step["stop"] for step in plan["steps"]) == 1
        await world.clock.sleep(30)
        assert await here.get(PATH) == before and len(here.events) == told


@virtual
async def test_a_plan_of_an_app_that_does_not_exist(world: World) -> None:
    async with site(world) as here:
        assert (await here.call("POST", f"{PATH}/plan")).status == 404
        response = await here.call("POST", f"{PATH}/plan", {"spec": SPEC})
        assert response.status == 200
        plan = response.json()
        assert (plan["refused"], plan["release"], plan["wanted"]) == ("", 1, 4)
        assert plan["current"] == {"release": None, "wanted": 0}
        changes = {each["field"]: (each["before"], each["after"]) for each in plan["changes"]}
        assert changes["network"] == (None, "blue") and changes["instances"] == (0, 4)
        assert [(step["make"], step["stop"]) for step in plan["steps"]] == [(4, 0)]
        assert plan["ends"] == "succeeded"
        balanced = {**SPEC, "load_balancer": {"driver": "webhook", "port": 80}}
        refused = (await here.call("POST", f"{PATH}/plan", {"spec": balanced})).json()["refused"]
        assert refused == "load_balancer.driver: this cluster has no webhook configured"
        scale = {"spec": SPEC, "action": "scale", "instances": 3}
        refused = (await here.call("POST", f"{PATH}/plan", scale)).json()["refused"]
        assert refused == "nothing of shop/web has been released yet"
        wrong = {**SPEC, "resources": {"cpus": 0}, "replicas": 3}
        response = await here.call("POST", f"{PATH}/plan", {"spec": wrong})
        assert response.status == 422
        named = {each["field"] for each in response.json()["errors"]}
        assert named == {"spec.resources.cpus", "spec.replicas"}
        await world.clock.sleep(30)
        assert (await here.call("GET", PATH)).status == 404 and not here.events


@virtual
async def test_a_deployment_is_listed_with_its_counts_while_it_runs(world: World) -> None:
    async with site(world) as here:
        here.scheduler.full = True
        await here.put()
        await here.ask(DeployAction.RELEASE, "d1")
        await world.clock.sleep(2)
        (row,) = (await here.get(f"/v1/deployments?app={APP}"))["deployments"]
        assert (row["deployment"], row["state"], row["counts"]["new"]) == ("d1", "rolling", 4)
        assert (await here.get(PATH))["deployment"]["deployment"] == "d1"


def test_preconditions_are_read_as_http_says() -> None:
    assert _versions("", "If-Match") is None
    assert _versions("*", "If-Match") == frozenset()
    assert _versions('"3"', "If-Match") == frozenset({3})
    assert _versions('W/"3", "4"', "If-Match") == frozenset({3, 4})
    with pytest.raises(InvalidInput, match="not an ETag"):
        _versions('"x"', "If-Match")
