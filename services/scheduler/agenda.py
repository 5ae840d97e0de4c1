"""Instances, or jobs, in the order of a time, found without looking at the others. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=str)

SPARE = 1000
"""So many outdated entries there may be at least before they are cleared out."""


class Agenda(Generic[Name]):
    """Names, each with a time. What `until` costs depends on what it finds."""

    def __init__(self) -> None:
        self._times: dict[Name, float] = {}
        self._heap: list[tuple[float, Name]] = []  # with entries that don't hold any more

    def __iter__(self) -> Iterator[Name]:
        return iter(self._times)

    def __contains__(self, name: object) -> bool:
        return name in self._times

    def put(self, name: Name, time: float) -> bool:
        """It is there, with this time. False when it was."""
        if self._times.get(name) == time:
            return False
        self._times[name] = time
        heappush(self._heap, (time, name))
        if len(self._heap) > 2 * len(self._times) + SPARE:
            self._heap = [(at, each) for each, at in self._times.items()]
            heapify(self._heap)
        return True

    def time_of(self, name: Name) -> float | None:
        """Its time, if it is there."""
        return self._times.get(name)

    def remove(self, name: Name) -> None:
        """It is there no longer, if it was."""
        self._times.pop(name, None)
        self._clear()

    def first(self) -> float | None:
        """The earliest time; None when there is nothing."""
        self._clear()
        return self._heap[0][0] if self._heap else None

    def _clear(self) -> None:
        """No outdated entry is the first."""
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)

    def earliest(self, time: float, limit: int) -> list[Name]:
        """At most `limit` of those whose time is no later, the earliest first."""
        found: dict[Name, None] = {}
        places = [(self._heap[0], 0)] if self._heap else []
        while places and len(found) < limit:
            (at, name), place = heappop(places)
            if at > time:
                break
            if self._times.get(name) == at:
                found[name] = None
            for child in (2 * place + 1, 2 * place + 2):  # none of them is earlier
                if child < len(self._heap):
                    heappush(places, (self._heap[child], child))
        return list(found)

    def until(self, time: float) -> list[Name]:
        """Those whose time is no later, the earliest first."""
        found: list[tuple[float, Name]] = []
        places = [0]
        while places:
            place = places.pop()
            if place < len(self._heap) and self._heap[place][0] <= time:
                found.append(self._heap[place])
                places += (2 * place + 1, 2 * place + 2)  # none of them is earlier
        found.sort()
        return list(dict.fromkeys(each for at, each in found if self._times.get(each) == at))
