"""The steps of a rolling deployment: whom to make, whom to stop. Pure.

With W instances wanted, surge S and unavailable U of the strategy:
- an instance is made only while fewer than W + S exist (a stopping one exists until it is gone);
- old ones are stopped only while W - U remain, and the ready ones never fall below W - U by our doing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from libs.common.events.model import Counts
from services.deployer.model import RUNNING, Deployment, Instance, InstanceId, State

MAX_BIRTHS = 500  # a decision; the next one follows at once


@dataclass(frozen=True, slots=True)
class Make:
    """An instance to be made; its id is given by whoever carries it out."""

    release: int
    slot: int
    deployment: str = ""
    rollback: bool = False


Stop = tuple[InstanceId, str]
"""An instance to be stopped, and why."""


@dataclass(frozen=True, slots=True)
class Tally:
    """An app's instances as one deployment sees them. `failures` are those of the current direction only."""

    new: tuple[Instance, ...]
    old: tuple[Instance, ...]
    stopping: tuple[Instance, ...]
    ready: frozenset[str]
    failures: int
    counts: Counts

    @property
    def left(self) -> int:
        """Old ones that still exist, stopping ones included."""
        return len(self.old) + len(self.stopping)

    @property
    def unready_new(self) -> int:
        """New ones that are not ready yet."""
        return len(self.new) - self.counts.ready


def tally(deployment: Deployment, instances: Iterable[Instance], now: float) -> Tally:
    """Sort the instances by what the deployment's goal makes of them."""
    new: list[Instance] = []
    old: list[Instance] = []
    stopping: list[Instance] = []
    failures = failed = 0
    for each in instances:
        if each.deployment == deployment.id:
            failed += each.failures
            failures += each.failures if each.rollback == deployment.on_way_back else 0
        if each.runs_for_us:
            (new if deployment.brings(each) else old).append(each)
        elif each.exists:
            stopping.append(each)
    ready = frozenset(each.id for each in (*new, *old) if each.is_ready(now))
    counts = Counts(
        wanted=deployment.goal.wanted,
        old=len(old) + len(stopping),
        new=len(new),
        started=sum(each.state in RUNNING for each in new),
        healthy=sum(each.state is State.HEALTHY for each in new),
        ready=sum(each.id in ready for each in new),
        failed=failed,
    )
    return Tally(tuple(new), tuple(old), tuple(stopping), ready, failures, counts)


def steps(
    deployment: Deployment, facts: Tally, instances: Sequence[Instance]
) -> tuple[tuple[Make, ...], tuple[InstanceId, ...]]:
    """Whom to make and whom to stop now."""
    goal, strategy = deployment.goal, deployment.strategy
    surge, unavailable = strategy.surge(goal.wanted), strategy.unavailable(goal.wanted)
    existing = len(facts.new) + len(facts.old) + len(facts.stopping)
    count = min(goal.wanted - len(facts.new), goal.wanted + surge - existing, MAX_BIRTHS)
    make: tuple[Make, ...] = ()
    if goal.release is not None and count > 0:
        make = births(instances, goal.release, count, deployment.id, deployment.on_way_back)
    victims = [
        *surplus(facts.new, facts.ready, goal.wanted),
        *replaced(
            facts.new, facts.old, facts.ready, facts.unready_new, max(0, goal.wanted - unavailable)
        ),
    ]
    return make, tuple(each.id for each in victims)


def replaced(
    new: Sequence[Instance],
    old: Sequence[Instance],
    ready: frozenset[str],
    unready_new: int,
    floor: int,
) -> list[Instance]:
    """Old ones that may go. The unready go first and new unready ones don't count, so that of the ready ones
    at most (ready - floor) are among them."""
    budget = len(new) + len(old) - floor - unready_new
    return kill_order(old, ready)[: max(0, budget)]


def surplus(run: Sequence[Instance], ready: frozenset[str], wanted: int) -> list[Instance]:
    """Those above the wanted number."""
    excess = len(run) - wanted
    return kill_order(run, ready)[:excess] if excess > 0 else []


def kill_order(run: Iterable[Instance], ready: frozenset[str]) -> list[Instance]:
    """Whom to stop first: the unready, then the newest."""
    return sorted(run, key=lambda each: (each.id in ready, -each.created_at, each.id))


def births(
    instances: Iterable[Instance],
    release: int,
    count: int,
    deployment: str = "",
    rollback: bool = False,
) -> tuple[Make, ...]:
    """`count` new instances in the lowest free slots."""
    taken = {each.slot for each in instances if each.state is not State.GONE}
    slots: list[int] = []
    slot = 0
    while len(slots) < count:
        if slot not in taken:
            slots.append(slot)
        slot += 1
    return tuple(Make(release, slot, deployment, rollback) for slot in slots)
