"""One life of a process: from its start until it is killed, with its pauses and its wrong clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulation.loop import EPOCH_S, VirtualLoop


class Life:
    """What all parts of one process' one run share. A dead one's calls change nothing any more."""

    def __init__(self, loop: VirtualLoop, name: str, skew_s: float = 0.0) -> None:
        self.loop = loop
        self.name = name
        self.skew_s = skew_s
        self.dead = False
        self.resume_at = 0.0
        self.on_kill: Callable[[Life], None] | None = None
        self.on_skew: Callable[[], None] | None = None  # its clock is gone by for the first time
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def kill(self) -> None:
        """Die now: nothing that is under way has any further effect."""
        if self.dead:
            return
        self.dead = True
        for task in list(self._tasks):
            # Not at once: a fault inside one of these tasks may have called us.
            self.loop.call_soon(task.cancel)
        if self.on_kill is not None:
            self.on_kill(self)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """A task that dies with this life."""
        task = self.loop.create_task(work, name=name or self.name)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    def pause(self, for_s: float) -> None:
        """Do nothing at all for a while, without knowing it."""
        self.resume_at = self.loop.time() + for_s

    def paused_s(self) -> float:
        """For how long it is paused yet; 0 when it is not."""
        return max(0.0, self.resume_at - self.loop.time()) if self.resume_at else 0.0

    async def go_on(self) -> None:
        """Wait for the end of a pause."""
        while self.paused_s() > 0:
            await asyncio.sleep(self.paused_s())


class LifeClock:
    """A life's Clock: wrong by its skew, and asleep while it is paused."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def now(self) -> float:
        """Seconds since the epoch, as this process believes."""
        life = self._life
        if life.on_skew is not None:
            told, life.on_skew = life.on_skew, None
            told()
        return EPOCH_S + life.loop.time() + life.skew_s

    def monotonic(self) -> float:
        """The loop's time."""
        return self._life.loop.time()

    async def sleep(self, delay_s: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(delay_s)
        await self._life.go_on()
