"""Many small requests become few large ones: what arrives while a batch is being handled makes up the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from libs.common.clock import Clock
from libs.common.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """`submit` hands one item in and gets its result; `run` calls `handle` with lists of them, one list at a time.

    A batch waits `linger_s` (0: one turn of the loop) for company and holds at most `limit` items; at most
    `queue_limit` may wait.
    """

    def __init__(
        self,
        handle: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        clock: Clock,
        *,
        linger_s: float = 0.002,
        limit: int = 64,
        queue_limit: int = 4096,
    ) -> None:
        self._handle = handle
        self._clock = clock
        self._linger_s = linger_s
        self._limit = limit
        self._queue_limit = queue_limit
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._wake = asyncio.Event()
        self._closed = False

    async def submit(self, item: T) -> R:
        """The result of `item`. Raises Unavailable when `handle` did for its batch, or nobody handles it."""
        if self._closed or len(self._waiting) >= self._queue_limit:
            raise Unavailable(
                "hostd is shutting down" if self._closed else "hostd has too much to do"
            )
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._wake.set()
        return await future

    async def run(self) -> None:
        """Handle batches until cancelled."""
        batch: list[tuple[T, asyncio.Future[R]]] = []
        try:
            while True:
                await self._wake.wait()
                if len(self._waiting) < self._limit:
                    await self._clock.sleep(self._linger_s)
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                if not self._waiting:
                    self._wake.clear()
                await self._run_batch([each for each in batch if not each[1].done()])
        finally:
            self._closed = True
            for _, future in [*batch, *self._waiting]:
                if not future.done():
                    future.set_exception(Unavailable("hostd is shutting down"))

    async def _run_batch(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        if not batch:
            return
        try:
            results = await self._handle([item for item, _ in batch])
        except Unavailable as error:
            for _, future in batch:
                if not future.done():
                    # One exception object must not be raised in several tasks: tracebacks would pile up.
                    future.set_exception(type(error)(str(error)))
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
