"""Which instances would make enough room on one agent, the cheapest of them: looked for over vectors. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.scheduler.budgets import Budgets
from services.scheduler.cluster import Draft
from services.scheduler.ledger import steady
from services.scheduler.model import AgentId, Instance
from services.scheduler.policy import Agents, Shape
from services.scheduler.policy.agents import Codes
from services.scheduler.policy.model import EPSILON, Mask, Vector

MOST_AGENTS = 64
"""Of the agents on which enough room can be made, so many are worked out, those that look the cheapest."""
SLACK = 1e-3
"""Sums over all that yield are wrong by less: they find agents, and what goes there is worked out exactly."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """Who goes on one agent."""

    row: int
    victims: tuple[Instance, ...]

    @property
    def cost(self) -> tuple[int, int, int]:
        """The least is the best: the most important victim, their number, the agent."""
        return max(each.spec.priority for each in self.victims), len(self.victims), self.row


class Victims:
    """Those that may be asked, by agent, there the least important first, and of these the newest.

    All vectors are in that order. Nobody is asked for whom it takes more than `most` as a priority.
    """

    def __init__(self, draft: Draft, agents: Agents, budgets: Budgets, most: int) -> None:
        self._draft, self._agents, self._budgets = draft, agents, budgets
        known = draft.cluster.ledger.yielding
        may = known.steady & (known.priority < most)
        for each in draft.changed.values():
            place = known.places.get(each.id)
            if place is not None:
                may[place] &= steady(each)
        places = np.flatnonzero(may)
        self._app_names = known.apps.values
        self._left = np.zeros(len(self._app_names), dtype=np.int64)
        for app in np.unique(known.app[places]).tolist():
            self._left[app] = budgets.left(self._app_names[app])
        index = agents.rows.index
        row_of = np.array(
            [index.get(AgentId(each), -1) for each in known.agents.values], dtype=np.int64
        )
        places = places[(row_of[known.agent[places]] >= 0) & (self._left[known.app[places]] > 0)]
        rows = row_of[known.agent[places]]
        order = np.lexsort((-known.since[places], known.priority[places], rows))
        places = places[order]
        self._names = [known.names[each] for each in places.tolist()]
        self._rows, self._app = rows[order], known.app[places]
        self._priority, self._need = known.priority[places], known.need[:, places]
        self._may = np.ones(len(places), dtype=np.bool_)
        self._first_of_row = _firsts(self._rows)
        # The same by agent and app: of each app only so many may go as its budget has left.
        groups = self._rows * len(self._left) + self._app
        self._by_app = np.argsort(groups, kind="stable")
        self._first_of_app = _firsts(groups[self._by_app])

    def cheapest(self, shape: Shape, may: Mask) -> Eviction | None:
        """Of the agents that may be, the one on which the least important ones, and the fewest, make enough room."""
        useful, rows = self._useful(shape, may), self._rows
        number = _within(useful.astype(np.int64), self._first_of_row)
        made = _within(self._need * useful, self._first_of_row)
        made += self._agents.free[:, rows]
        enough = np.flatnonzero(useful & (made + SLACK >= shape.vector[:, None]).all(axis=0))
        first = enough[_firsts(rows[enough]) == np.arange(len(enough))]
        cheap = first[np.lexsort((rows[first], number[first], self._priority[first]))]
        found = (self._enough(row, shape, useful) for row in rows[cheap[:MOST_AGENTS]].tolist())
        return min((each for each in found if each), key=lambda each: each.cost, default=None)

    def gone(self, eviction: Eviction) -> None:
        """These are asked now."""
        for each in eviction.victims:
            self._budgets.spend(each.app)
        names = {each.id for each in eviction.victims}
        for place in self._on(eviction.row):
            if self._names[place] in names:
                self._may[place] = False
                app = int(self._app[place])
                self._left[app] = self._budgets.left(self._app_names[app])

    def _useful(self, shape: Shape, may: Mask) -> Mask:
        """Those that may go, and have something of what is short on their agent."""
        short = self._agents.free + EPSILON < shape.vector[:, None]
        there: Mask = self._may & (self._priority < shape.priority) & may[self._rows]
        there &= ((self._need > 0) & short[:, self._rows]).any(axis=0)
        sorted_there = there[self._by_app]
        rank = _within(sorted_there.astype(np.int64), self._first_of_app)
        there[self._by_app] = sorted_there & (rank <= self._left[self._app[self._by_app]])
        return there

    def _on(self, row: int) -> range:
        first, end = np.searchsorted(self._rows, (row, row + 1)).tolist()
        return range(first, end)

    def _enough(self, row: int, shape: Shape, useful: Mask) -> Eviction | None:
        """The least important ones on an agent that together make enough room, none of them for nothing."""
        need = shape.vector
        free = self._agents.free[:, row].copy()
        chosen: list[int] = []
        for place in self._on(row):
            if (free + EPSILON >= need).all():
                break
            if useful[place] and (self._need[:, place] > 0)[free < need].any():
                free += self._need[:, place]
                chosen.append(place)
        if not (free + EPSILON >= need).all():
            return None
        for place in sorted(chosen, key=lambda each: -int(self._priority[each])):
            if (free - self._need[:, place] + EPSILON >= need).all():
                free -= self._need[:, place]
                chosen.remove(place)
        victims = [self._draft.get(self._names[place]) for place in chosen]
        return (
            Eviction(row, tuple(each for each in victims if each is not None)) if chosen else None
        )


def _firsts(codes: Codes) -> Codes:
    """Of each place, the first one of those with the same code, which follow each other."""
    begins = np.ones(len(codes), dtype=np.bool_)
    np.not_equal(codes[1:], codes[:-1], out=begins[1:])
    return np.maximum.accumulate(np.where(begins, np.arange(len(codes)), 0))


def _within(values: Vector | Codes, firsts: Codes) -> Vector:
    """Sums up to each place, from the first one on that belongs to it."""
    sums = np.cumsum(values, axis=-1)
    return sums - (sums - values)[..., firsts]
