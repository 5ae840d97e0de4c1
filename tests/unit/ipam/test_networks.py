"""Networks with pools of both families, made over the API; who may use what, and what readers are shown."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from libs.common.actor import Actor
from libs.common.errors import (
    Conflict,
    Forbidden,
    GantryError,
    InvalidInput,
    NotFound,
    Stale,
    TooMany,
)
from libs.common.http import Role
from services.ipam import stock
from services.ipam.model import IpamConfig
from services.ipam.territory import BLOCK
from tests.simulation.loop import World, run, virtual
from tests.unit.ipam.world import body_of, served

CONFIG = IpamConfig.model_validate(
    {
        "networks": [
            {
                "name": "web",
                "vlan": 100,
                "cidr": "10.0.0.0/29",
                "gateway": "10.0.0.6",
                "cidr6": "fd00::/64",
                "gateway6": "fd00::1",
            },
            {"name": "old", "vlan": 101, "cidr": "10.0.1.0/29"},
            {"name": "six", "vlan": 102, "cidr6": "fd00:6::/120"},
        ],
        "cooldown_s": 30.0,
        "quarantine_s": 600.0,
    }
)
LAB = {
    "vlan": 200,
    "environments": ["lab"],
    "pools": [
        {"name": "a", "cidr": "10.2.0.0/30", "priority": 5},
        {"name": "b", "cidr": "10.2.1.0/29", "zone": "z2"},
        {"name": "own", "cidr": "10.2.2.0/29", "priority": 9, "bus": ["globex"]},
    ],
}
ACME, GLOBEX = Actor("ann", "acme", Role.ADMIN), Actor("bob", "globex", Role.VIEWER)


@virtual
async def test_an_attachment_gets_an_address_of_each_family_and_gives_both_back(
    world: World,
) -> None:
    async with served(world, CONFIG, replicas=2) as ipam:
        got = await ipam.claim("a")
        assert (got["address"], got["prefix_len"], got["gateway"]) == ("10.0.0.1", 29, "10.0.0.6")
        assert got["addresses"] == [
            {
                "family": 4,
                "address": "10.0.0.1",
                "prefix_len": 29,
                "gateway": "10.0.0.6",
                "generation": 1,
                "pool": "default",
            },
            {
                "family": 6,
                "address": "fd00::2",
                "prefix_len": 64,
                "gateway": "fd00::1",
                "generation": 1,
                "pool": "default6",
            },
        ]
        assert await ipam.claim("a") == got
        # A host that knows of one generation only; and one that has another IPv6 one in mind.
        path = "/v1/attachments/a.eth0?generation=1"
        assert await ipam.host("DELETE", f"{path}&generation6=7") == {"released": True}
        stored = ipam.small.store.bodies("ipam_addresses")
        assert stored["web/fd00::2"]["attachment6"] == "a.eth0"
        assert "attachment" not in stored["web/10.0.0.1"]
        assert await ipam.host("DELETE", f"{path}&generation6=1") == {"released": True}
        await ipam.claim("b")
        assert await ipam.host("DELETE", "/v1/attachments/b.eth0?generation=1") == {
            "released": True
        }
        assert not any(
            "attachment" in name
            for body in ipam.small.store.bodies("ipam_addresses").values()
            for name in body
        )
        six = await ipam.claim("c", network="six")
        assert (six["address"], six["prefix_len"]) == ("fd00:6::1", 120)
        only = await ipam.claim("d", families=[6])
        assert [each["family"] for each in only["addresses"]] == [6]


@virtual
async def test_all_or_nothing(world: World) -> None:
    tight = {"name": "web", "vlan": 1, "cidr": "10.0.0.0/28", "cidr6": "fd00::/126"}
    config = IpamConfig.model_validate({"networks": [tight]})
    async with served(world, config) as ipam:
        for n in range(3):
            await ipam.claim(f"a{n}")
        with pytest.raises(TooMany, match=r"network web is full: of 3 addresses 3 are allocated"):
            await ipam.claim("late")
        held = [
            body["address"]
            for body in ipam.small.store.bodies("ipam_addresses").values()
            if body["state"] == "allocated"
        ]
        assert len(held) == 6


@virtual
async def test_a_burst_gets_an_answer_each(world: World) -> None:
    async with served(world, CONFIG, replicas=2) as ipam:
        claims = [{"attachment": f"b{n}.eth0", **body_of(f"b{n}", "h1")} for n in range(7)]
        claims.append({"attachment": "x.eth0", **body_of("x", "h1", network="nowhere")})
        claims.append(claims[0])
        answer = await ipam.host("POST", "/v1/attachments", {"claims": claims})
        results = answer["results"]
        given = [each["allocation"]["address"] for each in results if "allocation" in each]
        assert sorted(given[:5]) == [f"10.0.0.{n}" for n in range(1, 6)] and given[5] == given[0]
        problems = [each["problem"]["type"] for each in results if "problem" in each]
        assert problems == ["too-many", "too-many", "not-found"]
        with pytest.raises(Forbidden):
            await ipam.host("POST", "/v1/attachments", {"claims": claims}, host="h2")
        with pytest.raises(InvalidInput, match="at most 500"):
            await ipam.host("POST", "/v1/attachments", {"claims": claims * 60})


@virtual
async def test_networks_are_made_and_changed_and_deleted(world: World) -> None:
    async with served(world, CONFIG, replicas=2) as ipam:
        with pytest.raises(Conflict, match="defined by the configuration"):
            await ipam.ask("PUT", "/v1/networks/web", LAB)
        for actor in (ACME, GLOBEX):
            with pytest.raises(Forbidden):
                await ipam.ask("PUT", "/v1/networks/lab", LAB, actor)
        for wrong, said in (
            ({"vlan": 100}, "share the vlan 100"),
            ({"pools": [{"name": "a", "cidr": "10.0.0.4/30"}]}, "overlaps pool default of web"),
        ):
            with pytest.raises(Conflict, match=said):
                await ipam.ask("PUT", "/v1/networks/lab", {**LAB, **wrong})
        with pytest.raises(InvalidInput, match=r"pools.0.gateway|gateway"):
            pool = {"name": "a", "cidr": "10.2.0.0/30", "gateway": "10.3.0.1"}
            await ipam.ask("PUT", "/v1/networks/lab", {**LAB, "pools": [pool]})
        await ipam.ask("PUT", "/v1/networks/lab", LAB)
        with pytest.raises(Stale):
            await ipam.ask("PUT", "/v1/networks/lab", {**LAB, "mtu": 9000}, if_match='"7"')
        changed = await ipam.ask("PUT", "/v1/networks/lab", {**LAB, "mtu": 9000}, if_match='"1"')
        assert changed["version"] == 2
        first = await ipam.claim("a", network="lab", environment="lab")
        assert (first["address"], first["mtu"]) == ("10.2.0.1", 9000)

        with pytest.raises(Conflict, match="pool a is left out"):
            await ipam.ask("PUT", "/v1/networks/lab", {**LAB, "pools": LAB["pools"][1:]})  # type: ignore[index]
        with pytest.raises(InvalidInput, match="does not hold"):
            await ipam.ask("PUT", "/v1/networks/lab/pools/a", {"cidr": "10.2.4.0/30"})
        await ipam.ask("PUT", "/v1/networks/lab/pools/c", {"cidr": "10.2.5.0/30", "priority": 7})
        await world.clock.sleep(3.0)  # every replica has heard of it
        assert (await ipam.claim("b", network="lab", environment="lab"))["address"] == "10.2.5.1"
        with pytest.raises(Conflict, match="pool a of lab is in use: 1 allocated"):
            await ipam.ask("DELETE", "/v1/networks/lab/pools/a")
        await ipam.host("DELETE", "/v1/attachments/a.eth0?generation=1")
        with pytest.raises(Conflict, match="1 cooling"):
            await ipam.ask("DELETE", "/v1/networks/lab/pools/a")
        await world.clock.sleep(CONFIG.cooldown_s)
        await ipam.ask("DELETE", "/v1/networks/lab/pools/a")
        await ipam.host("DELETE", "/v1/attachments/b.eth0?generation=1")
        await world.clock.sleep(CONFIG.cooldown_s)
        await ipam.ask("DELETE", "/v1/networks/lab")
        with pytest.raises(NotFound):
            await ipam.claim("c", network="lab", environment="lab")
        await world.clock.sleep(3.0)
        audits = [
            event.headers
            for doc in ipam.small.store.stored("ipam_networks").values()
            for event in doc.outbox
        ]
        assert not audits  # all are on the bus


@virtual
async def test_scopes_and_priorities(world: World) -> None:
    async with served(world, CONFIG, replicas=2) as ipam:
        await ipam.ask("PUT", "/v1/networks/lab", LAB)
        with pytest.raises(NotFound, match="is for environments lab"):
            await ipam.claim("a", network="lab")
        lab: dict[str, Any] = {"network": "lab", "environment": "lab"}
        order = [
            (await ipam.claim(f"a{n}", zone=zone, **lab))["addresses"][0]["pool"]
            for n, zone in enumerate(("z1", "", "z2"))
        ]
        assert order == ["a", "a", "b"]
        with pytest.raises(TooMany):
            await ipam.claim("late", zone="z1", **lab)
        theirs = await ipam.claim("g", instance="globex-g", **lab)
        assert theirs["addresses"][0]["pool"] == "own"
        with pytest.raises(Conflict, match="of pool own"):
            await ipam.claim("t", requested="10.2.2.3", **lab)


@virtual
async def test_reserved_addresses_are_for_their_owners(world: World) -> None:
    async with served(world, CONFIG, replicas=2) as ipam:
        path = "/v1/networks/old/reservations"
        old = {"network": "old"}
        db = {"address": "10.0.1.1", "bu": "acme", "app": "db"}
        assert (await ipam.ask("PUT", f"{path}/db", db))["state"] == "reserved"
        anyone = await ipam.ask("PUT", f"{path}/spare", {"note": "for the move"})
        assert anyone["address"] == "10.0.1.2"
        assert (await ipam.ask("PUT", f"{path}/db", {**db, "note": "n"}))["note"] == "n"
        with pytest.raises(Conflict, match="reserved already"):
            await ipam.ask("PUT", f"{path}/other", {"address": "10.0.1.1"})
        with pytest.raises(Stale):
            await ipam.ask("DELETE", f"{path}/db", if_match='"1"')
        with pytest.raises(NotFound):
            await ipam.ask("GET", f"{path}/db", actor=GLOBEX)

        for n in range(4):
            got = await ipam.claim(f"a{n}", **old)
            assert got["address"] not in ("10.0.1.1", "10.0.1.2")
        with pytest.raises(TooMany, match="2 are reserved"):
            await ipam.claim("late", **old)
        for name, fields in (
            ("web", {"requested": "10.0.1.1"}),
            ("web", {"reservation": "db"}),
        ):
            with pytest.raises(Conflict, match="is reserved"):
                await ipam.claim(name, **fields, **old)
        mine = await ipam.claim("db-1", reservation="db", **old)
        assert mine["address"] == "10.0.1.1"
        with pytest.raises(Conflict, match="is allocated"):
            await ipam.claim("db-2", reservation="db", **old)
        await ipam.host("DELETE", "/v1/attachments/db-1.eth0?generation=1")
        again = await ipam.claim("db-3", requested="10.0.1.1", **old)
        assert again["generation"] == 2
        assert (await ipam.claim("any", reservation="spare", **old))["address"] == "10.0.1.2"
        await ipam.ask("DELETE", f"{path}/db")
        await ipam.host("DELETE", "/v1/attachments/db-3.eth0?generation=2")
        await world.clock.sleep(CONFIG.cooldown_s)
        assert (await ipam.claim("late", **old))["address"] == "10.0.1.1"


@virtual
async def test_an_address_that_somebody_else_answers_for_is_kept_back(world: World) -> None:
    async with served(world, CONFIG) as ipam:
        first = await ipam.claim("a")
        path = "/v1/attachments/a.eth0/conflicts"
        seen = {"address": first["address"], "generation": 1, "seen_mac": "02:00:00:00:00:09"}
        with pytest.raises(Forbidden):
            await ipam.host("POST", path, seen, host="h2")
        with pytest.raises(Stale):
            await ipam.host("POST", path, {**seen, "generation": 3})
        other = await ipam.host("POST", path, seen)
        assert other["address"] == "10.0.0.2"
        assert other["addresses"][1] == first["addresses"][1]
        assert await ipam.host("POST", path, seen) == other  # the answer had been lost
        shown = await ipam.ask("GET", "/v1/networks/web/addresses/10.0.0.1")
        assert (shown["state"], shown["seen_mac"]) == ("quarantined", "02:00:00:00:00:09")
        assert [each["why"] for each in shown["history"]] == ["02:00:00:00:00:09 answers for it"]

        await ipam.claim("s", sticky_key="acme/s/0")
        sticky = {"address": "10.0.0.3", "generation": 1, "seen_mac": "02:00:00:00:00:09"}
        with pytest.raises(Conflict, match="no other will do"):
            await ipam.host("POST", "/v1/attachments/s.eth0/conflicts", sticky)
        # A host that goes on speaking of it does not shorten the quarantine.
        told = {"attachment": "a.eth0", "network": "web", "address": "10.0.0.1", "generation": 1}
        report = {"live": ["a.eth0"], "held": [told]}
        await world.clock.sleep(CONFIG.leak_grace_s)
        gone: dict[str, Any] = {"live": []}
        for live in (report, gone, gone):
            await ipam.host("POST", "/v1/hosts/h1/attachments", live)
            await world.clock.sleep(CONFIG.leak_grace_s + 1)
        release = "/v1/networks/web/addresses/{}/release"
        assert (await ipam.ask("POST", release.format("10.0.0.1")))["state"] == "cooling"
        with pytest.raises(Conflict, match="is cooling"):
            await ipam.ask("POST", release.format("10.0.0.1"))
        await world.clock.sleep(CONFIG.quarantine_s)
        shown = await ipam.ask("GET", "/v1/networks/web/addresses/10.0.0.3")
        assert shown["state"] in ("cooling", "free")


@virtual
async def test_what_a_host_had_that_is_gone_is_released_by_hand(world: World) -> None:
    async with served(world, CONFIG, replicas=1) as ipam:
        await ipam.claim("a", network="old")
        await ipam.claim("s", network="old", sticky_key="acme/s/0")
        found = await ipam.ask("GET", "/v1/networks/old/addresses?state=allocated")
        one, other = found["addresses"]
        release = "/v1/networks/old/addresses/{}/release"
        with pytest.raises(Conflict, match="is allocated; released are"):
            await ipam.ask("POST", release.format(one["address"]))
        with pytest.raises(Conflict, match="is not on host h9"):
            await ipam.ask("POST", release.format(one["address"]) + "?gone=h9")
        freed = await ipam.ask("POST", release.format(one["address"]) + "?gone=h1")
        assert freed["state"] == "cooling"
        kept = await ipam.ask("POST", release.format(other["address"]) + "?gone=h1")
        assert kept["state"] == "held", "its app gets it again, elsewhere"
        with pytest.raises(Conflict):
            await ipam.ask("POST", release.format(one["address"]) + "?gone=h1")
        # The host was not gone after all: nobody gets what it still has.
        told = {
            "attachment": "a.eth0",
            "network": "old",
            "address": one["address"],
            "generation": 1,
        }
        await world.clock.sleep(CONFIG.leak_grace_s + 1)
        await ipam.host("POST", "/v1/hosts/h1/attachments", {"live": ["a.eth0"], "held": [told]})
        shown = await ipam.ask("GET", f"/v1/networks/old/addresses/{one['address']}")
        assert shown["state"] == "quarantined"


@virtual
async def test_quotas_count_what_is_allocated_held_and_reserved(world: World) -> None:
    async with served(world, CONFIG, replicas=2) as ipam:
        await ipam.ask("PUT", "/v1/quotas/acme", {"limit": 4, "networks": {"old": 1}})
        await world.clock.sleep(3.0)
        await ipam.claim("a", sticky_key="acme/a/0")  # two addresses
        await ipam.claim("b", network="old")
        with pytest.raises(TooMany, match="quota of 1 addresses in network old"):
            await ipam.claim("c", network="old")
        await ipam.ask("PUT", "/v1/networks/six/reservations/r", {"bu": "acme"})
        with pytest.raises(TooMany, match="quota of 4 addresses"):
            await ipam.claim("d", network="six")
        await ipam.claim("g", network="six", instance="globex-g")
        await ipam.host("DELETE", "/v1/attachments/a.eth0?generation=1")
        with pytest.raises(TooMany):  # they are held
            await ipam.claim("d", network="six")
        (view,) = (await ipam.ask("GET", "/v1/quotas"))["quotas"]
        assert view["limits"] == [
            {"network": "", "limit": 4, "used": 4},
            {"network": "old", "limit": 1, "used": 1},
        ]
        assert (await ipam.ask("GET", "/v1/quotas", actor=GLOBEX))["quotas"] == []
        await ipam.claim("a2", sticky_key="acme/a/0")  # what is held is its own
        await ipam.host("DELETE", "/v1/attachments/b.eth0?generation=1")
        await world.clock.sleep(1.0)
        await ipam.claim("d", network="six")
        await ipam.ask("DELETE", "/v1/quotas/acme")
        await world.clock.sleep(3.0)
        await ipam.claim("e", network="six")


@virtual
async def test_what_readers_are_shown(world: World) -> None:
    async with served(world, CONFIG) as ipam:
        for n in range(3):
            await ipam.claim(f"a{n}")
        await ipam.claim("g", instance="globex-g")
        await ipam.host("DELETE", "/v1/attachments/a1.eth0?generation=1")
        web = await ipam.ask("GET", "/v1/networks/web")
        assert (web["cidr"], web["free"], web["allocated"], web["cooling"]) == (
            "10.0.0.0/29",
            web["usable"] - 8,
            6,
            2,
        )
        pools = {each["pool"]: each for each in web["pools"]}
        assert (pools["default"]["usable"], pools["default"]["excluded"]) == (5, 3)
        listed = await ipam.ask("GET", "/v1/networks/web/addresses?pool=default", actor=ACME)
        assert [(each["address"], each.get("instance")) for each in listed["addresses"]] == [
            ("10.0.0.1", "acme-a0"),
            ("10.0.0.2", None),  # nobody's now; who had it is in its history
            ("10.0.0.3", "acme-a2"),
            ("10.0.0.4", None),
        ]
        page = await ipam.ask("GET", "/v1/networks/web/addresses?limit=5")
        rest = await ipam.ask("GET", f"/v1/networks/web/addresses?limit=5&after={page['after']}")
        names = [each["address"] for each in (*page["addresses"], *rest["addresses"])]
        assert len(names) == len(set(names)) == 8 and rest["after"] == ""
        cooling = await ipam.ask("GET", "/v1/networks/web/addresses?state=cooling&pool=default")
        assert [each["address"] for each in cooling["addresses"]] == ["10.0.0.2"]
        of_bu = await ipam.ask("GET", "/v1/networks/web/addresses?bu=globex&pool=default")
        assert [each["address"] for each in of_bu["addresses"]] == ["10.0.0.4"]
        path = "/v1/networks/web/pools/default/map"
        shown = await ipam.ask("GET", path, actor=ACME)
        assert [
            (e["first"], e["count"], e["state"], e.get("instance")) for e in shown["spans"]
        ] == [
            (0, 1, "excluded", None),
            (1, 1, "allocated", "acme-a0"),
            (2, 1, "cooling", None),
            (3, 1, "allocated", "acme-a2"),
            (4, 1, "allocated", None),
            (5, 1, "free", None),
            (6, 2, "excluded", None),
        ]
        part = await ipam.ask("GET", f"{path}?from=4&count=2")
        assert [each["state"] for each in part["spans"]] == ["allocated", "free"]
        huge = await ipam.ask("GET", "/v1/networks/web/pools/default6/map")
        assert huge["spans"][-1]["state"] == "free" and huge["next"] is None
        for wrong in ("?state=gone", "?limit=0", "?after=9.9.9.9"):
            with pytest.raises(InvalidInput):
                await ipam.ask("GET", f"/v1/networks/web/addresses{wrong}")
        for gone in ("/v1/networks/web/addresses/9.9.9.9", "/v1/networks/web/pools/x/map"):
            with pytest.raises(GantryError):
                await ipam.ask("GET", gone)
        history = (await ipam.ask("GET", "/v1/networks/web/addresses/10.0.0.2", actor=ACME))[
            "history"
        ]
        assert [(each["instance"], each["why"]) for each in history] == [("acme-a1", "")]


def test_a_vast_pool_comes_back_to_addresses_that_have_rested_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each address that was ever used has a document: in a pool that never runs out they would be ever more."""
    monkeypatch.setattr(stock, "LONG_REST_S", 400.0)
    web = {"name": "web", "cidr6": "fd00::/64", "vlan": 100}
    config = IpamConfig.model_validate({"networks": [web], "cooldown_s": 30.0})
    used = Counter[str]()

    async def churn(world: World) -> None:
        async with served(world, config) as ipam:
            for n in range(240):
                (six,) = (await ipam.claim(f"a{n}"))["addresses"]
                used[six["address"]] += 1
                path = f"/v1/attachments/a{n}.eth0?generation={six['generation']}"
                await ipam.host("DELETE", path)
                await world.clock.sleep(10.0)

    run(churn)
    assert 40 <= len(used) <= 2 * BLOCK
    assert max(used.values()) <= 240 // 40
