"""Where instances had better run: those that keep their address where they were last, as its namespace, port and flows
wait there; and runs of jobs where a container was made ready for them. Pure.

A wish only: rules, room and the network's own word come first, and after a few failures in a row anywhere is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from services.scheduler.jobs.run import JobId
from services.scheduler.model import AgentId, Instance
from services.scheduler.policy import Agents, Round, Shape
from services.scheduler.policy.placer import Given

REMEMBERED = 100_000
FAILURES = 3
EXPECTED_S = 600.0
"""So long after its target, a run is no longer expected where a container was made ready for it."""


class Homes:
    """The agent on which each sticky key was last, and the one that was told of a job's next run.

    What a new leader does not know, it learns as they run.
    """

    def __init__(self) -> None:
        self._agents: dict[str, AgentId] = {}
        self._ready: dict[JobId, tuple[float, AgentId]] = {}  # for which target, and where

    def note(self, instance: Instance) -> None:
        """It is on its agent."""
        if instance.run is not None:
            ready = self._ready.get(instance.run.job)
            if ready is not None and ready[0] <= instance.run.target and instance.live:
                del self._ready[instance.run.job]
            return
        key = instance.spec.sticky_key
        if key and instance.agent and instance.live:
            self._agents.pop(key, None)
            self._agents[key] = instance.agent
            if len(self._agents) > REMEMBERED:
                del self._agents[next(iter(self._agents))]

    def expect(self, job: JobId, target: float, agent: AgentId) -> None:
        """A container is made ready there for the job's run at `target`."""
        self._ready.pop(job, None)
        self._ready[job] = (target, agent)
        # About in the order of their targets: those of jobs that did not run are the first.
        while (first := next(iter(self._ready.values()))) and first[0] < target - EXPECTED_S:
            del self._ready[next(iter(self._ready))]

    def place(
        self, work: Round, agents: Agents, shape: Shape, instances: list[Instance], limit: int
    ) -> tuple[Given, list[Instance]]:
        """Place those that may go home; their rows, and all the instances with these first, in the rows' order."""
        ready = self._ready and instances and instances[0].run is not None
        if shape.pinned or not (shape.sticky or ready):
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
            agent = self._home_of(each)
            row = agents.rows.index.get(agent) if agent is not None else None
            if row is not None and each.failures < FAILURES:
                rows.append((each, row))
        return rows

    def _home_of(self, instance: Instance) -> AgentId | None:
        run = instance.run
        if run is None:
            return self._agents.get(instance.spec.sticky_key)
        target, agent = self._ready.get(run.job, (0.0, None))
        return agent if target == run.target else None
