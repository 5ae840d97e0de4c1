"""A dry run of placement: where instances would go, by the very policy that would place them. Pure; nothing changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from libs.common.spec import InstanceSpec
from services.scheduler.cluster import Cluster, Draft
from services.scheduler.ledger import settled
from services.scheduler.model import State
from services.scheduler.placing import limit_of
from services.scheduler.policy import Refusal, Shape
from services.scheduler.rounds import all_agents, round_of, usage_of
from services.scheduler.settings import SchedulerConfig


@dataclass(frozen=True, slots=True)
class Place:
    """So many would go to an agent."""

    agent: str
    hostname: str
    zone: str
    count: int


@dataclass(frozen=True, slots=True)
class Placed:
    """Where instances would go, and why the rest would not. `agents`: so many were looked at."""

    places: tuple[Place, ...]
    unplaced: int
    why: Refusal | None
    agents: int


def plan(
    cluster: Cluster,
    app: str,
    spec: InstanceSpec,
    count: int,
    replacing: bool,
    now: float,
    config: SchedulerConfig,
) -> Placed:
    """Where `count` more of an app would go, were nothing else waiting; `replacing`: in place of those it has.

    Agents count with what they last offered, less what has been placed there since: when nothing waits, nobody offers.
    """
    draft = Draft(cluster)
    if replacing:
        for name in list(cluster.ledger.apps.get(app, ())):
            known = cluster.instances[name]
            if known.state is State.UNREACHABLE:  # nobody sees it end, nor is its host back by that
                draft.put(replace(known, stop=True))
            elif settled(known):
                draft.put(replace(known, state=State.ENDED))
    agents = all_agents(draft, now, config)
    shape = Shape.of(app, spec)
    work = round_of(draft, agents, [shape], now, config)
    usage = usage_of(draft)
    limit, why_not = limit_of(draft, shape, usage.get(shape.bu), now, config)
    given, why = work.put(shape, min(count, limit))
    placed = sum(number for _, number in given)
    rows = agents.rows
    by_row: dict[int, int] = {}
    for row, number in given:
        by_row[row] = by_row.get(row, 0) + number
    places = tuple(
        Place(rows.ids[row], rows.hostnames[row], rows.attributes[row].get("zone", ""), number)
        for row, number in sorted(by_row.items(), key=lambda each: rows.hostnames[each[0]])
    )
    refusal = (why or why_not) if placed < count else None
    return Placed(places, count - placed, refusal, len(rows))
