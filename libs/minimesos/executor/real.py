"""The real clock and real uuids for the built-in executor.

It is a process of its own, with the standard library only, and no simulation ever runs it; so
it does not take them from a Clock (importing asyncio would double its start-up time).
"""

from __future__ import annotations

import time
import uuid


def now() -> float:
    """Unix seconds."""
    return time.time()  # noqa: TID251


def monotonic() -> float:
    """Seconds that never go back."""
    return time.monotonic()  # noqa: TID251


def pause(seconds: float) -> None:
    """Block this thread; there is no event loop in this program."""
    time.sleep(seconds)  # noqa: TID251


def fresh_uuid() -> uuid.UUID:
    """A random uuid."""
    return uuid.uuid4()  # noqa: TID251
