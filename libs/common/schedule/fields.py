"""The fields of a crontab line, from text to masks.

    field    = term *("," term)
    term     = base ["/" step]
    base     = "*" | "?" | value | value "-" value | "H" | "H(" value "-" value ")" | "~" | value "~" value
             | "L" | "LW"                            (day of the month)
             | value "L" | value "#" 1..5            (day of the week)

`H` (Jenkins) and `~` (dkron, OpenBSD) stand for a value that a job has for itself: the same always, for different jobs
spread evenly. It is drawn from a hash of the job's name, the field and the place of the term in it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import NoReturn

from libs.common.errors import InvalidInput
from libs.common.schedule.wallclock import Calendar, Days

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_TERM = re.compile(r"(?P<base>[^/]+)(/(?P<step>[0-9]{1,4}))?", re.ASCII)
_HASH = re.compile(r"h(\((?P<low>\w+)-(?P<high>\w+)\))?|(?P<from>\w+)?~(?P<to>\w+)?", re.ASCII)
_RANGE = re.compile(r"(?P<low>\w+)-(?P<high>\w+)", re.ASCII)
_NTH = re.compile(r"(?P<day>\w+)#(?P<nth>[0-9]+)", re.ASCII)


@dataclass(frozen=True)
class Kind:
    """One of the six fields: its name, its bounds, names of its values, and where jitter may fall."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    jitter_high: int | None = None

    def refuse(self, problem: str, expected: str = "") -> NoReturn:
        raise InvalidInput.of("schedule", f"{self.name}: {problem}", expected or self.bounds())

    def bounds(self) -> str:
        names = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
        return f"{self.low} to {self.high}{names}, `*`, lists, ranges `a-b`, steps `*/n`, or `H`"

    def value(self, text: str) -> int:
        if text in self.names:
            return self.names.index(text) + self.low
        if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII):
            self.refuse(f"{text!r} is not a value")
        if not self.low <= int(text) <= self.high:
            self.refuse(f"{text} is out of bounds")
        return int(text)

    def span(self, low: str, high: str) -> range:
        first, last = self.value(low), self.value(high)
        if self is WEEKDAY and last == 0 < first:
            last = 7  # fri-sun
        if last < first:
            here = f"{first}-{self.high},{self.low}-{last}"
            self.refuse(f"{low}-{high} goes backwards", f"the smaller value first, or {here}")
        return range(first, last + 1)


SECOND = Kind("second", 0, 59)
MINUTE = Kind("minute", 0, 59)
HOUR = Kind("hour", 0, 23)
# No jitter beyond the 28th and Sunday's second number: it would miss months, and favour a day.
DATE = Kind("day of the month", 1, 31, jitter_high=28)
MONTH = Kind("month", 1, 12, _MONTHS)
WEEKDAY = Kind("day of the week", 0, 7, _WEEKDAYS, jitter_high=6)
KINDS = (SECOND, MINUTE, HOUR, DATE, MONTH, WEEKDAY)


@dataclass
class _Read:
    """What the terms of a field have named so far; `open` if it begins as one that names no fixed values."""

    mask: int = 0
    last: bool = False
    last_working: bool = False
    last_weekdays: int = 0
    nth_weekdays: list[int] = field(default_factory=lambda: [0] * 5)
    open: bool = False


def read(texts: list[str], salt: str) -> tuple[Calendar, bool]:
    """Six fields as a calendar, and whether the line follows elapsed time (docs/cron.md) rather than fixed times.

    Raises InvalidInput, field `schedule`, whose problem begins with the name of the wrong field.
    """
    second, minute, hour, day, month, weekday = (
        _field(kind, text.lower(), salt) for kind, text in zip(KINDS, texts, strict=True)
    )
    days = Days(
        dates=day.mask,
        last=day.last,
        last_working=day.last_working,
        weekdays=(weekday.mask | weekday.mask >> 7) & 0x7F,
        last_weekdays=(weekday.last_weekdays | weekday.last_weekdays >> 7) & 0x7F,
        nth_weekdays=_five([(each | each >> 7) & 0x7F for each in weekday.nth_weekdays]),
        both=day.open or weekday.open,
    )
    line = Calendar(second.mask, minute.mask, hour.mask, days, month.mask)
    if not line.possible():
        what = f"{texts[3]} {texts[4]} {texts[5]}"
        raise InvalidInput.of("schedule", f"no day is ever `{what}`", "a day that a month has")
    elapsed = minute.open or hour.open or minute.mask == (1 << 60) - 1 or hour.mask == (1 << 24) - 1
    return line, elapsed


def _five(masks: list[int]) -> tuple[int, int, int, int, int]:
    one, two, three, four, five = masks
    return one, two, three, four, five


def _field(kind: Kind, text: str, salt: str) -> _Read:
    into = _Read(open=text.startswith(("*", "?", "h/", "~/")))
    for place, term in enumerate(text.split(",")):
        parts = _TERM.fullmatch(term)
        if not parts:
            kind.refuse(f"{term or text!r} can't be read")
        step = int(parts["step"]) if parts["step"] else None
        if step == 0:
            kind.refuse("a step of 0", "a step of at least 1")
        if not _special(kind, parts["base"], step, into):
            for value in _plain(kind, parts["base"], step, f"{salt}\n{kind.name}\n{place}"):
                into.mask |= 1 << value
    return into


def _plain(kind: Kind, base: str, step: int | None, seed: str) -> range:
    """The values of a term that names numbers."""
    if base == "*" or (base == "?" and kind in (DATE, WEEKDAY)):
        high = 6 if kind is WEEKDAY else kind.high
        return range(kind.low, high + 1, step or 1)
    if match := _HASH.fullmatch(base):
        return _jitter(kind, match, step, seed)
    if match := _RANGE.fullmatch(base):
        span = kind.span(match["low"], match["high"])
        return span[:: step or 1]
    value = kind.value(base)
    return range(value, kind.high + 1, step) if step else range(value, value + 1)


def _jitter(kind: Kind, match: re.Match[str], step: int | None, seed: str) -> range:
    low, high = match["low"] or match["from"], match["high"] or match["to"]
    span = kind.span(
        low or str(kind.low), high or str(kind.high if low else kind.jitter_high or kind.high)
    )
    drawn = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    if step is None:
        value = span[drawn % len(span)]
        return range(value, value + 1)
    if step > len(span):
        kind.refuse(f"a step of {step} in {len(span)} values", "a step that is not longer")
    return span[drawn % step :: step]


def _special(kind: Kind, base: str, step: int | None, into: _Read) -> bool:
    """Takes a term that only the day fields have; False when it is none."""
    if kind is DATE and base in ("l", "lw"):
        into.last |= base == "l"
        into.last_working |= base == "lw"
    elif kind is WEEKDAY and (match := _NTH.fullmatch(base)):
        if not 1 <= int(match["nth"]) <= 5:
            kind.refuse(f"there is no {match['nth']}th of a weekday in a month", "#1 to #5")
        into.nth_weekdays[int(match["nth"]) - 1] |= 1 << kind.value(match["day"])
    elif kind is WEEKDAY and len(base) > 1 and base.endswith("l"):
        into.last_weekdays |= 1 << kind.value(base[:-1])
    else:
        return False
    if step is not None:
        kind.refuse(f"{base.upper()} has no steps", f"{base.upper()} alone")
    return True
