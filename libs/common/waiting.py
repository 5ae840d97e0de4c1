"""Waiting for an event or for time to pass, whichever comes first; and work that must not end unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType


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
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class TaskGroup(asyncio.TaskGroup):
    """asyncio's, but a cancellation from outside that meets a child's error is not lost with it.

    Python 3.11's raises the errors alone then: whoever handles them and goes on would never hear that it is to end.
    As in Python 3.13, the errors come out and the next `await` raises CancelledError.
    """

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """See above."""
        try:
            await super().__aexit__(kind, error, traceback)
        except BaseExceptionGroup:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                task.uncancel()  # the count stays as it is
                task.cancel()
            raise


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
