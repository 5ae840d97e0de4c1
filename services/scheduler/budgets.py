"""How many of an app may be missing for others, and how many are. Pure.

Whoever is not there, well and to stay is missing, for whatever reason: waiting, starting, ill, unreachable, asked to
move or to end, or ended with its replacement yet to be asked for. All of them are what there is to be of the app: never
fewer than are wanted, more while some are replaced, so that as many as the budget says stay in either case.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from libs.common.spec import budget_of
from services.scheduler.cluster import Draft
from services.scheduler.ledger import counts, steady


@dataclass(slots=True)
class _Change:
    """What a draft changes of an app."""

    more: int = 0
    steady: int = 0
    budgets: set[tuple[int, int]] = field(default_factory=set)


class Budgets:
    """What is left of them by a draft, as it is now; `spend` for what it asks of them later."""

    def __init__(self, draft: Draft, now: float) -> None:
        self._ledger, self._departed = draft.cluster.ledger, draft.cluster.departed
        self._now = now
        self._left: dict[str, int] = {}
        self._changes: dict[str, _Change] = {}
        for old, new in draft.changes():
            change = self._changes.setdefault(new.app, _Change())
            if old is None and counts(new):
                change.more += 1
            change.steady += steady(new) - (old is not None and steady(old))
            if counts(new) and not new.stop:
                change.budgets.add(new.spec.budgeted)

    def left(self, app: str) -> int:
        """How many more of an app may be missing: by the least that any of its releases says."""
        left = self._left.get(app)
        if left is None:
            left = self._left[app] = self._work_out(app)
        return left

    def spend(self, app: str) -> None:
        """One more of it is."""
        self._left[app] = self.left(app) - 1

    def _work_out(self, app: str) -> int:
        ledger, change = self._ledger, self._changes.get(app, _Change())
        there = len(ledger.apps.get(app, ())) + change.more + self._departed.of(app, self._now)
        missing = there - ledger.steady.get(app, 0) - change.steady
        said = {*ledger.budgets.get(app, ()), *change.budgets}
        return min((budget_of(each, there) for each in said), default=0) - missing
