"""Drives one core: real time, a journal on disk, and an outlet that performs what is left.

Effects of a batch reach the outlet only after its `Put`s and `Delete`s are on disk. While one batch
is being synced, further inputs are taken and their changes gathered into the next: group commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from libs.common.clock import Clock
from libs.minimesos.effects import Delete, Effect, Input, Put, Tick
from libs.minimesos.errors import StorageError
from libs.minimesos.journal import Journal, NoJournal

log = logging.getLogger(__name__)
RETRY_S = 1.0
# Inputs beyond this many unsynced effects wait for the disk.
MAX_UNSYNCED_EFFECTS = 50_000


class StateMachine(Protocol):
    """A master's or agent's core."""

    def handle(self, now: float, event: Input) -> list[Effect]:
        """Take one input."""
        ...

    def next_deadline(self) -> float | None:
        """When to tick at the latest."""
        ...


class Node:
    """Feeds inputs to a core and has its effects performed, in order."""

    def __init__(
        self,
        machine: StateMachine,
        journal: Journal | NoJournal,
        clock: Clock,
        perform: Callable[[Effect], None],
    ) -> None:
        self._machine = machine
        self._journal = journal
        self._keeps = not isinstance(journal, NoJournal)
        self._clock = clock
        self._perform = perform
        self._loop = asyncio.get_running_loop()
        self._pending: list[Effect] = []
        self._syncing = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: float | None = None
        self._stopped = False
        self._arm()

    def feed(self, event: Input) -> None:
        """Take one input now."""
        if self._stopped:
            return
        effects = self._machine.handle(self._clock.now(), event)
        if effects:
            self._take(effects)
        self._arm()

    def _take(self, effects: list[Effect]) -> None:
        if not self._keeps:
            effects = [e for e in effects if not isinstance(e, Put | Delete)]
        durable = self._keeps and any(isinstance(e, Put | Delete) for e in effects)
        if not durable and not self._syncing and not self._pending:
            for effect in effects:
                self._perform(effect)
            return
        self._pending.extend(effects)
        if len(self._pending) > MAX_UNSYNCED_EFFECTS:
            self._room.clear()
        self._wake.set()

    async def room(self) -> None:
        """Return when the disk is not too far behind to take another request."""
        await self._room.wait()

    def stop(self) -> None:
        """Take no more inputs."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    # ---- disk
    async def run(self) -> None:
        """Sync batches until cancelled; while the disk fails, nothing is said and nothing more is done."""
        with ThreadPoolExecutor(1, "minimesos-disk") as disk:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch, self._pending = self._pending, []
                self._room.set()
                durable = [e for e in batch if isinstance(e, Put | Delete)]
                if durable:
                    self._syncing = True
                    try:
                        await self._commit(disk, durable)
                    finally:
                        self._syncing = False
                for effect in batch:
                    if not isinstance(effect, Put | Delete):
                        self._perform(effect)

    async def _commit(self, disk: ThreadPoolExecutor, durable: Sequence[Put | Delete]) -> None:
        """Until it is on disk: a disk that is full may be emptied, and nobody has been told anything yet."""
        failed = False
        while True:
            try:
                await self._loop.run_in_executor(disk, self._journal.commit, durable)
                break
            except StorageError as error:
                if not failed:
                    log.error("can't be saved, and is tried again: %s", error)
                failed = True
                await self._clock.sleep(RETRY_S)
        if failed:
            log.warning("saved again")

    # ---- time
    def _arm(self) -> None:
        deadline = self._machine.next_deadline()
        if deadline == self._armed_for and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed_for = deadline
        if deadline is not None and not self._stopped:
            delay_s = max(0.0, deadline - self._clock.now())
            self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._armed_for = None
        self.feed(Tick())
