"""Carries out what was decided: calls to Mesos, with the order that they need and no more.

Launches come one after the other. So do wishes for offers: DECLINE, whose filter only a later REVIVE clears, and of
REVIVE and SUPPRESS the last. What else a decision asks, such as to reconcile, comes after its launches and all earlier
ones: a master that does not know a task yet would say that it is lost. Nothing more waits: a call without an answer
holds up its like, not the launches of later decisions. Few decisions are acted upon at a time, wishes apart: a busy
master is given no more tasks than it can take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from libs.common.waiting import TaskGroup
from services.scheduler.mesos import together
from services.scheduler.model import Acknowledge, Action, Decline, Launch, Revive, Suppress

AT_A_TIME = 4
UNSENT = 4
"""So many decisions are acted upon at a time, and so many wait for that at most; who decides waits for both."""
CONCURRENT_CALLS = 256
_WISHES = (Decline, Revive, Suppress)


class Sender:
    """One leader's. `do` does one action, and is to fail for a whole leader only."""

    def __init__(self, do: Callable[[Action], Awaitable[None]]) -> None:
        self._do = do
        self._waiting: asyncio.Queue[Sequence[Action]] = asyncio.Queue(UNSENT)
        self._slots = asyncio.Semaphore(AT_A_TIME)
        self._calls = asyncio.Semaphore(CONCURRENT_CALLS)
        self._launching = asyncio.Lock()  # whoever waits for it is served in the order of coming
        self._wishes: list[Action] = []
        self._wished = asyncio.Event()

    async def put(self, actions: Sequence[Action]) -> None:
        """Have a decision's actions done; waits while too many others are to be done before."""
        await self._waiting.put(actions)

    async def run(self) -> None:
        """For ever."""
        async with TaskGroup() as group:
            group.create_task(self._wish())
            while True:
                actions = together(await self._waiting.get())
                await self._slots.acquire()
                group.create_task(self._act(actions))

    async def _act(self, actions: Sequence[Action]) -> None:
        """What fails is asked for again by time or reconciliation."""
        launches = [each for each in actions if isinstance(each, Launch)]
        wishes = [each for each in actions if isinstance(each, _WISHES)]
        heard = [each for each in actions if isinstance(each, Acknowledge)]
        rest = [each for each in actions if not isinstance(each, (Launch, Acknowledge, *_WISHES))]
        if wishes:
            self._wishes += wishes
            self._wished.set()
        async with TaskGroup() as group:
            self._spread(group, heard)
            async with self._launching:
                await self._do_all(iter(launches))
            self._spread(group, rest)
        self._slots.release()

    async def _wish(self) -> None:
        """Apart from all else, so that no decision waits for one of these calls."""
        while True:
            await self._wished.wait()
            self._wished.clear()
            wishes, self._wishes = self._wishes, []
            last = [each for each in wishes if not isinstance(each, Decline)][-1:]
            await self._do_all(
                each for each in wishes if isinstance(each, Decline) or each is last[0]
            )

    def _spread(self, group: TaskGroup, actions: Sequence[Action]) -> None:
        left = iter(actions)
        for _ in range(min(CONCURRENT_CALLS, len(actions))):
            group.create_task(self._do_all(left))

    async def _do_all(self, actions: Iterator[Action]) -> None:
        for action in actions:
            async with self._calls:
                await self._do(action)
