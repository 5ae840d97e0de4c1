"""Jobs in the service: exactly once per target whenever the leader dies, in time, by event and over HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from libs.common.events import model as ev
from services.scheduler.settings import JobsConfig, SchedulerConfig
from tests.simulation import loop
from tests.simulation.loop import EPOCH_S, World, virtual
from tests.unit.scheduler.jobs.leaders import Leaders

JOB = "acme/often"
WRITES = 64  # of a leader that does not die, at least
DELAY_S = 6.0
"""Between two tries: longer than it takes until another leads."""


def spec(**fields: Any) -> dict[str, Any]:
    """Three targets, 30 s apart, the first 5 s after the world begins; tried again once."""
    start = datetime.fromtimestamp(EPOCH_S + 5, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    usual = {
        "schedule": f"R3/{start}/PT30S",
        "image": "web:1",
        "network": "web",
        "retry": {"limit": 1, "delay_s": DELAY_S},
    }
    return {**usual, **fields}


async def play(leaders: Leaders) -> None:
    """A job with a child, of which one try fails; and a run by hand, of a job that has no schedule."""
    child = spec(schedule=None, parents=["often"])
    async with leaders.leading():
        leaders.host.exits[JOB] = [0, 1]
        await leaders.ask("put", JOB, "q1", spec=spec())
        await asyncio.sleep(1.0)
        await leaders.ask("put", "acme/after", "q2", spec=child)
        await asyncio.sleep(1.0)
        await leaders.ask("put", "acme/alone", "q3", spec=spec(schedule=None))
        await asyncio.sleep(1.0)
        await leaders.ask("run", "acme/alone", "q4")
        await asyncio.sleep(105.0)


def check(leaders: Leaders) -> None:
    """Each target, each newer success of the parent, and the request: one run, counted and told once."""
    records = leaders.bodies("scheduler_runs")
    jobs = leaders.bodies("scheduler_jobs")
    by_job = Counter(each["job"] for each in records.values())
    assert by_job == {JOB: 3, "acme/after": 3, "acme/alone": 1}, by_job
    assert {each["state"] for each in records.values()} == {"succeeded"}
    targets = sorted(each["target"] - EPOCH_S for each in records.values() if each["job"] == JOB)
    assert targets == [5, 35, 65]
    attempts = Counter(task for task, _ in leaders.host.begun)
    assert set(attempts.values()) == {1}
    runs = Counter(task.rpartition(".")[0] for task, _ in leaders.host.begun)
    assert sorted(runs.values()) == [1, 1, 1, 1, 1, 1, 2] and runs.keys() == records.keys()
    twice = runs.most_common(1)[0][0]
    (first, _), (_, again) = [each for each in leaders.host.begun if each[0].startswith(twice)]
    assert again - leaders.host.over[first] >= DELAY_S, "it did not wait before it was tried again"
    for job in jobs.values():
        assert (job["running"], job["queue"], job["missed"], job["failed"]) == ([], [], 0, 0)
    assert {name: job["succeeded"] for name, job in jobs.items()} == dict(by_job)
    assert leaders.told(ev.JobRunFinished) == dict.fromkeys(records, 1)
    assert leaders.told(ev.JobRunStarted) == runs
    asked = leaders.bodies("scheduler_job_requests")
    assert {name: each["state"] for name, each in asked.items()} == dict.fromkeys(
        ("q1", "q2", "q3", "q4"), "done"
    )
    assert asked["q4"]["run"] in records


@virtual
async def test_runs_begin_in_time_each_once(world: World) -> None:
    leaders = Leaders(world)
    await play(leaders)
    check(leaders)
    first = {task: at for task, at in leaders.host.begun if task.endswith(".1")}
    records = leaders.bodies("scheduler_runs")
    for run, record in records.items():
        if record["job"] == JOB:
            assert 0 <= first[f"{run}.1"] - record["target"] < 0.1, "it waited for a tick"
    assert leaders.writes >= WRITES - 1


@pytest.mark.parametrize("first", range(1, 8))
def test_a_leader_may_die_after_each_of_its_writes(first: int) -> None:
    async def story(world: World) -> None:
        leaders = Leaders(world)
        leaders.die_at = at
        await play(leaders)
        assert leaders.deaths == 1, f"only {leaders.writes} writes"
        try:
            check(leaders)
        except AssertionError as error:
            raise AssertionError(f"death after write {at}: {error}") from None

    for at in range(first, WRITES, 7):
        loop.run(story)


def test_what_was_due_as_a_job_was_put_runs_once_whoever_dies() -> None:
    """One time had passed before it was asked for, and is made up for; another passed until it came to be decided."""

    async def story(world: World) -> None:
        leaders = Leaders(world)
        leaders.die_at = at
        start = datetime.fromtimestamp(EPOCH_S - 29.5, UTC).isoformat().replace("+00:00", "Z")
        put = spec(schedule=f"R2/{start}/PT30S", concurrency="allow")
        await asyncio.sleep(2.0)
        async with leaders.leading():
            await leaders.ask("put", JOB, "q1", spec=put, since=0.0)
            await asyncio.sleep(30.0)
        records = leaders.bodies("scheduler_runs")
        assert sorted(each["cause"] for each in records.values()) == ["manual", "schedule"], at
        assert {each["state"] for each in records.values()} == {"succeeded"}
        assert len(leaders.host.begun) == 2
        assert leaders.told(ev.JobRunFinished) == dict.fromkeys(records, 1)
        assert leaders.bodies("scheduler_jobs")[JOB]["succeeded"] == 2
        written.append(leaders.writes)

    at, written = 0, list[int]()
    loop.run(story)
    for at in range(1, written[0] + 1):
        loop.run(story)


@virtual
async def test_what_is_asked_over_http(world: World) -> None:
    leaders = Leaders(world)
    async with leaders.leading():
        await leaders.ask("put", JOB, "q1", spec=spec(description="x"))
        await asyncio.sleep(9.0)
        view = await leaders.call(f"/v1/jobs/{JOB}")
        assert (view["state"], view["counts"]["succeeded"]) == ("active", 1)
        assert view["next"] == EPOCH_S + 35 and view["last_run"]["state"] == "succeeded"
        (row,) = (await leaders.call("/v1/jobs?bu=acme"))["jobs"]
        assert view["last_run"]["output"] == "out"
        assert row == {**view, "last_run": {**view["last_run"], "output": ""}}
        await asyncio.sleep(27.0)
        runs = (await leaders.call(f"/v1/jobs/{JOB}/runs"))["runs"]
        assert [each["state"] for each in runs] == ["running", "succeeded"]
        before = f"/v1/jobs/{JOB}/runs?before={runs[0]['run']}"
        assert [each["run"] for each in (await leaders.call(before))["runs"]] == [runs[1]["run"]]
        over = f"/v1/jobs/{JOB}/runs?before={runs[1]['run']}"
        assert (await leaders.call(over))["runs"] == []
        one = await leaders.call(f"/v1/runs/{runs[1]['run']}")
        assert (one["output"], one["hostname"], one["duration_s"]) == ("out", "host-a1", 2.0)
        stats = await leaders.call(f"/v1/jobs/{JOB}/stats")
        assert (stats["runs"], stats["duration"]["median"]) == (1, 2.0)
        asked = {"job": JOB, "spec": spec(description="y")}
        checked = await leaders.call("/v1/jobs/check", "POST", orjson.dumps(asked))
        assert (checked["next"], checked["changes"]) == ([EPOCH_S + 65], ["description"])
        wrong = {"job": JOB, "spec": spec(schedule=None, parents=["often"])}
        refused = await leaders.call("/v1/jobs/check", "POST", orjson.dumps(wrong))
        assert "often → often" in str(refused)
        assert (await leaders.call("/v1/jobs?bu=beta"))["jobs"] == []
        assert (await leaders.call("/v1/job-requests/q1"))["state"] == "done"
        assert (await leaders.call("/v1/job-requests/q9"))["status"] == 404


@virtual
async def test_what_can_not_be_is_an_outcome_and_what_is_forged_only_an_audit(world: World) -> None:
    leaders = Leaders(world)
    async with leaders.leading():
        await leaders.ask("put", JOB, "q1", spec=spec(schedule="whenever"))
        await leaders.ask("put", JOB, "q2", spec=spec(imag="web"))
        await leaders.ask("delete", JOB, "q3")
        await leaders.ask("report", JOB, "q6", run="nightly-1", tries=0)
        forged = ev.JobRequested(job=JOB, action="put", actor="eve", request="q4", spec=spec())
        await leaders.publish(forged, source="deployer")
        await leaders.ask("put", JOB, "q5", spec=spec(), actor_bu="beta", actor_role="deployer")
        await asyncio.sleep(3.0)
        asked = leaders.bodies("scheduler_job_requests")
        assert {name: each["state"] for name, each in asked.items()} == dict.fromkeys(
            ("q1", "q2", "q3", "q6"), "refused"
        )
        assert "imag" in asked["q2"]["problem"] and "no job" in asked["q3"]["problem"]
        assert "status" in asked["q6"]["problem"], (
            "no word that it went well is not one that it did"
        )
        assert leaders.bodies("scheduler_jobs") == {}
        logs = leaders.small.bus.log.topics["audit.recorded"].partitions
        audits = [orjson.loads(each.record.value) for log in logs for each in log.records]
        assert sorted(each["request_id"] for each in audits) == [f"q{n}" for n in range(1, 7)]
        assert not any(each["allowed"] for each in audits)


@virtual
async def test_old_runs_are_forgotten_and_counts_stay(world: World) -> None:
    config = JobsConfig(
        keep_runs=5, keep_instances_s=20.0, clean_every_s=10.0, keep_requests_s=30.0
    )
    leaders = Leaders(world, SchedulerConfig(jobs=config))
    async with leaders.leading():
        await leaders.ask("put", JOB, "q1", spec=spec(schedule="@every 4s"))
        await asyncio.sleep(300.0)
        records = leaders.bodies("scheduler_runs")
        assert 5 <= len(records) < 40, "the newest stay as long as their instances may"
        assert len(leaders.bodies("scheduler_instances")) < 15
        assert leaders.bodies("scheduler_job_requests") == {}
        job = leaders.bodies("scheduler_jobs")[JOB]
        assert job["succeeded"] == 74 and job["recorded"] == 74
        old = min(records.values(), key=lambda each: each["number"])
        (run,) = [name for name, each in records.items() if each is old]
        assert run not in leaders.bodies("scheduler_instances")
        leaders.die_at = leaders.writes + 1
        await asyncio.sleep(20.0)
        assert leaders.deaths == 1
        leaders.host.bring_back(f"{run}.1")
        await asyncio.sleep(5.0)
        assert leaders.host.killed == [f"{run}.1"], "it is no stranger, which a person would see to"
