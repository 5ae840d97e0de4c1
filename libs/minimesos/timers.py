"""A heap of deadlines with lazy cancellation, the only notion of time inside the cores."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator


class Timers:
    """Deadlines by key: setting a key again replaces its deadline, cancelling forgets it."""

    __slots__ = ("_heap", "_live", "_seq")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Hashable]] = []
        self._live: dict[Hashable, int] = {}
        self._seq = 0

    def set(self, key: Hashable, deadline: float) -> None:
        """Fire `key` at `deadline` (unix seconds)."""
        self._seq += 1
        self._live[key] = self._seq
        heapq.heappush(self._heap, (deadline, self._seq, key))

    def cancel(self, key: Hashable) -> None:
        """Forget `key`; unknown keys are fine."""
        self._live.pop(key, None)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._live

    def next_deadline(self) -> float | None:
        """The earliest live deadline."""
        while self._heap:
            deadline, seq, key = self._heap[0]
            if self._live.get(key) == seq:
                return deadline
            heapq.heappop(self._heap)
        return None

    def due(self, now: float) -> Iterator[Hashable]:
        """Keys whose deadline has come, in order; each is forgotten as it is yielded."""
        while True:
            deadline = self.next_deadline()
            if deadline is None or deadline > now:
                return
            _, _, key = heapq.heappop(self._heap)
            del self._live[key]
            yield key
