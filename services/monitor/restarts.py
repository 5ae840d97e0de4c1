"""Services' processes that ended without being asked to, and whose next one answers already. Kept in memory.

Each process says on its `/healthz` what it calls itself. Another name in the same place is another process; the one
before it had ended in order if it has taken its leave (`libs/common/leaving.py`). A monitor that begins to lead knows
of no process before its first look.
"""

from __future__ import annotations

from collections import deque

TOLD_S = 60.0  # for so long it is said that one was started anew…
COUNTED_S = 300.0  # …and how often within this time
MOST = 256  # leaves that are remembered, and ends of one component


class Restarts:
    """By component. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._runs: dict[str, str] = {}
        self._left: deque[str] = deque(maxlen=MOST)
        self._ends: dict[str, deque[float]] = {}

    def leave(self, run: str) -> None:
        """This process ends in order."""
        self._left.append(run)

    def hear(self, component: str, run: str, now: float) -> None:
        """It answers, and calls itself so; "" is an older one, that says nothing of it."""
        before = self._runs.get(component, "")
        if not run:
            return
        self._runs[component] = run
        if before and run != before and before not in self._left:
            self._ends.setdefault(component, deque(maxlen=MOST)).append(now)

    def why(self, component: str, now: float) -> str:
        """What there is to be told of it; "" when nothing is."""
        ends = [at for at in self._ends.get(component, ()) if now - at < COUNTED_S]
        if not ends or now - ends[-1] >= TOLD_S:
            return ""
        often = f", and {len(ends)} were within {COUNTED_S:g} s" if len(ends) > 1 else ""
        return f"its process had ended without being asked to and was started anew{often}"
