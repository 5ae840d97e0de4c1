"""Runs whose end is told, while the leader dies: each ends as it was told, once, or when nobody has told it in time."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from libs.common.events import model as ev
from libs.common.jobs import CHRONOS_ASYNC
from tests.simulation import loop
from tests.simulation.loop import EPOCH_S, World, virtual
from tests.unit.scheduler.jobs.leaders import RUN_S, Leaders

JOB = "acme/told"
CHILD = "acme/after"
WRITES = 71  # of a leader that does not die, at least
TIMEOUT_S = 20.0
DELAY_S = 6.0
"""Between two tries: longer than it takes until another leads."""
REPORTS = (
    # when, of which target and try, the status, and the one that is said right after it
    (12.0, 5, 0, 3, 0),  # its command has ended; it is tried again
    (26.0, 5, 1, 0, 4),
    (36.0, 35, 0, 0, 5),  # its command is at it still
)
"""The third target's run is never told of."""


def spec(**fields: Any) -> dict[str, Any]:
    """Three targets, 30 s apart, the first 5 s after the world begins; tried again once."""
    start = datetime.fromtimestamp(EPOCH_S + 5, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    usual = {
        "schedule": f"R3/{start}/PT30S",
        "image": "web:1",
        "network": "web",
        "retry": {"limit": 1, "delay_s": DELAY_S},
        "timeout_s": TIMEOUT_S,
        "labels": {CHRONOS_ASYNC: "true"},
    }
    return {**usual, **fields}


async def play(leaders: Leaders) -> dict[int, str]:
    """The runs that were told of, by their targets."""
    runs: dict[int, str] = {}
    now = asyncio.get_running_loop().time
    async with leaders.leading():
        await leaders.ask("put", JOB, "told", spec=spec())
        await asyncio.sleep(1.0)
        child = spec(schedule=None, parents=["told"], labels={}, timeout_s=None)
        await leaders.ask("put", CHILD, "after", spec=child)
        for at, target, tries, status, other in REPORTS:
            await asyncio.sleep(at - now())
            for run, body in leaders.bodies("scheduler_instances").items():
                about = body["run"]
                if about["job"] == JOB and about["target"] == EPOCH_S + target:
                    runs[target] = run
            for name, word in ((f"{at:g}", status), (f"{at:g}-again", other)):
                fields = {"run": runs[target], "tries": tries, "status": word}
                await leaders.ask("report", JOB, name, **fields)
        await asyncio.sleep(130.0 - now())
    return runs


def check(leaders: Leaders, runs: dict[int, str]) -> None:
    """Ends, tries, counts, events and children are those of what was told, and each is there once."""
    records = leaders.bodies("scheduler_runs")
    mine = {each["target"] - EPOCH_S: each for each in records.values() if each["job"] == JOB}
    ends = {target: (each["state"], each["exit_code"]) for target, each in mine.items()}
    assert ends == {5: ("succeeded", 0), 35: ("succeeded", 0), 65: ("failed", None)}
    assert mine[65]["reason"] == f"nobody told within {TIMEOUT_S:g} s how it ended"
    assert mine[5]["ended"] >= EPOCH_S + 26 and mine[35]["ended"] >= EPOCH_S + 35 + RUN_S
    assert all(records[run]["target"] == EPOCH_S + target for target, run in runs.items())
    attempts = Counter(task for task, _ in leaders.host.begun)
    assert set(attempts.values()) == {1}
    begun = Counter(task.rpartition(".")[0] for task in attempts)
    assert begun.keys() == records.keys()
    assert {records[run]["target"] - EPOCH_S: n for run, n in begun.items() if n > 1} == {
        5: 2,
        65: 2,
    }
    times: dict[str, list[float]] = {}
    for task, at in leaders.host.begun:
        times.setdefault(task.rpartition(".")[0], []).append(at - EPOCH_S)
    never = next(run for run, each in records.items() if each is mine[65])
    assert times[runs[5]][1] >= 12 + DELAY_S
    assert times[never][1] - times[never][0] >= TIMEOUT_S + DELAY_S
    assert mine[65]["ended"] - EPOCH_S - times[never][1] >= TIMEOUT_S
    children = [times[run][0] for run, each in records.items() if each["job"] == CHILD]
    assert len(children) == 2 and min(children) >= 26 and max(children) >= 35 + RUN_S
    jobs = leaders.bodies("scheduler_jobs")
    counts = {name: (job["succeeded"], job["failed"], job["missed"]) for name, job in jobs.items()}
    assert counts == {JOB: (2, 1, 0), CHILD: (2, 0, 0)}
    assert all((job["running"], job["queue"]) == ([], []) for job in jobs.values())
    well = [run for run, each in records.items() if each["state"] == "succeeded"]
    assert leaders.told(ev.JobRunFinished) == dict.fromkeys(well, 1)
    assert leaders.told(ev.JobRunFailed) == {never: 1}
    assert leaders.told(ev.JobRunStarted) == begun
    asked = leaders.bodies("scheduler_job_requests")
    said = {f"{report[0]:g}" for report in REPORTS}
    assert asked.keys() == {"told", "after", *said, *(f"{each}-again" for each in said)}
    refused = {name for name, each in asked.items() if each["state"] != "done"}
    # When its leader dies before what came of a word is saved, the next one finds that try over, and says so.
    again = {each for each in refused if each.endswith("-again")}
    assert refused - again <= said and len(refused - again) <= leaders.deaths


@virtual
async def test_runs_end_as_they_are_told(world: World) -> None:
    leaders = Leaders(world)
    check(leaders, await play(leaders))
    assert leaders.writes >= WRITES - 1


@pytest.mark.parametrize("first", range(1, 8))
def test_a_leader_may_die_after_each_of_its_writes(first: int) -> None:
    async def story(world: World) -> None:
        leaders = Leaders(world)
        leaders.die_at = at
        runs = await play(leaders)
        assert leaders.deaths == 1, f"only {leaders.writes} writes"
        try:
            check(leaders, runs)
        except AssertionError as error:
            raise AssertionError(f"death after write {at}: {error}") from None

    for at in range(first, WRITES, 7):
        loop.run(story)
