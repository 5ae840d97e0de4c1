"""Placement as it is defined: one instance at a time, every agent looked at, nothing clever. For comparison only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from libs.common.spec import Constraint, ConstraintOperator, InstanceClass
from services.scheduler.model import Amounts
from services.scheduler.policy import Candidate, Shape

_O = ConstraintOperator


def value_of(candidate: Candidate, attribute: str) -> str:
    """An agent's value of an attribute, "" when it has none."""
    if attribute == "hostname":
        return candidate.hostname
    return candidate.attributes.get(attribute, "")


@dataclass
class Reference:
    """Agents that fill up; `where` is the agent of each instance, by app."""

    candidates: Sequence[Candidate]
    where: dict[str, list[Candidate]] = field(default_factory=dict)
    free: dict[str, Amounts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.free = {each.agent: each.free for each in self.candidates}

    def place(self, shape: Shape) -> Candidate | None:
        """Place one more; None when it can't be."""
        possible = [each for each in self.candidates if self._may(shape, each)]
        for rule in shape.constraints:
            possible = [each for each in possible if self._relation(rule, shape, each)]
        for rule in shape.constraints:
            if rule.operator is _O.GROUP_BY:
                possible = self._next_in_turn(rule, shape, possible)
        possible = [each for each in possible if self._fits(shape, each)]
        for attribute in shape.spread:
            counts = self._counts(shape, attribute)
            least = min((counts[value_of(each, attribute)] for each in possible), default=0)
            possible = [each for each in possible if counts[value_of(each, attribute)] == least]
        if not possible:
            return None
        chosen = min(possible, key=lambda each: self._left(shape, each))
        self.free[chosen.agent] -= shape.amounts
        self.where.setdefault(shape.app, []).append(chosen)
        return chosen

    def _counts(self, shape: Shape, attribute: str) -> Counter[str]:
        return Counter(value_of(each, attribute) for each in self.where.get(shape.app, ()))

    def _may(self, shape: Shape, each: Candidate) -> bool:
        found = value_of(each, "class")
        thin = shape.instance_class is InstanceClass.THIN and not found
        if each.full or not (thin or found == shape.instance_class.value):
            return False
        others = [there for app in shape.apart_from for there in self.where.get(app, ())]
        if any(there.hostname == each.hostname for there in others):
            return False
        for rule in shape.constraints:
            value = value_of(each, rule.attribute)
            if rule.operator is _O.UNLIKE:
                fine = not value or re.fullmatch(rule.value or "", value) is None
            elif not value:
                fine = False
            elif rule.operator is _O.IS:
                fine = value == rule.value
            elif rule.operator is _O.LIKE:
                fine = re.fullmatch(rule.value or "", value) is not None
            else:
                fine = True
            if not fine:
                return False
        return True

    def _relation(self, rule: Constraint, shape: Shape, each: Candidate) -> bool:
        value = value_of(each, rule.attribute)
        counts = self._counts(shape, rule.attribute)
        match rule.operator:
            case _O.UNIQUE:
                return counts[value] == 0
            case _O.MAX_PER:
                return counts[value] < int(rule.value or 0)
            case _O.CLUSTER:
                return value == (rule.value or next(iter(counts), value))
        return True

    def _next_in_turn(
        self, rule: Constraint, shape: Shape, running: list[Candidate]
    ) -> list[Candidate]:
        """Those whose value has the fewest of all."""
        counts = self._counts(shape, rule.attribute)
        least = self._least(rule, shape)
        return [each for each in running if counts[value_of(each, rule.attribute)] == least]

    def is_even(self, rule: Constraint, shape: Shape) -> bool:
        """Does no value have more than one instance more than any other on which one may go (GROUP_BY)."""
        most = max(self._counts(shape, rule.attribute).values(), default=0)
        return most <= self._least(rule, shape) + 1

    def _least(self, rule: Constraint, shape: Shape) -> int:
        """GROUP_BY looks at all agents that are in the running but for room and for caps.

        A value has none in any case before the app is on as many values as it is to be.
        """
        counts = self._counts(shape, rule.attribute)
        others = [each for each in shape.constraints if each.operator is not _O.GROUP_BY]
        others = [each for each in others if each.operator in (_O.CLUSTER,)]
        known = [
            each
            for each in self.candidates
            if self._may(shape, each)
            and value_of(each, rule.attribute)
            and all(self._relation(other, shape, each) for other in others)
        ]
        least = min((counts[value_of(each, rule.attribute)] for each in known), default=0)
        return least if len(+counts) >= int(rule.value or 0) else 0

    def _fits(self, shape: Shape, each: Candidate) -> bool:
        left = self.free[each.agent] - shape.amounts
        return min(left.cpus, left.mem_mib, left.disk_mib) >= -1e-9

    def _left(self, shape: Shape, each: Candidate) -> float:
        """What would be left, by its largest share: any order that falls as an agent fills up would do."""
        left = self.free[each.agent] - shape.amounts
        return left.cpus + left.mem_mib / 64.0


def violations(
    shapes: Mapping[str, Shape],
    where: Mapping[str, list[Candidate]],
    candidates: Sequence[Candidate],
) -> list[str]:
    """Hard rules that a placement on the candidates, begun with nothing, breaks; one shape an app."""
    found = []
    # Where an app may not be for another's sake depends on who came first.
    apart = {app for app, shape in shapes.items() if shape.apart_from}
    apart |= {other for shape in shapes.values() for other in shape.apart_from}
    for app, shape in shapes.items():
        mine = where.get(app, [])
        for rule in shape.constraints:
            values = [value_of(each, rule.attribute) for each in mine]
            if not _holds(rule, Counter(values)):
                found.append(f"{app}: {rule.attribute} {rule.operator} {rule.value}: {values}")
            if rule.operator is _O.GROUP_BY and app not in apart:
                of = Reference(candidates, {app: mine})
                if not of.is_even(rule, shape):
                    found.append(f"{app}: {rule.attribute} is not even: {values}")
        hosts = {each.hostname for other in shape.apart_from for each in where.get(other, ())}
        if hosts & {each.hostname for each in mine}:
            found.append(f"{app}: not apart from {shape.apart_from}")
    return found


def _holds(rule: Constraint, counts: Counter[str]) -> bool:
    if "" in counts and rule.operator is not _O.UNLIKE:
        return False
    match rule.operator:
        case _O.UNIQUE:
            return max(counts.values(), default=0) <= 1
        case _O.MAX_PER:
            return max(counts.values(), default=0) <= int(rule.value or 0)
        case _O.CLUSTER:
            return len(counts) <= 1 and set(counts) <= {rule.value or next(iter(counts), "")}
        case _O.IS:
            return set(counts) <= {rule.value}
        case _O.LIKE:
            return all(re.fullmatch(rule.value or "", value) for value in counts)
        case _O.UNLIKE:
            return not any(value and re.fullmatch(rule.value or "", value) for value in counts)
        case _O.GROUP_BY:
            return len(counts) >= int(rule.value or 0) or max(counts.values(), default=0) <= 1
    raise AssertionError(rule)
