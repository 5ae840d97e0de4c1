"""Local time and back, by the stretches between two changes of a zone's offset.

A `Zone` answers with plain integers, which is several times faster than `datetime` and says what that hides: which
local times do not exist, and which come twice. "Local seconds" are seconds since 1970-01-01 00:00 on the wall clock.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib import resources

from libs.common.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}", re.ASCII)
_NOT_IANA = ("right/", "posix/", "localtime", "posixrules", "Factory")
_STEP_S = 1 << 16  # no zone changes its offset and back within 18 hours
_BLOCK_S = _STEP_S << 9
_OVERLAP_S = 3 * _STEP_S  # a block knows what changed shortly before it
_AHEAD_S = 54_000  # no zone is more than 15 hours before UTC


@dataclass(frozen=True, slots=True)
class Stretch:
    """Seconds [start, end) of UTC in which local time is UTC plus `offset`; `before` is the offset before it.

    It need not be as long as it could: what is longer than a year comes in several.
    """

    start: int
    end: int
    offset: int
    before: int


class Zone:
    """A time zone. Two of the same name are one object, so they are equal and cheap to keep."""

    def __init__(self, name: str, info: zoneinfo.ZoneInfo) -> None:
        self.name = name
        self.info = info

    def __repr__(self) -> str:
        return f"Zone({self.name!r})"

    def at(self, second: int) -> Stretch:
        """The stretch that `second` of UTC is in."""
        starts, stretches = _block(self.info, second // _BLOCK_S)
        return stretches[bisect_right(starts, second) - 1]

    def first(self, local: int) -> int:
        """The second of UTC at which the wall clock shows `local` first; the end of the gap if it never does."""
        stretch = self.at(local - _AHEAD_S)
        while local >= stretch.end + stretch.offset:
            stretch = self.at(stretch.end)
        return max(local - stretch.offset, stretch.start)


def zone(name: str) -> Zone:
    """The zone of that IANA name. Raises InvalidInput, field `time_zone`."""
    if _NAME.fullmatch(name) and not name.startswith(_NOT_IANA):
        try:
            return _zone(name)
        except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError):
            pass
    likely = difflib.get_close_matches(name[:64].lower(), _names(), n=1)
    expected = f"{_names()[likely[0]]}, perhaps?" if likely else "such as Europe/Berlin, or UTC"
    raise InvalidInput.of("time_zone", f"{name[:64]!r} is not the name of a time zone", expected)


@lru_cache(maxsize=1024)
def _zone(name: str) -> Zone:
    return Zone(name, _load(name))


def _load(name: str) -> zoneinfo.ZoneInfo:
    # The package first, which the lock pins: two schedulers must not differ because their machines do.
    try:
        root = resources.files("tzdata.zoneinfo")
    except ModuleNotFoundError:
        return zoneinfo.ZoneInfo(name)
    with root.joinpath(*name.split("/")).open("rb") as file:
        return zoneinfo.ZoneInfo.from_file(file, key=name)


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    return {name.lower(): name for name in sorted(zoneinfo.available_timezones())}


@lru_cache(maxsize=8192)
def _block(info: zoneinfo.ZoneInfo, number: int) -> tuple[list[int], list[Stretch]]:
    """The stretches of block `number`, and their starts; the first begins somewhat before the block."""
    first, end = number * _BLOCK_S - _OVERLAP_S, (number + 1) * _BLOCK_S
    changes = [(first, _offset(info, first))]
    for second in range(first + _STEP_S, end + 1, _STEP_S):
        offset = _offset(info, second)
        if offset != changes[-1][1]:
            changes.append((_change(info, second - _STEP_S, second), offset))
    ends = [start for start, _ in changes[1:]] + [end]
    stretches: list[Stretch] = []
    for (start, offset), until in zip(changes, ends, strict=True):
        before = stretches[-1].offset if stretches else offset
        if start < end:
            stretches.append(Stretch(start, until, offset, before))
    return [each.start for each in stretches], stretches


def _change(info: zoneinfo.ZoneInfo, low: int, high: int) -> int:
    """The first second after `low`, up to `high`, at which the offset is that of `high`."""
    new = _offset(info, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _offset(info, middle) == new else (middle, high)
    return high


def _offset(info: zoneinfo.ZoneInfo, second: int) -> int:
    offset = datetime.fromtimestamp(second, info).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())
