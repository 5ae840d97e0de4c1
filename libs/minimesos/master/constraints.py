"""Offer constraints: which agents a framework wants to hear of at all, by attributes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from libs.minimesos.schema import Json


@dataclass(frozen=True, slots=True)
class RoleConstraint:
    """Groups of attribute constraints: an agent passes when it satisfies all of one group."""

    groups: tuple[tuple[Json, ...], ...]

    def allows(self, hostname: str, attributes: list[Json]) -> bool:
        """Whether an agent with these attributes may be offered."""
        return any(all(_holds(c, hostname, attributes) for c in group) for group in self.groups)


def parse_constraints(message: Json) -> Mapping[str, RoleConstraint]:
    """Constraints by role from an OfferConstraints message."""
    return {
        role: RoleConstraint(
            tuple(tuple(g.get("attribute_constraints", [])) for g in constraints.get("groups", []))
        )
        for role, constraints in message.get("role_constraints", {}).items()
    }


def _holds(constraint: Json, hostname: str, attributes: list[Json]) -> bool:
    predicate = constraint.get("predicate", {})
    values = _select(constraint.get("selector", {}), hostname, attributes)
    if "exists" in predicate:
        return bool(values)
    if "not_exists" in predicate:
        return not values
    # As in Mesos, a text predicate says nothing about values that are not texts.
    texts = [v for v in values if isinstance(v, str)]
    if not texts and values:
        return True
    if "text_equals" in predicate:
        return predicate["text_equals"].get("value", "") in texts
    if "text_not_equals" in predicate:
        return predicate["text_not_equals"].get("value", "") not in texts
    if "text_matches" in predicate:
        return any(re.fullmatch(predicate["text_matches"].get("regex", ""), t) for t in texts)
    if "text_not_matches" in predicate:
        pattern = predicate["text_not_matches"].get("regex", "")
        return not any(re.fullmatch(pattern, t) for t in texts)
    return True


def _select(selector: Json, hostname: str, attributes: list[Json]) -> list[object]:
    if selector.get("pseudoattribute_type") == "HOSTNAME":
        return [hostname]
    name = selector.get("attribute_name")
    return [a["text"]["value"] if "text" in a else a for a in attributes if a["name"] == name]
