"""Repetitions of ISO 8601, `@every`, and where they start."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from libs.common.schedule import parse
from tests.unit.common.schedule.helpers import runs, targets, told, utc


def test_rn_is_n_runs_r_has_no_end_and_r0_none() -> None:
    assert runs("R3/2026-01-01T00:00:00Z/PT1M", "UTC", "2026-01-01", 9) == [
        "2026-01-01 00:00Z",
        "2026-01-01 00:01Z",
        "2026-01-01 00:02Z",
    ]
    assert runs("R1/2026-01-01T00:00:00Z/PT1M", "UTC", "2020-01-01", 9) == ["2026-01-01 00:00Z"]
    assert runs("R0/2026-01-01T00:00:00Z/PT1M", "UTC", "2020-01-01", 9) == []
    assert parse("R0//PT1M").after(0.0) is None
    assert len(runs("R/2026-01-01T00:00:00Z/PT1M", "UTC", "2099-01-01", 9)) == 9


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        ("P1M", ["01-31", "02-28", "03-31", "04-30", "05-31"]),
        ("P1M1D", ["01-31", "03-01", "04-02", "05-03", "06-04"]),
        ("P3M", ["01-31", "04-30", "07-31", "10-31"]),
        ("P1W", ["01-31", "02-07", "02-14"]),
        ("P0Y0M10D", ["01-31", "02-10", "02-20"]),
    ],
)
def test_months_are_counted_from_the_start_and_do_not_drift(
    period: str, expected: list[str]
) -> None:
    found = runs(f"R/2026-01-31T09:00:00Z/{period}", "UTC", "2026-01-01", len(expected))
    assert found == [f"2026-{each} 09:00Z" for each in expected]


def test_a_leap_day_comes_again() -> None:
    found = runs("R/2024-02-29T00:00:00Z/P1Y", "UTC", "2024-01-01", 5)
    assert [each[:10] for each in found][1:] == [
        "2025-02-28",
        "2026-02-28",
        "2027-02-28",
        "2028-02-29",
    ]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("2026-01-01T06:00:00Z", "2026-01-01 06:00Z"),
        ("2026-01-01T06:00:00+02:00", "2026-01-01 04:00Z"),
        ("2026-01-01T06:00:00-0530", "2026-01-01 11:30Z"),
        ("2026-01-01T06:00:00+05", "2026-01-01 01:00Z"),
        ("2026-01-01T06:00:00", "2026-01-01 05:00Z"),  # in time_zone
        ("2026-01-01T06:00", "2026-01-01 05:00Z"),
        ("2026-01-01", "2025-12-31 23:00Z"),
        ("20260101T060000Z", "2026-01-01 06:00Z"),
        ("2026-01-01T06:00:00.250Z", "2026-01-01 06:00:00.250000Z"),
        ("2026-01-01T06:00:00,5Z", "2026-01-01 06:00:00.500000Z"),
        ("1969-12-31T23:59:59.5Z", "1969-12-31 23:59:59.500000Z"),
    ],
)
def test_a_start_may_be_written_so(start: str, expected: str) -> None:
    found = parse(f"R/{start}/PT1H", "Europe/Berlin").after(float("-inf"))
    assert found is not None and told(found) == expected


@pytest.mark.parametrize(
    ("period", "seconds"),
    [
        ("PT1M", 60),
        ("PT1H30M", 5400),
        ("PT0.5H", 1800),
        ("PT1,5M", 90),
        ("PT1.25S", 1.25),
        ("PT36H", 129_600),
        ("P1DT12H", 129_600),
        ("P2W", 1_209_600),
        ("PT1H0M0S", 3600),
    ],
)
def test_a_period_may_be_written_so(period: str, seconds: float) -> None:
    start = utc("2026-01-01")
    assert parse(f"R/2026-01-01T00:00:00Z/{period}").after(start) == start + seconds


@pytest.mark.parametrize(
    ("text", "problem", "expected"),
    [
        ("R/2026-01-01T00:00:00Z", "has 2 parts", "Rn/start/period"),
        ("R-1/2026-01-01T00:00:00Z/P1D", "repetition: 'R-1'", "Rn, such as R5"),
        ("Rx//P1D", "repetition: 'Rx'", "Rn, such as R5"),
        ("PT1M", "has 1 parts", "Rn/start/period"),
        ("R/tomorrow/P1D", "start: 'tomorrow' can't be read", "such as 2026"),
        (
            "R/2026-02-30T00:00:00Z/P1D",
            "start: '2026-02-30T00:00:00Z': day is out of range",
            "2026",
        ),
        ("R/2026-01-01T24:00:00Z/P1D", "hour must be in 0..23", "2026"),
        ("R/2026-01-01T00:00:00+16:00/P1D", "no zone has the offset +16:00", "+02:00"),
        ("R/1066-10-14T09:00:00Z/P1D", "the year 1066", "1900 to 8999"),
        ("R/9999-12-31T23:59:59Z/P1D", "the year 9999", "1900 to 8999"),
        ("R/2026-01-01T00:00:00Z/2026-01-02T00:00:00Z", "period: '2026-01-02", "such as P1D"),
        ("R//P", "period: 'P' can't be read", "P1D"),
        ("R//P1DT", "period: 'P1DT' can't be read", "P1D"),
        ("R//1D", "period: '1D' can't be read", "P1D"),
        ("R//P1H", "period: 'P1H' can't be read", "PT1H30M"),
        ("R//P0.5D", "period: 'P0.5D' can't be read", "fractions in hours"),
        ("R//-P1D", "period: '-P1D' can't be read", "P1D"),
        ("R//P0D", "period: too short", "one second"),
        ("R//PT0.999S", "period: too short", "one second"),
        ("R//P99999Y", "too long", "thousand years"),
        ("@every", "@every: '' can't be read", "@every 5m"),
        ("@every 5", "@every: '5' can't be read", "@every 5m"),
        ("@every 1d", "@every: '1d' can't be read", "h, m, s"),
        ("@every -5m", "@every: '-5m' can't be read", "@every 5m"),
        ("@every 500ms", "too short", "one second"),
    ],
)
def test_what_is_wrong_is_said(text: str, problem: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse(text)
    (found,) = raised.value.problems
    assert found.field == "schedule"
    assert problem in found.problem
    assert expected in found.expected


@pytest.mark.parametrize(
    ("text", "anchored"),
    [
        ("R5//PT1M", "R5/2026-01-01T00:00:01Z/PT1M"),
        ("R//P1M", "R/2026-01-01T00:00:01Z/P1M"),
        ("R//P1Y2M1W3DT4H5M6.5S", "R/2026-01-01T00:00:01Z/P14M10DT4H5M6.5S"),
        ("@every 5m", "R/2026-01-01T00:05:00Z/PT5M"),
        ("@Every  5m", "R/2026-01-01T00:05:00Z/PT5M"),
        ("@every 1h30m", "R/2026-01-01T01:30:00Z/PT1H30M"),
        ("@every 1.5s", "R/2026-01-01T00:00:01.500000Z/PT1.5S"),
        ("@every 36h", "R/2026-01-02T12:00:00Z/PT36H"),
    ],
)
@pytest.mark.parametrize("part", [0.0, 0.75])
def test_a_missing_start_is_filled_in(text: str, anchored: str, part: float) -> None:
    now = utc("2026-01-01") + part
    schedule = parse(text)
    assert schedule.anchored(now) == anchored
    again = parse(anchored)
    assert again.anchored(now + 1e6) == anchored == str(again)
    # The first run is still to come, and an unanchored schedule means the same one.
    first = again.after(now)
    assert first is not None and first > now and first == schedule.after(now)
    assert told(first) == told(utc(anchored.split("/")[1]))
    assert schedule.between(now, now + 1e9, 2) == again.between(now, now + 1e9, 2)


@settings(deadline=None)
@given(
    st.floats(0, 4e9),
    st.integers(1, 10**8).map(lambda thousandths: 1 + thousandths / 1000),
    st.integers(0, 10**7),
)
def test_every_keeps_its_grid(now: float, seconds: float, number: int) -> None:
    schedule = parse(parse(f"@every {seconds:.3f}s").anchored(now))
    first = schedule.after(now)
    assert first is not None
    later = first + number * round(seconds, 3)
    if later < utc("8000-01-01"):
        found = schedule.after(later - 0.4)
        assert found is not None and abs(found - later) < 1e-3
    assert len(list(islice(targets(schedule, now), 50))) == 50
