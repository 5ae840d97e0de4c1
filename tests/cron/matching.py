"""Points in time, each given to an interval that contains it, no interval twice.

Three promises, in this order: as many of the intervals that are wanted as can be get a point; of these points and
intervals none loses its partner later; as many points as can be get an interval. `greedy` alone does the first for any
set of intervals (each point to the open one that ends first: the exchange argument of earliest deadline first), in
n log n. `augment` does the last, along alternating paths.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush


@dataclass(frozen=True)
class Window:
    """A target, and from when till when a run of it may start; both ends are in it."""

    target: float
    opens: float
    closes: float
    wanted: bool = True


@dataclass
class Matching:
    """Who has whom: indexes into `windows` (rising by `opens`) and `starts`."""

    windows: Sequence[Window]
    starts: Sequence[float]
    of_start: dict[int, int] = field(default_factory=dict)
    of_window: dict[int, int] = field(default_factory=dict)
    _dead: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))

    def __post_init__(self) -> None:
        self._opens = [each.opens for each in self.windows]
        assert self._opens == sorted(self._opens)
        self._widest = max((each.closes - each.opens for each in self.windows), default=0.0)

    def greedy(self, starts: Sequence[int], windows: Sequence[int]) -> None:
        """Gives as many of these windows as can be one of these starts. Both must be free; windows rise."""
        waiting: list[tuple[float, int]] = []
        coming = deque(windows)
        for start in sorted(starts, key=lambda each: self.starts[each]):
            at = self.starts[start]
            while coming and self._opens[coming[0]] <= at:
                heappush(waiting, (self.windows[coming[0]].closes, coming.popleft()))
            while waiting and waiting[0][0] < at:
                heappop(waiting)
            if waiting:
                self._join(start, heappop(waiting)[1])

    def augment(self, starts: Sequence[int], *, wanted: bool = False) -> None:
        """Finds a window for as many of these free starts as can be; nobody who has a partner ends without.

        `wanted`: only such a window that is wanted counts as found.
        """
        dead = self._dead[wanted]
        for start in starts:
            if start in self.of_start:
                continue
            reached: dict[int, int] = {}  # window → the start that wants it
            todo = deque([start])
            free = None
            while todo and free is None:
                asking = todo.popleft()
                for window in self.around(self.starts[asking]):
                    if window in reached or window in dead:
                        continue
                    if window not in self.of_window:
                        if wanted and not self.windows[window].wanted:
                            continue
                        reached[window], free = asking, window
                        break
                    reached[window] = asking
                    todo.append(self.of_window[window])
            if free is None:
                # No free window can be reached from any of these, ever after.
                dead.update(reached)
            while free is not None:
                asking = reached[free]
                before = self.of_start.get(asking)
                self._join(asking, free)
                free = before

    def around(self, at: float) -> list[int]:
        """The windows that contain a moment."""
        first = bisect_left(self._opens, at - self._widest)
        last = bisect_right(self._opens, at)
        return [each for each in range(first, last) if self.windows[each].closes >= at]

    def free(self) -> list[int]:
        """The windows without a start, rising."""
        return [each for each in range(len(self.windows)) if each not in self.of_window]

    def _join(self, start: int, window: int) -> None:
        self.of_start[start] = window
        self.of_window[window] = start
