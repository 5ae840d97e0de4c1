"""Many like instances at once: how many go to each agent.

The best agent for one of them is filled up, then the next best: what is lop-sided after one may be more so after two,
but it is better to have that on few agents. For values that are kept even, water is filled in from the lowest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.scheduler.policy.agents import Codes
from services.scheduler.policy.model import EPSILON, UNBOUNDED, Counts, Vector
from services.scheduler.policy.rules import Level
from services.scheduler.policy.search import LOPSIDED


def capacities(free: Vector, need: Vector) -> Counts:
    """How many of `need` fit on each agent."""
    fits: Vector | None = None
    for resource in np.flatnonzero(need > 0):
        each: Vector = (free[resource] + EPSILON) / need[resource]
        fits = each if fits is None else np.minimum(fits, each, out=fits)
    if fits is None:
        return np.full(free.shape[1], UNBOUNDED)
    np.clip(fits, 0.0, float(UNBOUNDED), out=fits)
    return fits.astype(np.int64)  # cuts off what is behind the point


def scores(free: Vector, need: Vector, weights: Vector) -> Vector:
    """What would be left, squared and weighted by how scarce it is: the least is the best fit.

    The norm-based greedy of vector bin packing (Panigrahy et al. 2011), and above all CPUs without their share of
    memory or the other way round: what is left so is of no use to anybody.
    """
    left: Vector = (free - need[:, None]) * weights[:, None]
    lopsided: Vector = left[0] - left[1]
    left *= left
    total: Vector = left.sum(axis=0)
    lopsided *= lopsided
    lopsided *= LOPSIDED
    total += lopsided
    return total


def water(counts: Counts, room: Counts, amount: int) -> tuple[Counts, Counts]:
    """Fill `amount` into values that have `counts`, from the lowest up, each with `room` for so many.

    Returns how much each gets of whole levels, and which may get one more of the rest.
    """
    amount = min(amount, int(room.sum()))
    low, high = int(counts.min(initial=0)), int((counts + np.minimum(room, amount)).max(initial=0))
    while low < high:  # the highest level that does not take more than there is
        level = (low + high + 1) // 2
        if int(np.clip(level - counts, 0, room).sum()) <= amount:
            low = level
        else:
            high = level - 1
    whole = np.clip(low - counts, 0, room)
    return whole, (np.clip(low + 1 - counts, 0, room) > whole).astype(np.int64)


def even(level: Level, room: Counts, best: Vector, amount: int) -> Counts:
    """How many each agent's value may get so that the values stay even; per value.

    `room` is what fits on each agent, 0 where it may not go, and `best` its score: the better ones get the rest.
    """
    of_value = np.bincount(level.codes, weights=room, minlength=len(level.counts)).astype(np.int64)
    if level.hard:
        there = np.bincount(level.codes[best < np.inf], minlength=len(level.counts)) > 0
        filled = level.counts + of_value
        there |= level.held
        fresh = int(np.count_nonzero((level.counts == 0) & (of_value > 0)))
        lacks = level.lacking > fresh
        stop = 0 if lacks else int(filled[there].min(initial=UNBOUNDED))
        of_value = np.clip(stop + 1 - level.counts, 0, of_value)
    counts = level.counts
    possible = of_value > 0
    whole, more = water(counts[possible], of_value[possible], amount)
    rest = min(amount, int(of_value.sum())) - int(whole.sum())
    if rest > 0:
        lowest = np.full(len(counts), np.inf)
        np.minimum.at(lowest, level.codes, np.where(room > 0, best, np.inf))
        ranked = np.argsort(np.where(more > 0, lowest[possible], np.inf), kind="stable")
        whole[ranked[:rest]] += 1
    given: Counts = np.zeros(len(counts), dtype=np.int64)
    given[possible] = whole
    return given


def fill(
    room: Counts, best: Vector, caps: Sequence[tuple[Codes, Counts]], amount: int
) -> tuple[Counts, Counts]:
    """Give `amount` to agents, the best first, each up to `room`, and no value more than its cap.

    Returns rows, and how many each of them gets. Agents are looked at in growing chunks: most often the first will do.
    """
    rows = np.flatnonzero(room > 0)
    left = [(codes, limit.copy()) for codes, limit in caps]
    taken_rows: list[Counts] = []
    taken: list[Counts] = []
    size = min(max(64, 2 * amount), len(rows))
    while len(rows) and amount > 0:
        if size < len(rows):
            near = np.argpartition(best[rows], size - 1)
            chunk, rows = rows[near[:size]], rows[near[size:]]
        else:
            chunk, rows = rows, rows[:0]
        chunk = chunk[np.lexsort((chunk, best[chunk]))]
        given = _greedy(chunk, room[chunk], left, amount)
        amount -= int(given.sum())
        taken_rows.append(chunk[given > 0])
        taken.append(given[given > 0])
        size = min(4 * size, max(len(rows), 1))
    if not taken:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.concatenate(taken_rows), np.concatenate(taken)


def _greedy(
    chunk: Counts, room: Counts, caps: Sequence[tuple[Codes, Counts]], amount: int
) -> Counts:
    """The chunk in order, each with as many as caps allow. Where caps cut across each other it takes several rounds."""
    given = np.zeros(len(chunk), dtype=np.int64)
    while amount > 0:
        more = np.minimum(room - given, amount)
        for codes, limit in caps:
            more = _clip(more, codes[chunk], limit)
        before = np.cumsum(more) - more
        more = np.clip(amount - before, 0, more)
        got = int(more.sum())
        if got == 0:
            break
        given += more
        amount -= got
        for codes, limit in caps:
            np.subtract.at(limit, codes[chunk], more)
        if len(caps) < 2:
            break  # nothing cuts across anything
    return given


def _clip(amounts: Counts, codes: Codes, limit: Counts) -> Counts:
    """Amounts in order, cut so that no value gets more than its limit."""
    order = np.argsort(codes, kind="stable")
    sorted_codes, mine = codes[order], amounts[order]
    running = np.cumsum(mine)
    starts = np.flatnonzero(np.r_[True, sorted_codes[1:] != sorted_codes[:-1]])
    base = (running - mine)[starts]
    lengths = np.diff(np.r_[starts, len(order)])
    before = running - mine - np.repeat(base, lengths)
    cut = np.clip(limit[sorted_codes] - before, 0, mine)
    result = np.empty_like(amounts)
    result[order] = cut
    return result
