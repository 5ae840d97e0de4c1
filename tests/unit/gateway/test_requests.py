"""Requests and their answers: specs, deployments, idempotency, composed views, bad input."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from libs.common.errors import Unavailable
from tests.fakes.gateway import SPEC, World

DEPLOYS = "/v1/apps/acme/web/deploys"


async def test_a_spec_goes_through_to_its_owner(world: World) -> None:
    made = await world.put_app()
    assert made.status == 201 and made.headers["etag"] == '"1"'
    again = await world.call(
        "PUT", "/v1/apps/acme/web", {**SPEC, "instances": 5}, headers={"If-Match": '"1"'}
    )
    assert again.status == 200 and again.headers["etag"] == '"2"'
    stale = await world.call("PUT", "/v1/apps/acme/web", SPEC, headers={"If-Match": '"1"'})
    assert stale.status == 412
    read = await world.call("GET", "/v1/apps/acme/web")
    assert read.json()["spec"]["instances"] == 5 and read.headers["etag"] == '"2"'


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("image", "not an image", "image"),
        ("instances", -1, "instances"),
        ("instances", "many", "instances"),
        ("network", "UPPER", "network"),
        ("resources", {"cpus": 0}, "resources.cpus"),
        ("resources", {"cpu": 1}, "resources.cpu"),
        ("health", [{"type": "http"}], "health.0"),
        ("strategy", {"max_surge": "200%"}, "strategy.max_surge"),
        ("env", {"1A": "x"}, "env"),
        ("load_balancer", {"driver": "haproxy"}, "load_balancer"),
        ("replicas", 3, "replicas"),
    ],
)
async def test_each_wrong_field_is_named(world: World, field: str, value: Any, named: str) -> None:
    response = await world.call("PUT", "/v1/apps/acme/web", {**SPEC, field: value})
    assert response.status == 422
    assert [error["field"] for error in response.json()["errors"]] == [named]
    assert not world.deployer.apps


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (DEPLOYS, {"image": "Not An Image"}),
        (DEPLOYS, {"imgae": "x"}),
        ("/v1/apps/acme/web/scale", {}),
        ("/v1/apps/acme/web/scale", {"instances": 10_001}),
        ("/v1/apps/acme/web/rollback", {"release": 0}),
        ("/v1/apps/acme/web/restart", {"fore": True}),
        ("/v1/apps/acme/web/stop", []),
    ],
)
async def test_bad_bodies(world: World, path: str, body: Any) -> None:
    await world.put_app()
    response = await world.call("POST", path, body)
    assert response.status == 422 and response.json()["errors"]
    assert not world.deployer.heard


@pytest.mark.parametrize(
    "path",
    ["/v1/apps?x=1", "/v1/deployments?limit=0", "/v1/deployments?limit=x", "/v1/deployments?app=web",
     "/v1/events?topics=nothing", "/v1/alerts?state=odd", "/v1/audit?before=!", "/v1/instances/x/logs?follow=2"],
)  # fmt: skip
async def test_bad_parameters(world: World, path: str) -> None:
    response = await world.call("GET", path)
    assert response.status == 422 and response.json()["errors"][0]["field"] in path


@pytest.mark.parametrize(
    "path", ["/v1/apps/ACME/web", "/v1/apps/acme/-x", "/v1/apps/a%2Fb/web", "/v1/nothing"]
)
async def test_there_is_nothing_there(world: World, path: str) -> None:
    assert (await world.call("GET", path)).status == 404


async def test_a_deployment_can_be_read_at_once(world: World) -> None:
    await world.put_app()
    world.deployer.deaf = True
    response = await world.call("POST", DEPLOYS, {})
    assert response.status == 202
    accepted = response.json()
    assert (
        response.headers["location"]
        == accepted["url"]
        == f"/v1/deployments/{accepted['deployment']}"
    )
    view = (await world.call("GET", accepted["url"])).json()
    assert (view["state"], view["app"], view["action"]) == ("accepted", "acme/web", "release")
    listed = (await world.call("GET", "/v1/deployments?app=acme/web")).json()["deployments"]
    assert [each["deployment"] for each in listed] == [accepted["deployment"]]
    world.deployer.deaf = False

    async def succeeded() -> bool:
        return bool((await world.call("GET", accepted["url"])).json()["state"] == "succeeded")

    await world.eventually(succeeded)
    listed = (await world.call("GET", "/v1/deployments?app=acme/web")).json()["deployments"]
    assert [each["state"] for each in listed] == ["succeeded"]


async def test_every_action_reaches_the_deployer(world: World) -> None:
    await world.put_app()
    await world.deployed(DEPLOYS, {"image": "registry.test/web:2"})
    await world.deployed("/v1/apps/acme/web/scale", {"instances": 5})
    assert len(world.deployer.instances) == 5
    await world.deployed(DEPLOYS, {"force": True})
    await world.deployed("/v1/apps/acme/web/rollback", {"release": 1})
    await world.deployed("/v1/apps/acme/web/restart")
    await world.deployed("/v1/apps/acme/web/stop")
    told = [(each.action.value, each.image, each.instances, each.release, each.force)
            for each in world.deployer.heard]  # fmt: skip
    assert told == [
        ("release", "registry.test/web:2", None, None, False),
        ("scale", None, 5, None, False),
        ("release", None, None, None, True),
        ("rollback", None, None, 1, False),
        ("restart", None, None, None, False),
        ("stop", None, None, None, False),
    ]
    releases = (await world.call("GET", "/v1/apps/acme/web/releases")).json()["releases"]
    assert releases and "@sha256:" in releases[0]["image"]


async def test_an_app_that_is_not_there_is_not_deployed(world: World) -> None:
    response = await world.call("POST", DEPLOYS, {})
    assert response.status == 404 and "acme/web" in response.json()["detail"]
    world.deployer.away = True
    assert (await world.call("POST", DEPLOYS, {})).status == 503
    assert not world.deployer.heard


async def test_pause_resume_abort(world: World) -> None:
    await world.put_app()
    world.deployer.slow = True
    url = (await world.call("POST", DEPLOYS, {})).json()["url"]

    async def rolling() -> bool:
        return bool((await world.call("GET", url)).json()["state"] == "rolling")

    await world.eventually(rolling)
    for verb, state in (("pause", "paused"), ("resume", "rolling"), ("abort", "aborted")):
        response = await world.call("POST", f"{url}/{verb}")
        assert response.status == 200 and response.json()["state"] == state
    refused = await world.call("POST", f"{url}/pause")
    assert refused.status == 409
    assert (await world.call("POST", "/v1/deployments/none/pause")).status == 404


# -- idempotency -----------------------------------------------------------------------------------


async def test_the_same_key_gets_the_same_answer(world: World) -> None:
    await world.put_app()
    key = {"Idempotency-Key": "abc-1"}
    first = await world.call("POST", DEPLOYS, {}, headers=key)
    second = await world.call("POST", DEPLOYS, {}, headers=key)
    assert first.status == second.status == 202 and first.body == second.body
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["location"] == first.headers["location"]
    other = await world.call("POST", DEPLOYS, {"force": True}, headers=key)
    assert other.status == 422 and other.json()["errors"][0]["field"] == "Idempotency-Key"
    another = await world.call("POST", "/v1/apps/acme/web/stop", {}, headers=key)
    assert another.status == 422
    mine = await world.key("acme", "deployer")
    theirs = await world.call("POST", DEPLOYS, {}, headers=key, key=mine)
    assert theirs.status == 202 and theirs.body != first.body

    async def both() -> bool:
        return len(world.deployer.heard) == 2

    await world.eventually(both)


async def test_racing_repetitions_make_one_deployment(world: World) -> None:
    await world.put_app()
    key = {"Idempotency-Key": "race"}
    answers = await asyncio.gather(
        *(world.call("POST", DEPLOYS, {}, headers=key) for _ in range(12))
    )
    assert {answer.status for answer in answers} == {202}
    assert len({answer.body for answer in answers}) == 1


async def test_while_it_runs_a_repetition_has_to_wait(world: World) -> None:
    await world.put_app()
    world.deployer.slow = True
    url = (await world.call("POST", DEPLOYS, {})).json()["url"]

    async def known() -> bool:
        return bool(world.deployer.deployments)

    await world.eventually(known)
    asked, go_on = asyncio.Event(), asyncio.Event()
    real = world.deployer.change

    async def waiting(request: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await real(request)

    world.deployer.change = waiting  # type: ignore[method-assign]
    app = world.shared.local.apps["deployer"]
    world.shared.local.apps["deployer"] = _with(world)
    key = {"Idempotency-Key": "slow"}
    async with asyncio.TaskGroup() as group:
        first = group.create_task(world.call("POST", f"{url}/pause", headers=key))
        await asked.wait()
        second = await world.call("POST", f"{url}/pause", headers=key)
        assert second.status == 409 and "still being worked on" in second.json()["detail"]
        go_on.set()
    assert first.result().status == 200
    third = await world.call("POST", f"{url}/pause", headers=key)
    assert third.body == first.result().body and third.headers["idempotency-replayed"] == "true"
    world.shared.local.apps["deployer"] = app


def _with(world: World) -> Any:
    from tests.fakes.gateway import SECRET
    from tests.fakes.peers import make_apps

    return make_apps(world.deployer, world.others, SECRET, world.clock)["deployer"]


async def test_what_failed_may_be_asked_again_with_its_key(world: World) -> None:
    await world.put_app()
    world.deployer.slow = True
    url = (await world.call("POST", DEPLOYS, {})).json()["url"]

    async def known() -> bool:
        return bool(world.deployer.deployments)

    await world.eventually(known)
    key = {"Idempotency-Key": "retry"}
    early = await world.call("POST", f"{url}/resume", headers=key)
    assert early.status == 409
    (deployment,) = world.deployer.deployments.values()
    deployment["state"] = "paused"
    assert (await world.call("POST", f"{url}/resume", headers=key)).status == 200


async def test_a_new_key_is_shown_again_to_the_same_request_only(world: World) -> None:
    body = {"bu": "acme", "role": "viewer"}
    first = await world.call("POST", "/v1/keys", body, headers={"Idempotency-Key": "k1"})
    again = await world.call("POST", "/v1/keys", body, headers={"Idempotency-Key": "k1"})
    other = await world.call("POST", "/v1/keys", body, headers={"Idempotency-Key": "k2"})
    assert first.json() == again.json()
    assert other.json()["key"] != first.json()["key"]
    secret = first.json()["key"].rpartition("_")[2]
    stored = await world.shared.store.collection(_operations())
    page = await stored.find(_everything())
    assert page.docs and secret not in str([doc.body for doc in page.docs])


def _operations() -> Any:
    from services.gateway.store import OPERATIONS

    return OPERATIONS


def _everything() -> Any:
    from libs.common.store.base import Query

    return Query()


# -- composed views --------------------------------------------------------------------------------


async def test_views_join_what_several_services_know(world: World) -> None:
    await world.put_app()
    await world.deployed(DEPLOYS)
    instances = (await world.call("GET", "/v1/apps/acme/web/instances")).json()
    assert len(instances["instances"]) == 3 and instances["incomplete"] == []
    one = instances["instances"][0]
    assert one["address"] == "10.1.0.1" and one["cpus"] == 0.1  # of the deployer, of the scheduler
    (node,) = (await world.call("GET", "/v1/nodes")).json()["nodes"]
    assert node["cpus"] == 8.0 and node["instances"] == 3  # of monitor, of the scheduler


async def test_a_peer_that_is_away_is_named(world: World) -> None:
    await world.put_app()
    await world.deployed(DEPLOYS)
    world.others.away = {"monitor", "ipam"}
    nodes = (await world.call("GET", "/v1/nodes")).json()
    assert nodes["incomplete"] == ["monitor"] and nodes["nodes"][0]["hostname"] == "host-1"
    networks = (await world.call("GET", "/v1/networks")).json()
    assert networks == {"incomplete": ["ipam"], "networks": []}
    assert (await world.call("GET", "/v1/alerts")).json()["incomplete"] == ["monitor"]
    assert (await world.call("GET", "/v1/networks/blue")).status == 503
    world.deployer.away = True
    instances = (await world.call("GET", "/v1/instances")).json()
    assert instances["incomplete"] == ["deployer"] and len(instances["instances"]) == 3
    other = await world.key("other", "admin")  # the scheduler knows no business units
    assert (await world.call("GET", "/v1/instances", key=other)).json()["instances"] == []
    world.others.away |= {"scheduler"}
    nodes = (await world.call("GET", "/v1/nodes")).json()
    assert nodes == {"incomplete": ["monitor", "scheduler"], "nodes": []}


async def test_an_accepted_deployment_is_read_without_the_deployer(world: World) -> None:
    await world.put_app()
    world.deployer.deaf = True
    url = (await world.call("POST", DEPLOYS, {})).json()["url"]
    world.deployer.away = True
    view = (await world.call("GET", url)).json()
    assert view["state"] == "accepted" and view["incomplete"] == ["deployer"]
    assert (await world.call("GET", "/v1/deployments/dep-unknown")).status == 503


async def test_logs_come_from_the_host(world: World) -> None:
    await world.put_app()
    await world.deployed(DEPLOYS)
    (instance, *_) = world.deployer.instances
    response = await world.call("GET", f"/v1/instances/{instance}/logs?tail=2&follow=true")
    assert response.status == 200 and response.content_type == "application/x-ndjson"
    assert response.stream is not None
    lines = b"".join([chunk async for chunk in response.stream]).splitlines()
    assert len(lines) == 2 and b"line 2 of gantry-test-" in lines[1]
    assert (await world.call("GET", "/v1/instances/nobody/logs")).status == 404
    world.deployer.instances[instance]["container"] = "gone"
    assert (await world.call("GET", f"/v1/instances/{instance}/logs")).status == 404
    world.deployer.instances[instance].update(container="", state="requested", waiting="no cpu")
    waiting = await world.call("GET", f"/v1/instances/{instance}/logs")
    assert waiting.status == 409 and "no cpu" in waiting.json()["detail"]
    world.deployer.instances[instance].update(container="c", agent="agent-9")
    assert (await world.call("GET", f"/v1/instances/{instance}/logs")).status == 503


async def test_numbers_come_from_the_host(world: World) -> None:
    await world.put_app()
    await world.deployed(DEPLOYS)
    (instance, *_) = world.deployer.instances
    path = f"/v1/instances/{instance}/stats"
    found = (await world.call("GET", path)).json()
    assert found["instance"] == instance and found["network"]["tx_bytes"] == 3 * 2**20
    assert (found["at"], found["cpu_ns"], found["pids"]) == (1001.0, 500_000_000, 3)
    assert (await world.call("GET", "/v1/instances/nobody/stats")).status == 404
    assert (await world.call("GET", f"/v1/instances/{'x' * 201}/stats")).status == 422
    world.others.away.add("hostd")
    assert (await world.call("GET", path)).status == 503
    world.others.away.clear()
    world.deployer.instances[instance].update(container="", state="requested", waiting="no cpu")
    assert (await world.call("GET", path)).status == 409


async def test_answers_carry_the_headers_browsers_need(world: World) -> None:
    response = await world.call("GET", "/v1/apps")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert len(response.headers["X-Request-Id"]) == 36
    forged = await world.call("GET", "/v1/apps", headers={"X-Request-Id": "bad id\r\n"})
    assert forged.headers["X-Request-Id"] != "bad id\r\n"


async def test_health(world: World) -> None:
    assert (await world.call("GET", "/healthz", key="")).status == 200
    assert (await world.call("GET", "/readyz", key="")).status == 200
    await world.shared.store.close()
    ready = await world.call("GET", "/readyz", key="")
    assert ready.status == 503 and ready.json()["reason"]
    with pytest.raises(Unavailable):
        await (await world.shared.store.collection(_operations())).get("x")


async def test_a_diagnosis_comes_from_the_host(world: World) -> None:
    world.others.findings = [{"check": "wrong-vlan", "what": "w", "instance": "acme-web-1"}]
    answer = await world.call("GET", "/v1/nodes/host-1/network")
    assert answer.status == 200 and answer.json()["findings"][0]["check"] == "wrong-vlan"
    assert (await world.call("GET", "/v1/nodes/host-9/network")).status == 404
    assert (await world.call("GET", f"/v1/nodes/{'h' * 300}/network")).status == 404
    other = await world.key("other", "admin")
    assert (await world.call("GET", "/v1/nodes/host-1/network", key=other)).status == 403
    world.others.hostd_url = ""
    assert (await world.call("GET", "/v1/nodes/host-1/network")).status == 503
