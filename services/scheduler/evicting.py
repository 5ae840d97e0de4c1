"""Who makes room for more important instances that find none. Pure.

Only running, healthy instances of lower priority, and never more of an app than its disruption budget leaves: whoever
of it is missing already, for any reason, counts (`budgets.py`). The budget is nothing unless the app says otherwise.
What is asked to make room is saved first, killed with its grace, and waits for a place like any other afterwards.
While tasks run that nobody knows, nobody makes room: the store has been lost or has gone back, and what waits may be
what runs there.

A look has bounds, however many could yield: so many shapes, and agents that vectors say would do (`victims.py`).
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from itertools import islice

from libs.common.events import model as ev
from services.scheduler.budgets import Budgets
from services.scheduler.cluster import Draft
from services.scheduler.model import Instance, State
from services.scheduler.policy import Agents, Shape
from services.scheduler.policy.model import EPSILON
from services.scheduler.policy.placer import first_to_last
from services.scheduler.rounds import all_agents, round_of
from services.scheduler.settings import SchedulerConfig
from services.scheduler.victims import Eviction, Victims
from services.scheduler.waiting import Waiting

PAUSE_S = 1.0  # between two looks
SETTLE_S = 10.0  # so long, room that somebody made is waited for until it is offered
MOST_SHAPES = 8
"""For so many, room is looked for in one look: some ten milliseconds each where 100,000 could yield."""
MOST_ASKERS = 1000
"""So many of a shape are looked at, of those that have waited the longest, for one that nobody makes room for yet."""


def make_room(
    draft: Draft,
    waiting: Waiting,
    refused: Set[Shape],
    now: float,
    config: SchedulerConfig,
) -> None:
    """Ask instances to end for those that have waited for long enough, the most important first."""
    volatile, yielding = draft.volatile, draft.cluster.ledger.yielding
    if not refused or not yielding or volatile.unknown or now - volatile.evicted_at < PAUSE_S:
        return
    lowest = yielding.lowest()
    asking = [each for each in refused if not each.pinned and each.priority > lowest]
    if not asking:
        return
    volatile.evicted_at = now
    askers = _next(draft, waiting, asking, now, config)
    if askers:
        _look(draft, waiting, askers, now, config)
    for shape in [each for each, at in volatile.evicted.items() if now - at >= SETTLE_S]:
        del volatile.evicted[shape]


def _look(
    draft: Draft,
    waiting: Waiting,
    askers: dict[Shape, Instance],
    now: float,
    config: SchedulerConfig,
) -> None:
    agents = all_agents(draft, now, config)
    # With the wishes of all that wait: what they keep apart from binds whoever is placed later.
    work = round_of(draft, agents, waiting.shapes(), now, config)
    victims = None
    for shape, asker in askers.items():
        may = work.allowed(shape)
        room = may & (agents.free + EPSILON >= shape.vector[:, None]).all(axis=0)
        since = max(asker.since, draft.volatile.subscribed_at)
        waited_s = now - since - config.preempt_after_s
        made_s = now - draft.volatile.evicted.get(shape, float("-inf"))
        if room.any() and min(waited_s, made_s) < SETTLE_S:
            continue  # there should be room, and somebody offer it
        if victims is None:
            most = max(each.priority for each in askers)
            victims = Victims(draft, agents, Budgets(draft, now), most)
        eviction = victims.cheapest(shape, may & ~room)
        if eviction is not None:
            draft.volatile.evicted[shape] = now
            victims.gone(eviction)
            _evict(draft, eviction, asker, agents)


def _next(
    draft: Draft, waiting: Waiting, asking: list[Shape], now: float, config: SchedulerConfig
) -> dict[Shape, Instance]:
    """Of the shapes with somebody who may ask by now, the first that have not had their turn, with that one.

    Once all of them have had it, all have it again: who finds nobody keeps nobody else from it.
    """
    volatile = draft.volatile
    served = {
        each.yields_to
        for each in draft.due({})
        if each.yields_to and each.state is not State.PENDING
    }
    askers = {}
    for shape in sorted(asking, key=first_to_last):
        asker = _asker(draft, waiting, shape, served, now, config)
        if asker is not None:
            askers[shape] = asker
    left = [each for each in askers if each not in volatile.sought] or list(askers)
    chosen = left[:MOST_SHAPES]
    done = len(chosen) == len(left)
    volatile.sought = frozenset() if done else volatile.sought.intersection(askers).union(chosen)
    return {shape: askers[shape] for shape in chosen}


def _asker(
    draft: Draft,
    waiting: Waiting,
    shape: Shape,
    served: Set[str],
    now: float,
    config: SchedulerConfig,
) -> Instance | None:
    """The first of a shape that has waited for long, and for which nobody ends already."""
    for each in islice(waiting.ready(shape), MOST_ASKERS):
        since = max(each.since, draft.volatile.subscribed_at)
        if each.id not in served and now - since >= config.preempt_after_s:
            return each
    return None


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
