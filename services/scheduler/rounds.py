"""What a round of placement needs to know, out of a draft. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from services.scheduler import nodes, roles
from services.scheduler.cluster import Draft
from services.scheduler.ledger import changed_apart, changed_usage
from services.scheduler.model import AgentId, State
from services.scheduler.networks import Network
from services.scheduler.policy import Agents, Round, Shape
from services.scheduler.policy.model import Vector
from services.scheduler.policy.placer import kept_apart
from services.scheduler.policy.rules import Here
from services.scheduler.roster import Known
from services.scheduler.settings import SchedulerConfig


def round_of(
    draft: Draft, agents: Agents, shapes: Iterable[Shape], now: float, config: SchedulerConfig
) -> Round:
    """A round of placement on these agents, with what runs already."""
    shapes = list(shapes)
    apart = kept_apart(shapes)
    for app, other in changed_apart(draft.cluster.ledger.apart, draft.changes()):
        apart.setdefault(app, set()).add(other)
        apart.setdefault(other, set()).add(app)
    apps = {shape.app for shape in shapes if shape.relational or shape.app in apart}
    places = draft.places({*apps, *apart})
    here = {}
    for app, known in places.items():
        there = Here()
        for (agent, hostname), count in known.items():
            row = agents.rows.index.get(agent)
            if row is None:
                there.elsewhere += [{"hostname": hostname}] * count
            elif count:
                there.add([(row, count)])
        here[app] = there
    told = draft.volatile.networks.items()
    networks = {name: network for name, network in told if is_fresh(network, now, config)}
    asides = draft.volatile.asides.items()
    index = agents.rows.index
    kept = {index[each.agent]: shape for shape, each in asides if each.agent in index}
    return Round(agents, here, apart, networks, kept)


def inhabited(draft: Draft) -> Iterator[Known]:
    """Agents that have something of ours, by what they last offered, or else by what was saved of it.

    Not among them: those of which neither is known, as after an upgrade from a release that did not save it.
    """
    for agent in draft.cluster.on_agent:
        there = draft.on_agent(agent)
        told = draft.volatile.agents.get(agent)
        if told is not None and there:
            yield agent, told.hostname, told.attributes
            continue
        for each in there:
            if each.attributes is not None:
                yield agent, each.hostname, each.attributes
                break


def usage_of(draft: Draft) -> dict[str, Vector]:
    """What each business unit has, by this draft."""
    usage = changed_usage(draft.cluster.ledger.usage, draft.changes())
    return {bu: np.array([a.cpus, a.mem_mib, a.disk_mib]) for bu, a in usage.items()}


def is_fresh(network: Network, now: float, config: SchedulerConfig) -> bool:
    """Is what ipam said of a network still worth something."""
    return now - network.told_at <= config.pools_fresh_s


def full_agents(draft: Draft, now: float) -> list[AgentId]:
    """Agents without room on their disk."""
    return [agent for agent, known in draft.volatile.full.items() if now < known.until]


def away_agents(draft: Draft) -> set[AgentId]:
    """Agents that Mesos can't reach: by what became of ours there, or by its own word where there is none."""
    return {each.agent for each in draft.in_state(State.UNREACHABLE)} | draft.volatile.lost


def all_agents(draft: Draft, now: float, config: SchedulerConfig) -> Agents:
    """Agents with what should be free there, offered or not, but those that Mesos can't reach."""
    full, away = full_agents(draft, now), away_agents(draft)
    shut = nodes.closed(draft), roles.outside(draft, config)
    return draft.volatile.roster.estimate(draft.ours_on, full, away, *shut)
