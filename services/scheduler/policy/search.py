"""A few instances on many agents: the best fit without looking at all of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt

import numpy as np

from services.scheduler.policy.agents import Codes
from services.scheduler.policy.model import EPSILON, UNBOUNDED, Counts, Mask, Sizes, Vector

HEAD = 8
"""So many agents are looked at in turn: where they are not all alike, that is where the search ends."""
WINDOW = 512
MAX_WINDOW = 2048
LOOK = 512
"""So many agents are looked at from the first that would do on: of many that are equally empty any is good."""
SLACK = 1e-9  # of a norm, for binary fractions
LOPSIDED = 10.0
"""How much worse it is to leave CPUs without memory, or memory without CPUs, than to leave as much of both."""

Gate = tuple[Codes, Counts]
"""A rule by values of an attribute: the codes of rows, and per code how many may yet go to rows that have it."""


class Order:
    """Agents sorted by the norm of what is free, so that the best fit of a need is among the next ones.

    What a need leaves has at least the norm of what is free less the need's own (the triangle inequality), and scores
    no better than that: from some place on none can be better, and the search ends there, or `LOOK` agents after the
    first that would do. What is taken is booked on `free`; whoever else changes that says so by `moved`.
    """

    def __init__(self, free: Vector, weights: Vector) -> None:
        self._free = free
        self._squares = weights * weights
        self._scalars: list[float] = self._squares.tolist()
        self._shares: list[float] = weights[:2].tolist()
        self._norms: Vector = np.sqrt(self._squares @ np.maximum(free, 0.0) ** 2)
        self._order: Counts = self._norms.argsort(kind="stable")
        # In order: the norm, and below it what is free.
        self._table: Vector = np.vstack((self._norms, free)).take(self._order, axis=1)
        self._keys: Vector = self._table[0]

    def take(
        self, need: Sizes, allowed: Mask, gates: Sequence[Gate] = (), most: int = 1
    ) -> tuple[int, int] | None:
        """Book up to `most` on the allowed row that would be left with the least; None when there is no room.

        Returns the row, and how many went there: what has become fuller fits even better, until it is full.
        """
        place = self._best(need, allowed, gates)
        if place is None:
            return None
        row = int(self._order[place])
        free = self._free[:, row]
        have = free.tolist()
        number = 1 if most == 1 else min(most, fitting(have, need), *_room(gates, row))
        left = [f - n * number for f, n in zip(have, need, strict=True)]
        free[:] = left
        self._move(place, row, left)
        return row, number

    def moved(self, row: int) -> None:
        """Less is free on a row than was."""
        place = int(self._keys.searchsorted(self._norms[row]))
        if self._order[place] != row:  # one of several with the same norm
            place += int((self._order[place:] == row).argmax())
        self._move(place, row, self._free[:, row].tolist())

    def _best(self, need: Sizes, allowed: Mask, gates: Sequence[Gate]) -> int | None:
        cpus, mem, disk = need
        x, y, z = self._scalars
        share, of_mem = self._shares
        own = sqrt(x * cpus * cpus + y * mem * mem + z * disk * disk)
        at = int(self._keys.searchsorted(own * (1 - SLACK) - SLACK))
        found, least, end = None, inf, len(self._keys)
        head = slice(at, at + HEAD)
        for key, c, m, d, row in zip(
            *self._table[:, head].tolist(), self._order[head].tolist(), strict=True
        ):
            if key - own > least:
                return found
            c, m, d = c - cpus, m - mem, d - disk
            if min(c, m, d) >= -EPSILON and allowed[row] and all(_room(gates, row)):
                lopsided = share * c - of_mem * m
                norm = sqrt(x * c * c + y * m * m + z * d * d + LOPSIDED * lopsided * lopsided)
                if found is None:
                    end = min(end, at + LOOK)
                if norm < least:
                    found, least = at, norm
            at += 1
        return self._further(need, allowed, gates, own, found, least, at, end)

    def _further(
        self,
        need: Sizes,
        allowed: Mask,
        gates: Sequence[Gate],
        own: float,
        found: int | None,
        least: float,
        at: int,
        end: int,
    ) -> int | None:
        """The same from a place on, in growing windows."""
        share, of_mem = self._shares
        column, keys, size = np.array(need)[:, None], self._keys, WINDOW
        while at < end and keys[at] - own <= least:
            rows = self._order[at : at + size]
            left = self._table[1:, at : at + size] - column
            fits = np.minimum.reduce(left) >= -EPSILON
            fits &= allowed[rows]
            for codes, room in gates:
                fits &= room[codes[rows]] > 0
            lopsided = share * left[0] - of_mem * left[1]
            left *= left
            score = np.where(fits, self._squares @ left + LOPSIDED * lopsided * lopsided, inf)
            best = int(score.argmin())
            norm = sqrt(float(score[best]))
            if found is None and norm < inf:
                end = min(end, at + LOOK)
            if norm < least:
                found, least = at + best, norm
            at += size
            size = min(2 * size, MAX_WINDOW)
        return found

    def _move(self, place: int, row: int, free: Sequence[float]) -> None:
        """A row goes from its place to where it belongs with so much free."""
        x, y, z = self._scalars
        cpus, mem, disk = free
        norm = sqrt(x * max(cpus, 0.0) ** 2 + y * max(mem, 0.0) ** 2 + z * max(disk, 0.0) ** 2)
        now = min(int(self._keys.searchsorted(norm, "right")), place)
        if now < place:
            self._table[:, now + 1 : place + 1] = self._table[:, now:place]
            self._order[now + 1 : place + 1] = self._order[now:place]
            self._order[now] = row
        self._table[:, now] = (norm, *free)
        self._norms[row] = norm


def fitting(free: Sequence[float], need: Sizes) -> int:
    """How many of `need` fit on one agent."""
    fits = [(have + EPSILON) / each for have, each in zip(free, need, strict=True) if each > 0]
    return int(min(fits, default=float(UNBOUNDED)))


def _room(gates: Sequence[Gate], row: int) -> list[int]:
    return [int(room[codes[row]]) for codes, room in gates]
