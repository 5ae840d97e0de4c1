"""Who is served next: priorities first, then the business unit that has the least (dominant resource fairness).

A business unit's share is the largest of its shares of any resource of the cluster (Ghodsi et al. 2011). Units are
served a few instances at a time, so that the shares of those that still wait never differ by more than `STEP` and one
instance; within a unit the large shapes come first, as small ones fill their gaps, and of like ones what waits longest.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from services.scheduler.policy.model import Shape, Vector
from services.scheduler.policy.placer import first_to_last

STEP = 0.01
"""A turn gives a business unit so much of the cluster at most, or one instance."""
ALL = 1 << 40


class Turns:
    """Hands out turns. `total` and `usage` (of each business unit) are in the order of RESOURCES.

    `since`: when one of a shape began to wait.
    """

    def __init__(
        self,
        shapes: Iterable[Shape],
        total: Vector,
        usage: Mapping[str, Vector],
        since: Callable[[Shape], float],
    ) -> None:
        self._total = np.maximum(total, 1e-9)
        self._usage = {bu: each.copy() for bu, each in usage.items()}
        self._pinned: list[Shape] = []
        self._queues: dict[tuple[int, str], list[Shape]] = {}

        def place(shape: Shape) -> tuple[object, ...]:
            return *first_to_last(shape), since(shape), shape.app

        for shape in sorted(shapes, key=place, reverse=True):  # the first at the end
            if shape.pinned:
                self._pinned.append(shape)
            else:
                self._queues.setdefault((-shape.priority, shape.bu), []).append(shape)
        self._heap = [(priority, self._share(bu), bu) for priority, bu in self._queues]
        heapq.heapify(self._heap)

    def __iter__(self) -> Iterator[tuple[Shape, int]]:
        """Shapes, each with how many may be served in this turn. `served` must be called before the next one."""
        while self._pinned:  # they have their place already, and take nobody else's
            yield self._pinned.pop(), ALL
        while self._heap:
            priority, _, bu = heapq.heappop(self._heap)
            queue = self._queues[priority, bu]
            if not queue:
                continue
            alone = not any(other[0] == priority for other in self._heap)
            yield queue[-1], ALL if alone else self._turn(queue[-1])
            if queue:
                heapq.heappush(self._heap, (priority, self._share(bu), bu))

    def served(self, shape: Shape, count: int, done: bool) -> None:
        """So many got a place. `done`: no more of the shape wait, or none can be placed."""
        if shape.pinned:
            return
        self._usage[shape.bu] = self.usage(shape.bu) + shape.vector * count
        if done:
            self._queues[-shape.priority, shape.bu].remove(shape)

    def usage(self, bu: str) -> Vector:
        """What a business unit has by now."""
        return self._usage.get(bu, np.zeros(3))

    def _share(self, bu: str) -> float:
        return float((self.usage(bu) / self._total).max())

    def _turn(self, shape: Shape) -> int:
        return max(1, int(STEP / max(float((shape.vector / self._total).max()), 1e-12)))
