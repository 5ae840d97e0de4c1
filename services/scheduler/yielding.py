"""Instances that may have to make room as vectors, kept up one instance at a time: there may be very many of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from services.scheduler.model import Amounts, Instance, InstanceId
from services.scheduler.policy.agents import Codes
from services.scheduler.policy.model import Mask, Vector

FIRST = 256
UNUSED = 1000
"""So many names of agents or apps that nothing has any more may be kept at least."""


class Names:
    """Texts as small whole numbers, their places in `values`."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.values = list(known)
        self._codes = {text: code for code, text in enumerate(self.values)}

    def code(self, text: str) -> int:
        """The number of a text."""
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = len(self.values)
            self.values.append(text)
        return code


class Yielding:
    """A place each. `agent` and `app` are numbers of `agents` and `apps`; `steady`: it counts as there and well.

    `need[resource, place]` is in the order of RESOURCES. Places that nobody has are not steady.
    """

    def __init__(self) -> None:
        self.places: dict[InstanceId, int] = {}
        self.names: list[InstanceId] = []
        self.agents, self.apps = Names(), Names()
        self.agent: Codes = np.zeros(FIRST, dtype=np.int64)
        self.app: Codes = np.zeros(FIRST, dtype=np.int64)
        self.priority: Codes = np.zeros(FIRST, dtype=np.int64)
        self.need: Vector = np.zeros((3, FIRST))
        self.since: Vector = np.zeros(FIRST)
        self.steady: Mask = np.zeros(FIRST, dtype=np.bool_)
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.places)

    def lowest(self) -> int:
        """The priority of the least important one; there must be one."""
        there = np.ones(len(self.names), dtype=np.bool_)
        there[self._free] = False
        return int(self.priority[: len(self.names)][there].min())

    def put(self, instance: Instance, steady: bool) -> None:
        """It may have to make room from now on."""
        place = self._place(instance.id)
        need = Amounts.of(instance.spec)
        self.agent[place] = self.agents.code(instance.agent)
        self.app[place] = self.apps.code(instance.app)
        self.priority[place] = instance.spec.priority
        self.need[:, place] = (need.cpus, need.mem_mib, need.disk_mib)
        self.since[place] = instance.since
        self.steady[place] = steady
        if max(len(self.agents.values), len(self.apps.values)) > UNUSED + 2 * len(self.places):
            self._forget_names()

    def update(self, instance: Instance, steady: bool) -> None:
        """It is where it was, and has got better or worse."""
        place = self.places.get(instance.id)
        if place is not None:
            self.since[place] = instance.since
            self.steady[place] = steady

    def take(self, name: InstanceId) -> None:
        """It is not among them any more, if it was."""
        place = self.places.pop(name, None)
        if place is not None:
            self.steady[place] = False
            self._free.append(place)

    def known(self) -> dict[InstanceId, tuple[object, ...]]:
        """What is kept of each, by name."""
        return {
            name: (
                self.agents.values[self.agent[place]],
                self.apps.values[self.app[place]],
                int(self.priority[place]),
                *self.need[:, place].tolist(),
                float(self.since[place]),
                bool(self.steady[place]),
            )
            for name, place in self.places.items()
        }

    def _place(self, name: InstanceId) -> int:
        if self._free:
            place = self._free.pop()
            self.names[place] = name
        else:
            place = len(self.names)
            self.names.append(name)
            if place == len(self.steady):
                self._grow(place)
        self.places[name] = place
        return place

    def _grow(self, more: int) -> None:
        self.agent, self.app, self.priority = (
            np.pad(each, (0, more)) for each in (self.agent, self.app, self.priority)
        )
        self.need = np.pad(self.need, ((0, 0), (0, more)))
        self.since = np.pad(self.since, (0, more))
        self.steady = np.pad(self.steady, (0, more))

    def _forget_names(self) -> None:
        """Those of agents and apps of which none is left."""
        self.agents = _without_unused(self.agents, self.agent, list(self.places.values()))
        self.apps = _without_unused(self.apps, self.app, list(self.places.values()))


def _without_unused(names: Names, codes: Codes, places: list[int]) -> Names:
    """The names that are in use; `codes` are those of the new ones then."""
    used, places_of = np.unique(codes[places], return_inverse=True)
    codes[:] = 0
    codes[places] = places_of
    return Names(names.values[code] for code in used)
