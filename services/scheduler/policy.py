"""Placement: which agent gets which pending instance. Filters as masks over all agents, then a scorer.

Like instances (same shape, no relational constraint) are placed in bulk: one pass over the agents places any number
of them. Instances whose constraints depend on where their siblings are go one at a time, still vectorised over agents.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from libs.common.spec import Constraint, ConstraintOperator, InstanceSpec
from services.scheduler.model import AgentId, Amounts, InstanceId

Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]

EPSILON = 1e-9
"""Below a thousandth of what Mesos counts in (it rounds CPUs to 0.001): absorbs binary fractions."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent with what is free on it. `full`: its host says that there is no room on its disk."""

    agent: AgentId
    hostname: str
    attributes: Mapping[str, str]
    free: Amounts
    full: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """A pending instance. `agent` pins it (an adoption can happen on one agent only), or `hostname` does."""

    id: InstanceId
    app: str
    spec: InstanceSpec
    agent: AgentId | None = None
    hostname: str = ""


@dataclass(slots=True)
class Placement:
    """Who goes where, and for those who go nowhere, how many agents failed which filter first."""

    placed: dict[InstanceId, AgentId] = field(default_factory=dict)
    refused: dict[InstanceId, dict[str, int]] = field(default_factory=dict)


Siblings = Mapping[str, Sequence[Mapping[str, str]]]
"""Per app, the attributes (with `hostname`) of the agents that its live instances are on, one entry each."""

_RELATIONAL = frozenset(
    {
        ConstraintOperator.UNIQUE,
        ConstraintOperator.GROUP_BY,
        ConstraintOperator.MAX_PER,
        ConstraintOperator.CLUSTER,
    }
)


class Agents:
    """All candidates as vectors; `take` books what was placed."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.free: Vector = np.array(
            [[c.free.cpus, c.free.mem_mib, c.free.disk_mib] for c in candidates], dtype=np.float64
        ).reshape(len(candidates), 3)
        self._columns: dict[str, npt.NDArray[np.str_]] = {}

    def column(self, attribute: str) -> npt.NDArray[np.str_]:
        """The values of an attribute, "" where an agent lacks it."""
        values = self._columns.get(attribute)
        if values is None:
            values = np.array([value_of(c, attribute) for c in self.candidates], dtype=np.str_)
            self._columns[attribute] = values
        return values

    def take(self, index: int, need: Vector, count: int) -> None:
        """Book `count` instances of `need` on an agent."""
        self.free[index] -= need * count


def value_of(candidate: Candidate, attribute: str) -> str:
    """An agent's value of an attribute; `hostname` is one too."""
    if attribute == "hostname":
        return candidate.hostname
    return candidate.attributes.get(attribute, "")


def place(needs: Sequence[Need], candidates: Sequence[Candidate], siblings: Siblings) -> Placement:
    """Place what can be placed, tightest fit first; books resources as it goes, changes no argument."""
    result = Placement()
    agents = Agents(candidates)
    here: dict[str, list[Mapping[str, str]]] = {app: list(each) for app, each in siblings.items()}
    for group in _groups(needs):
        if any(c.operator in _RELATIONAL for c in group[0].spec.constraints):
            for need in group:
                _place_alike([need], agents, here, result)
        else:
            _place_alike(group, agents, here, result)
    return result


def _groups(needs: Sequence[Need]) -> list[list[Need]]:
    """Like instances together; the largest shape first, since small ones fill the gaps."""
    groups: dict[tuple[object, ...], list[Need]] = {}
    for need in needs:
        spec = need.spec
        size = (spec.resources.mem_mib, spec.resources.cpus, spec.resources.disk_mib)
        key = (
            need.agent is None,
            size,
            need.app,
            spec.instance_class,
            spec.constraints,
            need.agent,
            need.hostname,
        )
        groups.setdefault(key, []).append(need)
    # Pinned ones first: they have one place to go.
    return [group for key, group in sorted(groups.items(), key=lambda item: _rank(item[0]))]


def _rank(key: tuple[object, ...]) -> tuple[bool, tuple[float, ...], str]:
    unpinned, size, app = key[0], key[1], key[2]
    assert isinstance(size, tuple)
    return bool(unpinned), tuple(-float(each) for each in size), str(app)


def _place_alike(
    group: Sequence[Need],
    agents: Agents,
    here: dict[str, list[Mapping[str, str]]],
    result: Placement,
) -> None:
    first = group[0]
    passed, failed = _filter(first, agents, here.get(first.app, ()))
    amounts = Amounts.of(first.spec)
    need = np.array([amounts.cpus, amounts.mem_mib, amounts.disk_mib])
    capacity = _capacity(agents.free, need, passed)
    waiting = list(group)
    for index in _best_fit(agents.free, need, capacity):
        count = min(int(capacity[index]), len(waiting))
        candidate = agents.candidates[index]
        for each in waiting[:count]:
            result.placed[each.id] = candidate.agent
        here.setdefault(first.app, []).extend(
            [{**candidate.attributes, "hostname": candidate.hostname}] * count
        )
        agents.take(index, need, count)
        del waiting[:count]
        if not waiting:
            return
    # Those that remain see the agents as the placed ones left them.
    failed.update(_short_of(agents.free, need, passed))
    for each in waiting:
        result.refused[each.id] = dict(failed)


