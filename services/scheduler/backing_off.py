"""The pause before an instance's next attempt: it grows with failures, has a bound, and forgets slowly. Pure.

The count is part of the instance's document, so a new leader goes on with it. What ran well for `healthy_reset_s` has
half of its failures forgiven, for twice that three quarters, and so on: one that dies again and again just after it got
well is not taken for a good one, and one that ran for a day is.
"""

from __future__ import annotations

from services.scheduler.model import Instance, State
from services.scheduler.settings import SchedulerConfig

MOST_FAILURES = 200  # more make no difference: the pause has reached its bound long before


def remembered(instance: Instance, now: float, config: SchedulerConfig) -> int:
    """Failures that count, by now."""
    well = instance.state is State.RUNNING and instance.healthy is True
    if not well or not instance.failures or config.healthy_reset_s <= 0:
        return instance.failures
    halvings = int(max(0.0, now - instance.since) / config.healthy_reset_s)
    return instance.failures >> min(halvings, 64)


def pause_s(failures: int, config: SchedulerConfig) -> float:
    """Seconds before the next attempt, after so many failures."""
    grown = config.restart_backoff_factor ** (min(max(failures, 1), MOST_FAILURES) - 1)
    return min(config.restart_backoff_s * grown, config.restart_backoff_max_s)
