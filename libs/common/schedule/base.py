"""What every schedule answers, whatever it was written as."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

FIRST = int(datetime(1900, 1, 1, tzinfo=UTC).timestamp())
"""No target is before this second, and a question about earlier ones is one about it."""
LAST = int(datetime(9000, 1, 1, tzinfo=UTC).timestamp())
"""No target is after it: calendars end with the year 9999."""


class Schedule(Protocol):
    """A pure function from moments to targets. All times are seconds since the Unix epoch, UTC.

    `str` of it is the text it was parsed from, without superfluous blanks.
    """

    def after(self, t: float) -> float | None:
        """The first target later than `t`, or None when there is none any more.

        A schedule without a start (`R5//PT1M`, `@every 5m`) answers as if it had been anchored at `t`.
        """
        ...

    def between(self, after: float, until: float, limit: int) -> list[float]:
        """The targets later than `after` and not later than `until`, rising: the newest `limit` of them.

        The cost grows with `limit`, not with the time between.
        """
        ...

    def anchored(self, now: float) -> str:
        """The text with its start filled in, for a job that is put at `now`; the text itself if it has one.

        What is filled in is later than `now`, so that `parse(s.anchored(now)).after(now)` is the first target.
        """
        ...
