"""An executor's journal at whose lines the worker may die."""

from __future__ import annotations

import asyncio

from services.executor.model import AttemptId, Record
from services.executor.ports import Journal
from tests.simulation.faults import Faults, Point
from tests.simulation.life import Life


class DyingJournal:
    """One worker's handle on its supervisor's journal."""

    def __init__(self, kept: Journal, life: Life, faults: Faults) -> None:
        self._kept = kept
        self._life = life
        self._faults = faults

    def load(self) -> list[Record]:
        """See Journal."""
        return self._kept.load()

    def put(self, record: Record) -> None:
        """See Journal."""
        self._may_die(Point.JOURNAL_CRASH_BEFORE)
        self._kept.put(record)
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
