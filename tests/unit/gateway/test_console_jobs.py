"""The console's pages of jobs: the list with its filters and graph, one job with its history, and their words."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from libs.client.jobs import JobView
from services.gateway.console.job_graph import HEIGHT, MOST, WIDTH, draw, family
from services.gateway.console.job_view import bars, duration, next_times, picture
from tests.fakes.gateway import World
from tests.unit.gateway.test_console import get, login, post
from tests.unit.gateway.test_console_networks import text
from tests.unit.gateway.test_jobs import put


async def test_nobody_gets_past_the_door(world: World) -> None:
    await put(world)
    for path in ("/jobs", "/jobs/acme/report"):
        response = await get(world, path)
        assert response.status == 303 and response.headers["Location"] == "/login"
        assert (await get(world, f"/console{path}")).status == 401
    assert (await get(world, "/console/job-events")).status == 401


async def test_all_jobs_and_what_is_asked_for(world: World) -> None:
    cookie = await login(world)
    assert "gantry job put" in await text(world, "/jobs", cookie)
    await put(world, owner="ann@acme")
    await put(world, "/v1/jobs/other/sweep")
    await world.call("POST", "/v1/jobs/other/sweep/pause")
    world.jobs.end(world.jobs.begin("acme/report"), "failed", exit_code=3)
    page = await text(world, "/jobs", cookie)
    for shown in ("acme/report", "ann@acme", "*/5 * * * *", "other/sweep", "paused", ">failed<"):
        assert shown in page, shown
    assert (await text(world, "/console/jobs", cookie)).strip() in page
    paused = await text(world, "/jobs?state=paused", cookie)
    assert "other/sweep" in paused and "acme/report" not in paused
    acme = await text(world, "/jobs?bu=acme", cookie)
    assert "acme/report" in acme and "other/sweep" not in acme
    assert "No such jobs" in await text(world, "/jobs?bu=acme&state=paused", cookie)
    world.jobs.away = True
    assert "No answer from scheduler" in await text(world, "/jobs", cookie)


async def test_a_unit_sees_its_own_only(world: World) -> None:
    await put(world)
    run = world.jobs.begin("acme/report")
    theirs = await login(world, await world.key("other", "admin"))
    assert "acme" not in await text(world, "/jobs", theirs)
    for path in ("/jobs/acme/report", f"/jobs/acme/report?run={run}"):
        missing = await get(world, path, theirs)
        assert missing.status == 404 and b"running" not in missing.body


async def test_a_job_with_its_history_and_a_runs_output(world: World) -> None:
    await put(world, description="<b>each night</b>", time_zone="Europe/Berlin", timeout_s=90)
    script = "<script>alert(1)</script>"
    first = world.jobs.begin("acme/report", "catch_up")
    world.jobs.end(first, "failed", exit_code=3, reason="exit code 3", output=f"{script}\n")
    world.jobs.end(world.jobs.begin("acme/report"), exit_code=0, output="all is well\n")
    cookie = await login(world)
    page = await text(world, "/jobs/acme/report", cookie)
    for shown in (
        "&lt;b&gt;each night", "*/5 * * * *, Europe/Berlin", "all is well", "catch up", "exit code 3",
        "1 succeeded, 1 failed, 0 missed", "CET", "90 s",
    ):  # fmt: skip
        assert shown in page, shown
    assert script not in page and "alert(1)" not in page  # the newest run's output is shown
    other = await text(world, f"/jobs/acme/report?run={first}", cookie)
    assert "&lt;script&gt;alert(1)" in other and script not in other and "all is well" not in other
    assert (await text(world, "/console/jobs/acme/report", cookie)).strip() in page
    missing = await get(world, "/jobs/acme/none", cookie)
    assert missing.status == 404 and b"To all jobs" in missing.body
    world.jobs.away = True
    assert (await get(world, "/jobs/acme/report", cookie)).status == 503


async def test_one_jobs_page_does_not_show_anothers_run(world: World) -> None:
    await put(world)
    await put(world, "/v1/jobs/acme/secretive")
    run = world.jobs.begin("acme/secretive")
    world.jobs.end(run, output="not yours")
    page = await text(world, f"/jobs/acme/report?run={run}", await login(world))
    assert "not yours" not in page


async def test_older_runs_are_a_page_away(world: World) -> None:
    await put(world)
    for n in range(41):
        world.jobs.end(world.jobs.begin("acme/report"), output=f"no {n}.")
    cookie = await login(world)
    page = await text(world, "/jobs/acme/report", cookie)
    assert page.count('<tr id="r-') == 40
    older = re.search(r'href="([^"]+before[^"]+)#history', page)
    assert older is not None
    rest = await text(world, older[1].replace("&amp;", "&"), cookie)
    assert rest.count('<tr id="r-') == 1 and "no 0." in rest and "#history" not in rest


BUTTON = re.compile(r'<button form="act" formaction="([^"]+)"')
ACTIONS = ("run", "pause", "resume")


def form_of(page: str) -> dict[str, str]:
    """The hidden fields of the page's form."""
    form = page[page.index('<form id="act"') :]
    return dict(re.findall(r'name="(\w+)" value="([^"]+)"', form[: form.index("</form>")]))


