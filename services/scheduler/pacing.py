"""How fast launches go: tokens for the cluster, and a bound on what is on its way to run on one agent. Pure.

An executor that is sent thousands of tasks at once serves none of them well, and a burst of all apps at once is what
follows a power cut. Neither bound is meant to be felt in daily work.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.scheduler.cluster import Draft
from services.scheduler.ledger import on_its_way
from services.scheduler.model import AgentId
from services.scheduler.settings import SchedulerConfig

BURST_S = 2.0
"""The bucket holds so many seconds' worth."""


def refill(draft: Draft, now: float, config: SchedulerConfig) -> int:
    """How many may be launched now; at most a slice."""
    rate, volatile = config.launches_per_s, draft.volatile
    if rate <= 0:
        return config.place_slice
    most = max(1.0, rate * BURST_S)
    since_s = max(0.0, now - volatile.credit_at)
    volatile.launch_credit = min(most, volatile.launch_credit + since_s * rate)
    volatile.credit_at = now
    return min(config.place_slice, int(volatile.launch_credit))


def spend(draft: Draft, count: int, config: SchedulerConfig) -> None:
    """So many are launched."""
    if config.launches_per_s > 0:
        draft.volatile.launch_credit -= count


def launching(draft: Draft) -> dict[AgentId, int]:
    """How many are on their way to run, by agent, by this draft."""
    counts = dict(draft.cluster.ledger.launching)
    for before, after in draft.changes():
        for each, sign in ((before, -1), (after, 1)):
            if each is not None and on_its_way(each):
                counts[each.agent] = counts.get(each.agent, 0) + sign
    return counts


def busy(counts: Mapping[AgentId, int], config: SchedulerConfig) -> list[AgentId]:
    """Of agents with so many on their way, those that get nothing more before some of what was launched there runs."""
    most = config.launching_per_agent
    return [agent for agent, count in counts.items() if count >= most > 0]


class Slots:
    """What may yet be launched on each agent in one decision, with so many on their way before it."""

    def __init__(self, counts: Mapping[AgentId, int], config: SchedulerConfig) -> None:
        self._most = config.launching_per_agent
        self._count = dict(counts)

    def take(self, agent: AgentId, wanted: int) -> int:
        """So many of `wanted` may be launched there."""
        if self._most <= 0:
            return wanted
        known = self._count.get(agent, 0)
        given = max(0, min(wanted, self._most - known))
        self._count[agent] = known + given
        return given
