"""Waiting for an event or for time to pass, whichever comes first; and work that must not end unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


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
