"""The console: the door, the session, the page, and the words on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from libs.client.model import AppView, InstanceView, NodeView
from libs.common.http import Response
from services.gateway.console.view import Word, app_row, page, word_of
from services.gateway.model import GatewayConfig
from tests.fakes.gateway import World, gateway_world

FORM = {"content-type": "application/x-www-form-urlencoded", "host": "gantry.test"}


async def post(world: World, path: str, form: dict[str, str], **headers: str) -> Response:
    sent = {**FORM, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await world.app.dispatch("POST", path, sent, urlencode(form).encode())


async def login(world: World, key: str = "") -> str:
    response = await post(world, "/login", {"key": key or world.admin_key})
    assert response.status == 303 and response.headers["Location"] == "/"
    return response.headers["Set-Cookie"].partition(";")[0]


async def get(world: World, path: str, cookie: str = "") -> Response:
    return await world.app.dispatch("GET", path, {"cookie": cookie} if cookie else {})


async def test_nobody_gets_past_the_door(world: World) -> None:
    response = await get(world, "/")
    assert response.status == 303 and response.headers["Location"] == "/login"
    assert b"API key" in (await get(world, "/login")).body
    assert (await get(world, "/console/state")).status == 401
    assert (await get(world, "/console/events")).status == 401
    for cookie in ("gantry_session=x.y", "gantry_session=", "gantry_session=.", "a=b; c"):
        assert (await get(world, "/", cookie)).status == 303
        assert (await get(world, "/console/state", cookie)).status == 401


async def test_a_wrong_key_is_told_so_and_not_repeated(world: World) -> None:
    wrong = "gk_first_" + "0" * 52
    response = await post(world, "/login", {"key": wrong})
    assert response.status == 401 and b"Not let in" in response.body
    assert wrong.encode() not in response.body and "Set-Cookie" not in response.headers
    script = "<script>alert(1)</script>"
    assert script.encode() not in (await post(world, "/login", {"key": script})).body


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(world: World) -> None:
    response = await post(world, "/login", {"key": world.admin_key})
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
    assert world.admin_key.rpartition("_")[2] not in cookie


async def test_a_session_opens_the_console_not_the_api(world: World) -> None:
    cookie = await login(world)
    assert (await get(world, "/", cookie)).status == 200
    assert (await get(world, "/v1/apps", cookie)).status == 401


async def test_forged_and_old_sessions_are_refused(world: World) -> None:
    cookie = await login(world)
    name, _, value = cookie.partition("=")
    body, _, mac = value.partition(".")
    flipped = ("0" if mac[0] != "0" else "1") + mac[1:]
    assert (await get(world, "/console/state", f"{name}={body}.{flipped}")).status == 401
    assert (await get(world, "/console/state", f"{name}={body}x.{mac}")).status == 401
    world.clock.ahead_s += 12 * 3600 + 1
    assert (await get(world, "/console/state", cookie)).status == 401


async def test_a_revoked_key_ends_its_session(world: World) -> None:
    key = await world.key("acme", "viewer")
    cookie = await login(world, key)
    assert (await get(world, "/", cookie)).status == 200
    await world.call("DELETE", f"/v1/keys/{key.split('_')[1]}")
    assert (await get(world, "/console/state", cookie)).status == 401


async def test_other_sites_forms_are_refused(world: World) -> None:
    for headers in (
        {"origin": "https://evil.test"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
    ):
        assert (await post(world, "/login", {"key": world.admin_key}, **headers)).status == 403
    ours = await post(world, "/login", {"key": world.admin_key}, origin="http://gantry.test")
    assert ours.status == 303


async def test_logout_needs_the_sessions_own_form(world: World) -> None:
    cookie = await login(world)
    text = (await get(world, "/", cookie)).body.decode()
    found = re.search(r'name="token" value="([0-9a-f]{64})"', text)
    assert found is not None
    assert (await post(world, "/logout", {"token": "0" * 64}, cookie=cookie)).status == 403
    assert (await post(world, "/logout", {"token": found[1]})).status == 403
    out = await post(world, "/logout", {"token": found[1]}, cookie=cookie)
    assert out.status == 303 and "Max-Age=0" in out.headers["Set-Cookie"]


async def test_tries_at_the_door_are_bounded(tmp_path: Path) -> None:
    wrong = {"key": "gk_first_" + "0" * 52}
    async with gateway_world(tmp_path, GatewayConfig(rate_per_s=0.1, rate_burst=3)) as world:
        texts = [(await post(world, "/login", wrong)).body for _ in range(4)]
    assert b"Too many tries" in texts[-1] and b"Too many tries" not in texts[0]


async def test_the_page_shows_hosts_instances_and_apps(world: World) -> None:
    await world.put_app()
    await world.deployed("/v1/apps/acme/web/deploys")
    cookie = await login(world)
    text = (await get(world, "/", cookie)).body.decode()
    for shown in (
        "host-1",
        "10.1.0.3",
        "acme/web",
        "Running",
        "r1",
        "0.3 of 8 cores",
        "192 of 8,192 MiB",
    ):
        assert shown in text, shown
    assert text.count('class="cell is-ok"') == 3
    state = (await get(world, "/console/state", cookie)).body.decode()
    assert state.strip() in text
    other = await login(world, await world.key("other", "admin"))
    foreign = (await get(world, "/", other)).body.decode()
    assert "acme" not in foreign and "10.1.0.3" not in foreign and "host-1" in foreign


async def test_what_others_wrote_can_not_become_markup(world: World) -> None:
    await world.put_app()
    await world.deployed("/v1/apps/acme/web/deploys")
    evil = '"><script>alert(1)</script>'
    for instance in world.deployer.instances.values():
        instance.update(waiting=evil, state="requested", address=evil)
    text = (await get(world, "/", await login(world))).body.decode()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


async def test_the_page_obeys_its_own_content_policy(world: World) -> None:
    cookie = await login(world)
    response = await get(world, "/", cookie)
    text = response.body.decode()
    assert "unsafe-inline" not in response.headers["Content-Security-Policy"]
    assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    for url in re.findall(r'(?:src|href)="([^"#]+)"', text):
        assert url.startswith("/"), url
        served = await get(world, url, cookie)
        kept = "immutable" if url.startswith("/console/static/") else "no-store"
        assert served.status == 200 and kept in served.headers["Cache-Control"]
    assert (await get(world, "/console/static/..%2Fpages.py")).status == 404
    assert (await get(world, "/console/static/view.py")).status == 404


async def test_a_peer_that_is_away_is_said(world: World) -> None:
    world.others.away = {"monitor"}
    world.deployer.away = True
    text = (await get(world, "/", await login(world))).body.decode()
    assert "No answer from monitor, deployer" in text


async def test_the_page_is_live(world: World) -> None:
    cookie = await login(world)
    response = await world.app.dispatch("GET", "/console/events", {"cookie": cookie})
    assert response.status == 200 and response.stream is not None
    assert b"id: " in await anext(response.stream)
    await world.put_app()
    await world.deployed("/v1/apps/acme/web/deploys")
    assert b"event: " in await anext(response.stream)
    await response.stream.aclose()  # type: ignore[attr-defined]


# -- words -----------------------------------------------------------------------------------------


WHY = {"agents": 4, "failed": {"mem": 1, "cpus": 3}, "nearest": "no cpu"}


def instance(state: str, **more: Any) -> InstanceView:
    return InstanceView(instance=f"i-{state}", app="acme/web", state=state, release=1, **more)


def app(wanted: int, deployment: str = "", coming: int = 1) -> AppView:
    under_way = {"state": deployment, "wanted": coming} if deployment else None
    told = {"deployment": under_way}
    return AppView.model_validate({"app": "acme/web", "wanted": wanted, "release": 1, **told})


@pytest.mark.parametrize(
    ("view", "instances", "word", "why"),
    [
        (app(1), [instance("healthy")], Word.RUNNING, ""),
        (app(2), [instance("healthy")], Word.DEPLOYING, "1 on their way"),
        (app(1, "rolling"), [instance("healthy")], Word.DEPLOYING, "rolling"),
        (app(1, "rolling_back"), [instance("healthy")], Word.DEPLOYING, "rolling back"),
        (app(0), [], Word.SUSPENDED, "no instances wanted"),
        (app(1), [instance("requested", waiting="no cpu")], Word.WAITING, "1 not placed: no cpu"),
        (app(1), [instance("requested", waiting="no cpu", why=WHY)], Word.WAITING,
         "1 not placed: no cpu (agents that failed: 3 cpus, 1 mem)"),
        (app(1, "rolling"), [instance("requested", waiting="no cpu")], Word.WAITING, "1 not placed: no cpu"),
        (app(3), [instance("requested", waiting="slow"), *2 * [instance("requested", waiting="no cpu", why=WHY)]],
         Word.WAITING, "3 not placed: 2: no cpu (agents that failed: 3 cpus, 1 mem); 1: slow"),
        (app(5), [instance("requested", waiting=each) for each in "abcde"],
         Word.WAITING, "5 not placed: 1: a; 1: b; 1: c; and 2 more reasons"),
        (app(1), [instance("exited", last_exit="exit code 1")], Word.DELAYED,
         "1 exited, restarting: exit code 1"),
        (app(1), [instance("lost")], Word.DELAYED, "1 host lost"),
        (app(1), [instance("started", last_exit="exit code 1")], Word.DELAYED,
         "1 starting: exit code 1"),
        (app(0, "rolling", 4), [], Word.DEPLOYING, "rolling"),
        (app(1, "rolling"), [instance("unhealthy")], Word.DEPLOYING, "rolling"),
    ],
)  # fmt: skip
def test_an_apps_word(view: AppView, instances: list[InstanceView], word: Word, why: str) -> None:
    assert word_of(view, instances) == (word, why)


def test_unplaced_instances_have_a_place_on_the_page() -> None:
    node = NodeView(agent="a1", hostname="h1", cpus=4.0, mem_mib=1024.0)
    placed, waiting = instance("healthy", agent="a1"), instance("requested", waiting="no mem")
    gone, lost = instance("gone", agent="a1"), instance("lost", agent="a9")
    made = page([node], [placed, waiting, gone, lost], [app(2)], ["ipam", "ipam"])
    assert [cell.instance for cell in made.hosts[0].cells] == ["i-healthy"]
    assert sorted(cell.instance for cell in made.homeless) == ["i-lost", "i-requested"]
    assert made.incomplete == ("ipam",)
    assert made.totals == {"ok": 1, "waiting": 1, "lost": 1}
    assert app_row(app(2), [placed, waiting]).healthy == 1
    assert app_row(app(0, "rolling", 4), []).wanted == 4


def test_a_cell_says_why_its_instance_waits_and_which_agents_fail_what() -> None:
    (cell,) = page([], [instance("requested", waiting="no cpu", why=WHY)], [], []).homeless
    assert cell.detail == "no cpu (agents that failed: 3 cpus, 1 mem)"


def test_gauges_never_overflow() -> None:
    node = NodeView(agent="a", cpus=2.0, mem_mib=0.0, reserved_cpus=3.0, reserved_mem_mib=5.0)
    gauges = page([node], [], [], []).hosts[0].gauges
    assert [gauge.percent for gauge in gauges] == [100.0, 0.0]
