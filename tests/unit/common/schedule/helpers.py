"""Times that people read, and schedules asked many times."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from libs.common.schedule import Schedule, parse


def utc(text: str) -> float:
    """The moment of an ISO time; without an offset it is UTC."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def told(t: float, zone: str = "UTC") -> str:
    """A moment as `2026-03-29 03:00+02:00`, with seconds and fractions where there are any."""
    at = datetime.fromtimestamp(t, ZoneInfo(zone))
    precision = "minutes" if not (at.second or at.microsecond) else "auto"
    text = at.isoformat(" ", precision)
    return text.replace("+00:00", "Z")


def targets(schedule: Schedule, t: float) -> Iterator[float]:
    """All targets after `t`, by asking again and again."""
    at = schedule.after(t)
    while at is not None:
        assert at > t
        yield at
        t, at = at, schedule.after(at)


def runs(text: str, zone: str, first: str, number: int = 5, salt: str = "") -> list[str]:
    """The first targets from `first` on, as the wall clock of that zone shows them."""
    schedule = parse(text, zone, salt=salt)
    start = datetime.fromisoformat(first)
    if start.tzinfo is None:
        start = start.replace(tzinfo=ZoneInfo(zone))
    return [told(t, zone) for t in islice(targets(schedule, start.timestamp() - 1e-3), number)]


def minutes(zone: str, first: datetime, days: int) -> list[tuple[int, datetime]]:
    """Each minute of so many days as the second of UTC and the naive local time, straight from zoneinfo."""
    begin, info = int(first.replace(tzinfo=UTC).timestamp()), ZoneInfo(zone)
    return [
        (t, datetime.fromtimestamp(t, info).replace(tzinfo=None))
        for t in range(begin, begin + int(timedelta(days=days).total_seconds()), 60)
    ]
