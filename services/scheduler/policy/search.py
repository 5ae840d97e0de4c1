"""A few instances on many agents: the best fit without looking at all of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from services.scheduler.policy.agents import Codes
from services.scheduler.policy.model import EPSILON, Counts, Mask, Vector

WINDOW = 96
MAX_WINDOW = 2048
LOOK = 512
"""So many agents are looked at from the first that would do on: of many that are equally empty any is good."""
SLACK = 1e-9  # of a norm, for binary fractions

Gate = tuple[Codes, Mask]
"""Values of an attribute that are open: the codes of rows, and per code whether it is."""


class Order:
    """Agents sorted by the norm of what is free, so that the best fit of a need is among the next few.

    What a need leaves has at least the norm of what is free less the need's own (the triangle inequality): from some
    place on none can be better, and the search ends there, or `LOOK` agents after the first that would do.
    """

    def __init__(self, free: Vector, weights: Vector) -> None:
        self._free = free
        self._weights = weights
        self._squares = weights * weights
        self._scalars: list[float] = self._squares.tolist()
        self._norms: Vector = np.sqrt(self._squares @ np.maximum(free, 0.0) ** 2)
        self._order: Counts = self._norms.argsort(kind="stable")
        self._keys: Vector = self._norms[self._order]
        self._sorted: Vector = free.take(self._order, axis=1)  # what is free, in order

    def best(self, need: Vector, allowed: Mask, gates: Sequence[Gate] = ()) -> int | None:
        """The allowed row that has room for `need` and would be left with the least; None when there is none."""
        own = sqrt(float(self._squares @ (need * need)))
        column, keys = need[:, None], self._keys
        at = int(keys.searchsorted(own * (1 - SLACK) - SLACK))
        found, least, size = None, np.inf, WINDOW
        end = len(keys)
        while at < end and keys[at] - own <= least:
            rows = self._order[at : at + size]
            left = self._sorted[:, at : at + size] - column
            fits = np.minimum.reduce(left) >= -EPSILON
            fits &= allowed[rows]
            for codes, is_open in gates:
                fits &= is_open[codes[rows]]
            left *= left
            score = np.where(fits, self._squares @ left, np.inf)
            best = int(score.argmin())
            norm = sqrt(float(score[best]))
            if found is None and norm < np.inf:
                end = min(end, at + LOOK)
            if norm < least:
                found, least = int(rows[best]), norm
            at += size
            size = min(2 * size, MAX_WINDOW)
        return found

    def moved(self, row: int) -> None:
        """Less is free on a row than was."""
        keys, order = self._keys, self._order
        free = self._free[:, row].tolist()
        new = sqrt(sum(w * max(f, 0.0) ** 2 for w, f in zip(self._scalars, free, strict=True)))
        was = int(keys.searchsorted(self._norms[row]))
        if order[was] != row:  # one of several with the same norm
            was += int((order[was:] == row).argmax())
        now = min(int(keys.searchsorted(new, "right")), was)
        if now < was:
            for each in (order, keys, *self._sorted):
                each[now + 1 : was + 1] = each[now:was]
        order[now], keys[now], self._norms[row] = row, new, new
        self._sorted[:, now] = free
