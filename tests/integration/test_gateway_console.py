"""The console in a real browser: login, live changes by events, nothing that its content policy forbids."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from libs.common.events import model as ev
from tests.fakes.gateway import World, live_gateway

expect.set_options(timeout=30_000)
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-background-networking"]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[tuple[World, str, Page, list[str]]]:
    """A gateway, a page at its door, and what the browser complains of."""
    assert CHROMIUM.exists(), "there is no browser: infra/host/setup.sh browser"
    complaints: list[str] = []
    async with live_gateway(tmp_path) as (world, url), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await browser.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"{url}/")
        yield world, url, page, complaints
        await browser.close()


async def test_login_and_live_changes(opened: tuple[World, str, Page, list[str]]) -> None:
    world, url, page, complaints = opened
    await world.put_app()
    await world.deployed("/v1/apps/acme/web/deploys")
    assert page.url == f"{url}/login"
    await page.fill("#key", world.admin_key)
    await page.click("button")
    await expect(page.locator("#link-text")).to_have_text("live")
    assert world.admin_key not in page.url
    await expect(page.locator(".cell.is-ok")).to_have_count(3)
    await expect(page.locator("tbody tr")).to_contain_text("Running")

    await world.deployed("/v1/apps/acme/web/scale", {"instances": 5})
    await expect(page.locator(".cell.is-ok")).to_have_count(5)
    await expect(page.locator("#feed")).to_contain_text("deploy.succeeded")

    (instance, *_) = world.deployer.instances
    evil = "<img src=x onerror=alert(1)>"
    world.deployer.instances[instance].update(state="exited", healthy=None, last_exit=evil)
    await world.deployer.tell(
        ev.ContainerExited(
            instance=instance,
            app="acme/web",
            attempt="x.1",
            agent="a",
            state="TASK_FAILED",
            message=evil,
        )
    )
    await expect(page.locator(f"#i-{instance}")).to_have_class("cell is-bad changed")
    await expect(page.locator("tbody tr")).to_contain_text("Delayed")
    await expect(page.locator("#feed")).to_contain_text(evil)
    assert await page.locator("img").count() == 0
    assert complaints == []


async def test_a_revoked_key_leads_back_to_the_door(
    opened: tuple[World, str, Page, list[str]],
) -> None:
    world, _, page, _ = opened
    await page.fill("#key", world.admin_key)
    await page.click("button")
    await expect(page.locator("#link-text")).to_have_text("live")
    key = await world.key("*", "admin")
    await world.call("DELETE", "/v1/keys/first", key=key)
    await world.deployer.tell(ev.NodeLost(agent="a", hostname="h"))
    await expect(page.locator("#key")).to_be_visible()  # the session's key was revoked: the door


async def test_logout(opened: tuple[World, str, Page, list[str]]) -> None:
    world, url, page, complaints = opened
    await page.fill("#key", world.admin_key)
    await page.click("button")
    await expect(page.locator("#link-text")).to_have_text("live")
    await page.click("text=Log out")
    await expect(page.locator("#key")).to_be_visible()
    await page.goto(f"{url}/")
    assert page.url == f"{url}/login"
    # What the page was just asking for when its session ended is answered so.
    assert [each for each in complaints if "status of 401" not in each] == []


FIELD = '[id="m-10.1.0.{}"]'


async def test_the_map_of_a_pool_is_live_and_walked_by_keys(
    opened: tuple[World, str, Page, list[str]],
) -> None:
    world, _, page, complaints = opened
    await page.fill("#key", world.admin_key)
    await page.click("button")
    await page.click("text=Networks")
    await page.click("a:has-text('blue')")
    await page.click(".pools a:has-text('default')")
    await expect(page.locator(".field")).to_have_count(256)
    await expect(page.locator("#link-text")).to_have_text("live")
    await page.click("summary")
    await page.fill("input[name=from]", "10.1.0.9")
    await page.locator(FIELD.format(1)).focus()
    given = await world.attach("acme-web-1")
    await expect(page.locator(FIELD.format(1))).to_have_class("field at-allocated changed")
    # What was open stays open, what was typed stays typed, and the focus stays where it was.
    assert await page.locator("details").get_attribute("open") is not None
    assert await page.locator("input[name=from]").input_value() == "10.1.0.9"
    await expect(page.locator(FIELD.format(1))).to_be_focused()
    await expect(page.locator("#told")).to_contain_text("10.1.0.1: allocated, acme-web-1")
    await expect(page.locator("#words")).to_contain_text("acme-web-1")
    for key, at in (("ArrowRight", 2), ("ArrowDown", 34), ("ArrowLeft", 33), ("ArrowUp", 1)):
        await page.keyboard.press(key)
        await expect(page.locator(FIELD.format(at))).to_be_focused()
        assert await page.locator('.field[tabindex="0"]').count() == 1
    await page.set_viewport_size({"width": 390, "height": 800})
    await page.keyboard.press("ArrowDown")  # there are fewer beside each other now
    await expect(page.locator(FIELD.format(17))).to_be_focused()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.keyboard.press("ArrowUp")
    await page.keyboard.press("Enter")
    await expect(page.locator("#address h2")).to_contain_text("10.1.0.1")
    await expect(page.locator("#address dl")).to_contain_text("host-1")
    await world.detach("acme-web-1", given.json()["generation"])
    await expect(page.locator(FIELD.format(1))).to_have_class("field at-cooling changed")
    await expect(page.locator("#address")).to_contain_text("del")
    assert complaints == []


REPORT = {"image": "registry.test/report:1", "network": "blue", "schedule": "*/5 * * * *"}


async def test_a_job_is_changed_by_buttons_and_its_run_is_followed(
    opened: tuple[World, str, Page, list[str]],
) -> None:
    world, url, page, complaints = opened
    assert (await world.call("PUT", "/v1/jobs/acme/report", REPORT)).status == 200
    await page.fill("#key", world.admin_key)
    await page.click("button")
    await page.goto(f"{url}/jobs/acme/report")
    await expect(page.locator("#link-text")).to_have_text("live")
    await page.click("text=Pause")
    await expect(page.locator("h2.large")).to_contain_text("paused")
    await page.click("text=Resume")
    await expect(page.locator("h2.large")).to_contain_text("active")
    # Before it is pressed: the run is there at once.
    run = f"acme-report-{len(world.jobs.runs) + 1}"
    world.jobs.containers[run] = "gantry-test-acme-runs-1.1"
    world.others.outputs["gantry-test-acme-runs-1.1", run] = ["one"]
    more = world.others.growing[run] = asyncio.Queue()
    await page.click("text=Run now")
    await expect(page.locator("#run pre")).to_have_text("one")
    assert page.url == f"{url}/jobs/acme/report?run={run}#run"
    assert [each.action for each in world.jobs.heard] == ["put", "pause", "resume", "run"]
    for line in ("<img src=x onerror=alert(1)>", "three"):
        more.put_nowait(line)
    await expect(page.locator("#run pre")).to_have_text("one\n<img src=x onerror=alert(1)>\nthree")
    # The page looks again, and leaves alone what is followed; then its end is known.
    begun = ev.JobRunStarted(job="acme/report", run=run, target=world.clock.now())
    await world.deployer.tell(begun)
    await expect(page.locator("#run pre")).to_contain_text("three")
    world.jobs.end(run, exit_code=0, output="stored")
    more.put_nowait(None)
    done = ev.JobRunFinished(job="acme/report", run=run, target=world.clock.now())
    await world.deployer.tell(done)
    await expect(page.locator("#run pre")).to_have_text("stored")
    assert await page.locator("img").count() == 0
    assert complaints == []


async def test_buttons_work_without_script(tmp_path: Path) -> None:
    async with live_gateway(tmp_path) as (world, url), async_playwright() as playwright:
        assert (await world.call("PUT", "/v1/jobs/acme/report", REPORT)).status == 200
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await browser.new_page(java_script_enabled=False)
        await page.goto(f"{url}/login")
        await page.fill("#key", world.admin_key)
        await page.click("button")
        await page.goto(f"{url}/jobs/acme/report")
        await page.click("text=Pause")
        await expect(page.locator("h2.large")).to_contain_text("paused")
        await page.click("text=Run now")
        await expect(page.locator("#run h2")).to_contain_text("running")
        assert [each.action for each in world.jobs.heard] == ["put", "pause", "run"]
        await browser.close()


async def test_jobs_change_as_their_runs_do(
    opened: tuple[World, str, Page, list[str]],
) -> None:
    world, url, page, complaints = opened
    spec = {"image": "registry.test/report:1", "network": "blue"}
    for job, more in (
        ("report", {"schedule": "*/5 * * * *"}),
        ("mail", {"parents": ["report"]}),
    ):
        put = await world.call("PUT", f"/v1/jobs/acme/{job}", {**spec, **more})
        assert put.status == 200, put.body
    await page.fill("#key", world.admin_key)
    await page.click("button")
    await page.click("text=Jobs")
    row = page.locator("[id='j-acme/report']")
    await expect(row).to_contain_text("none yet")
    await expect(row.locator("time")).to_have_text(re.compile(r"^(in \d+ s|now)$"))
    run = world.jobs.begin("acme/report", "schedule")
    evil = "<img src=x onerror=alert(1)>"
    world.jobs.end(run, "failed", exit_code=3, reason=evil, output=f"{evil}\n")
    failed = ev.JobRunFailed(job="acme/report", run=run, target=world.clock.now(), exit_code=3)
    await world.deployer.tell(failed)
    await expect(row).to_contain_text("failed")
    await expect(page.locator("#live svg circle").first).to_be_visible()
    await row.locator("a", has_text="failed").click()
    await expect(page.locator("#run pre")).to_have_text(evil)
    await expect(page.locator("tbody tr")).to_contain_text(evil)
    run = world.jobs.begin("acme/report")
    world.jobs.end(run, exit_code=0, output="all is well")
    await world.deployer.tell(
        ev.JobRunFinished(job="acme/report", run=run, target=world.clock.now())
    )
    await expect(page.locator("tbody tr")).to_have_count(2)
    await expect(page.locator("#run pre")).to_have_text(evil)  # the one that was asked for stays
    await page.click("section.beside a[href='/jobs/acme/mail'] rect")
    assert page.url == f"{url}/jobs/acme/mail"
    assert await page.locator("img").count() == 0
    assert complaints == []
