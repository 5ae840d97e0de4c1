"""Calls that come together are handled together: what arrives while a batch is at work makes up the next one.

Nobody has to run it: the first caller handles the batch for all who wait, and then hands the office on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from libs.common.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class _Waiting(Generic[T, R]):
    item: T
    turn: asyncio.Future[bool]  # True: handle the next batch; False: this one is handled
    handled: bool = False
    result: R | None = None
    error: Unavailable | None = None


class Batcher(Generic[T, R]):
    """`submit` hands one item in and gets its result; `handle` gets lists of them, `side_by_side` lists at a time."""

    def __init__(
        self,
        handle: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        limit: int,
        side_by_side: int = 1,
        queue_limit: int = 10_000,
    ) -> None:
        self._handle = handle
        self._limit = limit
        self._side_by_side = side_by_side
        self._queue_limit = queue_limit
        self._waiting: list[_Waiting[T, R]] = []
        self._working = 0

    @property
    def is_idle(self) -> bool:
        """Does nobody wait, and nothing work."""
        return not self._waiting and not self._working

    async def submit(self, item: T) -> R:
        """The result of `item`. Raises what `handle` did for its batch."""
        if len(self._waiting) >= self._queue_limit:
            raise Unavailable(f"{self._queue_limit} wait already")
        mine = _Waiting[T, R](item, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        self._call_next()
        try:
            while await mine.turn:
                mine.turn = asyncio.get_running_loop().create_future()
                await self._work()
                if mine.handled:
                    break
        except BaseException:
            if mine in self._waiting:
                self._waiting.remove(mine)
            if mine.turn.done() and not mine.turn.cancelled() and mine.turn.result():
                self._working -= 1  # it was this one's turn
                self._call_next()
            raise
        if mine.error is not None:
            raise mine.error
        return cast(R, mine.result)

    def _call_next(self) -> None:
        """Let somebody who waits begin, if there is room."""
        if self._working >= self._side_by_side:
            return
        for each in self._waiting:
            if not each.turn.done():
                self._working += 1
                each.turn.set_result(True)
                return

    async def _work(self) -> None:
        batch: list[_Waiting[T, R]] = []
        try:
            await asyncio.sleep(0)  # so that all who come in this turn of the loop come along
            batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
            if batch:
                results = await self._handle([each.item for each in batch])
                for each, result in zip(batch, results, strict=True):
                    each.result = result
        except Unavailable as error:
            for each in batch:
                each.error = type(error)(str(error))
        except BaseException:
            for each in batch:
                each.error = Unavailable("the batch was given up")
            raise
        finally:
            self._working -= 1
            for each in batch:
                each.handled = True
                if not each.turn.done():
                    each.turn.set_result(False)
            self._call_next()


class Lanes(Generic[T, R]):
    """A Batcher for each of `most` things that are asked for at a time, so that a slow one holds up nobody else; those
    beyond share one. They are there only while somebody waits in them: their names come from outside.
    """

    def __init__(
        self,
        handle: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        limit: int,
        most: int,
        queue_limit: int = 10_000,
    ) -> None:
        self._handle = handle
        self._limit = limit
        self._most = most
        self._queue_limit = queue_limit
        self._lanes: dict[str | None, Batcher[T, R]] = {}
        self._inside = 0

    async def submit(self, name: str, item: T) -> R:
        """The result of `item`, in the lane of that name. Raises what `handle` did for its batch, and Unavailable."""
        if self._inside >= self._queue_limit:
            raise Unavailable(f"{self._queue_limit} wait already")
        lane = name if name in self._lanes or len(self._lanes) < self._most else None
        batcher = self._lanes.get(lane)
        if batcher is None:
            batcher = self._lanes[lane] = Batcher(self._handle, limit=self._limit)
        self._inside += 1
        try:
            return await batcher.submit(item)
        finally:
            self._inside -= 1
            if batcher.is_idle and self._lanes.get(lane) is batcher:
                del self._lanes[lane]
