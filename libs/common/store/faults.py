"""Where the memory store can be made to fail, as real stores do."""

from __future__ import annotations

import enum


class StorePoint(enum.Enum):
    """A place where a fault may strike. What `StoreFaults.draw` returns there means:"""

    CALL_DELAY = "store.call_delay"  # seconds to wait before the call takes effect
    CALL_FAILS = "store.call_fails"  # > 0: Unavailable, nothing was done
    REPLY_LOST = "store.reply_lost"  # > 0: everything was done, then TimedOut
    BATCH_CUT = (
        "store.batch_cut"  # n > 0: only the first n-1 writes of a batch are done, then TimedOut
    )


class StoreFaults:
    """Draws faults; this one draws none."""

    def draw(self, point: StorePoint, what: str) -> float:
        """The fault at `point` of call `what` ("collection.method"); 0 is none."""
        return 0.0


NO_FAULTS = StoreFaults()
