"""Instances in the order of a time, found without looking at the others. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from services.scheduler.model import InstanceId

SPARE = 1000
"""So many outdated entries there may be at least before they are cleared out."""


class Agenda:
    """Instances, each with a time. What `until` costs depends on what it finds."""

    def __init__(self) -> None:
        self._times: dict[InstanceId, float] = {}
        self._heap: list[tuple[float, InstanceId]] = []  # with entries that don't hold any more

    def __iter__(self) -> Iterator[InstanceId]:
        return iter(self._times)

    def __contains__(self, instance: object) -> bool:
        return instance in self._times

    def put(self, instance: InstanceId, time: float) -> None:
        """It is there, with this time."""
        if self._times.get(instance) == time:
            return
        self._times[instance] = time
        heappush(self._heap, (time, instance))
        if len(self._heap) > 2 * len(self._times) + SPARE:
            self._heap = [(at, name) for name, at in self._times.items()]
            heapify(self._heap)

    def remove(self, instance: InstanceId) -> None:
        """It is there no longer, if it was."""
        self._times.pop(instance, None)
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)

    def until(self, time: float) -> list[InstanceId]:
        """Those whose time is no later, the earliest first."""
        found: list[tuple[float, InstanceId]] = []
        places = [0]
        while places:
            place = places.pop()
            if place < len(self._heap) and self._heap[place][0] <= time:
                found.append(self._heap[place])
                places += (2 * place + 1, 2 * place + 2)  # none of them is earlier
        found.sort()
        return list(dict.fromkeys(name for at, name in found if self._times.get(name) == at))
