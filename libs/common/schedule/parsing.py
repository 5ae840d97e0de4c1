"""Which of the three languages a text is in."""

from __future__ import annotations

from libs.common.errors import InvalidInput
from libs.common.schedule import fields, intervals, zones
from libs.common.schedule.base import Schedule
from libs.common.schedule.crontab import Elapsed, Fixed

LONGEST = 200
"""Characters of a text, as `JobSpec.schedule` has it."""
NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
    "@minutely": "* * * * *",
}
_FORMS = (
    "crontab of 5 or 6 fields (seconds first), @hourly, @every 5m, or Rn/start/period (ISO 8601)"
)


def parse(text: str, zone: str = "UTC", *, salt: str = "") -> Schedule:
    """The schedule that `text` means in the time zone of that IANA name.

    `salt`, such as `bu/job`, is what jitter (`H`, `~`) is drawn from. Raises InvalidInput, field `schedule` or
    `time_zone`, for what can't be read and for what never fires.
    """
    where = zones.zone(zone)
    if len(text) > LONGEST:
        raise InvalidInput.of("schedule", f"{len(text)} characters", f"at most {LONGEST}")
    words = text.split()
    tidy = " ".join(words)
    match words:
        case []:
            raise InvalidInput.of("schedule", "empty", _FORMS)
        case [first, *_] if "=" in first:
            raise InvalidInput.of("schedule", f"{first} can't stand here", "the field `time_zone`")
        case [every, *given] if every.lower() == "@every":
            return intervals.every(" ".join(("@every", *given)), where)
        case [name] if name.startswith("@"):
            if name.lower() not in NAMED:
                known = ", ".join((*NAMED, "@every 5m"))
                raise InvalidInput.of("schedule", f"{name} is not known", known)
            return _crontab(tidy, NAMED[name.lower()].split(), where, salt)
        case [first, *_] if first.startswith(("R", "P")):
            return intervals.interval(tidy, where)
        case [_, _, _, _, _] | [_, _, _, _, _, _]:
            return _crontab(tidy, words, where, salt)
        case _:
            raise InvalidInput.of("schedule", f"{len(words)} fields", _FORMS)


def _crontab(text: str, words: list[str], where: zones.Zone, salt: str) -> Schedule:
    calendar, elapsed = fields.read(words if len(words) == 6 else ["0", *words], salt)
    return (Elapsed if elapsed else Fixed)(text, calendar, where)
