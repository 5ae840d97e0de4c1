"""The console's pages of networks, with the real ipam behind them."""

from __future__ import annotations

import re

from tests.fakes.gateway import World
from tests.unit.gateway.test_console import get, login

MAP = "/networks/blue?pool=default"


async def text(world: World, path: str, cookie: str) -> str:
    response = await get(world, path, cookie)
    assert response.status == 200, response.body
    return response.body.decode()


async def test_nobody_gets_past_the_door(world: World) -> None:
    for path in ("/networks", "/networks/blue"):
        response = await get(world, path)
        assert response.status == 303 and response.headers["Location"] == "/login"
        assert (await get(world, f"/console{path}")).status == 401


async def test_all_networks_and_quotas(world: World) -> None:
    await world.call("PUT", "/v1/quotas/acme", {"limit": 40})
    await world.attach("acme-web-1")
    cookie = await login(world)

    async def counted() -> str:
        told = await text(world, "/networks", cookie)  # counts are those of a moment ago
        return told if 'aria-label="default: 1 allocated, 252 free"' in told else ""

    page = await world.eventually(counted)
    for shown in ("blue", "VLAN 100", "10.1.0.0/24", "secret", "for other", "1 of 40"):
        assert shown in page, shown
    state = await text(world, "/console/networks", cookie)
    assert state.strip() in page
    acme = await text(world, "/networks", await login(world, await world.key("acme", "viewer")))
    assert "blue" in acme and "secret" not in acme and "1 of 40" in acme
    other = await text(world, "/networks", await login(world, await world.key("other", "viewer")))
    assert "acme" not in other and "secret" in other


async def test_the_map_tells_who_has_an_address(world: World) -> None:
    await world.attach("acme-web-1")
    given = (await world.attach("other-db-1", "other/db")).json()
    page = await text(world, f"{MAP}&address=10.1.0.1", await login(world))
    fields = re.findall(r'class="field at-(\w+)[^>]*aria-label="([^"]+)"', page)
    assert len(fields) == 256 and fields[0] == ("excluded", "10.1.0.0: excluded")
    assert fields[1][1].startswith("10.1.0.1: allocated, acme-web-1, since 20")
    assert fields[3] == ("free", "10.1.0.3: free")
    assert page.count('aria-current="true"') >= 2 and "<dd>host-1</dd>" in page
    await world.detach("other-db-1", given["generation"])
    past = await text(world, f"{MAP}&address=10.1.0.2", await login(world))
    assert "<td>other-db-1</td>" in past and "<td>del</td>" in past
    acme = await login(world, await world.key("acme", "viewer"))
    hidden = await text(world, f"{MAP}&address=10.1.0.2", acme)
    assert "acme-web-1" in hidden and "other-db-1" not in hidden


async def test_a_range_and_what_is_none(world: World) -> None:
    cookie = await login(world)
    part = await text(world, f"{MAP}&from=10.1.0.32&count=16", cookie)
    assert part.count('class="field ') == 16 and "10.1.0.0/24</a>" in part
    assert 'rel="prev"' in part and 'rel="next"' in part
    for wrong in ("from=10.9.0.0", "from=%3Cscript%3E", "address=ten", "address=10.9.0.1"):
        shown = await text(world, f"{MAP}&{wrong}", cookie)
        assert 'role="alert"' in shown and "<script>" not in shown, wrong
    assert "no pool x" in await text(world, "/networks/blue?pool=x", cookie)
    for count in ("0", "-5", "9" * 5000, "٣"):
        assert 'class="field ' in await text(world, f"{MAP}&count={count}", cookie)
    missing = await get(world, "/networks/none", cookie)
    assert missing.status == 404 and b"there is no network" in missing.body
    world.others.away = {"ipam"}
    away = await get(world, "/networks/blue", cookie)
    assert away.status == 503 and b"Not shown" in away.body
    assert "No answer from ipam" in await text(world, "/networks", cookie)


async def test_a_large_pool_is_shown_in_blocks(world: World) -> None:
    large = {"vlan": 300, "cidr": "10.64.0.0/10"}
    assert (await world.call("PUT", "/v1/networks/large", large)).status == 201
    await world.attach("acme-web-1", network="large")
    cookie = await login(world)
    page = await text(world, "/networks/large", cookie)
    assert page.count('class="field ') == 512 and 'data-soon-ms="10000"' in page
    assert "10.64.0.0 to 10.64.31.255: 8,190 free, 1 excluded, 1 allocated" in page
    found = re.search(r'id="m-10.64.0.0" [^>]*href="([^"]+)"', page)
    assert found is not None
    closer = await text(world, found[1].replace("&amp;", "&"), cookie)
    assert "10.64.0.0 to 10.64.0.15: 14 free, 1 excluded, 1 allocated" in closer


async def test_reservations_are_listed(world: World) -> None:
    body = {"bu": "acme", "app": "db", "note": '"><script>alert(1)</script>'}
    assert (await world.call("PUT", "/v1/networks/blue/reservations/db", body)).status == 201
    page = await text(world, "/networks/blue", await login(world))
    assert "<td>acme/db</td>" in page and "<script>alert" not in page
    other = await login(world, await world.key("other", "viewer"))
    assert "acme" not in await text(world, "/networks/blue", other)


async def test_pages_obey_their_own_content_policy(world: World) -> None:
    cookie = await login(world)
    for path in ("/networks", MAP):
        page = await text(world, path, cookie)
        assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", page)
        assert not re.search(r"<script(?![^>]*\ssrc=)", page)
        for url in re.findall(r'(?:src|href)="(/console/[^"#]+)"', page):
            assert (await get(world, url)).status == 200, url
