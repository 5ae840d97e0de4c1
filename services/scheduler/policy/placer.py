"""One round of placement: shapes come in the order in which they are to be served, and agents fill up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import islice, product

import numpy as np

from libs.common.spec import ConstraintOperator
from services.scheduler.networks import Network
from services.scheduler.policy import explain
from services.scheduler.policy.addresses import Addresses, Supply
from services.scheduler.policy.agents import Agents
from services.scheduler.policy.filling import capacities, even, fill, scores
from services.scheduler.policy.model import (
    EPSILON,
    NOWHERE,
    Candidate,
    Counts,
    Mask,
    Need,
    Placement,
    Refusal,
    Shape,
    Siblings,
    Sizes,
    Vector,
)
from services.scheduler.policy.rules import (
    Here,
    Level,
    Relations,
    allowed,
    filters,
    relations,
)
from services.scheduler.policy.search import Order, fitting

FEW = 8
"""So many of a shape are looked for one by one; more are filled in at once."""

VALUES_TRIED = 64
"""Of so many values the one is chosen on which all of an app go (CLUSTER)."""

ALONE = Relations()
"""Of those whose siblings do not matter."""

Given = list[tuple[int, int]]
"""Rows, and how many go there."""


class Round:
    """Places shapes on agents, and books what they take.

    `here` says where the instances of apps are, `apart` which apps keep apart from which, in both directions,
    `networks` where there are addresses; those that are not named limit nothing. `kept` are rows that are set aside
    for a shape: others that are no more important are placed elsewhere.
    """

    def __init__(
        self,
        agents: Agents,
        here: Mapping[str, Here] | None = None,
        apart: Mapping[str, Set[str]] | None = None,
        networks: Mapping[str, Network] | None = None,
        kept: Mapping[int, Shape] | None = None,
    ) -> None:
        self.agents = agents
        self.here = here or {}
        self._apart = apart or {}
        self._networks = networks or {}
        self._kept = kept or {}
        self._addresses: dict[str, Addresses] = {}
        self._standing = ~(agents.full | agents.closed | agents.away)
        shut = agents.busy | agents.barred | agents.outside
        self._available = agents.offered & self._standing & ~shut
        self._weights = _weights(agents)
        self._order: Order | None = None

    def put(self, shape: Shape, count: int) -> tuple[Given, Refusal | None]:
        """Place up to `count` of a shape; where, and why the rest can't be."""
        if count <= 0:
            return [], None
        mask = allowed(self.agents, shape, self._zone(shape), self._open_to(shape))
        of_network = self._of_network(shape)
        scarce = of_network is not None and of_network.scarce(shape, count)
        if (shape.relational or shape.app in self._apart or scarce) and not shape.pinned:
            given = self._related(shape, mask, count)
        else:
            there = of_network.open_to(shape, count) if of_network is not None else None
            given = self._alone(shape, mask if there is None else mask & there, count)
        if sum(number for _, number in given) == count:
            return given, None
        return given, self.why(shape)

    def why(self, shape: Shape) -> Refusal:
        """Why the next one of a shape goes nowhere, as things are."""
        unary = filters(self.agents, shape, self._zone(shape))
        lost = self._kept_from(shape)
        return explain.refusal(self.agents, shape, unary, self._bound(shape), lost)

    def set_aside(self, row: int, amounts: Vector) -> None:
        """Leave so much of an agent alone."""
        self.agents.free[:, row] -= amounts
        if self._order is not None:
            self._order.moved(row)

    def put_at(self, shape: Shape, row: int) -> bool:
        """Place one on this agent, if it may go there and there is room."""
        free = self.agents.free[:, row].tolist()
        if not self.allowed(shape)[row] or not fitting(free, shape.sizes):
            return False
        self.set_aside(row, shape.vector)
        self._note(shape, [(row, 1)])
        return True

    def allowed(self, shape: Shape) -> Mask:
        """Agents where the next one of a shape may go, room or not."""
        mask = allowed(self.agents, shape, self._zone(shape), self._open_to(shape))
        bound = self._bound(shape)
        mask = bound.passing(mask)
        for cap in bound.caps:
            mask &= cap.open()
        for level in bound.levels:
            if level.hard:
                mask &= level.turn(mask)
        return mask

    def _open_to(self, shape: Shape) -> Mask:
        lost = self._kept_from(shape)
        if not lost:
            return self._available
        mask = self._available.copy()
        mask[lost] = False
        return mask

    def _kept_from(self, shape: Shape) -> list[int]:
        """Rows that are set aside for another."""
        if shape.pinned:
            return []
        kept = self._kept.items()
        return [row for row, of in kept if of != shape and of.priority >= shape.priority]

    # -- without regard to siblings

    def _alone(self, shape: Shape, mask: Mask, count: int) -> Given:
        if count <= FEW:
            return self._in_turn(shape, mask, ALONE, count)
        need = shape.vector
        rows, given = fill(*self._prospects(need, mask), (), count)
        return self._book(shape, need, rows, given)

    def _sorted(self) -> Order:
        if self._order is None:
            self._order = Order(self.agents.free, self._weights)
        return self._order

    def _prospects(self, need: Vector, mask: Mask) -> tuple[Counts, Vector]:
        """How many fit on each agent, and its score; 0 and infinity where none may go."""
        room = capacities(self.agents.free, need)
        room[~mask] = 0
        best = scores(self.agents.free, need, self._weights)
        best[~mask] = np.inf
        return room, best

    # -- with regard to siblings

    def _related(self, shape: Shape, mask: Mask, count: int) -> Given:
        found: Given = []
        need, bound = shape.vector, self._bound(shape, count)
        if bound.together:
            mask = self._chosen(need, bound.passing(mask), bound, count)
        while count > 0:
            number = self._at_once(shape, bound, count)
            if number < count:
                bound = self._bound(shape, number)
            may = bound.passing(mask)
            if number <= FEW or bound.crossing:
                given = self._in_turn(shape, may, bound, number)
                if number == count or sum(each for _, each in given) < number:
                    return found + given
            else:
                given = self._spread(shape, need, may, bound, number)
            if not given:
                # The room that caps leave may have been counted on better agents than those whose turn it is.
                rest = self._in_turn(shape, may, bound, count) if bound.caps else []
                return found + rest
            found += given
            count -= sum(number for _, number in given)
            if count > 0:
                bound = self._bound(shape, count)
        return found

    def _at_once(self, shape: Shape, bound: Relations, count: int) -> int:
        """All; where nothing but addresses cuts across a rule, as many as there surely are addresses for, or a few."""
        caps = [each for each in bound.caps if not isinstance(each, Supply)]
        others = Relations(caps=caps, levels=bound.levels)
        of_network = self._of_network(shape)
        if of_network is None or not bound.crossing or others.crossing:
            return count
        return min(max(of_network.enough(shape, FEW + 1), FEW), count)

    def _in_turn(self, shape: Shape, may: Mask, bound: Relations, count: int) -> Given:
        """One agent after the other, by search; as many at once as fit there."""
        found: Given = []
        while count > 0:
            taken = self._take(shape.sizes, may, bound, count)
            if taken is None:
                break
            bound.book(*taken)
            found.append(taken)
            count -= taken[1]
        self._note(shape, found)
        return found

    def _take(self, need: Sizes, may: Mask, bound: Relations, most: int) -> tuple[int, int] | None:
        order, caps = self._sorted(), [cap.gate for cap in bound.caps]
        if not bound.levels:
            return order.take(need, may, caps, most)
        for levels in product(*(level.gates(may) for level in bound.levels)):
            taken = order.take(need, may, [*caps, *levels])
            if taken is not None:
                return taken
        return None

    def _spread(self, shape: Shape, need: Vector, may: Mask, bound: Relations, count: int) -> Given:
        """Many at once: values are filled up evenly, agents of a value the best first."""
        room, best = self._prospects(need, may)
        caps = [(cap.codes, cap.room) for cap in bound.caps]
        for cap in bound.caps:
            np.minimum(room, cap.room[cap.codes], out=room)
        if bound.levels and any(not cap.identity for cap in bound.caps):
            rows, most = fill(room, best, caps, int(room.sum()))
            room = np.zeros_like(room)
            room[rows] = most
        rows, given = _levelled(bound.levels, room, best, caps, count)
        supply = next((cap for cap in bound.caps if isinstance(cap, Supply)), None)
        if supply is not None and not supply.suffices(rows, given):
            # Zones share pools: as many as there are addresses for, and what is left is looked at anew for the others.
            low, high = 1, int(given.sum()) - 1
            while low < high:
                middle = (low + high + 1) // 2
                if supply.suffices(*_levelled(bound.levels, room, best, caps, middle)):
                    low = middle
                else:
                    high = middle - 1
            rows, given = _levelled(bound.levels, room, best, caps, low)
        return self._book(shape, need, rows, given)

    def _chosen(self, need: Vector, mask: Mask, bound: Relations, count: int) -> Mask:
        """CLUSTER without a value and without siblings: the values on which the most find room."""
        for attribute in bound.together:
            column = self.agents.rows.column(attribute)
            room, best = self._prospects(need, mask)
            for cap in bound.caps:
                np.minimum(room, cap.room[cap.codes], out=room)
            caps = [(cap.codes, cap.room) for cap in bound.caps]
            most, chosen = 0, -1
            for code, fits in _by_room(column.codes, len(column.values), room, best, count):
                if fits <= most:
                    break  # so many find room on another value
                inside = column.codes == code
                of_value = np.where(inside, room, 0)
                score = np.where(inside, best, np.inf)
                _, given = _levelled(bound.levels, of_value, score, caps, count)
                if int(given.sum()) > most:
                    most, chosen = int(given.sum()), code
            mask = mask & (column.codes == chosen)
        return mask

    def _zone(self, shape: Shape) -> str:
        network = self._networks.get(shape.network)
        return network.zone if network is not None else ""

    def _of_network(self, shape: Shape) -> Addresses | None:
        """The addresses of its network, as far as they matter to a shape and are known."""
        found = self._addresses.get(shape.network)
        if found is None and shape.network in self._networks and not shape.pinned:
            zones = self.agents.rows.column("zone")
            found = Addresses(shape.network, self._networks[shape.network], zones)
            self._addresses[shape.network] = found
        return None if shape.pinned else found

    def _bound(self, shape: Shape, count: int = 1) -> Relations:
        """What siblings allow, and the addresses that there are for `count` more."""
        of_network = self._of_network(shape)
        served = of_network.served(shape) if of_network is not None else None
        apart = sorted(self._apart.get(shape.app, ()))
        standing = None
        if any(each.operator is ConstraintOperator.GROUP_BY for each in shape.constraints):
            standing = allowed(self.agents, shape, self._zone(shape), self._standing)
            standing = standing if served is None else standing & served.mask
        bound = relations(self.agents.rows, shape, self.here, apart, standing)
        if served is not None:
            bound.filters.append(served)
        if of_network is not None and of_network.limited(shape, count):
            bound.caps.append(of_network.supply(shape, count))
        return bound

    # -- booking

    def _book(self, shape: Shape, need: Vector, rows: Counts, given: Counts) -> Given:
        self.agents.free[:, rows] -= need[:, None] * given
        if len(rows):
            self._order = None
        of_network = self._of_network(shape)
        if of_network is not None:
            order = of_network.in_order(rows)
            rows, given = rows[order], given[order]
        found = list(zip(rows.tolist(), given.tolist(), strict=True))
        self._note(shape, found)
        return found

    def _note(self, shape: Shape, given: Given) -> None:
        here = self.here.get(shape.app)
        if here is not None and not shape.pinned:  # what is pinned counts there already
            here.add(given)
        of_network = self._of_network(shape)
        if of_network is not None:
            of_network.book(shape, given)


