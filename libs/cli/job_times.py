"""When a job would run, worked out here: its next times in its own zone and in the reader's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from libs.common.errors import InvalidInput
from libs.common.jobs import JobSpec
from libs.common.schedule import parse

SHOWN = 5
_FORM = "%a %Y-%m-%d %H:%M:%S %Z"


def next_times(job: str, spec: JobSpec, now: float, count: int = SHOWN) -> list[float]:
    """The next targets after `now`, as if the job were put then; none without a schedule.

    Raises InvalidInput, field `schedule` or `time_zone`.
    """
    if spec.schedule is None:
        return []
    read = parse(spec.schedule, spec.time_zone, salt=job)
    schedule = parse(read.anchored(now), spec.time_zone, salt=job)
    times: list[float] = []
    while len(times) < count:
        found = schedule.after(times[-1] if times else now)
        if found is None:
            break
        times.append(found)
    return times


def zone_of(name: str) -> tzinfo | None:
    """The zone of that IANA name; None, this machine's, for "". Raises InvalidInput."""
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # not known, a directory of zones, not a name at all
        text, expected = f"{name!r} is not a time zone", "an IANA name such as Europe/Berlin"
        raise InvalidInput.of("--zone", text, expected) from None


def lines(times: Sequence[float], job_zone: str, zone: tzinfo | None) -> list[str]:
    """A line a time: in the job's zone and, where that is another wall clock, in the reader's."""
    shown = []
    for each in times:
        moment = datetime.fromtimestamp(each, UTC)
        there, here = moment.astimezone(ZoneInfo(job_zone)), moment.astimezone(zone)
        text = there.strftime(_FORM)
        if there.utcoffset() != here.utcoffset():
            text = f"{text}   {here.strftime(_FORM)}"
        shown.append(text)
    return shown
