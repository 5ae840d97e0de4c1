"""Waiting for an event or for time to pass, whichever comes first; and work that must not end unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Self

from libs.common.errors import Unavailable


async def set_or_due(event: asyncio.Event, timeout_s: float | None) -> None:
    """Wait until `event` is set; after `timeout_s` it is set by us (None: never).

    For loops that look again in either case and clear the event first. Cheaper than a cancelled `event.wait()`,
    and there is no time-out to mistake for somebody else's cancellation.
    """
    if timeout_s is None:
        await event.wait()
        return
    timer = asyncio.get_running_loop().call_later(timeout_s, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()


def is_being_cancelled() -> bool:
    """Does somebody cancel the current task? If not, a CancelledError has leaked out of a library's own business."""
    return _cancellations(asyncio.current_task()) > 0


class TaskGroup(asyncio.TaskGroup):
    """asyncio's, without what Python 3.11's does wrong when a child fails.

    - A cancellation from outside that meets a child's error is lost there: who handles the error and goes on would
      never hear that it is to end. Here CancelledError comes out, with the errors as its cause (a group around this
      one sees a cancellation only, and drops them).
    - A child that fails while the group waits for the others leaves its task marked as being cancelled for good.
    """

    _parent_cancel_requested: bool  # asyncio's: the group has cancelled its own task

    async def __aenter__(self) -> Self:
        """See above."""
        self._cancelled_before = _cancellations(asyncio.current_task())
        return await super().__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """See above."""
        # asyncio takes its own cancellation back first of all, and none that it asks for after that.
        is_settled = self._parent_cancel_requested
        try:
            await super().__aexit__(kind, error, traceback)
        except BaseExceptionGroup as errors:
            task = asyncio.current_task()
            if task is not None and self._parent_cancel_requested and not is_settled:
                task.uncancel()
            if _cancellations(task) > self._cancelled_before:
                raise asyncio.CancelledError from errors
            raise


def _cancellations(task: asyncio.Task[object] | None) -> int:
    return 0 if task is None else task.cancelling()


@contextmanager
def contained(message: str) -> Iterator[None]:
    """Around a library that may cancel a call of its own: that, which nobody asked for, is Unavailable here."""
    try:
        yield
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise
        raise Unavailable(message) from None


@asynccontextmanager
async def heeded() -> AsyncIterator[None]:
    """Around a library that may swallow a cancellation: it comes out here all the same, with any error as its cause."""
    task = asyncio.current_task()
    before = _cancellations(task)
    try:
        yield
    except Exception as error:
        if _cancellations(task) > before:
            raise asyncio.CancelledError from error
        raise
    if _cancellations(task) > before:
        raise asyncio.CancelledError


async def lasting(work: Awaitable[None]) -> None:
    """Work that goes on until it is cancelled. Raises RuntimeError when it ends by itself.

    A task group takes no notice of a child that returns, or that a leaked CancelledError has ended.
    """
    try:
        await work
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise
    raise RuntimeError(f"{getattr(work, '__qualname__', work)} has ended by itself")
