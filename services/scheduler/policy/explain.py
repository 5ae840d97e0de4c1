"""Why an instance is not placed: how many agents fail which filter, and the nearest miss in plain words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.scheduler.policy.agents import Agents
from services.scheduler.policy.model import EPSILON, RESOURCES, Mask, Refusal, Shape, Vector
from services.scheduler.policy.rules import Filter, Relations

OFFERED_NOW = "offered now"
NOTHING_YET = "no agent has offered anything yet"

_UNITS = {"cpus": ("CPUs", "{:g}"), "mem": ("memory", "{:.0f} MiB"), "disk": ("disk", "{:.0f} MiB")}


def refusal(
    agents: Agents,
    shape: Shape,
    unary: Sequence[Filter],
    bound: Relations,
    kept: Sequence[int] = (),
) -> Refusal:
    """Why the next one of a shape goes nowhere, as the agents are now: all that are known, offered or not.

    Each of them is counted once, by the first filter that it fails. An agent that offers nothing is taken by what
    should be free there; if that would do, others have it, or Mesos is yet to offer it. `kept` are rows that are set
    aside for another.
    """
    reachable = Filter("reachable", "are reachable", ~agents.away)
    every = [reachable, *unary, *_related(agents, unary, bound)]
    free = agents.known()
    resources = _resources(free, shape)
    offered = Filter(OFFERED_NOW, "are offered by Mesos now", agents.offered)
    last = [offered]
    if kept:
        ours = np.ones(len(agents.rows), dtype=np.bool_)
        ours[list(kept)] = False
        last = [Filter("set aside", "are free of what has waited for longer", ours), offered]
    failed: dict[str, int] = {}
    left = np.ones(len(agents.rows), dtype=np.bool_)
    for each in (*every, *resources, *last):
        lost = int(np.count_nonzero(left & ~each.mask))
        if lost:
            failed[each.name] = failed.get(each.name, 0) + lost
        left &= each.mask
    return Refusal(len(agents.rows), failed, _nearest(agents, free, every, resources, last))


def _related(agents: Agents, unary: Sequence[Filter], bound: Relations) -> list[Filter]:
    found = list(bound.filters)
    found += [Filter(cap.name, cap.told, cap.open()) for cap in bound.caps]
    allowed = np.ones(len(agents.rows), dtype=np.bool_)
    for each in (*unary, *bound.filters):
        allowed &= each.mask
    for level in bound.levels:
        if level.hard:
            # Only those that are in the running can be out of turn, and whose turn it is depends on what is offered.
            turn = level.open(level.stop(allowed & agents.offered))
            found.append(Filter(level.name, level.told, turn | ~allowed))
    return found


def _resources(free: Vector, shape: Shape) -> list[Filter]:
    need = shape.vector
    found = []
    for n, name in enumerate(RESOURCES):
        if need[n] > 0:
            label, form = _UNITS[name]
            told = f"have the {label} ({form.format(need[n])})"
            found.append(Filter(name, told, free[n] + EPSILON >= need[n]))
    return found


def _nearest(
    agents: Agents,
    free: Vector,
    every: Sequence[Filter],
    resources: Sequence[Filter],
    last: Sequence[Filter],
) -> str:
    """The scarcest thing first, then what those that have it lack; or how much the best one has of a resource."""
    total = len(agents.rows)
    if total == 0:
        return NOTHING_YET
    base = np.ones(total, dtype=np.bool_)
    right = base.copy()
    for each in every:
        right &= each.mask
    if right.any():  # somewhere it may go, but nowhere is there enough
        for each in resources:
            if not (right & each.mask).any():
                return _too_little(agents, free, right, each)
        for each in resources:
            right &= each.mask
        for each in last:
            if right.any() and not (right & each.mask).any():
                return f"{int(np.count_nonzero(right))} of {_agents(total)} would do, none of them {_one(each.told)}"
            right &= each.mask
    rules = [*every, *resources]
    held = {id(each): int(np.count_nonzero(base & each.mask)) for each in rules}
    first = min(rules, key=lambda each: held[id(each)])
    if held[id(first)] == 0:
        return f"none of {total} agents {_one(first.told)}"
    told = f"{held[id(first)]} of {_agents(total)} {_some(held[id(first)], first.told)}"
    left = base & first.mask
    others = [each for each in rules if each is not first]
    while others:
        number = {id(each): int(np.count_nonzero(left & each.mask)) for each in others}
        each = min(others, key=lambda other: number[id(other)])
        count = number[id(each)]
        if count == 0:
            return f"{told}, none of them {_one(each.told)}"
        if count == int(np.count_nonzero(left)):
            break
        told += f", {count} of them {_some(count, each.told)}"
        left &= each.mask
        others.remove(each)
    return told


def _too_little(agents: Agents, free: Vector, right: Mask, lacking: Filter) -> str:
    n = RESOURCES.index(lacking.name)
    rows = np.flatnonzero(right)
    row = int(rows[free[n, rows].argmax()])
    form = _UNITS[lacking.name][1]
    most = form.format(max(free[n, row], 0.0))
    told = f"{int(rows.size)} of {_agents(len(right))} would do, none of them {_one(lacking.told)}"
    return f"{told}: the most is {most} on {agents.rows.hostnames[row]}"


def _agents(number: int) -> str:
    return f"{number} agent" if number == 1 else f"{number} agents"


def _some(number: int, told: str) -> str:
    return _one(told) if number == 1 else told


def _one(told: str) -> str:
    verb, _, rest = told.partition(" ")
    return f"{'has' if verb == 'have' else 'is'} {rest.replace(' their ', ' its ')}"