def _by_room(
    codes: Counts, values: int, room: Counts, best: Vector, count: int
) -> list[tuple[int, int]]:
    """Some values with how many of `count` they have room for at most: the roomiest first, then the fullest."""
    fits = np.minimum(np.bincount(codes, weights=room, minlength=values), count).astype(np.int64)
    fits[0] = 0  # those that lack the attribute
    first = np.full(values, np.inf)
    np.minimum.at(first, codes, np.where(room > 0, best, np.inf))
    order = np.lexsort((first, -fits))[:VALUES_TRIED]
    return [(int(code), int(fits[code])) for code in order]


def _levelled(
    levels: Sequence[Level],
    room: Counts,
    best: Vector,
    caps: Sequence[tuple[Counts, Counts]],
    amount: int,
) -> tuple[Counts, Counts]:
    """Fill up evenly by the first level, within each of its values by the next one."""
    caps = [(codes, limit.copy()) for codes, limit in caps]
    if not levels:
        return fill(room, best, caps, amount)
    first, rest = levels[0], levels[1:]
    share = even(first, room, best, amount)
    if first.identity or not rest:
        return fill(room, best, (*caps, (first.codes, share)), amount)
    parts = []
    for code in np.flatnonzero(share):
        inside = np.flatnonzero((first.codes == code) & (room > 0))
        within = [(codes[inside], limit) for codes, limit in caps]
        lower = [level.within(inside) for level in rest]
        rows, given = _levelled(lower, room[inside], best[inside], within, int(share[code]))
        parts.append((inside[rows], given))
        for codes, limit in within:
            np.subtract.at(limit, codes[rows], given)
    if not parts:
        return fill(room, best, caps, 0)
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([n for _, n in parts])


