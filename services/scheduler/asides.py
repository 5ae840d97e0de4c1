"""An agent set aside for what has waited for long and finds no room: a stream of small ones would take all that becomes
free, for ever. Pure.

What is free there is left to it by all that are no more important, until there is enough. Others lose as little by that
as may be: one agent a shape, few in all, and not for long where nothing ends; then another agent has its turn, and when
all have had theirs in vain there is a rest, as long as that was. Other frameworks are kept from nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from itertools import islice

import numpy as np

from services.scheduler.cluster import Aside, Draft
from services.scheduler.model import AgentId
from services.scheduler.policy import Agents, Refusal, Round, Shape
from services.scheduler.policy.model import EPSILON, Vector
from services.scheduler.rounds import all_agents, round_of
from services.scheduler.settings import SchedulerConfig
from services.scheduler.waiting import Waiting

HOLD_S = 60.0  # so long, without coming nearer to what is needed
PART = 20  # of so many agents one may be set aside, and one of fewer
MOST_LOOKED_AT = 20  # shapes in one decision
MOST_RESTED = 10  # so many times HOLD_S


def review(
    draft: Draft,
    waiting: Waiting,
    refused: Set[Shape],
    looked_at: Set[Shape],
    now: float,
    config: SchedulerConfig,
) -> None:
    """Set agents aside for the next decisions, or no more. `refused`: shapes that more room would help."""
    asides = draft.volatile.asides
    for shape in [each for each in asides if each in looked_at - refused]:
        del asides[shape]
    starving = _starving(draft, waiting, {**asides, **dict.fromkeys(refused)}, now, config)
    for shape in asides.keys() - starving.keys():
        del asides[shape]
    if not starving:
        return
    agents = all_agents(draft, now, config)
    for shape, aside in list(asides.items()):
        _go_on(draft, agents, shape, aside, now)
    left = max(1, len(agents.rows) // PART) - len(kept(draft))
    if left > 0:
        _begin(draft, waiting, agents, starving, left, now, config)


def kept(draft: Draft) -> dict[AgentId, Shape]:
    """Agents that are set aside, and for what."""
    found = draft.volatile.asides.items()
    return {each.agent: shape for shape, each in found if each.agent is not None}


def told(draft: Draft, refused: Mapping[Shape, Refusal]) -> dict[Shape, Refusal]:
    """Refusals that say besides which host is set aside."""
    found, rows = dict(refused), draft.volatile.roster.rows
    for agent, shape in kept(draft).items():
        if shape in found and agent in rows.index:
            host = rows.hostnames[rows.index[agent]]
            nearest = f"{found[shape].nearest}; what becomes free on {host} is kept for it"
            found[shape] = replace(found[shape], nearest=nearest)
    return found


def _starving(
    draft: Draft,
    waiting: Waiting,
    shapes: Mapping[Shape, object],
    now: float,
    config: SchedulerConfig,
) -> dict[Shape, float]:
    """Of these, those of which one has waited for long, and since when. What is pinned has its place already."""
    if config.set_aside_after_s <= 0:
        return {}
    found, subscribed_at = {}, draft.volatile.subscribed_at
    for shape in shapes:
        first = None if shape.pinned else next(waiting.ready(shape), None)
        if first is not None:
            since = max(first.since, first.not_before, subscribed_at)
            if now - since >= config.set_aside_after_s:
                found[shape] = since
    return found


def _go_on(draft: Draft, agents: Agents, shape: Shape, aside: Aside, now: float) -> None:
    """Is it still worth it: does the agent come nearer to what is needed, or has not stood still for long."""
    asides, agent = draft.volatile.asides, aside.agent
    if agent is None:
        return
    row = agents.rows.index.get(agent)
    lost = row is None or bool((agents.full | agents.closed | agents.away)[row])
    lacks = float("inf") if lost else float(_lacks(agents.free, shape)[row])
    if lacks > aside.lacks + EPSILON:  # one of them is there now, or something more important
        asides[shape] = Aside(None, now, tried=aside.tried)
    elif lacks < aside.lacks - EPSILON:
        asides[shape] = replace(aside, until=now + HOLD_S, lacks=lacks)
    elif now >= aside.until:
        asides[shape] = Aside(None, now, tried=aside.tried | {agent})


def _begin(
    draft: Draft,
    waiting: Waiting,
    agents: Agents,
    starving: Mapping[Shape, float],
    left: int,
    now: float,
    config: SchedulerConfig,
) -> None:
    """For `left` more: those whose last turn is the longest ago, and of those that had none the oldest."""
    asides = draft.volatile.asides
    busy = {s for s, each in asides.items() if each.agent is not None or now < each.until}
    asking = [each for each in starving if each not in busy]
    if not asking:
        return
    last = {each: asides[each].until if each in asides else 0.0 for each in asking}
    asking.sort(key=lambda each: (last[each], starving[each]))
    work = round_of(draft, agents, waiting.shapes(), now, config)
    taken = {agents.rows.index[each] for each in kept(draft) if each in agents.rows.index}
    for shape in islice(asking, MOST_LOOKED_AT):
        found = asides.get(shape, Aside(None, now))
        asides[shape] = found = _chosen(draft, work, agents, shape, found.tried, taken, now)
        if found.agent is not None:
            taken.add(agents.rows.index[found.agent])
            left -= 1
            if left <= 0:
                return


def _chosen(
    draft: Draft,
    work: Round,
    agents: Agents,
    shape: Shape,
    tried: frozenset[AgentId],
    taken: Set[int],
    now: float,
) -> Aside:
    """The agent that lacks the least, of those that would do if all of ours there ended; or a rest."""
    need = shape.vector[:, None]
    may = work.allowed(shape) & (draft.volatile.roster.capacity + EPSILON >= need).all(axis=0)
    may[list(taken)] = False
    before = [agents.rows.index[each] for each in tried if each in agents.rows.index]
    lacks = np.where(may, _lacks(agents.free, shape), np.inf)
    lacks[before] = np.inf
    row = int(lacks.argmin()) if len(lacks) else 0
    if not len(lacks) or lacks[row] == np.inf:
        return Aside(None, now + HOLD_S * min(max(len(tried), 1), MOST_RESTED))
    return Aside(agents.rows.ids[row], now + HOLD_S, float(lacks[row]), tried)


def _lacks(free: Vector, shape: Shape) -> Vector:
    """Of each agent, which share of the need is missing: of the resource of which it is the most."""
    need = shape.vector
    some = need > 0
    missing = (need[some, None] - free[some]) / need[some, None]
    lacks: Vector = np.maximum(missing, 0.0).max(axis=0, initial=0.0)
    return lacks