def _capacity(free: Vector, need: Vector, passed: Mask) -> Vector:
    with np.errstate(divide="ignore", invalid="ignore"):
        fits = np.where(need > 0, np.floor((free + EPSILON) / need), np.inf)
    capacity: Vector = np.where(passed, fits.min(axis=1, initial=np.inf), 0.0)
    return np.minimum(np.maximum(capacity, 0.0), 1e9)


def _best_fit(free: Vector, need: Vector, capacity: Vector) -> list[int]:
    """Agents with room, the one that would be fullest first: its largest share left over is the smallest."""
    possible = np.flatnonzero(capacity >= 1)
    if possible.size == 0:
        return []
    scale = np.maximum(free.max(axis=0), 1.0)
    left = ((free[possible] - need) / scale).max(axis=1)
    return [int(each) for each in possible[np.argsort(left, kind="stable")]]


def _filter(
    need: Need, agents: Agents, siblings: Sequence[Mapping[str, str]]
) -> tuple[Mask, Counter[str]]:
    """Agents that pass everything but resources, and how many failed which filter first."""
    passed: Mask = np.ones(len(agents.candidates), dtype=np.bool_)
    failed: Counter[str] = Counter()

    def keep(mask: Mask, reason: str) -> None:
        lost = int(np.count_nonzero(passed & ~mask))
        if lost:
            failed[reason] += lost
        np.logical_and(passed, mask, out=passed)

    if need.agent is not None:
        ids = np.array([c.agent for c in agents.candidates], dtype=np.str_)
        keep(ids == need.agent, "agent of the container to adopt")
        return passed, failed  # it is there already, whatever the constraints say by now
    if need.hostname:
        keep(agents.column("hostname") == need.hostname, "host to be cleaned up")
        return passed, failed
    keep(~np.array([c.full for c in agents.candidates], dtype=np.bool_), "room on its disk")
    wanted = need.spec.instance_class.value
    classes = agents.column("class")
    keep((classes == wanted) | ((classes == "") & (wanted == "thin")), f"class {wanted}")
    for constraint in need.spec.constraints:
        rule = _RULES[constraint.operator]
        mask = rule(constraint, agents.column(constraint.attribute), siblings)
        keep(mask, f"{constraint.attribute} {constraint.operator} {constraint.value or ''}".strip())
    return passed, failed


def _short_of(free: Vector, need: Vector, passed: Mask) -> Counter[str]:
    """How many of the passed agents lack which resource (the first they lack)."""
    short: Counter[str] = Counter()
    remaining = passed.copy()
    for column, name in enumerate(("cpus", "mem", "disk")):
        lacking = remaining & (free[:, column] + EPSILON < need[column])
        if lacking.any():
            short[name] += int(np.count_nonzero(lacking))
            remaining &= ~lacking
    return short


# -- constraints, as Marathon defines them -------------------------------------------------------------

Rule = Callable[[Constraint, npt.NDArray[np.str_], Sequence[Mapping[str, str]]], Mask]


def _used(constraint: Constraint, siblings: Sequence[Mapping[str, str]]) -> Counter[str]:
    return Counter(each.get(constraint.attribute, "") for each in siblings)


def _unique(
    rule: Constraint, values: npt.NDArray[np.str_], siblings: Sequence[Mapping[str, str]]
) -> Mask:
    mask: Mask = ~np.isin(values, list(_used(rule, siblings)))
    return mask


def _cluster(
    rule: Constraint, values: npt.NDArray[np.str_], siblings: Sequence[Mapping[str, str]]
) -> Mask:
    wanted = rule.value or next(iter(_used(rule, siblings)), None)
    mask: Mask = values != "" if wanted is None else values == wanted
    return mask


def _group_by(
    rule: Constraint, values: npt.NDArray[np.str_], siblings: Sequence[Mapping[str, str]]
) -> Mask:
    used = _used(rule, siblings)
    groups = sorted(set(values.tolist()) - {""})
    if not groups:
        return np.zeros(len(values), dtype=np.bool_)
    least = min(used[group] for group in groups)
    mask: Mask = np.isin(values, [group for group in groups if used[group] == least])
    return mask


def _max_per(
    rule: Constraint, values: npt.NDArray[np.str_], siblings: Sequence[Mapping[str, str]]
) -> Mask:
    limit = int(rule.value or 0)
    full = [value for value, count in _used(rule, siblings).items() if count >= limit]
    mask: Mask = ~np.isin(values, full)
    return mask


def _like(
    rule: Constraint, values: npt.NDArray[np.str_], _siblings: Sequence[Mapping[str, str]]
) -> Mask:
    pattern = re.compile(rule.value or "")
    return np.array(
        [pattern.fullmatch(value) is not None for value in values.tolist()], dtype=np.bool_
    )


def _unlike(
    rule: Constraint, values: npt.NDArray[np.str_], siblings: Sequence[Mapping[str, str]]
) -> Mask:
    return ~_like(rule, values, siblings)


def _is(
    rule: Constraint, values: npt.NDArray[np.str_], _siblings: Sequence[Mapping[str, str]]
) -> Mask:
    mask: Mask = values == rule.value
    return mask


_RULES: Mapping[ConstraintOperator, Rule] = {
    ConstraintOperator.UNIQUE: _unique,
    ConstraintOperator.CLUSTER: _cluster,
    ConstraintOperator.GROUP_BY: _group_by,
    ConstraintOperator.MAX_PER: _max_per,
    ConstraintOperator.LIKE: _like,
    ConstraintOperator.UNLIKE: _unlike,
    ConstraintOperator.IS: _is,
}
