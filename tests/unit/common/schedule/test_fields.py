"""What the fields of a line mean, and what is said when they mean nothing."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from itertools import islice

import pytest

from libs.common.errors import InvalidInput
from libs.common.schedule import parse
from tests.unit.common.schedule.helpers import runs, targets, utc


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5 4 * * *", ["01-01 04:05", "01-02 04:05"]),
        ("*/20 * * * *", ["01-01 00:00", "01-01 00:20", "01-01 00:40", "01-01 01:00"]),
        ("50/4 1 * * *", ["01-01 01:50", "01-01 01:54", "01-01 01:58", "01-02 01:50"]),
        ("0 8-10/2,23 * * *", ["01-01 08:00", "01-01 10:00", "01-01 23:00"]),
        ("0 0 * feb,11-DEC *", ["02-01 00:00", "02-02 00:00"]),
        ("0 0 * * fri-sun", ["01-02 00:00", "01-03 00:00", "01-04 00:00", "01-09 00:00"]),
        ("0 0 * * 7", ["01-04 00:00", "01-11 00:00"]),
        ("0 0 * * 0", ["01-04 00:00", "01-11 00:00"]),
        ("0 0 L * *", ["01-31 00:00", "02-28 00:00", "03-31 00:00"]),
        ("0 0 LW * *", ["01-30 00:00", "02-27 00:00", "03-31 00:00", "04-30 00:00", "05-29 00:00"]),
        ("0 0 * * 5L", ["01-30 00:00", "02-27 00:00", "03-27 00:00"]),
        ("0 0 25 12 friL", ["12-25 00:00"]),
        ("0 0 * 12 friL", ["12-25 00:00"]),
        ("0 0 * * mon#1,fri#5", ["01-05 00:00", "01-30 00:00", "02-02 00:00", "03-02 00:00"]),
        ("0 0 1,L * *", ["01-01 00:00", "01-31 00:00", "02-01 00:00", "02-28 00:00"]),
        # Both day fields given: either; one of them open: both (Debian's cron).
        ("0 0 13 * fri", ["01-02 00:00", "01-09 00:00", "01-13 00:00"]),
        ("0 0 */2 * fri", ["01-09 00:00", "01-23 00:00", "02-13 00:00"]),
        ("0 0 13 * ?", ["01-13 00:00", "02-13 00:00"]),
        ("@weekly", ["01-04 00:00", "01-11 00:00"]),
        ("@monthly", ["01-01 00:00", "02-01 00:00"]),
        ("@minutely", ["01-01 00:00", "01-01 00:01"]),
    ],
)
def test_a_line_names(text: str, expected: list[str]) -> None:
    found = runs(text, "UTC", "2026-01-01", len(expected))
    assert found == [f"2026-{each}Z" for each in expected]


def test_the_first_of_six_fields_is_seconds() -> None:
    found = runs("*/30 59 23 31 12 *", "UTC", "2026-01-01", 3)
    assert found == ["2026-12-31 23:59Z", "2026-12-31 23:59:30Z", "2027-12-31 23:59Z"]


def test_rare_days_are_found_and_impossible_ones_refused() -> None:
    assert runs("0 0 29 2 *", "UTC", "2096-03-01", 1) == ["2104-02-29 00:00Z"]
    # A 29 February that is a Sunday: none in the 40 years around 2100, which is no leap year.
    assert runs("0 0 * 2 sun#5", "UTC", "2060-01-01", 3) == [
        "2060-02-29 00:00Z",
        "2088-02-29 00:00Z",
        "2128-02-29 00:00Z",
    ]


@pytest.mark.parametrize(
    "text", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 0 31 jun ?", "0 0 30-31 feb *"]
)
def test_a_line_that_never_fires_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="schedule: no day is ever"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "problem", "expected"),
    [
        ("60 * * * *", "minute: 60 is out of bounds", "0 to 59"),
        ("* 24 * * *", "hour: 24 is out of bounds", "0 to 23"),
        ("* * 0 * *", "day of the month: 0 is out of bounds", "1 to 31"),
        ("* * * 13 *", "month: 13 is out of bounds", "1 to 12 or jan to dec"),
        ("* * * * 8", "day of the week: 8 is out of bounds", "0 to 7 or sun to sat"),
        ("61 * * * * *", "second: 61 is out of bounds", "0 to 59"),
        ("* * * foo *", "month: 'foo' is not a value", "jan to dec"),
        ("* mon * * *", "hour: 'mon' is not a value", "0 to 23"),
        ("-5 * * * *", "minute: '-5' is not a value", "0 to 59"),
        ("1,,2 * * * *", "minute: '1,,2' can't be read", "0 to 59"),
        ("*/0 * * * *", "minute: a step of 0", "at least 1"),
        ("*/x * * * *", "minute: '*/x' can't be read", "steps `*/n`"),
        ("0 22-2 * * *", "hour: 22-2 goes backwards", "22-23,0-2"),
        ("0 0 L/2 * *", "day of the month: L has no steps", "L alone"),
        ("0 0 * * mon#6", "day of the week: there is no 6th", "#1 to #5"),
        ("0 0 * * L", "day of the week: 'l' is not a value", "0 to 7"),
        ("0 L * * *", "hour: 'l' is not a value", "0 to 23"),
        ("0 0 15W * *", "day of the month: '15w' is not a value", "1 to 31"),
        ("H(50-61) * * * *", "minute: 61 is out of bounds", "0 to 59"),
        ("H(10-19)/11 * * * *", "minute: a step of 11 in 10 values", "not longer"),
        ("٣ * * * *", "minute: '٣' is not a value", "0 to 59"),
        ("* * * *", "4 fields", "5 or 6 fields"),
        ("* * * * * * *", "7 fields", "5 or 6 fields"),
        ("", "empty", "crontab"),
        ("@reboot", "@reboot is not known", "@hourly"),
        ("CRON_TZ=UTC * * * * *", "CRON_TZ=UTC can't stand here", "the field `time_zone`"),
        ("0 " * 200, "400 characters", "at most 200"),
    ],
)
def test_what_is_wrong_is_said(text: str, problem: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse(text)
    (told,) = raised.value.problems
    assert told.field == "schedule"
    assert problem in told.problem
    assert expected in told.expected


def _first(text: str, salt: str) -> datetime:
    found = parse(text, salt=salt).after(utc("2026-01-01") - 1)
    assert found is not None
    return datetime.fromtimestamp(found, UTC)


def test_jitter_is_the_same_for_a_job_and_spread_over_jobs() -> None:
    drawn = Counter(_first("H * * * *", f"acme/job-{n}").minute for n in range(3000))
    assert set(drawn) == set(range(60))
    assert 20 < min(drawn.values()) <= max(drawn.values()) < 100  # 50 each on average
    assert _first("H H * * *", "acme/a") == _first("H H * * *", "acme/a")
    fields = {(_first("H H * * *", f"acme/{n}")).strftime("%H:%M") for n in range(200)}
    assert len(fields) > 150  # hour and minute are drawn apart


@pytest.mark.parametrize("salt", [f"acme/{n}" for n in range(20)])
def test_jitter_stays_in_its_bounds(salt: str) -> None:
    assert 0 <= _first("H(0-29) * * * *", salt).minute <= 29
    assert 20 <= _first("20~30 * * * *", salt).minute <= 30
    assert _first("20~ * * * *", salt).minute >= 20
    assert _first("~5 * * * *", salt).minute <= 5
    assert _first("~ 3 * * *", salt) == _first("H 3 * * *", salt)
    assert _first("H H H * *", salt).day <= 28
    quarters = [
        datetime.fromtimestamp(t, UTC).minute
        for t in islice(targets(parse("H/15 * * * *", salt=salt), utc("2026-01-01") - 1), 4)
    ]
    assert [each - quarters[0] for each in quarters] == [0, 15, 30, 45]
    assert quarters[0] < 15
    dotted = parse("H(5-24)/10 * * * *", salt=salt)
    assert {datetime.fromtimestamp(t, UTC).minute for t in islice(targets(dotted, 0), 10)} == {
        (low := _first("H(5-24)/10 * * * *", salt).minute),
        low + 10,
    }


def test_the_text_stays_but_for_blanks() -> None:
    assert str(parse("  */5\t*   * * MON ")) == "*/5 * * * MON"
    assert parse("*/5 * * * MON").anchored(1e9) == "*/5 * * * MON"
    assert parse("*/5 * * * *", "Europe/Berlin") == parse(" */5 * * * *", "Europe/Berlin")
    assert parse("*/5 * * * *", "Europe/Berlin") != parse("*/5 * * * *", "Europe/Paris")