def _weights(agents: Agents) -> Vector:
    """How much a unit of each resource counts: its share of what there is on an agent on average."""
    number = max(int(np.count_nonzero(agents.offered)), 1)
    mean = np.maximum(agents.free, 0.0) @ agents.offered / number
    weights: Vector = np.where(mean > EPSILON, 1.0 / np.maximum(mean, EPSILON), 0.0)
    return weights


def place(
    needs: Iterable[Need], candidates: Sequence[Candidate], siblings: Siblings = NOWHERE
) -> Placement:
    """Place what can be placed, pinned ones first, then the largest; changes no argument."""
    return place_on(Agents.of(candidates), needs, siblings)


def place_on(agents: Agents, needs: Iterable[Need], siblings: Siblings = NOWHERE) -> Placement:
    """The same on agents, on which it is booked."""
    groups: dict[Shape, list[Need]] = {}
    for need in needs:
        groups.setdefault(need.shape, []).append(need)
    apart = kept_apart(groups)
    apps = {shape.app for shape in groups if shape.relational} | set(siblings) | set(apart)
    here = {app: Here(siblings.get(app, ())) for app in apps}
    work = Round(agents, here, apart)
    result = Placement()
    for shape in sorted(groups, key=first_to_last):
        waiting = iter(groups[shape])
        given, refusal = work.put(shape, len(groups[shape]))
        for row, number in given:
            for need in islice(waiting, number):
                result.placed[need.id] = agents.rows.ids[row]
        if refusal is not None:
            result.refused.update((need.id, refusal) for need in waiting)
    return result


def kept_apart(shapes: Iterable[Shape]) -> dict[str, set[str]]:
    """Which apps keep apart from which: what one wants binds both."""
    apart: dict[str, set[str]] = {}
    for shape in shapes:
        for other in shape.apart_from:
            apart.setdefault(shape.app, set()).add(other)
            apart.setdefault(other, set()).add(shape.app)
    return apart


def first_to_last(shape: Shape) -> tuple[object, ...]:
    """The order within a round: pinned ones have one place to go; small ones fill the gaps of large ones."""
    return (
        -shape.priority,
        not shape.pinned,
        -shape.mem_mib,
        -shape.cpus,
        -shape.disk_mib,
    )
