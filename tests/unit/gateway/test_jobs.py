"""Jobs through the gateway: what is checked, what is written, who may, and how long is waited for the outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from libs.common.task import container_name
from services.gateway.store import Repository
from tests.fakes.gateway import World

JOB = "/v1/jobs/acme/report"
SPEC: dict[str, Any] = {
    "image": "registry.test/report:1",
    "network": "blue",
    "schedule": "*/5 * * * *",
    "env": {"TOKEN": "hush"},
}


async def put(world: World, path: str = JOB, **changes: Any) -> Any:
    response = await world.call("PUT", path, {**SPEC, **changes})
    assert response.status == 200, response.body
    return response.json()


async def test_a_job_is_put_and_answered_as_the_scheduler_has_it(world: World) -> None:
    view = await put(world)
    assert (view["job"], view["version"], view["state"]) == ("acme/report", 1, "active")
    assert "@sha256:" in view["image"] and view["next"] > world.clock.now()
    (event,) = world.jobs.heard
    assert (event.job, event.action) == ("acme/report", "put")
    assert event.spec == SPEC and event.actor.startswith("first-admin")
    again = await put(world, timeout_s=60)
    assert again["version"] == 2 and again["spec"]["timeout_s"] == 60.0
    listed = (await world.call("GET", "/v1/jobs")).json()
    assert [job["job"] for job in listed["jobs"]] == ["acme/report"] and not listed["incomplete"]
    assert (await world.call("GET", JOB)).json() == again


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schedule": "bad"}, "schedule"),
        ({"schedule": None, "parents": ["nobody"]}, "parents"),
        ({"parents": ["report"]}, "body"),
        ({"image": "Not One"}, "image"),
        ({"retry": {"limt": 3}}, "retry.limt"),
        ({"concurency": "allow"}, "concurency"),
    ],
)
async def test_each_wrong_field_is_named_and_nothing_is_asked(
    world: World, changes: dict[str, Any], named: str
) -> None:
    for method, path, body in (
        ("PUT", JOB, {**SPEC, **changes}),
        ("POST", "/v1/jobs/validate", {"job": "acme/report", "spec": {**SPEC, **changes}}),
    ):
        response = await world.call(method, path, body)
        assert response.status == 422, response.body
        (error,) = response.json()["errors"]
        assert error["field"].removeprefix("spec.") in (named, "spec")
    assert not world.jobs.heard


async def test_validate_tells_the_next_times_and_what_would_change(world: World) -> None:
    await put(world)
    asked = {"job": "acme/report", "spec": {**SPEC, "timeout_s": 9}}
    checked = (await world.call("POST", "/v1/jobs/validate", asked)).json()
    assert len(checked["next"]) == 5 and checked["changes"] == ["timeout_s"]
    assert len(world.jobs.heard) == 1
    for name in ("report", "acme/Report", "acme/report/x"):
        refused = await world.call("POST", "/v1/jobs/validate", {**asked, "job": name})
        assert refused.status == 422 and refused.json()["errors"][0]["field"] == "job"


async def test_run_pause_resume_kill_delete(world: World) -> None:
    await put(world)
    run = (await world.call("POST", f"{JOB}/run")).json()
    assert (run["state"], run["job"]) == ("running", "acme/report")
    assert (await world.call("POST", f"{JOB}/pause")).json()["state"] == "paused"
    assert (await world.call("POST", f"{JOB}/resume")).json()["state"] == "active"
    killed = (await world.call("POST", f"/v1/runs/{run['run']}/kill")).json()
    assert killed["state"] == "killed" and "first-admin" in killed["reason"]
    for _ in range(2):
        await world.call("POST", f"{JOB}/run")
    assert (await world.call("POST", f"{JOB}/kill")).json()["running"] == []
    gone = await world.call("DELETE", JOB)
    assert (gone.status, gone.json()["state"]) == (200, "done")
    asked = [(each.action, each.run) for each in world.jobs.heard]
    assert asked == [
        ("put", ""), ("run", ""), ("pause", ""), ("resume", ""), ("kill", run["run"]),
        ("run", ""), ("run", ""), ("kill", ""), ("delete", ""),
    ]  # fmt: skip
    for method, path in (
        ("GET", JOB),
        ("DELETE", JOB),
        ("POST", f"{JOB}/run"),
        ("POST", "/v1/runs/nothing/kill"),
        ("GET", "/v1/job-requests/nothing"),
        ("GET", "/v1/job-requests/o-1-7"),
    ):
        assert (await world.call(method, path)).status == 404, path
    assert len(world.jobs.heard) == len(asked)


async def test_history_and_statistics(world: World) -> None:
    await put(world)
    for n in range(3):
        world.jobs.end(world.jobs.begin("acme/report", "schedule"), exit_code=0, output=f"no {n}\n")
    newest = (await world.call("GET", f"{JOB}/runs?limit=2")).json()["runs"]
    assert [run["output"] for run in newest] == ["no 2\n", "no 1\n"]
    rest = (await world.call("GET", f"{JOB}/runs?before={newest[-1]['run']}")).json()["runs"]
    assert [run["output"] for run in rest] == ["no 0\n"]
    (listed,) = (await world.call("GET", "/v1/jobs")).json()["jobs"]
    assert listed["last_run"]["state"] == "succeeded"
    one = (await world.call("GET", f"/v1/runs/{rest[0]['run']}")).json()
    assert one == rest[0]
    stats = (await world.call("GET", f"{JOB}/stats")).json()
    assert (stats["succeeded"], stats["duration"]["count"]) == (3, 3)
    assert (await world.call("GET", f"{JOB}/runs?limit=0")).status == 422


# -- who may ---------------------------------------------------------------------------------------


async def test_a_unit_sees_and_touches_its_own_jobs_only(world: World) -> None:
    await put(world)
    run = (await world.call("POST", f"{JOB}/run")).json()["run"]
    asked = list(world.jobs.requests)
    theirs = await world.key("other", "admin")
    for method, path in (
        ("GET", JOB),
        ("GET", f"{JOB}/runs"),
        ("GET", f"{JOB}/stats"),
        ("GET", f"/v1/runs/{run}"),
        ("GET", f"/v1/job-requests/{asked[0]}"),
        ("GET", "/v1/jobs?bu=acme"),
        ("POST", f"{JOB}/run"),
        ("POST", f"{JOB}/pause"),
        ("POST", f"{JOB}/kill"),
        ("POST", f"/v1/runs/{run}/kill"),
        ("DELETE", JOB),
    ):
        assert (await world.call(method, path, key=theirs)).status == 404, path
    assert (await world.call("PUT", JOB, SPEC, key=theirs)).status == 404
    check = {"job": "acme/report", "spec": SPEC}
    assert (await world.call("POST", "/v1/jobs/validate", check, key=theirs)).status == 404
    assert (await world.call("GET", "/v1/jobs", key=theirs)).json()["jobs"] == []
    assert list(world.jobs.requests) == asked and world.jobs.runs[run]["state"] == "running"
    own = await world.key("acme", "deployer")
    assert (await world.call("POST", f"/v1/runs/{run}/kill", key=own)).status == 200


async def test_viewers_look_and_change_nothing(world: World) -> None:
    await put(world)
    run = world.jobs.begin("acme/report")
    viewer = await world.key("acme", "viewer")
    for path in (JOB, f"{JOB}/runs", f"{JOB}/stats", f"/v1/runs/{run}", "/v1/jobs?bu=acme"):
        assert (await world.call("GET", path, key=viewer)).status == 200, path
    for method, path in (
        ("PUT", JOB), ("DELETE", JOB), ("POST", f"{JOB}/run"), ("POST", f"/v1/runs/{run}/kill"),
    ):  # fmt: skip
        body = SPEC if method == "PUT" else None
        assert (await world.call(method, path, body, key=viewer)).status == 403, path
    assert len(world.jobs.heard) == 1

    async def refusals() -> bool:
        lines = (await world.call("GET", "/v1/audit")).json()["entries"]
        refused = [(each["action"], each["allowed"]) for each in lines if not each["allowed"]]
        return refused == [(f"job.{each}", False) for each in ("kill", "run", "delete", "put")]

    await world.eventually(refusals)


async def test_the_audit_trail_tells_which_variables_and_not_what_is_in_them(world: World) -> None:
    await put(world)

    async def line() -> Any:
        entries = (await world.call("GET", "/v1/audit")).json()["entries"]
        return next((each for each in entries if each["action"] == "job.put"), None)

    entry = await world.eventually(line)
    assert entry["target"] == "acme/report" and entry["after"]["spec"]["env"] == {"TOKEN": "***"}
    assert "hush" not in str(entry)


# -- outcomes --------------------------------------------------------------------------------------


async def test_what_the_scheduler_refuses_after_all_is_a_conflict(world: World) -> None:
    await put(world)
    world.jobs.refusing = "acme/report is disabled"
    refused = await world.call("POST", f"{JOB}/run", headers={"Idempotency-Key": "k"})
    assert refused.status == 409 and refused.json()["detail"] == "acme/report is disabled"
    world.jobs.refusing = ""
    again = await world.call("POST", f"{JOB}/run", headers={"Idempotency-Key": "k"})
    assert again.status == 409 and not world.jobs.runs
    *_, request = world.jobs.requests
    told = (await world.call("GET", f"/v1/job-requests/{request}")).json()
    assert (told["state"], told["problem"]) == ("refused", "acme/report is disabled")


async def test_what_takes_longer_is_accepted_and_can_be_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(world)
    monkeypatch.setattr("services.gateway.jobs.WAIT_S", 0.1)
    world.jobs.deaf = True
    key = {"Idempotency-Key": "slow"}
    accepted = await world.call("POST", f"{JOB}/run", headers=key)
    assert accepted.status == 202 and accepted.json()["state"] == "accepted"
    url = accepted.headers["location"]
    assert url == accepted.json()["url"]
    assert (await world.call("GET", url)).json() == accepted.json()
    world.jobs.deaf = False

    async def done() -> Any:
        view = (await world.call("GET", url)).json()
        return view if view["state"] == "done" else None

    view = await world.eventually(done)
    repeated = await world.call("POST", f"{JOB}/run", headers=key)
    assert repeated.status == 200 and repeated.headers["idempotency-replayed"] == "true"
    assert repeated.json()["run"] == view["run"] and list(world.jobs.runs) == [view["run"]]


async def test_racing_repetitions_begin_one_run(world: World) -> None:
    await put(world)
    key = {"Idempotency-Key": "race"}
    answers = await asyncio.gather(
        *(world.call("POST", f"{JOB}/run", headers=key) for _ in range(8))
    )
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json()["run"] for answer in answers}) == len(world.jobs.runs) == 1
    other = await world.call("POST", f"{JOB}/pause", headers=key)
    assert other.status == 422 and world.jobs.jobs["acme/report"]["state"] == "active"


async def test_a_key_that_comes_again_after_its_answer_is_forgotten_asks_anew(world: World) -> None:
    await put(world)
    key = {"Idempotency-Key": "daily"}
    await world.call("POST", f"{JOB}/run", headers=key)
    repository = await Repository.open(world.shared.store)
    world.clock.ahead_s += 86_401.0
    await repository.prune(world.clock.now() - 86_400.0, 0.0)
    assert (await world.call("POST", f"{JOB}/run", headers=key)).status == 200
    assert len(world.jobs.runs) == 2


async def test_while_no_scheduler_leads_changes_are_written_down(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.jobs.WAIT_S", 0.1)
    await put(world)
    world.jobs.away = True
    assert (await world.call("GET", JOB)).status == 503
    for method, path in (("PUT", JOB), ("POST", f"{JOB}/run")):
        answer = await world.call(method, path, SPEC if method == "PUT" else None)
        assert (answer.status, answer.json()["state"]) == (202, "accepted"), path
        assert answer.headers["location"] == answer.json()["url"]
    listed = (await world.call("GET", "/v1/jobs")).json()
    assert listed == {"incomplete": ["scheduler"], "jobs": []}
    assert [each.action for each in world.jobs.heard] == ["put", "put", "run"]


async def lines_of(world: World, run: str, query: str = "", key: str | None = None) -> list[str]:
    """What is told of a run's output."""
    response = await world.call("GET", f"{JOB}/runs/{run}/output{query}", key=key)
    assert (response.status, response.content_type) == (200, "application/x-ndjson"), response.body
    body = response.body
    if response.stream is not None:
        body = b"".join([chunk async for chunk in response.stream])
    return [str(orjson.loads(each)["line"]) for each in body.splitlines()]


