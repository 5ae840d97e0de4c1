"""A master's allocator for one framework, as it is measured: filters, SUPPRESS and REVIVE as Mesos keeps them.

A cycle of 1 s; a declined offer comes again when its filter is over; what an ACCEPT leaves comes again at once; REVIVE
clears all filters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from libs.mesos import events as mesos
from services.scheduler.model import (
    EXECUTOR_AMOUNTS,
    Action,
    Decline,
    Kill,
    Launch,
    Revive,
    Suppress,
)
from tests.unit.scheduler.world import Desk, offer

AGENTS = ("a1", "a2", "a3")
CPUS = 1.0


@dataclass
class Master:
    """The allocator, for one framework among others that may hold agents for a while."""

    desk: Desk
    free: dict[str, float] = field(default_factory=lambda: dict.fromkeys(AGENTS, CPUS))
    out: dict[str, tuple[str, float]] = field(default_factory=dict)  # offers: agent, CPUs
    filtered: dict[str, float] = field(default_factory=dict)  # agents: until when
    elsewhere: set[str] = field(default_factory=set)  # agents that others hold
    suppressed: bool = False
    tasks: dict[str, tuple[str, float]] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)  # of the tasks, those that have said so
    executors: set[str] = field(default_factory=set)
    offered: int = 0

    def take(self, actions: list[Action]) -> None:
        """What the scheduler does."""
        for action in actions:
            match action:
                case Launch(offers, on, infos):
                    agent = str(on)
                    self.free[agent] += sum(self.out.pop(each)[1] for each in offers)
                    if agent not in self.executors:
                        self.executors.add(agent)
                        self.free[agent] -= EXECUTOR_AMOUNTS.cpus
                    for info in infos:
                        cpus = next(
                            r["scalar"]["value"] for r in info["resources"] if r["name"] == "cpus"
                        )
                        self.free[agent] -= cpus
                        self.tasks[info["task_id"]["value"]] = (agent, cpus)
                    self.filtered.pop(agent, None)
                case Decline(offers, refuse_s):
                    for each in offers:
                        if each in self.out:
                            agent, cpus = self.out.pop(each)
                            self.free[agent] += cpus
                            self.filtered[agent] = self.desk.now + refuse_s
                case Suppress():
                    self.suppressed = True
                case Revive():
                    self.suppressed = False
                    self.filtered.clear()
                case Kill(task) if task in self.tasks:
                    agent, cpus = self.tasks.pop(task)
                    self.free[agent] += cpus
                    self.take(self.desk.tell(task, "TASK_KILLED", agent=agent))
                case _:
                    pass

    def cycle(self) -> None:
        """A second passes; what is free is offered."""
        self.take(self.desk.tick(1.0))
        if self.suppressed:
            return
        made = []
        for agent, cpus in self.free.items():
            waits = self.filtered.get(agent, 0.0) > self.desk.now
            if cpus > 0.005 and not waits and agent not in self.elsewhere:
                self.offered += 1
                made.append(offer(self.offered, agent, cpus))
                self.out[f"o{self.offered}"] = (agent, cpus)
                self.free[agent] = 0.0
        if made:
            self.take(self.desk.give(mesos.Offers(tuple(made))))  # type: ignore[arg-type]
        for task, (agent, _) in list(self.tasks.items()):
            if task in self.running:
                continue
            self.running.add(task)
            self.take(self.desk.tell(task, "TASK_RUNNING", agent=agent, container="c"))
