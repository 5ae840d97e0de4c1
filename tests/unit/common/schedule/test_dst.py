"""The rules of docs/cron.md for days on which clocks are changed, each by name."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from libs.common.schedule import parse
from tests.unit.common.schedule.helpers import runs, utc

WEEK_S = 7 * 86_400.0
SPRING, AUTUMN = ("Europe/Berlin", "2026-03-29"), ("Europe/Berlin", "2026-10-25")


@pytest.mark.parametrize(
    ("zone", "text", "first", "expected"),
    [
        (
            "Europe/Berlin",  # 02:00 to 03:00 is left out
            "30 2 * * *",
            "2026-03-28",
            ["2026-03-28 02:30+01:00", "2026-03-29 03:00+02:00", "2026-03-30 02:30+02:00"],
        ),
        (
            "America/New_York",
            "30 2 * * *",
            "2026-03-07",
            ["2026-03-07 02:30-05:00", "2026-03-08 03:00-04:00", "2026-03-09 02:30-04:00"],
        ),
        (
            "Australia/Lord_Howe",  # half an hour, 02:00 to 02:30
            "15 2 * * *",
            "2026-10-03",
            ["2026-10-03 02:15+10:30", "2026-10-04 02:30+11:00", "2026-10-05 02:15+11:00"],
        ),
        (
            "Australia/Sydney",
            "30 2 * * *",
            "2026-10-03",
            ["2026-10-03 02:30+10:00", "2026-10-04 03:00+11:00", "2026-10-05 02:30+11:00"],
        ),
        (
            "America/Santiago",  # the day begins at 01:00
            "@daily",
            "2026-09-05",
            ["2026-09-05 00:00-04:00", "2026-09-06 01:00-03:00", "2026-09-07 00:00-03:00"],
        ),
        (
            "Asia/Kathmandu",  # 1986 began at 00:15
            "5 0 * * *",
            "1985-12-31",
            ["1985-12-31 00:05+05:30", "1986-01-01 00:15+05:45", "1986-01-02 00:05+05:45"],
        ),
        (
            "Pacific/Apia",  # there was no 30 December
            "0 9 * * *",
            "2011-12-29",
            ["2011-12-29 09:00-10:00", "2011-12-31 00:00+14:00", "2011-12-31 09:00+14:00"],
        ),
    ],
)
def test_a_fixed_time_that_is_left_out_runs_at_the_end_of_the_gap(
    zone: str, text: str, first: str, expected: list[str]
) -> None:
    assert runs(text, zone, first, len(expected)) == expected
    # The end of the gap is a target like any other: it is not passed over by who asks a moment before it.
    schedule = parse(text, zone)
    for target in map(utc, expected):
        assert schedule.after(target - 1) == schedule.after(target - 0.25) == target
        assert schedule.between(target - 1, target, 9) == [target]
        assert schedule.between(target, target + 1, 9) == []


def test_fixed_times_that_are_left_out_together_run_once() -> None:
    for text in ("0,20,40 2 * * *", "0 2,3 * * *", "*/10 30 2 * * *", "0 2-3 * * *"):
        found = runs(text, "Europe/Berlin", "2026-03-29", 2)
        assert found[0] == "2026-03-29 03:00+02:00"
        assert found[1] > "2026-03-29 03:00+02:00"
    assert runs("0 2,3 * * *", "Europe/Berlin", "2026-03-29", 2)[1] == "2026-03-30 02:00+02:00"


@pytest.mark.parametrize(
    ("zone", "text", "first", "expected"),
    [
        (
            "Europe/Berlin",  # 02:00 to 03:00 comes twice
            "30 2 * * *",
            "2026-10-24",
            ["2026-10-24 02:30+02:00", "2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00"],
        ),
        (
            "America/New_York",
            "30 1 * * *",
            "2026-10-31",
            ["2026-10-31 01:30-04:00", "2026-11-01 01:30-04:00", "2026-11-02 01:30-05:00"],
        ),
        (
            "Australia/Lord_Howe",  # 01:30 to 02:00
            "45 1 * * *",
            "2026-04-04",
            ["2026-04-04 01:45+11:00", "2026-04-05 01:45+11:00", "2026-04-06 01:45+10:30"],
        ),
        (
            "America/Santiago",  # 23:00 to 24:00 of the day before
            "30 23 * * *",
            "2026-04-04",
            ["2026-04-04 23:30-03:00", "2026-04-05 23:30-04:00"],
        ),
        (
            "Europe/Berlin",  # seconds make no difference
            "0,30 59 2 * * *",
            "2026-10-25",
            ["2026-10-25 02:59+02:00", "2026-10-25 02:59:30+02:00", "2026-10-26 02:59+01:00"],
        ),
    ],
)
def test_a_fixed_time_that_comes_twice_runs_the_first_time(
    zone: str, text: str, first: str, expected: list[str]
) -> None:
    assert runs(text, zone, first, len(expected)) == expected


def test_asked_within_the_repeated_hour_it_does_not_run_again() -> None:
    second_time = datetime(
        2026, 10, 25, 2, 10, fold=1, tzinfo=ZoneInfo("Europe/Berlin")
    ).timestamp()
    for text in ("30 2 * * *", "* 30 2 * * *"):
        schedule = parse(text, "Europe/Berlin")
        assert schedule.after(second_time) == utc("2026-10-26T02:30+01:00")
        # Looking back from there, all of the first time has been.
        (before,) = schedule.between(0.0, second_time, 1)
        assert utc("2026-10-25T02:30+02:00") <= before < utc("2026-10-25T02:31+02:00")


@pytest.mark.parametrize(
    ("text", "where", "expected"),
    [
        # Names every hour, or every minute: what the clock shows, each time it does.
        ("0 * * * *", SPRING, ["01:00+01:00", "03:00+02:00", "04:00+02:00"]),
        ("0 * * * *", AUTUMN, ["01:00+02:00", "02:00+02:00", "02:00+01:00", "03:00+01:00"]),
        ("0 0-23 * * *", AUTUMN, ["01:00+02:00", "02:00+02:00", "02:00+01:00", "03:00+01:00"]),
        ("*/30 2 * * *", AUTUMN, ["02:00+02:00", "02:30+02:00", "02:00+01:00", "02:30+01:00"]),
        ("*/30 1,2,3 * * *", SPRING, ["01:00+01:00", "01:30+01:00", "03:00+02:00", "03:30+02:00"]),
        ("0 */2 * * *", SPRING, ["04:00+02:00", "06:00+02:00"]),
        ("0 */2 * * *", AUTUMN, ["02:00+02:00", "02:00+01:00", "04:00+01:00"]),
    ],
)
def test_a_line_that_names_every_hour_or_minute_follows_elapsed_time(
    text: str, where: tuple[str, str], expected: list[str]
) -> None:
    zone, day = where
    found = runs(text, zone, f"{day}T00:30", len(expected))
    assert found == [f"{day} {each}" for each in expected]


def test_jitter_keeps_the_kind_of_its_line() -> None:
    assert len(set(runs("H * * * *", "Europe/Berlin", "2026-10-25T02:00", 3, salt="a/b"))) == 3
    twice = runs("H/30 2 * * *", "Europe/Berlin", "2026-10-25", 4, salt="a/b")
    assert [each[:10] for each in twice] == ["2026-10-25"] * 4
    once = runs("H 2 * * *", "Europe/Berlin", "2026-10-25", 2, salt="a/b")
    assert [each[:10] for each in once] == ["2026-10-25", "2026-10-26"]


@pytest.mark.parametrize(
    ("zone", "text", "first", "expected"),
    [
        # Days and longer: the wall clock.
        (
            "Europe/Berlin",
            "R/2026-03-28T02:30:00/P1D",
            "2026-03-28",
            ["2026-03-28 02:30+01:00", "2026-03-29 03:00+02:00", "2026-03-30 02:30+02:00"],
        ),
        (
            "Europe/Berlin",
            "R/2026-10-24T02:30:00/P1D",
            "2026-10-24",
            ["2026-10-24 02:30+02:00", "2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00"],
        ),
        (
            "America/New_York",
            "R/2026-03-01T09:00:00/P1W",
            "2026-03-01",
            ["2026-03-01 09:00-05:00", "2026-03-08 09:00-04:00"],
        ),
        (
            "Australia/Lord_Howe",
            "R/2026-03-05T12:00:00/P1M",
            "2026-04-01",
            ["2026-04-05 12:00+10:30", "2026-05-05 12:00+10:30"],
        ),
        (
            "Pacific/Apia",
            "R/2011-12-29T09:00:00/P1D",
            "2011-12-29",
            ["2011-12-29 09:00-10:00", "2011-12-31 00:00+14:00", "2011-12-31 09:00+14:00"],
        ),
        # A start with an offset is a moment; its days are counted on the clock of time_zone.
        (
            "Europe/Berlin",
            "R/2026-03-28T08:00:00Z/P1D",
            "2026-03-28",
            ["2026-03-28 09:00+01:00", "2026-03-29 09:00+02:00"],
        ),
        # Hours and shorter: time that passes, a day of 24 hours too.
        (
            "Europe/Berlin",
            "R/2026-03-28T02:30:00/PT24H",
            "2026-03-28",
            ["2026-03-28 02:30+01:00", "2026-03-29 03:30+02:00", "2026-03-30 03:30+02:00"],
        ),
        (
            "Europe/Berlin",
            "R/2026-10-25T01:30:00/PT30M",
            "2026-10-25",
            [
                *("2026-10-25 01:30+02:00", "2026-10-25 02:00+02:00", "2026-10-25 02:30+02:00"),
                *("2026-10-25 02:00+01:00", "2026-10-25 02:30+01:00", "2026-10-25 03:00+01:00"),
            ],
        ),
        # Both: days first, then what passes.
        (
            "Europe/Berlin",
            "R/2026-03-28T02:30:00/P1DT1H",
            "2026-03-28",
            ["2026-03-28 02:30+01:00", "2026-03-29 04:00+02:00", "2026-03-30 04:30+02:00"],
        ),
        # A start that the clock shows twice is the first time, one it never shows the end of the gap.
        ("Europe/Berlin", "R1/2026-10-25T02:30/PT1H", "2026-10-25", ["2026-10-25 02:30+02:00"]),
        (
            "Europe/Berlin",
            "R/2026-10-25T02:30+01:00/P1D",
            "2026-10-25",
            ["2026-10-25 02:30+01:00", "2026-10-26 02:30+01:00"],
        ),
        (
            "Europe/Berlin",
            "R/2026-03-29T02:30/P1D",
            "2026-03-29",
            ["2026-03-29 03:00+02:00", "2026-03-30 02:30+02:00"],
        ),
    ],
)
def test_an_interval_keeps_the_wall_clock_in_days_and_elapsed_time_in_hours(
    zone: str, text: str, first: str, expected: list[str]
) -> None:
    assert runs(text, zone, first, len(expected)) == expected


def test_targets_of_an_interval_that_fall_together_are_one_and_count_as_two() -> None:
    assert runs("R4/2011-12-29T00:00/P1D", "Pacific/Apia", "2011-12-29") == [
        "2011-12-29 00:00-10:00",
        "2011-12-31 00:00+14:00",  # the 30th at the end of the gap, and the 31st
        "2012-01-01 00:00+14:00",
    ]
    schedule = parse("R4/2011-12-29T00:00/P1D", "Pacific/Apia")
    assert len(schedule.between(0.0, 2e9, 9)) == 3


@pytest.mark.parametrize(
    ("zone", "monday"),
    [
        ("UTC", "2026-03-23"),
        *(("Europe/Berlin", day) for day in ("2026-03-23", "2026-10-19")),
        *(("America/New_York", day) for day in ("2026-03-02", "2026-10-26")),
        *(("Australia/Lord_Howe", day) for day in ("2026-03-30", "2026-09-28")),
        *(("Australia/Sydney", day) for day in ("2026-03-30", "2026-09-28")),
        ("Asia/Kathmandu", "2026-03-23"),
    ],
)
def test_a_week_is_168_hours_7_days_and_1_week(zone: str, monday: str) -> None:
    start = datetime.fromisoformat(monday).replace(tzinfo=ZoneInfo(zone)).timestamp()

    def number(text: str) -> int:
        schedule = parse(parse(text, zone).anchored(start - 1), zone, salt="acme/report")
        return len(schedule.between(start, start + WEEK_S, 1000))

    for text in (f"R/{monday}T00:30/PT1H", "@every 1h"):
        assert number(text) == 168
    for text in ("@hourly", "0 0-23 * * *"):
        # A clock that is moved by half an hour shows one full hour less in 168 hours that pass.
        assert number(text) == (167 if zone == "Australia/Lord_Howe" else 168)
    for text in ("30 2 * * *", "15 1 * * *", "H H(1-22) * * *", f"R/{monday}T02:30/P1D"):
        assert number(text) == 7
    for text in ("30 2 * * sun", "H H * * 3", f"R/{monday}T02:30/P1W"):
        assert number(text) == 1
