"""Where the memory bus can be made to fail, as Kafka does."""

from __future__ import annotations

import enum


class BusPoint(enum.Enum):
    """A place where a fault may strike. What `BusFaults.draw` returns there means:"""

    PUBLISH_DELAY = "bus.publish_delay"  # seconds before a publish takes effect
    PUBLISH_FAILS = "bus.publish_fails"  # > 0: Unavailable, nothing was written
    PUBLISH_CUT = "bus.publish_cut"  # n > 0: only the first n-1 records are written, then TimedOut
    REPLY_LOST = "bus.reply_lost"  # > 0: all was written, then TimedOut
    OFFSET_GAP = "bus.offset_gap"  # offsets left out before a record
    RETENTION = "bus.retention"  # the oldest n records of the partition published to are dropped
    FETCH_DELAY = "bus.fetch_delay"  # seconds for which a partition with news is held back
    FETCH_FAILS = "bus.fetch_fails"  # > 0: Unavailable
    REDELIVER = "bus.redeliver"  # > 0: this consumer goes back to what its group has committed
    REBALANCE = (
        "bus.rebalance"  # > 0: the member's partitions are taken in the middle of its handler
    )
    COMMIT_FAILS = "bus.commit_fails"  # > 0: Unavailable, nothing was committed
    COMMIT_LOST = "bus.commit_lost"  # > 0: committed, then TimedOut


class BusFaults:
    """Draws faults; this one draws none."""

    def draw(self, point: BusPoint, what: str) -> float:
        """The fault at `point` for topic or group `what`; 0 is none."""
        return 0.0


NO_FAULTS = BusFaults()
