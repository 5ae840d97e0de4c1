"""Filters and constraints: masks over agents, room per value, levels to be kept even.

Constraints mean what Marathon's documentation says (its docs/docs/constraints.md), as its code did until October 2020.
Since then its GROUP_BY with a number gives a value its share of all instances before the others have one, and no more
values than that: its documentation says otherwise, and so does this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from libs.common.patterns import pattern
from libs.common.spec import Constraint, ConstraintOperator, InstanceClass
from libs.mesos.attributes import as_number
from services.scheduler.policy.agents import Agents, Codes, Column, Rows
from services.scheduler.policy.model import UNBOUNDED, Counts, Mask, Shape
from services.scheduler.policy.search import Gate

_O = ConstraintOperator


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """Agents that pass. `name` is how failures are counted, `told` what those that pass have or are.

    `lasting`: it only depends on who an agent is.
    """

    name: str
    told: str
    mask: Mask
    lasting: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Cap:
    """At most `room[code]` more on agents with a value (UNIQUE, MAX_PER)."""

    attribute: str
    codes: Codes
    room: Counts
    name: str
    told: str
    identity: bool

    def open(self) -> Mask:
        """Agents whose value has room."""
        mask: Mask = (self.room > 0)[self.codes]
        return mask

    @property
    def gate(self) -> Gate:
        """The same by value."""
        return self.codes, self.room

    def book(self, row: int, number: int) -> None:
        """So many more are there."""
        self.room[self.codes[row]] -= number


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """Values to be kept even. `counts[code]` are there already.

    `hard` (GROUP_BY): only the least used value is open, and a full one stops all others, also when nobody offers it
    but siblings run there (`held`); before `least` values are in use, only those that are not. Otherwise (spread) a
    full value is passed over.
    """

    attribute: str
    codes: Codes
    counts: Counts
    used: Mask
    held: Mask
    hard: bool
    least: int
    name: str
    told: str
    identity: bool

    @property
    def lacking(self) -> int:
        """How many values more are to be in use before one of them may have a second."""
        return max(self.least - int(np.count_nonzero(self.counts[1:])), 0)

    def within(self, rows: Counts) -> Level:
        """The same, of some rows only."""
        return replace(self, codes=self.codes[rows])

    def gates(self, mask: Mask) -> Iterator[Gate]:
        """Which values are next in turn, for one: one after the other where a full one is passed over."""
        if self.hard:
            least = self.stop(mask)
            yield self.codes, (self.counts == least).astype(np.int64)
        else:
            for count in np.unique(self.counts[self.used]):
                yield self.codes, (self.counts == count).astype(np.int64)

    def book(self, row: int, number: int) -> None:
        """So many more are there."""
        self.counts[self.codes[row]] += number

    def stop(self, mask: Mask) -> int:
        """How many a value may have and be open, where agents in `mask` have room or may have."""
        if self.lacking:
            return 0
        there = self.held.copy()
        there[self.codes[mask]] = True
        return int(self.counts[there].min(initial=UNBOUNDED))

    def turn(self, mask: Mask) -> Mask:
        """Of the agents in `mask`, those whose value is next in turn."""
        return mask & self.open(self.stop(mask))

    def open(self, stop: int) -> Mask:
        """Agents whose value has no more than that."""
        mask: Mask = (self.counts <= stop)[self.codes]
        return mask


class Here:
    """Where an app's instances are: how many on each row, and the attributes of agents that are in no row."""

    def __init__(self, elsewhere: Iterable[Mapping[str, str]] = ()) -> None:
        self._on_row: dict[int, int] = {}
        self.elsewhere = list(elsewhere)

    def add(self, more: Iterable[tuple[int, int]]) -> None:
        """So many more are on these rows, none of them for nothing."""
        there = self._on_row
        for row, number in more:
            there[row] = there.get(row, 0) + number

    def rows(self) -> Counts:
        """Rows that have some."""
        return np.array(list(self._on_row), dtype=np.int64)

    def counts(self, rows: Rows, attribute: str) -> Counts:
        """How many are on agents with each value of an attribute."""
        column = rows.column(attribute)
        found = np.zeros(len(column.values), dtype=np.int64)
        if self._on_row:
            there = np.array(list(self._on_row))
            np.add.at(found, column.codes[there], np.array(list(self._on_row.values())))
        for each in self.elsewhere:
            code = column.index.get(each.get(attribute, ""))
            if code is not None:
                found[code] += 1
        return found

    def unseen(self, rows: Rows, attribute: str) -> int:
        """How many values they have that no row has."""
        theirs = {each.get(attribute, "") for each in self.elsewhere}
        return len(theirs - rows.column(attribute).index.keys())  # "" has a place in every index

    def first(self, rows: Rows, attribute: str) -> str | None:
        """The value that the first of them with any has; None when there are none."""
        column = rows.column(attribute)
        found = (column.values[int(column.codes[row])] for row in self._on_row)
        others = (each.get(attribute, "") for each in self.elsewhere)
        return next((each for each in chain(found, others) if each), None)


