"""Waiting for an event or for time to pass, whichever comes first."""

from __future__ import annotations

import asyncio


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
