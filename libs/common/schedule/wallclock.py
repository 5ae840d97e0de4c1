"""Which local seconds a crontab line names, forwards and backwards.

Sets of numbers are bit masks: bit n is set when n is in. A search looks at months, then days, then the time of day, so
that it costs about the same for every line.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import NamedTuple

DAY_S = 86_400
LOOK_MONTHS = 12 * 50
"""So far a search goes. The rarest line that fires at all, a 29 February on a given weekday, does within 40 years."""
_EPOCH = date(1970, 1, 1).toordinal()
_FIRST_YEAR, _LAST_YEAR = 1890, 9010


class Days(NamedTuple):
    """The days of a month that match: by their date, by their weekday (0 is Sunday), or by both."""

    dates: int
    last: bool = False
    last_working: bool = False
    weekdays: int = 0
    last_weekdays: int = 0
    nth_weekdays: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    both: bool = True


@dataclass(frozen=True, slots=True)
class Calendar:
    """The six fields of a line, read."""

    seconds: int
    minutes: int
    hours: int
    days: Days
    months: int

    def ceil(self, local: int) -> int | None:
        """The first local second that matches, not before `local`."""
        day, second = divmod(local, DAY_S)
        found = self._day_from(day)
        if found == day:
            time = self._time_from(second)
            if time >= 0:
                return day * DAY_S + time
            found = self._day_from(day + 1)
        return None if found is None else found * DAY_S + self._time_from(0)

    def floor(self, local: int) -> int | None:
        """The last local second that matches, not after `local`."""
        day, second = divmod(local, DAY_S)
        found = self._day_to(day)
        if found == day:
            time = self._time_to(second)
            if time >= 0:
                return day * DAY_S + time
            found = self._day_to(day - 1)
        return None if found is None else found * DAY_S + self._time_to(DAY_S - 1)

    def possible(self) -> bool:
        """Whether any day matches: every month begins with every weekday some year, Februaries of 29 days too."""
        # 2024 is a leap year, so these are the longest that months get.
        lengths = {_month(2024, month)[1] for month in range(1, 13) if self.months >> month & 1}
        return any(_matching(self.days, first, most) for most in lengths for first in range(7))

    def _time_from(self, second: int) -> int:
        """The first matching second of the day from `second` on, or -1."""
        hour, minute, second = second // 3600, second // 60 % 60, second % 60
        if self.hours >> hour & 1:
            if self.minutes >> minute & 1:
                found = _low(self.seconds, second)
                if found >= 0:
                    return hour * 3600 + minute * 60 + found
            minute = _low(self.minutes, minute + 1)
            if minute >= 0:
                return hour * 3600 + minute * 60 + _low(self.seconds, 0)
        hour = _low(self.hours, hour + 1)
        if hour < 0:
            return -1
        return hour * 3600 + _low(self.minutes, 0) * 60 + _low(self.seconds, 0)

    def _time_to(self, second: int) -> int:
        """The last matching second of the day up to `second`, or -1."""
        hour, minute, second = second // 3600, second // 60 % 60, second % 60
        if self.hours >> hour & 1:
            if self.minutes >> minute & 1:
                found = _high(self.seconds, second)
                if found >= 0:
                    return hour * 3600 + minute * 60 + found
            minute = _high(self.minutes, minute - 1)
            if minute >= 0:
                return hour * 3600 + minute * 60 + _high(self.seconds, 59)
        hour = _high(self.hours, hour - 1)
        if hour < 0:
            return -1
        return hour * 3600 + _high(self.minutes, 59) * 60 + _high(self.seconds, 59)

    def _day_from(self, day: int) -> int | None:
        """The first matching day from `day` (days since 1970) on."""
        at = date.fromordinal(day + _EPOCH)
        year, month, least = at.year, at.month, at.day
        for _ in range(LOOK_MONTHS):
            if self.months >> month & 1:
                found = _low(_days(self.days, year, month), least)
                if found > 0:
                    return date(year, month, found).toordinal() - _EPOCH
            least = 1
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
            if year > _LAST_YEAR:
                break
        return None

    def _day_to(self, day: int) -> int | None:
        """The last matching day up to `day`."""
        at = date.fromordinal(day + _EPOCH)
        year, month, most = at.year, at.month, at.day
        for _ in range(LOOK_MONTHS):
            if self.months >> month & 1:
                found = _high(_days(self.days, year, month), most)
                if found > 0:
                    return date(year, month, found).toordinal() - _EPOCH
            most = 31
            year, month = (year, month - 1) if month > 1 else (year - 1, 12)
            if year < _FIRST_YEAR:
                break
        return None


def _low(mask: int, at_least: int) -> int:
    """The lowest bit that is set from `at_least` on, or -1."""
    rest = mask >> at_least
    return at_least + (rest & -rest).bit_length() - 1 if rest else -1


def _high(mask: int, at_most: int) -> int:
    """The highest bit that is set up to `at_most`, or -1; `at_most` may be -1."""
    return (mask & ((2 << at_most) - 1 if at_most >= 0 else 0)).bit_length() - 1


@lru_cache(maxsize=4096)
def _month(year: int, month: int) -> tuple[int, int]:
    """The weekday (0 is Sunday) of a month's first day, and how many it has."""
    first, length = calendar.monthrange(year, month)
    return (first + 1) % 7, length


def _days(days: Days, year: int, month: int) -> int:
    return _matching(days, *_month(year, month))


@lru_cache(maxsize=16_384)
def _matching(days: Days, first: int, length: int) -> int:
    """The dates that match in a month of so many days which begins with that weekday. There are 28 kinds of months."""
    found = 0
    last_working = length - {6: 1, 0: 2}.get((first + length - 1) % 7, 0)
    for day in range(1, length + 1):
        weekday = (first + day - 1) % 7
        by_date = (
            days.dates >> day & 1
            or (days.last and day == length)
            or (days.last_working and day == last_working)
        )
        by_weekday = (
            days.weekdays >> weekday & 1
            or (days.last_weekdays >> weekday & 1 and day + 7 > length)
            or days.nth_weekdays[(day - 1) // 7] >> weekday & 1
        )
        if (by_date and by_weekday) if days.both else (by_date or by_weekday):
            found |= 1 << day
    return found