async def test_a_job_is_run_paused_and_resumed_by_its_buttons(world: World) -> None:
    await put(world)
    cookie = await login(world, await world.key("acme", "deployer"))
    page = await text(world, "/jobs/acme/report", cookie)
    assert BUTTON.findall(page) == ["/jobs/acme/report/run", "/jobs/acme/report/pause"]
    form = form_of(page)
    for _ in range(2):  # twice, as by a double click: it is one run
        response = await post(world, "/jobs/acme/report/run", form, cookie=cookie)
        assert response.status == 303
        (run,) = world.jobs.runs
        assert response.headers["Location"] == f"/jobs/acme/report?run={run}#run"
    assert form_of(await text(world, "/jobs/acme/report", cookie))["once"] != form["once"]
    for action, left in (("pause", ["run", "resume"]), ("resume", ["run", "pause"])):
        form = form_of(await text(world, "/jobs/acme/report", cookie))
        response = await post(world, f"/jobs/acme/report/{action}", form, cookie=cookie)
        assert (response.status, response.headers["Location"]) == (303, "/jobs/acme/report")
        page = await text(world, "/console/jobs/acme/report", cookie)
        assert [each.rpartition("/")[2] for each in BUTTON.findall(page)] == left
    assert [each.action for each in world.jobs.heard] == ["put", "run", "pause", "resume"]
    actor = world.jobs.heard[-1].actor

    async def audited() -> bool:
        entries = (await world.call("GET", "/v1/audit")).json()["entries"]
        asked = [each["action"] for each in entries if each["actor"] == actor and each["allowed"]]
        return sorted(asked) == ["job.pause", "job.resume", "job.run"]

    await world.eventually(audited)


async def test_who_may_not_change_a_job_has_no_buttons_and_is_refused(world: World) -> None:
    await put(world)
    await put(world, "/v1/jobs/acme/off", enabled=False)
    world.jobs.jobs["acme/off"]["state"] = "disabled"
    admins = await login(world)
    assert BUTTON.findall(await text(world, "/jobs/acme/off", admins)) == []
    cookie = await login(world, await world.key("acme", "viewer"))
    page = await text(world, "/jobs/acme/report", cookie)
    assert "<button form" not in page and "once" not in page
    form = {"token": re.findall(r'name="token" value="([^"]+)"', page)[0]}
    other = await login(world, await world.key("other", "admin"))
    theirs = re.findall(r'name="token" value="([^"]+)"', await text(world, "/jobs", other))[0]
    for action in ACTIONS:
        path = f"/jobs/acme/report/{action}"
        refused = await post(world, path, form, cookie=cookie)
        assert refused.status == 403 and b"needs deployer" in refused.body
        assert (await post(world, path, {"token": theirs}, cookie=other)).status == 404
    assert [each.action for each in world.jobs.heard] == ["put", "put"]

    async def audited() -> bool:
        entries = (await world.call("GET", "/v1/audit")).json()["entries"]
        denied = [each["action"] for each in entries if not each["allowed"]]
        return sorted(denied) == sorted(f"job.{each}" for each in ACTIONS for _ in range(2))

    await world.eventually(audited)


