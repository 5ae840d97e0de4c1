"""An executor's journal at whose lines the worker may die."""

from __future__ import annotations

import asyncio

from services.executor.model import AttemptId, Record, State
from services.executor.ports import Journal
from tests.simulation.faults import Faults, Point
from tests.simulation.life import Life

UNTOLD = 0.1


class DyingJournal:
    """One worker's handle on its supervisor's journal.

    With `fragile` it often dies at the worst of lines: nothing is left of a run, and Mesos has yet to take its end.
    """

    def __init__(self, kept: Journal, life: Life, faults: Faults, *, fragile: bool = False) -> None:
        self._kept = kept
        self._life = life
        self._faults = faults
        self._fragile = fragile

    def load(self) -> list[Record]:
        """See Journal."""
        return self._kept.load()

    def put(self, record: Record) -> None:
        """See Journal."""
        self._may_die(Point.JOURNAL_CRASH_BEFORE)
        self._kept.put(record)
        faults = self._faults
        at_worst = self._fragile and faults.on and _is_untold(record)
        if at_worst and faults.rng.random() < UNTOLD:
            faults.hit(Point.SUPERVISOR_KILLED, record.attempt.id)
            self._life.kill()
        self._may_die(Point.JOURNAL_CRASH_AFTER)

    def drop(self, attempt: AttemptId) -> None:
        """See Journal."""
        self._may_die(Point.JOURNAL_CRASH_BEFORE)
        self._kept.drop(attempt)
        self._may_die(Point.JOURNAL_CRASH_AFTER)

    def _may_die(self, point: Point) -> None:
        if not self._life.dead and self._faults.strike(point):
            self._life.kill()
        if self._life.dead:
            raise asyncio.CancelledError  # as all of its tasks are about to be: it does nothing more


def _is_untold(record: Record) -> bool:
    a = record.attempt
    return a.payload.run is not None and a.state is State.DONE and bool(record.updates)
