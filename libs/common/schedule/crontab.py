"""Crontab lines over a zone's changes, by the rules of `docs/cron.md`.

cronsim reads the same lines and agrees (the tests compare). It is not used here because it walks forwards from where it
was made: `between` goes backwards from its end, a line of six fields is to obey the same rules as one of five, changes
of half an hour are to lose nothing, and 50,000 jobs are to cost little: a question takes a tenth of the time or less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from libs.common.schedule.base import FIRST, LAST
from libs.common.schedule.wallclock import Calendar
from libs.common.schedule.zones import Zone


@dataclass(frozen=True, slots=True)
class _Line:
    """What both kinds of lines share. They differ in `_from` and `_to`, which know the zone."""

    text: str
    calendar: Calendar
    zone: Zone

    def __str__(self) -> str:
        return self.text

    def anchored(self, now: float) -> str:
        return self.text

    def after(self, t: float) -> float | None:
        if t >= LAST:
            return None
        found = self._from(math.floor(max(t, FIRST - 1)) + 1)
        return None if found is None or found > LAST else float(found)

    def between(self, after: float, until: float, limit: int) -> list[float]:
        targets: list[float] = []
        at = math.floor(min(until, LAST))
        after = max(after, FIRST - 1)
        while len(targets) < limit and at > after:
            found = self._to(at)
            if found is None or found <= after:
                break
            targets.append(float(found))
            at = found - 1
        return targets[::-1]

    def _from(self, second: int) -> int | None:
        """The first target from `second` on."""
        raise NotImplementedError

    def _to(self, second: int) -> int | None:
        """The last target up to `second`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Fixed(_Line):
    """A line that names times of the day: each once a day, whatever the clocks do.

    Local times that come twice count the first time; those left out, at the end of the gap. So targets rise with local
    time, and it is enough to know which local times are behind a moment.
    """

    def _from(self, second: int) -> int | None:
        here = self.zone.at(second)
        told = here.start + here.before  # what the clock would show, had it not been changed
        first = told if second == here.start else max(second + here.offset, told)
        local = self.calendar.ceil(first)
        return None if local is None else self.zone.first(local)

    def _to(self, second: int) -> int | None:
        here = self.zone.at(second)
        local = self.calendar.floor(max(second + here.offset, here.start + here.before - 1))
        return None if local is None else self.zone.first(local)


@dataclass(frozen=True, slots=True)
class Elapsed(_Line):
    """A line that names every hour or every minute: a target whenever the clock shows a matching time.

    Local times that come twice count twice, those left out don't count: intervals stay what they are.
    """

    def _from(self, second: int) -> int | None:
        searched = local = None
        while second <= LAST:
            here = self.zone.at(second)
            first = second + here.offset
            # Most changes move on, and what was found stays the first; a clock set back shows times again.
            if searched is None or local is None or not searched <= first <= local:
                searched, local = first, self.calendar.ceil(first)
                if local is None:
                    return None
            if local < here.end + here.offset:
                return local - here.offset
            second = here.end
        return None

    def _to(self, second: int) -> int | None:
        searched = local = None
        while second >= FIRST:
            here = self.zone.at(second)
            last = second + here.offset
            if searched is None or local is None or not local <= last <= searched:
                searched, local = last, self.calendar.floor(last)
                if local is None:
                    return None
            if local >= here.start + here.offset:
                return local - here.offset
            second = here.start - 1
        return None