async def test_what_a_run_writes_comes_from_its_host_while_it_is_under_way(world: World) -> None:
    await put(world)
    run = world.jobs.begin("acme/report")
    assert await lines_of(world, run) == []
    waiting = await world.call("GET", f"{JOB}/runs/{run}/output?follow=true")
    assert waiting.status == 409 and "is not under way" in waiting.json()["detail"]
    # In a container that it shares; and in one of its own, whose log hostd has from the engine.
    world.jobs.containers[run] = "gantry-test-acme-runs-1.1"
    world.others.outputs["gantry-test-acme-runs-1.1", run] = ["one", "two"]
    assert await lines_of(world, run) == ["one", "two", "follow=0"]
    assert await lines_of(world, run, "?follow=true") == ["one", "two", "follow=1"]
    own = world.jobs.containers[run] = container_name(world.shared.common.cluster, f"{run}.2")
    assert await lines_of(world, run, "?tail=1") == [f"line 2 of {own}"]
    # Its end is known to its host, and not yet to the scheduler: nothing is told twice.
    world.jobs.containers[run] = "gantry-test-acme-runs-1.1"
    world.others.outputs.clear()
    world.jobs.runs[run]["output"] = "of an earlier try\n"
    assert await lines_of(world, run, "?follow=true") == []
    world.jobs.end(run, output="two\nthree\nfour")
    for query in ("", "?follow=true"):
        assert await lines_of(world, run, query) == ["two", "three", "four"]
    assert await lines_of(world, run, "?tail=1") == ["four"]


