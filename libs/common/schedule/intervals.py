"""ISO 8601 repetitions, `Rn/start/period`, and `@every`, by the rules of `docs/cron.md`.

The target with number k is start + k periods, computed from the start: nothing drifts, and two months after the 31st of
January is the 31st of March. Years, months, weeks and days are counted on the wall clock; hours, minutes and seconds
are time that passes (as RFC 5545 has it).
"""

from __future__ import annotations

import calendar
import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NoReturn

from libs.common.errors import InvalidInput
from libs.common.schedule.base import FIRST, LAST
from libs.common.schedule.wallclock import DAY_S
from libs.common.schedule.zones import Zone

_US = 1_000_000
_LONGEST_S = 1000 * 366 * DAY_S
_MONTH_US = 2_629_746 * _US  # the mean of 400 years
_EPOCH = date(1970, 1, 1).toordinal()
_FORM = "Rn/start/period, such as R/2026-01-31T09:00:00Z/P1D; Rn: n runs, R: no end"
_DURATION = re.compile(
    r"P(?:(?P<years>\d{1,5})Y)?(?:(?P<months>\d{1,5})M)?(?:(?P<weeks>\d{1,5})W)?(?:(?P<days>\d{1,6})D)?"
    r"(?P<time>T(?:(?P<hours>\d{1,9}(?:[.,]\d{1,9})?)H)?(?:(?P<minutes>\d{1,9}(?:[.,]\d{1,9})?)M)?"
    r"(?:(?P<seconds>\d{1,10}(?:[.,]\d{1,9})?)S)?)?",
    re.ASCII,
)
_START = re.compile(
    r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d)(?::?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"(?P<offset>Z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
_GO = re.compile(r"(?P<number>\d{1,10}(?:\.\d{1,9})?)(?P<unit>h|ms|m|s)", re.ASCII)
_UNITS_US = {"h": 3600 * _US, "m": 60 * _US, "s": _US, "ms": 1000}


@dataclass(frozen=True, slots=True)
class Period:
    """Months and days on the wall clock, and microseconds that pass."""

    months: int = 0
    days: int = 0
    exact_us: int = 0

    @property
    def mean_us(self) -> int:
        """How long one is, on average."""
        return self.months * _MONTH_US + self.days * DAY_S * _US + self.exact_us

    def __str__(self) -> str:
        hours, rest = divmod(self.exact_us, 3600 * _US)
        minutes, rest = divmod(rest, 60 * _US)
        seconds = f"{rest // _US}{f'.{rest % _US:06}'.rstrip('0') if rest % _US else ''}"
        time = ((hours, "H"), (minutes, "M"), (seconds if rest else 0, "S"))
        told = "".join(f"{number}{unit}" for number, unit in time if number)
        days = "".join(f"{n}{unit}" for n, unit in ((self.months, "M"), (self.days, "D")) if n)
        return f"P{days}{'T' if told else ''}{told}"


@dataclass(frozen=True, slots=True)
class Start:
    """When target 0 is: its moment, and the local second (with `fraction_us` after it) that days are counted from."""

    us: int
    local: int
    fraction_us: int


@dataclass(frozen=True, slots=True)
class Interval:
    """Targets 0 to `count` - 1 (None: no end) from `start` on. Those that fall on one moment are one."""

    text: str
    zone: Zone
    period: Period
    count: int | None
    start: Start

    def __str__(self) -> str:
        return self.text

    def anchored(self, now: float) -> str:
        return self.text

    def after(self, t: float) -> float | None:
        if t >= LAST:
            return None
        k = self._first_after(t)
        if self.count is not None and k >= self.count:
            return None
        found = self._target(k)
        return found if found <= LAST else None

    def between(self, after: float, until: float, limit: int) -> list[float]:
        k = self._first_after(min(until, LAST)) - 1
        if self.count is not None:
            k = min(k, self.count - 1)
        targets: list[float] = []
        while k >= 0 and len(targets) < limit:
            found = self._target(k)
            if found <= after:
                break
            if not targets or found < targets[-1]:
                targets.append(found)
            k -= 1
        return targets[::-1]

    def _first_after(self, t: float) -> int:
        """The number of the first target after `t`, were there no end."""
        if t < FIRST:
            return 0
        # Months differ by days, and zones move by 26 hours at most: early enough, by three or four at most.
        k = max(0, (math.floor(t * _US) - self.start.us) // self.period.mean_us - 1)
        while self._target(k) <= t:
            k += 1
        return k

    def _target(self, k: int) -> float:
        """When target `k` is; infinity beyond `LAST`."""
        start, period = self.start, self.period
        exact = k * period.exact_us
        if k == 0 or not (period.months or period.days):
            return (start.us + exact) / _US
        if start.us + k * period.mean_us > (LAST + 366 * DAY_S) * _US:
            return math.inf
        day, second = divmod(start.local, DAY_S)
        if period.months:
            day = _months_later(day, k * period.months)
        local = (day + k * period.days) * DAY_S + second
        return (self.zone.first(local) * _US + start.fraction_us + exact) / _US


@dataclass(frozen=True, slots=True)
class Floating:
    """An interval whose start is still to be filled in."""

    text: str
    zone: Zone
    period: Period
    count: int | None = None
    every: bool = False
    """`@every`: the first target is one period after now, and not now."""

    def __str__(self) -> str:
        return self.text

    def anchored(self, now: float) -> str:
        at = datetime(1970, 1, 1) + timedelta(microseconds=self._start_us(now))  # noqa: DTZ001 - told as UTC
        return f"R{'' if self.count is None else self.count}/{at.isoformat()}Z/{self.period}"

    def after(self, t: float) -> float | None:
        started = self._started(t)
        return None if started is None else started.after(t)

    def between(self, after: float, until: float, limit: int) -> list[float]:
        started = self._started(after)
        return [] if started is None else started.between(after, until, limit)

    def _start_us(self, now: float) -> int:
        # A whole second, so that people can read it; the next, so that the first target is still to come.
        return math.floor(now) * _US + (self.period.mean_us if self.every else _US)

    def _started(self, now: float) -> Interval | None:
        """What it is when anchored at `now`; None when that is later than anything."""
        us = self._start_us(min(max(now, FIRST), LAST))
        if us > LAST * _US:
            return None
        return Interval(self.text, self.zone, self.period, self.count, _moment(us, self.zone))


def _months_later(day: int, months: int) -> int:
    """The same day of the month so many months later, or the last one where the month is shorter."""
    at = date.fromordinal(day + _EPOCH)
    years, month = divmod(at.month - 1 + months, 12)
    length = calendar.monthrange(at.year + years, month + 1)[1]
    return date(at.year + years, month + 1, min(at.day, length)).toordinal() - _EPOCH


def interval(text: str, zone: Zone) -> Interval | Floating:
    """Reads `Rn/start/period`. Raises InvalidInput, field `schedule`, that says which of the three is wrong."""
    parts = text.split("/")
    if len(parts) != 3:
        _refuse(f"has {len(parts)} parts between slashes, and not 3", _FORM)
    if not re.fullmatch(r"R\d{0,9}", parts[0], re.ASCII):
        _refuse(f"repetition: {parts[0]!r} can't be read", "R (no end) or Rn, such as R5")
    count = int(parts[0][1:]) if len(parts[0]) > 1 else None
    if not parts[1]:
        return Floating(text, zone, _period(parts[2]), count)
    return Interval(text, zone, _period(parts[2]), count, _start(parts[1], zone))


def every(text: str, zone: Zone) -> Floating:
    """Reads `@every` and a Go duration, as robfig's cron and dkron have it. Raises InvalidInput."""
    duration = text.removeprefix("@every").strip()
    matches = list(_GO.finditer(duration))
    if not matches or "".join(match[0] for match in matches) != duration:
        _refuse(f"@every: {duration!r} can't be read", "h, m, s: such as @every 5m, @every 1h30m")
    exact = sum(_scaled(match["number"], _UNITS_US[match["unit"]]) for match in matches)
    return Floating(text, zone, _bounded(Period(exact_us=exact)), every=True)


def _period(text: str) -> Period:
    match = _DURATION.fullmatch(text)
    if not match or text == "P" or match["time"] == "T":
        hint = "such as P1D, PT15M, P1M, PT1H30M; fractions in hours, minutes and seconds only"
        _refuse(f"period: {text!r} can't be read", hint)

    def whole(name: str) -> int:
        return int(match[name] or 0)

    return _bounded(
        Period(
            months=12 * whole("years") + whole("months"),
            days=7 * whole("weeks") + whole("days"),
            exact_us=_scaled(match["hours"], 3600 * _US)
            + _scaled(match["minutes"], 60 * _US)
            + _scaled(match["seconds"], _US),
        )
    )


def _bounded(period: Period) -> Period:
    if not _US <= period.mean_us <= _LONGEST_S * _US:
        _refuse("period: too short or too long", "from one second (PT1S) to a thousand years")
    return period


def _scaled(number: str | None, unit_us: int) -> int:
    """A decimal number of units as microseconds, without floats."""
    whole, _, fraction = (number or "0").replace(",", ".").partition(".")
    return int(whole) * unit_us + int(fraction or 0) * unit_us // int(10 ** len(fraction))


def _start(text: str, zone: Zone) -> Start:
    match = _START.fullmatch(text)
    hint = "such as 2026-01-31T09:00:00Z, …+02:00, or without an offset: in time_zone"
    if not match:
        _refuse(f"start: {text!r} can't be read", hint)
    year, month, day, hour, minute, second = (
        int(match[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second")
    )
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        _refuse(f"start: {text!r}: {error}", hint)
    shown = (at.toordinal() - _EPOCH) * DAY_S + hour * 3600 + minute * 60 + second
    if not FIRST + DAY_S <= shown <= LAST - DAY_S:
        _refuse(f"start: the year {year}", "years 1900 to 8999")
    fraction = _scaled(f"0.{match['fraction'] or 0}", _US)
    if match["offset"]:
        return _moment((shown - _offset_s(match["offset"], hint)) * _US + fraction, zone)
    return Start(zone.first(shown) * _US + fraction, shown, fraction)


def _moment(us: int, zone: Zone) -> Start:
    """A start that is given as microseconds since the epoch."""
    second, fraction = divmod(us, _US)
    return Start(us, second + zone.at(second).offset, fraction)


def _offset_s(text: str, hint: str) -> int:
    if text == "Z":
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 15 or minutes > 59:
        _refuse(f"start: no zone has the offset {text}", hint)
    return (hours * 3600 + minutes * 60) * (-1 if text[0] == "-" else 1)


def _refuse(problem: str, expected: str) -> NoReturn:
    raise InvalidInput.of("schedule", problem, expected)
