"""Who makes room for more important instances that find none. Pure.

Only running, healthy instances of lower priority, and never more of an app than its disruption budget leaves: whoever
of it is missing already, for any reason, counts. The budget is nothing unless the app says otherwise. What is asked to
make room is saved first, killed with its grace, and waits for a place like any other afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

import numpy as np

from libs.common.events import model as ev
from services.scheduler.cluster import Draft
from services.scheduler.model import Amounts, Instance, InstanceId, State
from services.scheduler.policy import Agents, Shape
from services.scheduler.policy.model import EPSILON, Mask
from services.scheduler.policy.placer import first_to_last
from services.scheduler.rounds import all_agents, round_of
from services.scheduler.settings import SchedulerConfig
from services.scheduler.waiting import Waiting

PAUSE_S = 1.0  # between two looks
SETTLE_S = 10.0  # so long, room that somebody made is waited for until it is offered


@dataclass(frozen=True, slots=True)
class Eviction:
    """Who goes on one agent."""

    row: int
    victims: tuple[Instance, ...]

    @property
    def cost(self) -> tuple[int, int, int]:
        """The least is the best: the most important victim, their number, the agent."""
        return max(each.spec.priority for each in self.victims), len(self.victims), self.row


def make_room(
    draft: Draft,
    waiting: Waiting,
    refused: Set[Shape],
    now: float,
    config: SchedulerConfig,
) -> None:
    """Ask instances to end for those that have waited for long enough, the most important first."""
    volatile, yielding = draft.volatile, draft.cluster.ledger.yielding
    if not refused or not yielding or now - volatile.evicted_at < PAUSE_S:
        return
    lowest = min(priority for priority in yielding.values())
    asking = [each for each in refused if not each.pinned and each.priority > lowest]
    if not asking:
        return
    volatile.evicted_at = now
    agents = all_agents(draft, now, config)
    # With the wishes of all that wait: what they keep apart from binds whoever is placed later.
    work = round_of(draft, agents, waiting.shapes(), now, config)
    for shape in sorted(asking, key=first_to_last):
        asker = _asker(draft, waiting, shape, now, config)
        if asker is None:
            continue
        may = work.allowed(shape)
        room = may & (agents.free + EPSILON >= shape.vector[:, None]).all(axis=0)
        waited_s = now - max(asker.since, volatile.subscribed_at) - config.preempt_after_s
        made_s = now - volatile.evicted.get(shape, float("-inf"))
        if room.any() and min(waited_s, made_s) < SETTLE_S:
            continue  # there should be room, and somebody offer it
        eviction = _cheapest(draft, agents, may & ~room, shape)
        if eviction is not None:
            volatile.evicted[shape] = now
            _evict(draft, eviction, asker, agents)
    for shape in [each for each, at in volatile.evicted.items() if now - at >= SETTLE_S]:
        del volatile.evicted[shape]


def _asker(
    draft: Draft, waiting: Waiting, shape: Shape, now: float, config: SchedulerConfig
) -> Instance | None:
    """The first of a shape that has waited for long, and for which nobody ends already."""
    served = {
        each.yields_to
        for each in draft.due({})
        if each.yields_to and each.state is not State.PENDING
    }
    for each in waiting.ready(shape):
        since = max(each.since, draft.volatile.subscribed_at)
        if each.id not in served and now - since >= config.preempt_after_s:
            return each
    return None


def _cheapest(draft: Draft, agents: Agents, may: Mask, shape: Shape) -> Eviction | None:
    """The agent on which the least important ones, and the fewest, make enough room."""
    budgets: dict[str, int] = {}
    candidates: dict[int, list[Instance]] = {}
    for name, priority in draft.cluster.ledger.yielding.items():
        each = draft.get(name)
        if priority >= shape.priority or each is None or not _steady(each):
            continue
        row = agents.rows.index.get(each.agent)
        if row is None or not may[row]:
            continue
        if each.app not in budgets:
            budgets[each.app] = _budget(draft, each.app)
        if budgets[each.app] > 0:
            candidates.setdefault(row, []).append(each)
    found = (_enough(row, agents, shape, victims, budgets) for row, victims in candidates.items())
    return min((each for each in found if each), key=lambda each: each.cost, default=None)


def _enough(
    row: int, agents: Agents, shape: Shape, there: list[Instance], budgets: Mapping[str, int]
) -> Eviction | None:
    """The least important ones on an agent that together make enough room, none of them for nothing."""
    left = dict(budgets)
    free = agents.free[:, row].copy()
    need = shape.vector
    chosen: list[Instance] = []
    for each in sorted(there, key=lambda i: (i.spec.priority, -i.since)):
        if (free + EPSILON >= need).all():
            break
        if left[each.app] > 0 and (_vector(each) > 0)[free < need].any():
            left[each.app] -= 1
            free += _vector(each)
            chosen.append(each)
    if not (free + EPSILON >= need).all():
        return None
    for each in sorted(chosen, key=lambda i: -i.spec.priority):
        if (free - _vector(each) + EPSILON >= need).all():
            free -= _vector(each)
            chosen.remove(each)
    return Eviction(row, tuple(chosen)) if chosen else None


def _vector(instance: Instance) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    need = Amounts.of(instance.spec)
    return np.array([need.cpus, need.mem_mib, need.disk_mib])


def _steady(instance: Instance) -> bool:
    """Is it there, and well, and to stay."""
    running = instance.state is State.RUNNING and instance.healthy is True
    return running and not instance.stop and not instance.yields_to


def _budget(draft: Draft, app: str) -> int:
    """How many more of an app may be missing: by the least that any of its releases says, while several are there."""
    names: dict[InstanceId, None] = dict(draft.cluster.ledger.apps.get(app, ()))
    names.update((each.id, None) for each in draft.changed.values() if each.app == app)
    mine = [each for each in map(draft.get, names) if each is not None and not each.stop]
    missing = sum(not _steady(each) for each in mine)
    return min((each.spec.disruption_budget for each in mine), default=0) - missing


def _evict(draft: Draft, eviction: Eviction, asker: Instance, agents: Agents) -> None:
    host = agents.rows.hostnames[eviction.row]
    for each in eviction.victims:
        why = (
            f"makes room on {host} for {asker.id} of {asker.app}, priority"
            f" {asker.spec.priority} over {each.spec.priority}"
        )
        audit = ev.AuditRecorded(
            actor="scheduler",
            action="instance.evict",
            target=f"{each.app}/instances/{each.id}",
            allowed=True,
            detail=why,
        )
        draft.put(replace(each, yields_to=asker.id, message=why), audit)