@dataclass(slots=True)
class Relations:
    """What the places of the app's other instances allow."""

    filters: list[Filter] = field(default_factory=list)
    caps: list[Cap] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    together: list[str] = field(
        default_factory=list
    )  # attributes of which one value is to be chosen

    @property
    def soft(self) -> bool:
        """Is there something to be spread."""
        return any(not each.hard for each in self.levels)

    @property
    def crossing(self) -> bool:
        """Do several rules look at values that may cut across each other: then one instance at a time is placed."""
        hard = [each for each in self.levels if each.hard]
        if not hard:
            return False
        wide = {each.attribute for each in self.caps if not each.identity}
        wide |= {each.attribute for each in hard if not each.identity}
        return len(hard) > 1 or len(wide) > 1

    def passing(self, mask: Mask) -> Mask:
        """Of the agents in `mask`, those that pass all filters."""
        for each in self.filters:
            mask = mask & each.mask
        return mask

    def book(self, row: int, number: int) -> None:
        """So many more of the app are on a row."""
        for cap in self.caps:
            cap.book(row, number)
        for level in self.levels:
            level.book(row, number)


# -- what only looks at the agent ----------------------------------------------------------------------


def filters(agents: Agents, shape: Shape, network_zone: str = "") -> list[Filter]:
    """All that an agent has to be, but for resources and siblings."""
    rows = agents.rows
    if shape.agent is not None:  # it is there already, whatever the constraints say by now
        return [_at(rows, shape.agent), _in_a_role(agents), _startable(agents)]
    if shape.hostname:
        hosts = _equal(rows, "hostname", shape.hostname)
        there = Filter("host to be cleaned up", "are the host to be cleaned up", hosts)
        return [there, _in_a_role(agents), _startable(agents)]
    found = [
        Filter("open host", "are not cordoned", ~agents.closed, lasting=False),
        Filter("room on its disk", "have room on their disk", ~agents.full, lasting=False),
        Filter("launches under way", "may launch more at once", ~agents.busy, lasting=False),
        _in_a_role(agents),
        _startable(agents),
    ]
    found.append(_class(rows, shape.instance_class))
    if network_zone:
        known = _equal(rows, "zone", network_zone) | _equal(rows, "zone", "")
        told = f"are in zone {network_zone}, where network {shape.network} is"
        found.append(Filter(f"zone {network_zone} of network {shape.network}", told, known))
    for rule in shape.constraints:
        make = _UNARY.get(rule.operator)
        if make is not None:
            found.append(_kept(rows, rule, make))
    return found


MASKS_KEPT = 4096


