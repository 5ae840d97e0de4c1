"""A few instances on many agents: the best fit without looking at all of them."""

from __future__ import annotations

import numpy as np

from services.scheduler.policy.filling import scores
from services.scheduler.policy.model import EPSILON, Counts, Mask, Vector

WINDOW = 96
MAX_WINDOW = 2048
SLACK = 1e-9  # of a norm, for binary fractions


class Order:
    """Agents sorted by the norm of what is free, so that the best fit of a need is among the next few.

    What a need leaves has at least the norm of what is free less the need's own (the triangle inequality): from some
    place on none can be better, and the search ends there.
    """

    def __init__(self, free: Vector, weights: Vector) -> None:
        self._free = free
        self._weights = weights
        self._norms = np.sqrt(((np.maximum(free, 0.0) * weights[:, None]) ** 2).sum(axis=0))
        self._order: Counts = np.argsort(self._norms, kind="stable")
        self._keys: Vector = self._norms[self._order]

    def best(self, need: Vector, allowed: Mask) -> int | None:
        """The allowed row that has room for `need` and would be left with the least; None when there is none."""
        own = float(np.sqrt(((need * self._weights) ** 2).sum()))
        at = int(np.searchsorted(self._keys, own * (1 - SLACK) - SLACK))
        found, least, size = None, np.inf, WINDOW
        while at < len(self._keys) and self._keys[at] - own <= least:
            rows = self._order[at : at + size]
            rows = rows[allowed[rows]]
            if rows.size:
                free = self._free[:, rows]
                fits = (free + EPSILON >= need[:, None]).all(axis=0)
                if fits.any():
                    score = np.where(fits, scores(free, need, self._weights), np.inf)
                    best = int(score.argmin())
                    norm = float(np.sqrt(score[best]))
                    if norm < least:
                        found, least = int(rows[best]), norm
            at += size
            size = min(2 * size, MAX_WINDOW)
        return found

    def moved(self, row: int) -> None:
        """Less is free on a row than was."""
        old = self._norms[row]
        free = np.maximum(self._free[:, row], 0.0)
        new = float(np.sqrt(((free * self._weights) ** 2).sum()))
        first = int(np.searchsorted(self._keys, old, "left"))
        last = int(np.searchsorted(self._keys, old, "right"))
        was = first + int(np.flatnonzero(self._order[first:last] == row)[0])
        now = min(int(np.searchsorted(self._keys, new, "right")), was)
        self._order[now + 1 : was + 1] = self._order[now:was].copy()
        self._keys[now + 1 : was + 1] = self._keys[now:was].copy()
        self._order[now], self._keys[now], self._norms[row] = row, new, new
