"""A queue of keys, not of events: events wake, state decides.

A key that waits is queued once; one key is never handled by two workers at a time; a key added while it is
being handled is handled once more. A failure brings the key back after a back-off, and a periodic sweep adds all
keys there are, so that lost events cost latency and nothing else. What was woken goes before what is swept: thousands
of idle keys must not stand in the way of the one that somebody waits for.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Iterable

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.errors import GantryError
from libs.common.telemetry import Log
from libs.common.waiting import TaskGroup, set_or_due

Reconcile = Callable[[str], Awaitable[float | None]]
"""Handles a key; returns the seconds after which to look at it again without being woken, or None."""

ListKeys = Callable[[], Awaitable[Iterable[str]]]


class ReconcileQueue:
    """Runs `reconcile(key)` for keys that were added, at most `workers` at a time."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        clock: Clock,
        rng: random.Random,
        log: Log,
        workers: int = 8,
        backoff: Backoff = Backoff(0.1, 30.0),
    ) -> None:
        self.name = name
        self._reconcile = reconcile
        self._clock = clock
        self._rng = rng
        self._log = log
        self._workers = workers
        self._backoff = backoff
        self._ready: dict[str, None] = {}  # an ordered set
        self._swept: dict[str, None] = {}  # one that waits behind all of `_ready`
        self._running: dict[str, None] = {}
        self._again: dict[str, None] = {}  # added while running
        self._later: list[tuple[float, str]] = []  # heap of (due, key)
        self._due: dict[str, float] = {}  # the earliest due time of each key in _later
        self._answered: dict[str, float] = {}  # when the last round of a key said to look again
        self._failures: dict[str, int] = {}
        self._wake = asyncio.Event()

    def add(self, key: str, after_s: float = 0.0) -> None:
        """Have `key` handled, at once or after `after_s`; an earlier due time wins."""
        if after_s > 0:
            self._add_later(key, self._clock.monotonic() + after_s)
        elif key in self._running:
            self._again[key] = None
        else:
            self._swept.pop(key, None)
            self._ready[key] = None
        self._wake.set()

    def _add_later(self, key: str, due: float) -> None:
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._later, (due, key))

    def __len__(self) -> int:
        """Keys waiting or being handled."""
        return len(self._ready) + len(self._swept) + len(self._running) + len(self._again)

    async def run(self, list_keys: ListKeys | None = None, sweep_s: float = 30.0) -> None:
        """Work until cancelled; sweep at the start and every `sweep_s` when `list_keys` is given."""
        async with TaskGroup() as group:
            if list_keys is not None:
                group.create_task(self._sweep(list_keys, sweep_s), name=f"{self.name}-sweep")
            while True:
                self._promote()
                while len(self._running) < self._workers and (lane := self._ready or self._swept):
                    key = next(iter(lane))
                    del lane[key]
                    self._running[key] = None
                    group.create_task(self._handle(key), name=f"{self.name}:{key}")
                await self._wait()

    async def _wait(self) -> None:
        self._wake.clear()
        timeout: float | None = None
        if self._later:
            timeout = max(0.0, self._later[0][0] - self._clock.monotonic())
        await set_or_due(self._wake, timeout)

    def _promote(self) -> None:
        now = self._clock.monotonic()
        while self._later and self._later[0][0] <= now:
            due, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)

    async def _handle(self, key: str) -> None:
        again_s: float | None = None
        if self._due.get(key) == self._answered.pop(key, -1.0):
            del self._due[key]  # this round's answer takes the place of the last one's
        try:
            again_s = await self._reconcile(key)
            self._failures.pop(key, None)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            again_s = self._backoff.delay_s(failures, self._rng)
            expected = isinstance(error, GantryError)
            (self._log.warning if expected else self._log.exception)(
                "reconcile failed", queue=self.name, key=key, failures=failures, error=str(error)
            )
        finally:
            del self._running[key]
            if key in self._again:
                del self._again[key]
                self._ready[key] = None
            self._wake.set()
        if again_s is not None:
            due = self._answered[key] = self._clock.monotonic() + max(again_s, 0.001)
            self._add_later(key, due)
            self._wake.set()

    async def _sweep(self, list_keys: ListKeys, sweep_s: float) -> None:
        failures = 0
        while True:
            try:
                for key in await list_keys():
                    if key in self._running:
                        self._again[key] = None
                    elif key not in self._ready:
                        self._swept[key] = None
                self._wake.set()
                failures = 0
                await self._clock.sleep(sweep_s)
            except GantryError as error:
                failures += 1
                self._log.warning("sweep failed", queue=self.name, error=str(error))
                await self._clock.sleep(self._backoff.delay_s(failures, self._rng))
