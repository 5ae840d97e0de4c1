"""Where instances that keep their address ran last: there their namespace, port and flows wait for them. Pure.

A wish only: rules, room and the network's own word come first, and after a few failures in a row anywhere is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from services.scheduler.model import AgentId, Instance
from services.scheduler.policy import Agents, Round, Shape
from services.scheduler.policy.placer import Given

REMEMBERED = 100_000
FAILURES = 3


class Homes:
    """The agent on which each sticky key was last; what a new leader does not know, it learns as they run."""

    def __init__(self) -> None:
        self._agents: dict[str, AgentId] = {}

    def note(self, instance: Instance) -> None:
        """It is on its agent."""
        key = instance.spec.sticky_key
        if key and instance.agent and instance.live:
            self._agents.pop(key, None)
            self._agents[key] = instance.agent
            if len(self._agents) > REMEMBERED:
                del self._agents[next(iter(self._agents))]

    def place(
        self, work: Round, agents: Agents, shape: Shape, instances: list[Instance], limit: int
    ) -> tuple[Given, list[Instance]]:
        """Place those that may go home; their rows, and all the instances with these first, in the rows' order."""
        if not shape.sticky or shape.pinned:
            return [], instances
        found: Given = []
        home: list[Instance] = []
        for each, row in islice(self._rows(agents, instances), max(limit, 0)):
            if work.put_at(shape, row):
                found.append((row, 1))
                home.append(each)
        there = {each.id for each in home}
        return found, [*home, *(each for each in instances if each.id not in there)]

    def _rows(
        self, agents: Agents, instances: Sequence[Instance]
    ) -> Sequence[tuple[Instance, int]]:
        rows = []
        for each in instances:
            agent = self._agents.get(each.spec.sticky_key)
            row = agents.rows.index.get(agent) if agent is not None else None
            if row is not None and each.failures < FAILURES:
                rows.append((each, row))
        return rows