def allowed(agents: Agents, shape: Shape, network_zone: str, available: Mask) -> Mask:
    """Agents in `available` that pass all filters."""
    key = (shape.instance_class, shape.constraints, network_zone)
    kept = agents.rows.masks
    mask = None if shape.pinned else kept.get(key)
    if mask is None:
        mask = np.ones(len(agents.rows), dtype=np.bool_)
        for each in filters(agents, shape, network_zone):
            if each.lasting:
                mask = mask & each.mask
        if shape.pinned:
            return mask & agents.offered & ~(agents.barred | agents.outside)
        if len(kept) >= MASKS_KEPT:
            kept.clear()
        kept[key] = mask
    return mask & available


def _at(rows: Rows, agent: str) -> Filter:
    mask = np.zeros(len(rows), dtype=np.bool_)
    place = rows.index.get(agent)  # type: ignore[call-overload]
    if place is not None:
        mask[place] = True
    name = "agent of the container to adopt"
    return Filter(name, f"are the {name}", mask)


def _in_a_role(agents: Agents) -> Filter:
    told = "are in a role of ours"
    return Filter("role of the executor", told, ~agents.outside, lasting=False)


def _startable(agents: Agents) -> Filter:
    told = "have unreserved room for the executor"
    return Filter("unreserved room for the executor", told, ~agents.barred, lasting=False)


def _equal(rows: Rows, attribute: str, value: str) -> Mask:
    column = rows.column(attribute)
    mask: Mask = column.codes == column.index.get(value, -1)
    return mask


def _class(rows: Rows, wanted: InstanceClass) -> Filter:
    mask = rows.masks.get(wanted)
    if mask is None:
        mask = _equal(rows, "class", wanted.value)
        if wanted is InstanceClass.THIN:
            mask = mask | _equal(rows, "class", "")
        rows.masks[wanted] = mask
    return Filter(f"class {wanted.value}", f"are of class {wanted.value}", mask)


def _kept(rows: Rows, rule: Constraint, make: Callable[[Rows, Constraint], Mask]) -> Filter:
    mask = rows.masks.get(rule)
    if mask is None:
        mask = rows.masks[rule] = make(rows, rule)
    return Filter(name_of(rule), _TOLD[rule.operator](rule.attribute, rule.value or ""), mask)


def name_of(rule: Constraint) -> str:
    """A constraint as failures are counted."""
    return f"{rule.attribute} {rule.operator} {rule.value or ''}".strip()


def _is(rows: Rows, rule: Constraint) -> Mask:
    wanted = {rule.value or "", as_number(rule.value or "")} - {""}
    return _those(rows, rule, lambda value: value in wanted)


def _like(rows: Rows, rule: Constraint) -> Mask:
    wanted = pattern(rule.value or "")
    return _those(rows, rule, lambda value: wanted.fullmatch(value) is not None)


def _those(rows: Rows, rule: Constraint, fits: Callable[[str], bool]) -> Mask:
    """Agents that have the attribute, with a value that fits."""
    column = rows.column(rule.attribute)
    found = [bool(value) and fits(value) for value in column.values]
    mask: Mask = np.array(found, dtype=np.bool_)[column.codes]
    return mask


def _unlike(rows: Rows, rule: Constraint) -> Mask:
    """All others, with those that lack the attribute: no other operator lets these through."""
    return ~_like(rows, rule)


_UNARY: Mapping[ConstraintOperator, Callable[[Rows, Constraint], Mask]] = {
    _O.IS: _is,
    _O.LIKE: _like,
    _O.UNLIKE: _unlike,
}


def _with(attribute: str, value: str) -> str:
    return f"are in zone {value}" if attribute == "zone" else f"have {attribute} {value}"


_TOLD: Mapping[ConstraintOperator, Callable[[str, str], str]] = {
    _O.IS: _with,
    _O.LIKE: lambda attribute, value: f"have a {attribute} like {value}",
    _O.UNLIKE: lambda attribute, value: f"have no {attribute} like {value}",
    _O.UNIQUE: lambda attribute, _: f"have a {attribute} without an instance of the app",
    _O.MAX_PER: lambda attribute, value: (
        f"have a {attribute} with fewer than {value} instances of the app"
    ),
    _O.GROUP_BY: lambda attribute, _: f"have the {attribute} that is next in turn",
    _O.CLUSTER: lambda attribute, value: (
        _with(attribute, value) if value else f"have a {attribute}"
    ),
}


