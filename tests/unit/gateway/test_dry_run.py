"""Dry runs: the plan of the spec as it stands, or of one that is sent along; nothing is kept of either."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.store.base import Query
from services.gateway.store import OPERATIONS
from tests.fakes.gateway import SPEC, World

DEPLOYS = "/v1/apps/acme/web/deploys"


async def test_a_dry_run_changes_nothing(world: World) -> None:
    await world.put_app()
    response = await world.call("POST", DEPLOYS, {"dry_run": True, "image": "registry.test/web:9"})
    assert response.status == 200 and response.json()["image"] == "registry.test/web:9"
    assert not world.deployer.heard and not world.deployer.deployments


async def test_a_dry_run_of_a_spec_that_is_not_put(world: World) -> None:
    body = {"dry_run": True, "spec": {**SPEC, "instances": 7, "class": "fat"}}
    new = await world.call("POST", DEPLOYS, body)
    assert new.status == 200
    assert (new.json()["release"], new.json()["start"], new.json()["stop"]) == (1, 7, 0)
    assert not world.deployer.apps
    await world.put_app()
    await world.deployed(DEPLOYS)
    known = await world.call("POST", DEPLOYS, body)
    assert (known.json()["release"], known.json()["start"], known.json()["stop"]) == (2, 7, 3)
    stored = await world.call("POST", DEPLOYS, {"dry_run": True})
    assert stored.json()["start"] == 3
    app = world.deployer.apps["acme/web"]
    assert (app["version"], app["spec"]["instances"]) == (1, 3)
    assert len(world.deployer.heard) == 1
    operations = await world.shared.store.collection(OPERATIONS)
    kept = [doc.body["action"] for doc in (await operations.find(Query())).docs]
    assert sorted(kept) == ["app.put", "deploy.release"]
    viewer = await world.key("acme", "viewer")
    assert (await world.call("POST", DEPLOYS, body, key=viewer)).status == 403


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"dry_run": True, "spec": {**SPEC, "instances": -1}}, "spec.instances"),
        ({"dry_run": True, "spec": {**SPEC, "resources": {"cpu": 1}}}, "spec.resources.cpu"),
        ({"dry_run": True, "spec": {**SPEC, "replicas": 3}}, "spec.replicas"),
        ({"dry_run": True, "spec": {"network": "blue"}}, "spec.image"),
        ({"dry_run": True, "spec": "web:1"}, "spec"),
        ({"spec": SPEC}, "spec"),
    ],
)
async def test_a_wrong_spec_is_not_planned(world: World, body: Any, named: str) -> None:
    response = await world.call("POST", DEPLOYS, body)
    assert response.status == 422
    assert [error["field"] for error in response.json()["errors"]] == [named]
    assert not world.deployer.apps and not world.deployer.heard


async def test_a_dry_run_says_where_instances_would_go_and_why_some_would_wait(
    world: World,
) -> None:
    body = {"dry_run": True, "spec": {**SPEC, "instances": 7}}
    plan = (await world.call("POST", DEPLOYS, body)).json()
    assert [(each["hostname"], each["count"]) for each in plan["places"]] == [("host-1", 5)]
    assert plan["unplaced"] == 2 and plan["why"]["failed"] == {"mem": 1}
    assert "instance" not in plan  # it is between the services
    world.others.away.add("scheduler")
    away = (await world.call("POST", DEPLOYS, body)).json()
    assert away["incomplete"] == ["scheduler"] and away["release"] == 1 and not away["places"]
