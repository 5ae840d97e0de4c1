"""Texts of durations, scalars and times as Mesos writes and reads them."""

from __future__ import annotations

import re

from libs.minimesos.errors import ConfigError

_UNITS_S: dict[str, float] = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "secs": 1.0,
    "mins": 60.0,
    "hrs": 3600.0,
    "days": 86400.0,
    "weeks": 604800.0,
}
_DURATION = re.compile(r"^(-?\d+(?:\.\d+)?)(ns|us|ms|secs|mins|hrs|days|weeks)$")
NS_PER_S = 1_000_000_000


def parse_duration_s(text: str) -> float:
    """Seconds in `text` such as `15secs`, `5mins` or `500ms`. Raises ConfigError."""
    match = _DURATION.match(text.strip())
    if match is None:
        raise ConfigError(f"'{text}' is not a duration such as 15secs, 5mins or 500ms")
    return float(match.group(1)) * _UNITS_S[match.group(2)]


def format_duration(seconds: float) -> str:
    """The text of a duration in the largest unit that divides it, as Mesos prints it."""
    if seconds == 0:
        return "0ns"
    for unit in ("weeks", "days", "hrs", "mins", "secs", "ms", "us"):
        value = seconds / _UNITS_S[unit]
        if abs(value) >= 1:
            rounded = round(value, 9)
            if unit != "secs" and rounded != int(rounded) and unit not in ("ms", "us"):
                continue
            return f"{format_scalar(rounded)}{unit}"
    return f"{round(seconds * NS_PER_S)}ns"


def format_scalar(value: float) -> str:
    """A number without a needless `.0`."""
    return str(int(value)) if value == int(value) else repr(value)


def nanoseconds(seconds: float) -> dict[str, int]:
    """A TimeInfo or DurationInfo message."""
    return {"nanoseconds": round(seconds * NS_PER_S)}


def words(text: str) -> tuple[str, ...]:
    """The words of `text`: keeps long tables of names readable."""
    return tuple(text.split())