# -- what looks at the app's other instances ----------------------------------------------------------


def relations(
    rows: Rows,
    shape: Shape,
    here: Mapping[str, Here],
    apart: Iterable[str] = (),
    standing: Mask | None = None,
) -> Relations:
    """The rules of a shape that depend on siblings, as things are now; `apart` are the apps to keep away from.

    `standing`: agents on which it might go, were there room, whether they offer anything or not.
    """
    found = Relations()
    if shape.pinned:
        return found
    own = here.get(shape.app) or Here()
    for rule in shape.constraints:
        _relate(rows, rule, own, found)
    for attribute in shape.spread:
        column = rows.column(attribute)
        counts = own.counts(rows, attribute)
        name = f"spread over {attribute}"
        told = f"have the {attribute} that is next in turn"
        found.levels.append(_level(column, attribute, counts, False, 0, name, told))
    _apart(rows, shape.app, apart, here, found)
    if standing is not None:
        _hold(own, standing, found)
    found.levels.sort(key=lambda level: not level.hard)
    return found


def _relate(rows: Rows, rule: Constraint, own: Here, found: Relations) -> None:
    operator, attribute, value = rule.operator, rule.attribute, rule.value or ""
    if operator not in _TOLD or operator in _UNARY:
        return
    column = rows.column(attribute)
    name, told = name_of(rule), _TOLD[operator](attribute, value)
    found.filters.append(Filter(name, f"have a {attribute}", column.codes != 0))
    match operator:
        case _O.UNIQUE | _O.MAX_PER:
            limit = 1 if operator is _O.UNIQUE else int(value)
            room = np.maximum(limit - own.counts(rows, attribute), 0)
            found.caps.append(Cap(attribute, column.codes, room, name, told, column.identity))
        case _O.CLUSTER:
            wanted = value or own.first(rows, attribute)
            if wanted is None:
                found.together.append(attribute)
            else:
                mask = _equal(rows, attribute, wanted)
                found.filters.append(Filter(name, _with(attribute, wanted), mask))
        case _O.GROUP_BY:
            counts = own.counts(rows, attribute)
            least = int(value or 0) - own.unseen(rows, attribute)
            level = _level(column, attribute, counts, True, least, name, told)
            if level.lacking:
                level = replace(level, told=f"have a {attribute} that is not in use yet")
            found.levels.append(level)


def _level(
    column: Column, attribute: str, counts: Counts, hard: bool, least: int, name: str, told: str
) -> Level:
    codes, used, held = column.codes, column.used, np.zeros_like(column.used)
    return Level(attribute, codes, counts, used, held, hard, least, name, told, column.identity)


def _hold(own: Here, standing: Mask, found: Relations) -> None:
    """Values with siblings on agents that might take more count in turn, even if those offer nothing now."""
    rows = own.rows()
    rows = rows[found.passing(standing)[rows]]
    for level in found.levels:
        if level.hard:
            level.held[level.codes[rows]] = True


def _apart(
    rows: Rows, own: str, others: Iterable[str], here: Mapping[str, Here], found: Relations
) -> None:
    column = rows.column("hostname")
    for app in others:
        theirs = here.get(app)
        if theirs is None:
            continue
        name, told = f"apart from {app}", f"have no instance of {app}"
        there = theirs.counts(rows, "hostname")
        if app == own:  # none of them shares a host with another
            room = np.maximum(1 - there, 0)
            found.caps.append(Cap("hostname", column.codes, room, name, told, column.identity))
        else:
            found.filters.append(Filter(name, told, there[column.codes] == 0))