async def test_only_our_own_pages_buttons_change_anything(world: World) -> None:
    await put(world)
    cookie = await login(world)
    form = form_of(await text(world, "/jobs/acme/report", cookie))
    other = await login(world, await world.key("acme", "deployer"))
    theirs = form_of(await text(world, "/jobs/acme/report", other))
    for action in ACTIONS:
        path = f"/jobs/acme/report/{action}"
        for wrong in ({}, {**form, "token": "0" * 64}, theirs):
            assert (await post(world, path, wrong, cookie=cookie)).status == 403
        assert (await post(world, path, form)).status == 403
        for sent in (
            {"origin": "https://evil.test"}, {"origin": "null"}, {"sec_fetch_site": "cross-site"},
        ):  # fmt: skip
            assert (await post(world, path, form, cookie=cookie, **sent)).status == 403
        assert (await get(world, path, cookie)).status in (404, 405)
        key = {"authorization": f"Bearer {world.admin_key}"}  # a key is for the API
        assert (await world.app.dispatch("POST", path, key)).status == 403
    assert [each.action for each in world.jobs.heard] == ["put"]
    world.clock.ahead_s += 12 * 3600 + 1
    late = await post(world, "/jobs/acme/report/run", form, cookie=cookie)
    assert (late.status, late.headers["Location"]) == (303, "/login")


async def test_what_a_button_can_t_do_is_told(world: World) -> None:
    await put(world)
    cookie = await login(world)
    form = form_of(await text(world, "/jobs/acme/report", cookie))
    gone = await post(world, "/jobs/acme/none/run", form, cookie=cookie)
    assert gone.status == 404 and b"To the job" in gone.body
    world.jobs.refusing = "run <x> is under way"
    refused = await post(world, "/jobs/acme/report/run", form, cookie=cookie)
    assert refused.status == 409 and b"Not done: run &lt;x&gt; is under way." in refused.body
    wrong = {**form, "once": "a b"}
    assert (await post(world, "/jobs/acme/report/run", wrong, cookie=cookie)).status == 422
    assert (await post(world, "/jobs/acme/report/run?x=y", form, cookie=cookie)).status == 422


async def test_the_page_has_what_a_run_under_way_writes(world: World) -> None:
    await put(world)
    run = world.jobs.begin("acme/report")
    cookie = await login(world)
    at = f"/console/jobs/acme/report/runs/{run}/output"
    world.jobs.containers[run] = "gantry-test-acme-runs-1.1"
    world.others.outputs["gantry-test-acme-runs-1.1", run] = ["<b>one", "two"]
    page = await text(world, "/jobs/acme/report", cookie)
    assert f'data-follow="{at}">&lt;b&gt;one\ntwo\nfollow=0</pre>' in page
    response = await get(world, at, cookie)
    assert response.status == 200 and response.stream is not None
    body = b"".join([chunk async for chunk in response.stream])
    lines = [orjson.loads(each)["line"] for each in body.splitlines()]
    assert lines == ["<b>one", "two", "follow=1"]
    assert (await get(world, at)).status == 401
    theirs = await login(world, await world.key("other", "admin"))
    assert (await get(world, at, theirs)).status == 404
    world.others.away.add("hostd")
    page = await text(world, "/jobs/acme/report", cookie)
    assert "data-follow" not in page and "can&#39;t be had now" in page
    world.jobs.end(run, output="all of it")
    page = await text(world, "/jobs/acme/report", cookie)
    assert "data-follow" not in page and ">all of it</pre>" in page


