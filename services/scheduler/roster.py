"""The agents with their offers as vectors, kept up as offers come and go. Volatile: a new leader learns it anew.

A draft has a copy of its own: what never changes in place (`Rows`) is shared, vectors are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.scheduler.model import EXECUTOR_AMOUNTS, AgentId, Amounts, Offer, OfferId
from services.scheduler.policy import Agents, Rows
from services.scheduler.policy.model import EPSILON, Mask, Vector


@dataclass(frozen=True, slots=True)
class Ours:
    """What our instances take on an agent: as Mesos counts it, and what we must leave alone besides.

    `begins`: no executor is there, so the next launch starts one.
    """

    used: Amounts
    reserved: Amounts  # an executor that is yet to start, containers that wait for their adoption
    begins: bool


UsedOn = Callable[[AgentId], Ours]
Known = tuple[AgentId, str, Mapping[str, str]]
"""An agent, its hostname and its attributes."""


class Roster:
    """One row an agent that has offered since the subscription, or on which something of ours was by then.

    Several offers of one agent add up.
    """

    def __init__(self) -> None:
        self.rows = Rows()
        self.offers: dict[AgentId, tuple[OfferId, ...]] = {}
        self.dirty: set[AgentId] = set()  # what is ours there has changed since it was looked at
        self._offered: Vector = np.zeros((3, 0))
        self._reserved: Vector = np.zeros((3, 0))
        self._used: Vector = np.zeros((3, 0))
        self._total: Vector = np.zeros((3, 0))
        self._open: Vector = np.zeros((3, 0))  # by their last offers, what is reserved for nobody
        self._begins: Mask = np.zeros(0, dtype=np.bool_)

    def copy(self) -> Roster:
        """One that can be changed without this one."""
        twin = Roster()
        twin.rows = self.rows
        twin.offers = dict(self.offers)
        twin.dirty = set(self.dirty)
        twin._offered = self._offered.copy()
        twin._reserved = self._reserved.copy()
        twin._used = self._used.copy()
        twin._total = self._total.copy()
        twin._open = self._open.copy()
        twin._begins = self._begins.copy()
        return twin

    @property
    def total(self) -> Vector:
        """What is ours to use, over all agents, in the order of RESOURCES."""
        total: Vector = self._total.sum(axis=1)
        return total

    @property
    def capacity(self) -> Vector:
        """What instances could have on each agent if there were none."""
        capacity: Vector = self._total - _vector(EXECUTOR_AMOUNTS)[:, None]
        return capacity

    def expect(self, agents: Iterable[Known], used_on: UsedOn) -> None:
        """These are there, though they have offered nothing yet: no more is known of them than what ours take."""
        agents = list(agents)
        self._enlist(agents)
        for agent, _, _ in agents:
            self._total[:, self.rows.index[agent]] = _vector(used_on(agent).used)
            self.dirty.add(agent)

    def attributes(self, agent: AgentId) -> Mapping[str, str] | None:
        """Of an agent; None when it is not known."""
        row = self.rows.index.get(agent)
        return None if row is None else self.rows.attributes[row]

    def add(self, offers: Sequence[Offer], used_on: UsedOn) -> None:
        """Take offers in. `used_on` tells what our instances take on an agent."""
        self._enlist((each.agent, each.hostname, each.attributes) for each in offers)
        for offer in offers:
            row = self.rows.index[offer.agent]
            if offer.agent not in self.offers:
                self._open[:, row] = 0.0
            self._open[:, row] += _vector(offer.unreserved)
            self.offers[offer.agent] = (*self.offers.get(offer.agent, ()), offer.id)
            self._offered[:, row] += _vector(offer.free)
        for agent in {offer.agent for offer in offers}:
            row = self.rows.index[agent]
            ours = used_on(agent)
            self._total[:, row] = self._offered[:, row] + _vector(ours.used)
            self.dirty.add(agent)

    def remove(self, offer: Offer) -> None:
        """An offer is gone: used, declined or rescinded."""
        left = tuple(each for each in self.offers.get(offer.agent, ()) if each != offer.id)
        row = self.rows.index[offer.agent]
        if left:
            self.offers[offer.agent] = left
            self._offered[:, row] -= _vector(offer.free)
            self._open[:, row] -= _vector(offer.unreserved)
        elif self.offers.pop(offer.agent, None):
            self._offered[:, row] = 0.0

    def clear(self) -> None:
        """All offers are gone."""
        self.offers.clear()
        self._offered[:] = 0.0

    def agents(
        self,
        used_on: UsedOn,
        full: Iterable[AgentId],
        closed: Iterable[AgentId] = (),
        busy: Iterable[AgentId] = (),
        away: Iterable[AgentId] = (),
        outside: Iterable[AgentId] = (),
    ) -> Agents:
        """The agents with what can be placed on them now. What is away and yet offers is back."""
        expected = self._expected(used_on)
        offered = self._mask(self.offers)
        free = self._offered - self._reserved
        masks = (self._mask(full), self._mask(closed), self._mask(busy))
        gone, barred = self._mask(away) & ~offered, self._barred()
        beyond = self._mask(outside)
        return Agents(self.rows, free, offered, *masks, gone, barred, beyond, expected)

    def estimate(
        self,
        used_on: UsedOn,
        full: Iterable[AgentId],
        away: Iterable[AgentId],
        closed: Iterable[AgentId] = (),
        outside: Iterable[AgentId] = (),
    ) -> Agents:
        """All agents but those away with what should be free there, whether or not they offer it at the moment."""
        free, gone = self._expected(used_on), self._mask(away)
        masks = (self._mask(full), self._mask(closed))
        barred, beyond = self._barred(), self._mask(outside)
        return Agents(self.rows, free, ~gone, *masks, away=gone, barred=barred, outside=beyond)

    def _expected(self, used_on: UsedOn) -> Vector:
        """What should be free on each agent, once what has changed is looked at."""
        for agent in self.dirty:
            row = self.rows.index.get(agent)
            if row is not None:
                ours = used_on(agent)
                self._used[:, row] = _vector(ours.used)
                self._reserved[:, row] = _vector(ours.reserved)
                self._begins[row] = ours.begins
        self.dirty.clear()
        expected: Vector = np.maximum(self._total - self._used - self._reserved, 0.0)
        return expected

    def _barred(self) -> Mask:
        """Agents on which an executor would have to start, and of whose room too little is reserved for nobody."""
        lacks = self._open + EPSILON < _vector(EXECUTOR_AMOUNTS)[:, None]
        has = self._total - self._used > self._open + EPSILON  # but has it for us
        barred: Mask = self._begins & (lacks & has).any(axis=0)
        return barred

    def _mask(self, agents: Iterable[AgentId]) -> Mask:
        mask = np.zeros(len(self.rows), dtype=np.bool_)
        index = self.rows.index
        mask[[index[each] for each in agents if each in index]] = True
        return mask

    def _enlist(self, agents: Iterable[Known]) -> None:
        news: dict[AgentId, tuple[str, Mapping[str, str]]] = {}
        for agent, hostname, attributes in agents:
            row = self.rows.index.get(agent)
            known = row is not None and (self.rows.hostnames[row], self.rows.attributes[row])
            if known != (hostname, attributes):
                news[agent] = (hostname, attributes)
        if news:
            self.rows = self.rows.extended(news)
            more = ((0, 0), (0, len(self.rows) - self._offered.shape[1]))
            self._offered = np.pad(self._offered, more)
            self._reserved = np.pad(self._reserved, more)
            self._used = np.pad(self._used, more)
            self._total = np.pad(self._total, more)
            self._open = np.pad(self._open, more, constant_values=np.inf)  # not known yet
            self._begins = np.pad(self._begins, more[1])


def _vector(amounts: Amounts) -> Vector:
    return np.array([amounts.cpus, amounts.mem_mib, amounts.disk_mib])
