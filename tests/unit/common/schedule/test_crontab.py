"""Lines against references that walk every minute, and the promises that every schedule keeps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.schedule import Schedule, parse
from tests.unit.common.schedule.helpers import minutes, targets

local = datetime.fromisoformat  # on the wall clock, so without an offset
ZONES = {
    # A day or more before a change of the offset: forwards, back.
    "Europe/Berlin": (local("2026-03-28"), local("2026-10-24")),
    "America/New_York": (local("2026-03-07"), local("2026-10-31")),
    "Australia/Lord_Howe": (local("2026-10-02T12"), local("2026-04-03T12")),
    "Australia/Sydney": (local("2026-10-02T12"), local("2026-04-03T12")),
    "America/Santiago": (local("2026-09-05"), local("2026-04-04")),  # at midnight
    "Pacific/Apia": (local("2011-12-29"),),  # a day was left out
    "Asia/Kathmandu": (local("1985-12-31"),),  # 15 minutes were
    "UTC": (local("2026-03-28"),),
}
OLDEST, NEWEST = local("1990-01-01"), local("2060-01-01")
moments = st.datetimes(OLDEST, NEWEST, timezones=st.just(UTC)).map(datetime.timestamp)


@dataclass(frozen=True)
class Field:
    """A field as text, and what it means: the two are made together, so that nobody parses."""

    text: str
    values: frozenset[int]


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> Field:
    """`*`, a step, or a list of values, ranges and stepped ranges."""
    if draw(st.booleans()):
        step = draw(st.integers(1, high))
        return Field(f"*/{step}" if step > 1 else "*", frozenset(range(low, high + 1, step)))
    terms: list[str] = []
    values: set[int] = set()
    for _ in range(draw(st.integers(1, 3))):
        first, last = sorted(draw(st.tuples(*[st.integers(low, high)] * 2)))
        step = draw(st.integers(1, 10))
        terms.append(str(first) if first == last else f"{first}-{last}/{step}")
        values |= {first} if first == last else set(range(first, last + 1, step))
    return Field(",".join(terms), frozenset(values))


@dataclass(frozen=True)
class Line:
    """A crontab line as text, and the times it names."""

    text: str
    seconds: frozenset[int]
    minutes: Field
    hours: Field
    days: Field
    months: Field
    weekdays: Field

    def names_day(self, day: date) -> bool:
        by_date, by_weekday = (
            day.day in self.days.values,
            day.isoweekday() % 7 in self.weekdays.values,
        )
        both = self.days.text.startswith("*") or self.weekdays.text.startswith("*")
        return day.month in self.months.values and (
            (by_date and by_weekday) if both else (by_date or by_weekday)
        )

    def names(self, at: datetime) -> bool:
        return (
            at.minute in self.minutes.values
            and at.hour in self.hours.values
            and self.names_day(at.date())
        )

    def elapsed(self) -> bool:
        return (
            self.minutes.text.startswith("*")
            or self.hours.text.startswith("*")
            or len(self.minutes.values) == 60
            or len(self.hours.values) == 24
        )


ANY = Field("*", frozenset(range(32)))


@st.composite
def lines(draw: st.DrawFn, *, seconds: bool = False) -> Line:
    minute, hour = draw(fields(0, 59)), draw(fields(0, 23))
    # What no month has is refused, and another test's matter.
    day = draw(st.one_of(st.just(ANY), fields(1, 31).filter(lambda each: min(each.values) <= 28)))
    month = draw(st.one_of(st.just(ANY), fields(1, 12)))
    weekday = draw(st.one_of(st.just(ANY), fields(0, 6)))
    second = draw(fields(0, 59)) if seconds else Field("0", frozenset({0}))
    text = f"{minute.text} {hour.text} {day.text} {month.text} {weekday.text}"
    text = f"{second.text} {text}" if seconds else text
    return Line(text, second.values, minute, hour, day, month, weekday)


@settings(deadline=None)
@given(lines(seconds=True), moments)
def test_in_utc_it_is_what_a_walk_over_days_finds(line: Line, t: float) -> None:
    found = parse(line.text).after(t)
    at = datetime.fromtimestamp(t, UTC)
    day = at.date()
    for _ in range(366 * 9):
        if line.names_day(day):
            for hour in sorted(line.hours.values):
                for minute in sorted(line.minutes.values):
                    for second in sorted(line.seconds):
                        expected = datetime(
                            day.year, day.month, day.day, hour, minute, second, tzinfo=UTC
                        )
                        if expected > at:
                            assert found == expected.timestamp()
                            return
        day += timedelta(days=1)
    raise AssertionError("the reference finds nothing")


def _elapsed(line: Line, walk: list[tuple[int, datetime]]) -> list[float]:
    return [float(t) for t, shown in walk if line.names(shown)]


def _fixed(line: Line, walk: list[tuple[int, datetime]]) -> list[float]:
    """Each local minute between the ends of the walk, existing or not, at the first moment that has reached it."""
    found: set[float] = set()
    reached = walk[0][1]
    for t, shown in walk[1:]:
        while reached < shown:
            reached += timedelta(minutes=1)
            if line.names(reached):
                found.add(float(t))
    return sorted(found)


WALKS = {
    (zone, start): minutes(zone, start, 3) for zone, starts in ZONES.items() for start in starts
}


@settings(deadline=None)
@given(lines(), st.sampled_from(sorted(WALKS)))
def test_over_a_change_of_the_clock_it_is_what_a_walk_over_minutes_finds(
    line: Line, where: tuple[str, datetime]
) -> None:
    walk = WALKS[where]
    expected = (_elapsed if line.elapsed() else _fixed)(line, walk)
    schedule, first, last = parse(line.text, where[0]), walk[0][0], walk[-1][0]
    assert schedule.between(first, last, 10_000) == [t for t in expected if t > first]
    t = schedule.after(first)
    assert [at for at in expected if at > first][:1] == ([t] if t is not None and t <= last else [])


def schedules() -> st.SearchStrategy[Schedule]:
    """Lines and intervals of all kinds, in all zones."""
    intervals = st.sampled_from(
        [
            *(
                "R/1999-12-31T02:30:00/P1M",
                "R7/2026-03-28T02:30:00/P1D",
                "R/2026-03-29T02:30/PT17M",
            ),
            *("R/2011-12-01T00:00:00/P1D", "R/1985-12-01T00:05:00.25/P1DT1H", "R0/2026-01-01/P1Y"),
            *("R3/2030-01-31T00:00:00Z/P1Y1M", "R/2024-02-29T12:00Z/P1Y", "R/2000-01-01/PT1S"),
        ]
    )
    special = st.sampled_from(
        [
            *("30 2 L * *", "H H LW * *", "0 0 * * 1#5", "H/7 * * * sat#1", "*/7 30 1,2 29 2 *"),
            *("@hourly", "0 2,3 * * *", "* * * * * *", "0 0 29 2 1#5", "0 12 30 12 *"),
        ]
    )
    texts = st.one_of(lines(seconds=True).map(lambda line: line.text), special, intervals)
    return st.builds(
        lambda text, zone: parse(text, zone, salt="acme/a"), texts, st.sampled_from(sorted(ZONES))
    )


near = st.one_of(
    moments,
    # Around the changes, where faults would be.
    st.builds(
        lambda walk, minute, rest: WALKS[walk][minute][0] + rest,
        st.sampled_from(sorted(WALKS)),
        st.integers(0, 3 * 1440 - 1),
        st.floats(-60, 60),
    ),
)


@settings(deadline=None)
@given(schedules(), near)
def test_after_rises_strictly_and_is_pure(schedule: Schedule, t: float) -> None:
    found = list(islice(targets(schedule, t), 20))  # asserts that each is later
    assert found == list(islice(targets(schedule, t), 20))
    if found:
        assert schedule.after(found[0] - 1e-3) == found[0]
        assert schedule.after((t + found[0]) / 2) in found[:2]


@settings(deadline=None)
@given(schedules(), near, st.integers(0, 30), st.integers(1, 12))
def test_between_is_what_asking_again_and_again_gives(
    schedule: Schedule, t: float, number: int, limit: int
) -> None:
    found = list(islice(targets(schedule, t), number))
    until = found[-1] if found else t
    assert schedule.between(t, until, 1000) == found
    assert schedule.between(t, until, limit) == found[-limit:]
    assert schedule.between(until, t, limit) == []


@pytest.mark.parametrize("text", ["* * * * * *", "* * 3 * 2 *", "R/1990-01-01T00:00:00Z/PT1S"])
def test_between_costs_as_much_as_it_gives(text: str) -> None:
    # Forwards these are up to three billion.
    found = parse(text).between(0.0, 4e9, 3)
    assert len(found) == 3 and found[0] > 3.9e9


@pytest.mark.parametrize(
    "text",
    [
        "* * * * *",
        "0 0 1 1 *",
        "R/1950-01-01/P1D",
        "R/1950-01-01/PT1H",
        "R//P999Y",
        "@every 8784000h",
    ],
)
def test_any_moment_may_be_asked(text: str) -> None:
    schedule = parse(text, "Europe/Berlin")
    first = schedule.after(float("-inf"))
    assert first is not None and first == schedule.after(-1e15)
    assert schedule.after(float("inf")) is None
    assert schedule.after(1e15) is None
    last = schedule.between(float("-inf"), float("inf"), 1)
    assert len(last) == 1
    if schedule.anchored(0.0) == text:
        assert schedule.after(last[0]) is None


# In Lord Howe cronsim 2.8 loses targets: it steps by hours over a change of half of one.
@settings(deadline=None)
@given(
    lines(), near, st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Sydney"])
)
def test_cronsim_agrees(line: Line, t: float, zone: str) -> None:
    cronsim = pytest.importorskip("cronsim")
    iterator = cronsim.CronSim(line.text, datetime.fromtimestamp(t, ZoneInfo(zone)))
    expected = [each.timestamp() for each in islice(iterator, 5)]
    assert list(islice(targets(parse(line.text, zone), t), 5)) == expected