async def test_the_graph_is_drawn_and_leads_to_the_jobs(world: World) -> None:
    await put(world)
    assert "What runs after what" not in await text(world, "/jobs", await login(world))
    for name, parents in (("load", ["report"]), ("mail", ["load", "report"]), ("alone", [])):
        changes: dict[str, Any] = {"schedule": None, "parents": parents}
        await put(world, f"/v1/jobs/acme/{name}", **changes)
    cookie = await login(world)
    page = await text(world, "/jobs", cookie)
    drawn = page[page.index("<svg width") :]
    assert re.findall(r'<a href="/jobs/acme/(\w+)"', drawn) == ["report", "load", "mail"]
    assert drawn.count("<path ") == 3
    load = await text(world, "/jobs/acme/load", cookie)
    assert "is-here" in load and load.count("<rect x=") == 3
    assert "waits for it" not in await text(world, "/jobs/acme/alone", cookie)


async def test_pages_obey_their_own_content_policy(world: World) -> None:
    await put(world)
    await put(world, "/v1/jobs/acme/load", schedule=None, parents=["report"])
    world.jobs.end(world.jobs.begin("acme/report"), output="x")
    cookie = await login(world)
    for path in ("/jobs", "/jobs/acme/report"):
        page = await text(world, path, cookie)
        assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", page)
        assert not re.search(r"<script(?![^>]*\ssrc=)", page)


# -- pure ------------------------------------------------------------------------------------------


def test_each_job_is_right_of_all_its_parents() -> None:
    parents = {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["c", "gone"], "x": [], "y": ["y"]}
    kept = family(parents)
    assert set(kept) == {"a", "b", "c", "d", "y"} and kept["d"] == ("c",)
    graph = draw(kept)
    assert graph is not None
    at = {node.job: node for node in graph.nodes}
    assert at["a"].x < at["b"].x < at["c"].x < at["d"].x
    assert len({(node.x, node.y) for node in graph.nodes}) == len(kept)
    assert graph.width >= max(node.x for node in graph.nodes) + WIDTH
    assert graph.height >= max(node.y for node in graph.nodes) + HEIGHT
    # The path from a to c passes b's column, in a lane that no job is in.
    long = next(each for each in graph.paths if "H" in each)
    lane = int(re.findall(r"(\d+)H", long)[0])
    assert not any(
        node.x == at["b"].x and node.y <= lane <= node.y + HEIGHT for node in graph.nodes
    )
    assert set(family(parents, "b")) == {"a", "b", "c", "d"} and not family(parents, "x")


def test_a_graph_has_its_bounds() -> None:
    many = {"root": (), **{f"j{n:03}": ("root",) for n in range(200)}}
    graph = draw(many)
    assert graph is not None and len(graph.nodes) == MOST and graph.left_out == 201 - MOST
    assert draw({}) is None and picture([]) is None


def test_next_times_are_those_of_the_jobs_own_zone() -> None:
    spec = {"schedule": "30 2 * * *", "time_zone": "Europe/Berlin"}
    view = JobView(job="a/b", bu="a", name="b", version=1, state="active", spec=spec)
    first = 1_774_661_400.0  # 2026-03-28 02:30 CET; on the day after that hour is skipped
    times = list(next_times(view.model_copy(update={"next": first})))
    assert len(times) == 5 and times[0] == "Sat 2026-03-28 02:30:00 CET"
    assert times[2] == "Mon 2026-03-30 02:30:00 CEST"
    paused = view.model_copy(update={"next": first, "state": "paused"})
    assert not list(next_times(paused))
    odd = view.model_copy(update={"next": first, "spec": {"schedule": "@newer 5"}})
    assert not list(next_times(odd)) and not list(next_times(view)) and bars([]) == ()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.012, "12 ms"), (1.5, "1.5 s"), (59.0, "59 s"), (119.0, "119 s"), (600.0, "10 min"),
     (7200.0, "2 h"), (3 * 86_400.0, "3 d"), (None, "")],
)  # fmt: skip
def test_durations_in_words(seconds: float | None, told: str) -> None:
    assert duration(seconds) == told