async def test_who_may_see_what_a_run_writes(world: World) -> None:
    await put(world)
    run = world.jobs.begin("acme/report")
    world.jobs.containers[run] = "gantry-test-acme-runs-1.1"
    world.others.outputs["gantry-test-acme-runs-1.1", run] = ["secret"]
    path = f"{JOB}/runs/{run}/output"
    acme, beta = await world.key("acme", "viewer"), await world.key("beta", "deployer")
    assert (await world.call("GET", path, key=acme)).status == 200
    for other in (path, path.replace("acme", "beta", 1)):
        assert (await world.call("GET", other, key=beta)).status == 404
    for other in (f"/v1/jobs/acme/other/runs/{run}/output", f"{JOB}/runs/nobody/output"):
        assert (await world.call("GET", other, key=acme)).status == 404
    assert (await world.call("GET", path, key="nonsense")).status == 401
    for query in ("?follow=2", "?tail=x", "?tail=-1"):
        assert (await world.call("GET", f"{path}{query}", key=acme)).status == 422
    world.others.away.add("hostd")
    assert (await world.call("GET", path, key=acme)).status == 503


async def test_streams_of_runs_have_a_bound_and_give_their_places_back(world: World) -> None:
    await put(world)
    run = world.jobs.begin("acme/report")
    world.jobs.containers[run] = "gantry-test-acme-runs-1.1"
    world.others.outputs["gantry-test-acme-runs-1.1", run] = ["one"]
    path = f"{JOB}/runs/{run}/output?follow=true"
    opened = []
    while (response := await world.call("GET", path)).status == 200:
        opened.append(response.stream)
    assert response.status == 429 and len(opened) > 1
    for stream in opened:
        await stream.aclose()  # type: ignore[union-attr]
    assert (await world.call("GET", path)).status == 200
    world.others.outputs.clear()  # a refusal takes none
    for _ in range(len(opened) + 1):
        assert await lines_of(world, run, "?follow=true") == []
