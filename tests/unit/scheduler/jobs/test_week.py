"""A week of jobs in virtual time, one plain, two with a change of the clocks: from what is due to each run's end."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.unit.scheduler.jobs.world import JobDesk

ZONE = "Europe/Berlin"
WEEK_S = 7 * 86_400.0
RUN_S = 30.0
SCHEDULES = {
    "acme/hourly": "@hourly",
    "acme/daily": "30 2 * * *",  # on Sunday that comes not at all, or twice
    "acme/weekly": "30 2 * * sun",
}


@pytest.mark.parametrize("monday", ["2026-06-15", "2026-03-23", "2026-10-19"])
def test_a_week_has_168_hours_7_days_and_1_week(monday: str) -> None:
    start = datetime.fromisoformat(monday).replace(tzinfo=ZoneInfo(ZONE)).timestamp()
    desk = JobDesk(now=start - 60.0)
    desk.subscribe()
    for job, schedule in SCHEDULES.items():
        desk.took(job, schedule=schedule, time_zone=ZONE)
    # Put at 23:59: what is due at midnight is the week's first, what is due at the next one is not its any more.
    desk.now = start - 1.0
    while (due := desk.cluster.jobs.agenda.first()) is not None and due < start + WEEK_S:
        assert due >= desk.now, "it was due before"
        desk.now = due
        desk.tick(0.0)
        begun = desk.names()
        assert begun, "nothing was due after all"
        for run in begun:
            assert desk.run(run).target == due
            desk.begin(run)
        desk.now += RUN_S
        for run in begun:
            desk.end(run)
    assert Counter(each.job for each in desk.records.values()) == {
        "acme/hourly": 168,
        "acme/daily": 7,
        "acme/weekly": 1,
    }
    assert set(desk.states()) == {"succeeded"} and desk.missed() == []
    days = {
        datetime.fromtimestamp(each.target, ZoneInfo(ZONE)).date()
        for each in desk.records.values()
        if each.job == "acme/daily"
    }
    assert days == {(datetime.fromisoformat(monday) + timedelta(n)).date() for n in range(7)}
