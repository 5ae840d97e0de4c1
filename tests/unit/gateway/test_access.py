"""Who may do what: wrong keys 401, other units' things 404, too low a role 403; and the trail that it leaves."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.http import Kind
from libs.common.tokens import TokenSigner, derive_key
from services.gateway.model import GatewayConfig
from tests.fakes.gateway import SECRET, SPEC, World, gateway_world


async def audit_of(world: World, action: str) -> list[dict[str, Any]]:
    async def found() -> list[dict[str, Any]]:
        entries = (await world.call("GET", "/v1/audit")).json()["entries"]
        return [entry for entry in entries if entry["action"] == action]

    return list(await world.eventually(found))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer gk_first_" + "0" * 52},
        {"Authorization": "Bearer gk_nobody00_" + "0" * 52},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer gk_"},
        {"Authorization": "Basic Zm9vOmJhcg=="},
    ],
)
async def test_wrong_keys_are_refused(world: World, headers: dict[str, str]) -> None:
    response = await world.call("GET", "/v1/apps", key="", headers=headers)
    assert response.status == 401
    problem = response.json()
    assert problem["type"] == "urn:gantry:problem:unauthenticated"
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_services_token_is_no_api_key(world: World) -> None:
    key = derive_key(SECRET, Kind.SERVICE, "deployer")
    token = TokenSigner(Kind.SERVICE, "deployer", key, world.clock).token()
    assert (await world.call("GET", "/v1/apps", key=token)).status == 403
    assert (await world.call("GET", "/metrics", key=token)).status == 200
    assert (await world.call("GET", "/metrics")).status == 403


async def test_roles(world: World) -> None:
    await world.put_app()
    viewer = await world.key("acme", "viewer")
    deployer = await world.key("acme", "deployer")
    assert (await world.call("GET", "/v1/apps/acme/web", key=viewer)).status == 200
    for method, path, body in (
        ("PUT", "/v1/apps/acme/web", SPEC),
        ("POST", "/v1/apps/acme/web/deploys", {}),
        ("POST", "/v1/apps/acme/web/scale", {"instances": 1}),
        ("POST", "/v1/apps/acme/web/stop", {}),
        ("POST", "/v1/keys", {"bu": "acme"}),
    ):
        response = await world.call(method, path, body, key=viewer)
        assert response.status == 403, (path, response.body)
        assert "viewer" in response.json()["detail"]
    assert (await world.call("POST", "/v1/keys", {"bu": "acme"}, key=deployer)).status == 403
    assert (await world.call("GET", "/v1/keys", key=deployer)).status == 403
    assert (await world.call("GET", "/v1/audit", key=deployer)).status == 403
    assert not world.deployer.heard
    (refused, *_) = await audit_of(world, "deploy.release")
    assert refused["allowed"] is False and refused["target"] == "acme/web"
    assert refused["detail"].startswith("Forbidden")


async def test_other_units_things_do_not_exist(world: World) -> None:
    await world.put_app()
    deployment = (await world.deployed("/v1/apps/acme/web/deploys"))["deployment"]
    other = await world.key("other", "admin")
    for method, path, body in (
        ("GET", "/v1/apps/acme/web", None),
        ("PUT", "/v1/apps/acme/web", SPEC),
        ("POST", "/v1/apps/acme/web/deploys", {}),
        ("GET", "/v1/apps/acme/web/releases", None),
        ("GET", "/v1/apps/acme/web/instances", None),
        ("GET", "/v1/deployments?app=acme/web", None),
        ("GET", f"/v1/deployments/{deployment}", None),
        ("POST", f"/v1/deployments/{deployment}/abort", None),
        ("GET", "/v1/networks/secret", None),
        ("POST", "/v1/keys", {"bu": "acme", "role": "viewer"}),
        ("POST", "/v1/keys", {"bu": "*", "role": "viewer"}),
        ("DELETE", "/v1/keys/first", None),
    ):
        response = await world.call(method, path, body, key=other)
        expected = 200 if path == "/v1/networks/secret" else 404
        assert response.status == expected, (method, path, response.body)
    for path, name in (("/v1/apps", "apps"), ("/v1/instances", "instances")):
        assert (await world.call("GET", path, key=other)).json()[name] == []
    (instance, *_) = world.deployer.instances
    for part in ("logs", "stats"):
        path = f"/v1/instances/{instance}/{part}"
        assert (await world.call("GET", path, key=other)).status == 404
    acme = await world.key("acme", "viewer")
    assert (await world.call("GET", "/v1/networks/secret", key=acme)).status == 404
    names = [
        n["network"] for n in (await world.call("GET", "/v1/networks", key=acme)).json()["networks"]
    ]
    assert names == ["blue"]


async def test_alerts_of_the_cluster_are_for_those_who_see_all(world: World) -> None:
    base = {"rule": "r", "severity": "critical", "state": "firing", "summary": "s"}
    world.others.alerts = [
        {"alert": "node", "labels": {"hostname": "host-1"}, **base},
        {"alert": "crash", "labels": {"app": "acme/web"}, **base},
    ]

    async def seen(key: str) -> list[str]:
        alerts = (await world.call("GET", "/v1/alerts", key=key)).json()["alerts"]
        return [alert["alert"] for alert in alerts]

    assert await seen(world.admin_key) == ["node", "crash"]
    assert await seen(await world.key("acme", "viewer")) == ["crash"]
    assert await seen(await world.key("other", "admin")) == []


async def test_keys_live_and_die(world: World) -> None:
    made = await world.call(
        "POST", "/v1/keys", {"bu": "acme", "role": "viewer", "label": "ci", "ttl_s": 60}
    )
    assert made.status == 201 and made.headers["cache-control"] == "no-store"
    content = made.json()
    assert (
        content["key"].startswith(content["prefix"]) and content["prefix"] == f"gk_{content['id']}_"
    )
    assert (await world.call("GET", "/v1/apps", key=content["key"])).status == 200
    world.clock.ahead_s += 61
    response = await world.call("GET", "/v1/apps", key=content["key"])
    assert response.status == 401 and "expired" in response.json()["detail"]

    key = await world.key("acme", "admin")
    key_id = key.split("_")[1]
    assert (await world.call("DELETE", f"/v1/keys/{key_id}", key=key)).status == 200
    response = await world.call("GET", "/v1/apps", key=key)
    assert response.status == 401 and "revoked" in response.json()["detail"]
    listed = (await world.call("GET", "/v1/keys")).json()["keys"]
    assert key not in str(listed) and {k["id"] for k in listed} >= {"first", key_id}
    assert [t["bu"] for t in (await world.call("GET", "/v1/tenants")).json()["tenants"]] == ["acme"]


async def test_the_last_admin_key_stays(world: World) -> None:
    refused = await world.call("DELETE", "/v1/keys/first")
    assert refused.status == 409 and "last admin key" in refused.json()["detail"]
    second = await world.key("*", "admin")
    assert (await world.call("DELETE", "/v1/keys/first")).status == 200
    assert (await world.call("GET", "/v1/apps")).status == 401
    assert (await world.call("GET", "/v1/apps", key=second)).status == 200


async def test_each_key_has_its_own_rate(tmp_path: Any) -> None:
    config = GatewayConfig(rate_per_s=1.0, rate_burst=5)
    async with gateway_world(tmp_path, config) as world:
        other = await world.key("acme", "viewer")
        statuses = [(await world.call("GET", "/v1/apps")).status for _ in range(8)]
        assert statuses.count(429) >= 3
        limited = await world.call("GET", "/v1/apps")
        assert limited.status == 429 and int(limited.headers["Retry-After"]) >= 1
        assert (await world.call("GET", "/v1/apps", key=other)).status == 200
        world.clock.ahead_s += 3
        assert (await world.call("GET", "/v1/apps")).status == 200


async def test_actors_are_told_to_the_owner(world: World) -> None:
    await world.put_app()
    key = await world.key("acme", "deployer", label="ci")
    await world.deployed("/v1/apps/acme/web/deploys", key=key)
    (heard,) = world.deployer.heard
    assert heard.actor.startswith("ci#")
    assert (heard.actor_bu, heard.actor_role) == ("acme", "deployer")


async def test_the_trail_has_the_request_id(world: World) -> None:
    body = {**SPEC}
    response = await world.call(
        "PUT", "/v1/apps/acme/web", body, headers={"X-Request-Id": "my-request-1"}
    )
    assert response.headers["X-Request-Id"] == "my-request-1"
    assert world.deployer.request_ids == ["my-request-1"]
    (entry,) = await audit_of(world, "app.put")
    assert entry["request_id"] == "my-request-1" and entry["allowed"] is True


async def test_operations_of_one_moment_leave_a_line_each(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put_app()
    now = world.clock.now()
    monkeypatch.setattr(world.clock, "now", lambda: now)
    for _ in range(3):
        assert (await world.call("POST", "/v1/apps/acme/web/deploys", {})).status == 202

    async def all_told() -> bool:
        heard = {each.deployment for each in world.deployer.heard}
        return len(await audit_of(world, "deploy.release")) == 3 == len(heard)

    await world.eventually(all_told)


async def test_a_units_admin_reads_its_own_trail(world: World) -> None:
    await world.put_app("acme/web")
    await world.put_app("other/web")
    await audit_of(world, "app.put")
    admin = await world.key("acme", "admin")

    async def targets() -> set[str]:
        entries = (await world.call("GET", "/v1/audit", key=admin)).json()["entries"]
        found = {entry["target"] for entry in entries}
        return found if {"acme/web", "acme/keys"} <= found else set()

    assert await world.eventually(targets) == {"acme/web", "acme/keys"}


async def test_the_trail_has_pages(world: World) -> None:
    for n in range(5):
        await world.put_app(f"acme/web{n}")

    async def all_there() -> bool:
        return len((await world.call("GET", "/v1/audit")).json()["entries"]) == 5

    await world.eventually(all_there)
    seen: list[str] = []
    before = ""
    for _ in range(3):
        page = (await world.call("GET", f"/v1/audit?limit=2&before={before}")).json()
        seen += [entry["target"] for entry in page["entries"]]
        before = page["next"]
    assert seen == [f"acme/web{n}" for n in (4, 3, 2, 1, 0)] and before == ""
