"""Networks, addresses, reservations and quotas through the gateway, with the real ipam behind it."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.http import Response
from services.ipam import editing
from tests.fakes.gateway import World

NETWORK = {"vlan": 300, "cidr": "10.3.0.0/28", "gateway": "10.3.0.1"}
WRITES: tuple[tuple[str, str, Any], ...] = (
    ("PUT", "/v1/networks/new", NETWORK),
    ("DELETE", "/v1/networks/new", None),
    ("PUT", "/v1/networks/new/pools/more", {"cidr": "10.4.0.0/24"}),
    ("DELETE", "/v1/networks/new/pools/more", None),
    ("PUT", "/v1/networks/blue/reservations/db", {"bu": "acme"}),
    ("DELETE", "/v1/networks/blue/reservations/db", None),
    ("POST", "/v1/networks/blue/addresses/10.1.0.1/release", None),
    ("PUT", "/v1/quotas/acme", {"limit": 5}),
    ("DELETE", "/v1/quotas/acme", None),
)


async def get(world: World, path: str, key: str | None = None) -> Any:
    response = await world.call("GET", path, key=key)
    assert response.status == 200, response.body
    return response.json()


def fields(response: Response) -> list[str]:
    return [each["field"] for each in response.json()["errors"]]


@pytest.mark.parametrize(("bu", "role"), [("acme", "admin"), ("*", "deployer"), ("*", "viewer")])
async def test_changes_are_for_admins_of_all(world: World, bu: str, role: str) -> None:
    key = await world.key(bu, role)
    for method, path, content in WRITES:
        response = await world.call(method, path, content, key=key)
        assert response.status == 403, (method, path, response.body)
    assert [each["network"] for each in (await get(world, "/v1/networks"))["networks"]] == [
        "blue",
        "secret",
    ]

    async def refusals() -> Any:
        entries = (await get(world, "/v1/audit?limit=1000"))["entries"]
        refused = [each["action"] for each in entries if not each["allowed"]]
        return sorted(refused) if len(refused) >= len(WRITES) else None

    assert (await world.eventually(refusals)) == sorted(
        [
            *("network.put", "network.remove", "pool.put", "pool.remove"),
            *("address.reserve", "address.unreserve", "address.release"),
            *("quota.put", "quota.remove"),
        ]
    )


async def test_a_network_is_made_changed_and_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editing, "STALE_S", 0.05)  # else it waits for replicas that there are not
    made = await world.call("PUT", "/v1/networks/new", NETWORK)
    assert made.status == 201 and made.json()["version"] == 1
    read = await world.call("GET", "/v1/networks/new")
    assert read.headers["etag"] == '"1"' and read.json()["usable"] == 13
    assert read.json()["fixed"] is False
    pool = {"cidr": "10.4.0.0/24", "priority": 5, "bus": ["acme"]}
    stale = await world.call(
        "PUT", "/v1/networks/new/pools/more", pool, headers={"If-Match": '"7"'}
    )
    assert stale.status == 412
    current = {"If-Match": read.headers["etag"]}
    assert (
        await world.call("PUT", "/v1/networks/new/pools/more", pool, headers=current)
    ).status == 201
    pools = (await get(world, "/v1/networks/new"))["pools"]
    assert [(each["pool"], each["usable"]) for each in pools] == [("more", 254), ("default", 13)]
    other = await world.key("other", "viewer")
    assert [each["pool"] for each in (await get(world, "/v1/networks/new", other))["pools"]] == [
        "default"
    ]
    assert (await world.call("GET", "/v1/networks/new/pools/more/map", key=other)).status == 404
    given = await world.attach("acme-web-1", network="new")
    assert given.json()["address"] == "10.4.0.1"
    assert len((await get(world, "/v1/networks/new/addresses"))["addresses"]) == 1
    assert (await get(world, "/v1/networks/new/addresses", other))["addresses"] == []
    hidden = "/v1/networks/new/addresses/10.4.0.1"
    assert (await world.call("GET", hidden, key=other)).status == 404
    for path in ("/v1/networks/new", "/v1/networks/new/pools/more"):
        response = await world.call("DELETE", path)
        assert response.status == 409 and "in use: 1 allocated" in response.json()["detail"]
    gone = await world.call("DELETE", "/v1/networks/new/pools/default")
    assert gone.status == 200 and gone.json()["deleted"] is True
    assert len((await get(world, "/v1/networks/new"))["pools"]) == 1


@pytest.mark.parametrize(
    ("path", "content", "status", "told"),
    [
        ("new", {**NETWORK, "vlan": 0}, 422, "vlan"),
        ("new", {**NETWORK, "vlna": 1}, 422, "vlna"),
        ("new", {**NETWORK, "cidr": "10.3.0.1/28"}, 422, "cidr"),
        ("new", {**NETWORK, "gateway": "nowhere"}, 422, "gateway"),
        ("new", {**NETWORK, "excluded": ["10.3.0.9-10.3.0.2"]}, 422, "excluded.0"),
        ("new", {"vlan": 300, "pools": [{"name": "a", "cidr": "x"}]}, 422, "pools.0.cidr"),
        ("new", {**NETWORK, "vlan": 100}, 409, "networks share the vlan 100"),
        ("new", {**NETWORK, "cidr": "10.1.0.0/16", "gateway": None}, 409, "overlaps"),
        ("blue", NETWORK, 409, "is defined by the configuration"),
        ("new/pools/more", {"cidr": "10.4.0.0/24"}, 404, "there is no network 'new'"),
        ("blue/pools/more", {"cidr": "10.4.0.0/24"}, 409, "is defined by the configuration"),
        ("No_Name", NETWORK, 404, "there is no network"),
        ("blue/pools/No_Name", {"cidr": "10.4.0.0/24"}, 404, "there is no pool"),
        ("blue/reservations/db", {"app": "web"}, 422, "app"),
        ("blue/reservations/db", {"address": "ten"}, 422, "address"),
        ("blue/reservations/db", {"address": "10.9.0.1"}, 409, "is not an address"),
        ("blue/reservations/db", {"pool": "none"}, 404, "has no pool"),
    ],
)
async def test_what_is_wrong_is_named(
    world: World, path: str, content: Any, status: int, told: str
) -> None:
    response = await world.call("PUT", f"/v1/networks/{path}", content)
    assert response.status == status, response.body
    if status == 422:
        assert told in fields(response)
    else:
        assert told in response.json()["detail"]


async def test_of_others_addresses_only_the_state_is_told(world: World) -> None:
    # The other unit's name begins like ours, and so do its instances'.
    await world.attach("acme-web-1")
    twice = (await world.attach("acme-x-db-1", "acme-x/db")).json()
    await world.detach("acme-x-db-1", twice["generation"])
    await world.attach("acme-x-db-2", "acme-x/db")
    acme, all_units = await world.key("acme", "admin"), await world.key("*", "viewer")
    rows = (await get(world, "/v1/networks/blue/addresses"))["addresses"]
    assert rows[0]["instance"] == "acme-web-1" and len(rows) == 3
    for key, hidden in ((acme, "acme-x"), (all_units, "")):
        for path in (
            "/v1/networks/blue/addresses",
            "/v1/networks/blue/pools/default/map",
            *(f"/v1/networks/blue/addresses/{each['address']}" for each in rows),
        ):
            answer = await world.call("GET", path, key=key)
            assert answer.status == 200, answer.body
            assert not hidden or hidden.encode() not in answer.body, path
    own = await get(world, "/v1/networks/blue/addresses/10.1.0.1", acme)
    assert (own["state"], own["instance"], own["bu"]) == ("allocated", "acme-web-1", "acme")
    other = (await get(world, "/v1/networks/blue/addresses", acme))["addresses"][2]
    assert (other["state"], other["instance"]) == ("allocated", "")
    assert (await world.call("GET", "/v1/networks/secret/addresses", key=acme)).status == 404
    path = "/v1/networks/blue/addresses?bu=acme-x"
    assert (await world.call("GET", path, key=acme)).status == 404


async def test_addresses_come_in_pages_by_state_and_unit(world: World) -> None:
    for n in range(5):
        assert (await world.attach(f"acme-web-{n}")).status == 200
    await world.attach("other-db-1", "other/db")
    seen: list[str] = []
    after = ""
    while True:
        path = f"/v1/networks/blue/addresses?limit=2&bu=acme&after={after}"
        page = await get(world, path)
        seen += [each["instance"] for each in page["addresses"]]
        after = page["next"]
        if not after:
            break
    assert seen == [f"acme-web-{n}" for n in range(5)]
    for query, count in (("state=allocated", 6), ("state=cooling", 0), ("pool=default", 6)):
        assert len((await get(world, f"/v1/networks/blue/addresses?{query}"))["addresses"]) == count
    for query in ("state=lost", "limit=0", "colour=red", "after=10.9.0.1"):
        response = await world.call("GET", f"/v1/networks/blue/addresses?{query}")
        assert response.status == 422, query


async def test_the_map_names_addresses(world: World) -> None:
    for n in range(3):
        await world.attach(f"acme-web-{n}")
    path = "/v1/networks/blue/pools/default/map"
    whole = await get(world, path)
    assert (whole["first"], whole["count"], whole["next"]) == ("10.1.0.0", 256, "")
    assert [(each["first"], each["count"], each["state"]) for each in whole["spans"]] == [
        ("10.1.0.0", 1, "excluded"),
        *((f"10.1.0.{n}", 1, "allocated") for n in (1, 2, 3)),
        ("10.1.0.4", 250, "free"),
        ("10.1.0.254", 2, "excluded"),
    ]
    assert whole["spans"][1]["instance"] == "acme-web-0" and whole["spans"][1]["since"] > 1e9
    part = await get(world, f"{path}?from=10.1.0.3&count=2")
    assert [(each["first"], each["state"]) for each in part["spans"]] == [
        ("10.1.0.3", "allocated"),
        ("10.1.0.4", "free"),
    ]
    bare = await get(world, f"{path}?states=true&from=10.1.0.1")
    assert bare["spans"][0] == {"first": "10.1.0.1", "count": 3, "state": "allocated"} | {
        "instance": "",
        "since": None,
    }
    for query in ("from=10.2.0.1", "from=ten", "from=::a01:3", "count=0", "count=x", "states=1"):
        assert (await world.call("GET", f"{path}?{query}")).status == 422, query
    assert (await world.call("GET", "/v1/networks/blue/pools/none/map")).status == 404


async def test_a_reservation_is_for_its_unit(world: World) -> None:
    path = "/v1/networks/blue/reservations/db"
    body = {"bu": "acme", "address": "10.1.0.40", "note": "in the firewall"}
    made = await world.call("PUT", path, body)
    assert made.status == 201 and made.json()["address"] == "10.1.0.40"
    read = await world.call("GET", path)
    again = await world.call(
        "PUT", path, {**body, "app": "db"}, headers={"If-Match": read.headers["etag"]}
    )
    assert again.status == 200 and again.json()["app"] == "db"
    assert (await world.call("PUT", path, body, headers={"If-Match": '"99"'})).status == 412
    acme, other = await world.key("acme", "viewer"), await world.key("other", "viewer")
    assert (await get(world, path, acme))["note"] == "in the firewall"
    assert (await world.call("GET", path, key=other)).status == 404
    rows = "/v1/networks/blue/reservations"
    assert [each["name"] for each in (await get(world, rows, acme))["reservations"]] == ["db"]
    assert (await get(world, rows, other))["reservations"] == []
    stranger = await world.attach("other-db-1", "other/db", reservation="db")
    assert stranger.status in (404, 409)
    owner = await world.attach("acme-db-1", "acme/db", reservation="db")
    assert owner.json()["address"] == "10.1.0.40"
    (row,) = (await get(world, rows))["reservations"]
    assert (row["state"], row["instance"]) == ("allocated", "acme-db-1")
    assert (await world.call("DELETE", path)).json()["deleted"] is True
    assert (await world.call("GET", path)).status == 404
    assert (await get(world, "/v1/networks/blue/addresses/10.1.0.40"))["state"] == "allocated"


async def test_a_quota_is_seen_by_its_unit_and_holds(world: World) -> None:
    made = await world.call("PUT", "/v1/quotas/acme", {"limit": 3, "networks": {"blue": 2}})
    assert made.status == 201
    for n in range(2):
        assert (await world.attach(f"acme-web-{n}")).status == 200
    over = await world.attach("acme-web-2")
    assert over.status == 429
    for told in ("acme", "quota", "2", "blue"):
        assert told in over.json()["detail"]
    acme, other = await world.key("acme", "viewer"), await world.key("other", "viewer")
    (quota,) = (await get(world, "/v1/quotas", acme))["quotas"]
    assert [(each["network"], each["limit"], each["used"]) for each in quota["limits"]] == [
        ("", 3, 2),
        ("blue", 2, 2),
    ]
    assert (await get(world, "/v1/quotas", other))["quotas"] == []
    wrong = await world.call("PUT", "/v1/quotas/acme", {"limit": -1, "networks": {"No": 1}})
    assert wrong.status == 422 and {"limit"} <= set(fields(wrong))
    assert (await world.call("DELETE", "/v1/quotas/acme")).status == 200
    assert (await world.call("DELETE", "/v1/quotas/acme")).status == 404
    assert (await world.attach("acme-web-3")).status == 200


async def test_a_held_address_is_released_by_hand_and_has_a_history(world: World) -> None:
    given = (await world.attach("acme-db-1", "acme/db", sticky_key="acme/db/0")).json()
    path = f"/v1/networks/blue/addresses/{given['address']}"
    refused = await world.call("POST", f"{path}/release")
    assert refused.status == 409
    left = await world.attach("acme-web-9")
    taken = f"/v1/networks/blue/addresses/{left.json()['address']}/release"
    assert (await world.call("POST", f"{taken}?gone=host-9")).status == 409
    assert (await world.call("POST", f"{taken}?gone=host-1")).json()["state"] == "cooling"
    await world.detach("acme-db-1", given["generation"])
    view = await get(world, path)
    assert view["state"] == "held" and view["free_at"] > world.clock.now()
    (stint,) = view["history"]
    assert (stint["instance"], stint["host"], stint["why"]) == ("acme-db-1", "host-1", "del")
    assert stint["since"] <= stint["until"] <= world.clock.now()
    other = await world.key("other", "viewer")
    hidden = await world.call("GET", path, key=other)
    assert b"acme" not in hidden.body and hidden.json()["state"] == "held"
    freed = await world.call("POST", f"{path}/release")
    assert freed.status == 200 and freed.json()["state"] in ("free", "cooling")
    assert (await world.call("POST", "/v1/networks/blue/addresses/ten/release")).status == 404

    async def audited() -> Any:
        entries = (await get(world, "/v1/audit"))["entries"]
        return [e for e in entries if e["action"] == "address.release" and e["allowed"]]

    assert (await world.eventually(audited))[0]["actor"].endswith("#first")


async def test_ipam_away_is_said(world: World) -> None:
    world.others.away = {"ipam"}
    for method, path, content in (*WRITES, ("GET", "/v1/quotas", None)):
        assert (await world.call(method, path, content)).status == 503
