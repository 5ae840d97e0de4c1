"""Schedules, durations and time zones in Chronos' words, and in ours.

Chronos counts runs: `R3` is three of them, `R0` none, `R` no end. Its `scheduleTimeZone` takes the place of whatever
offset stands in the schedule: the fields of the start are local time there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime

from libs.common.errors import InvalidInput
from libs.common.jobs import JobSpec
from libs.common.schedule import zones
from services.gateway.chronos.model import Version

NEVER = "R0//PT24H"
"""How a job that only runs when asked to is told of: Chronos knows no other job without parents."""
NOW = "R1//PT24H"
"""What a job means that comes with neither schedule nor parents."""
LONGEST_S = 366 * 86_400.0
_FORM = re.compile(r"(R[0-9]*)/(.*)/(P.*)", re.ASCII)
_OFFSET = re.compile(r"(?P<rest>.*T.*?)(Z|[+-]\d\d(:?\d\d)?)", re.ASCII)
_DURATION = re.compile(
    r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?"
    r"(T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:[.,]\d+)?)S)?)?",
    re.ASCII,
)
_UNITS_S = (365 * 86_400, 30 * 86_400, 7 * 86_400, 86_400, 3600, 60, 1)
# What java.util.TimeZone knows by three letters and IANA does not; java.time.ZoneId.SHORT_IDS lists them.
_JAVA: Mapping[str, str] = {
    "ACT": "Australia/Darwin", "AET": "Australia/Sydney", "AGT": "America/Argentina/Buenos_Aires",
    "ART": "Africa/Cairo", "AST": "America/Anchorage", "BET": "America/Sao_Paulo", "BST": "Asia/Dhaka",
    "CAT": "Africa/Harare", "CNT": "America/St_Johns", "CST": "America/Chicago", "CTT": "Asia/Shanghai",
    "EAT": "Africa/Addis_Ababa", "ECT": "Europe/Paris", "IET": "America/Indiana/Indianapolis",
    "IST": "Asia/Kolkata", "JST": "Asia/Tokyo", "MIT": "Pacific/Apia", "NET": "Asia/Yerevan",
    "NST": "Pacific/Auckland", "PLT": "Asia/Karachi", "PNT": "America/Phoenix", "PRT": "America/Puerto_Rico",
    "PST": "America/Los_Angeles", "SST": "Pacific/Guadalcanal", "VST": "Asia/Ho_Chi_Minh",
}  # fmt: skip
_CUSTOM = re.compile(r"GMT([+-])(\d{1,2}?)(?::?([0-5]\d))?", re.ASCII)
# IANA has no names for such offsets, but these places have them all the year.
_BETWEEN: Mapping[str, str] = {
    "+3:30": "Asia/Tehran", "+4:30": "Asia/Kabul", "+5:30": "Asia/Kolkata", "+5:45": "Asia/Kathmandu",
    "+6:30": "Asia/Yangon", "+8:45": "Australia/Eucla", "+9:30": "Australia/Darwin",
    "-9:30": "Pacific/Marquesas",
}  # fmt: skip


def our_schedule(text: str, zone: str) -> tuple[str | None, str]:
    """Schedule and IANA time zone of a JobSpec. Raises InvalidInput for what is not in Chronos' form.

    None for `R0`: it runs only when asked to. Whether times and periods are good is the scheduler's to say.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise InvalidInput.of("schedule", f"Cannot parse schedule '{text}'", "Rn/start/period")
    repetitions, start, period = match.groups()
    try:
        length_s = seconds(period)
    except InvalidInput:
        raise InvalidInput.of(
            "schedule", f"Cannot parse schedule '{text}'", "Rn/start/period"
        ) from None
    if repetitions.rstrip("0") == "R" and len(repetitions) > 1:
        return None, our_zone(zone)
    if length_s == 0 and repetitions.lstrip("R0") == "1":
        period = "PT24H"  # it is run once: how long until the next does not matter
    local = _OFFSET.fullmatch(start)
    if zone and local is not None:
        start = local["rest"]
    return f"{repetitions}/{start}/{period}", our_zone(zone)


def begins_at_put(text: str) -> bool:
    """Has a schedule of Chronos' no start: it begins when it is put, and again at each further put."""
    return "//" in text and text.startswith("R")


def begun(text: str, zone: str, now: float) -> str:
    """Such a schedule with the next second as its start, in the zone's own time. Raises InvalidInput for the zone."""
    repetitions, _, period = text.split("/")
    at = datetime.fromtimestamp(math.floor(now) + 1, zones.zone(zone).info)
    return f"{repetitions}/{at.isoformat().replace('+00:00', 'Z')}/{period}"


def since(spec: JobSpec, version: Version, now: float) -> float:
    """How far back times are made up for when a job is new, has another schedule, or is enabled.

    2.x runs what is no later than its epsilon; 3.x whatever is past, once for all times that are.
    """
    if version is Version.V3 or spec.start_deadline_s is None:
        return 0.0
    return now - spec.start_deadline_s


def our_zone(zone: str) -> str:
    """The IANA name of a time zone of Java's; "" is UTC. Whether there is one of that name, the scheduler says."""
    custom = _CUSTOM.fullmatch(zone)
    if custom is not None:
        sign, hours, minutes = custom[1], int(custom[2]), int(custom[3] or 0)
        if minutes:
            return _BETWEEN.get(f"{sign}{hours}:{minutes:02}", zone)
        # IANA's Etc/GMT-5 is five hours ahead of GMT, as POSIX counts.
        return f"Etc/GMT{'-' if sign == '+' else '+'}{hours}" if hours else "UTC"
    return _JAVA.get(zone, zone) or "UTC"


def seconds(duration: str, field: str = "epsilon") -> float:
    """The length of an ISO 8601 duration; a month is 30 days in it, a year 365. Raises InvalidInput."""
    match = _DURATION.fullmatch(duration)
    if match is None or duration[-1] in "PT":
        raise InvalidInput.of(
            field, f"{duration!r} is not a duration", "ISO 8601, such as PT15M or P1D"
        )
    numbers = (*match.groups()[:4], *match.groups()[5:])
    return sum(
        float((number or "0").replace(",", ".")) * unit_s
        for number, unit_s in zip(numbers, _UNITS_S, strict=True)
    )


def duration(length_s: float) -> str:
    """Seconds as ISO 8601."""
    return f"PT{length_s:.3f}".rstrip("0").rstrip(".") + "S"
