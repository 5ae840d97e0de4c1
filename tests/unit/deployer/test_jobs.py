"""What the deployer does for jobs: pins their images, tells hosts what runs need, keeps the secrets that they name."""

from __future__ import annotations

from typing import Any

from libs.common.http import Kind
from services.deployer.registry import Login
from tests.simulation.loop import World, virtual
from tests.unit.deployer.service_world import site
from tests.unit.deployer.test_vault import BOB, MARKER, REFS, REGISTRY, ask, opened, put
from tests.unit.deployer.test_vault import PATH as SECRETS


def try_of_run(attempt: str = "shop-report-7.1", **changes: Any) -> dict[str, Any]:
    """A try of a job's run, as the scheduler tells it."""
    told = {"run": attempt.rpartition(".")[0], "job": "shop/report", "state": "pending"}
    place = {"attempt": attempt, "hostname": "h1", "placement": "starting"}
    needs = {"image": f"reg:5000/report@sha256:{1:064x}", "registry_login": False}
    return {**told, **place, **needs, "secrets": REFS[:1], **changes}


@virtual
async def test_a_host_is_told_what_a_run_needs_and_no_more(world: World) -> None:
    async with site(world) as here:
        await put(here)
        await put(here, "unnamed", "u" + MARKER)
        row = try_of_run()
        here.scheduler.runs = [row]
        attempt = row["attempt"]
        answer = await ask(here, attempt, "h1")
        assert (answer.status, MARKER in answer.body.decode()) == (200, False)
        given = opened(answer, "h1", attempt)
        assert [(each.env, each.content.decode()) for each in given.secrets] == [
            ("DB_PASSWORD", MARKER)
        ]
        assert given.login is None
        for host, other in (("h2", attempt), ("h1", "shop-report-7.2"), ("h1", "shop-report-8.1")):
            assert (await ask(here, other, host)).status == 404, (host, other)
        assert (await ask(here, attempt, "gateway", Kind.SERVICE)).status == 403
        for state, status in (("pending", 404), ("unreachable", 503), ("ended", 404)):
            row["placement"] = state
            assert (await ask(here, attempt, "h1")).status == status, state


@virtual
async def test_a_run_gets_the_secrets_and_the_login_of_its_own_unit(world: World) -> None:
    async with site(world) as here:
        await here.call("PUT", "/v1/bus/other/secrets/db", {"value": "theirs"}, actor=BOB)
        await here.call("PUT", REGISTRY, {"user": "shop-ci", "password": MARKER})
        row = try_of_run()
        here.scheduler.runs = [row]
        missing = await ask(here, row["attempt"], "h1")
        assert (missing.status, missing.json()["detail"]) == (
            404,
            "business unit shop has no secret 'db'",
        )
        await put(here)
        row["registry_login"] = True
        given = opened(await ask(here, row["attempt"], "h1"), "h1", row["attempt"])
        assert given.secrets[0].content.decode() == MARKER
        assert given.login is not None and given.login.password == MARKER
        # Of one that is over the scheduler names no attempt.
        for name in ("attempt", "placement", "secrets"):
            del row[name]
        assert (await ask(here, "shop-report-7.1", "h1")).status == 404
        assert (await ask(here, "shop-report-7.", "h1")).status == 404


@virtual
async def test_an_apps_instance_is_never_taken_for_a_run(world: World) -> None:
    async with site(world) as here:
        await put(here)
        await put(here, "tls", "k" + MARKER)
        await here.put(secrets=REFS[:1], instances=1)
        await here.deploy("d1")
        (row,) = await here.instances()
        here.scheduler.runs = [try_of_run(row["attempt"], secrets=REFS)]
        given = opened(await ask(here, row["attempt"], "h1"), "h1", row["attempt"])
        assert [each.name for each in given.secrets] == ["db"]


@virtual
async def test_a_secret_that_a_job_names_stays(world: World) -> None:
    async with site(world) as here:
        await put(here)
        here.scheduler.jobs = [
            {"bu": "other", "job": "other/report", "spec": {"secrets": REFS}},
            {"bu": "shop", "job": "shop/plain", "spec": {}},
        ]
        assert (await here.call("DELETE", f"{SECRETS}/db")).status == 200
        await put(here, value="again")
        here.scheduler.jobs[1]["spec"] = {"secrets": REFS}
        held = await here.call("DELETE", f"{SECRETS}/db")
        assert (held.status, "job shop/plain" in held.json()["detail"]) == (409, True)
        here.scheduler.deaf = True
        assert (await here.call("DELETE", f"{SECRETS}/db")).status == 503
        assert (await here.call("DELETE", f"{SECRETS}/db?force=true")).status == 200


@virtual
async def test_an_image_is_pinned_as_a_releases_is(world: World) -> None:
    async with site(world) as here:
        path, image, mine = "/v1/images/resolve", "reg:5000/web:1", Login("shop-ci", MARKER)
        asked: dict[str, Any] = {"bu": "shop", "image": image}
        told = (await here.call("POST", path, asked)).json()
        assert told == {"image": f"reg:5000/web@sha256:{1:064x}", "registry_login": False}
        here.images.private[image] = mine
        assert (await here.call("POST", path, asked)).status == 404
        await here.call("PUT", REGISTRY, {"user": "shop-ci", "password": MARKER})
        told = await here.call("POST", path, asked)
        assert told.json()["registry_login"] and MARKER not in told.body.decode()
        theirs = {**asked, "bu": "other"}
        assert (await here.call("POST", path, theirs)).status == 404
        assert (await here.call("POST", path, theirs, actor=BOB)).status == 404  # no login there
        missing = await here.call("POST", path, {**asked, "secrets": REFS})
        assert missing.status == 422
        assert missing.json()["errors"][0]["field"] == "secrets.0.name"
        here.images.down = True
        assert (await here.call("POST", path, asked)).status == 503
