"""Addresses as placement sees them: how many more hosts of each zone may have, for whom, and what a round takes.

Pools of a zone serve its hosts, those without one the hosts of all; a host that names no zone is served by all.
What is placed takes its addresses in ipam's order, so claims in the order of placements find them. In another order
a pool for all zones may be used up by hosts that have one of their own: then ipam refuses, and the next look at it
tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from services.scheduler.networks import Network
from services.scheduler.policy.agents import Column
from services.scheduler.policy.model import UNBOUNDED, Counts, Mask, Shape
from services.scheduler.policy.rules import Cap, Filter

ZONE = "zone"
NAMED = 3
"""Of so many zones the names are told."""


class _Reach(NamedTuple):
    """Of one family: by zone's code and pool, 1 where its hosts may have addresses; and pools for all zones."""

    of_zone: Counts
    shared: Counts


@dataclass(frozen=True, slots=True, eq=False)
class Supply(Cap):
    """For how many more instances hosts of each zone have addresses. What some take may be missed by others."""

    free: Counts
    reach: tuple[_Reach, ...]

    def book(self, row: int, number: int) -> None:
        """So many more are there."""
        _take(self.free, self.reach, int(self.codes[row]), number)
        self.room[:] = _room(self.free, self.reach, len(self.room))

    def suffices(self, rows: Counts, given: Counts) -> bool:
        """Is there one for each, when rows are given so many, one zone after the other."""
        free = self.free.copy()
        wanted = np.bincount(self.codes[rows], weights=given).astype(np.int64)
        return all(
            _take(free, self.reach, int(code), int(wanted[code])) for code in np.flatnonzero(wanted)
        )


class _Seen(NamedTuple):
    """For so many there were enough on all `open` hosts (None: on all), when `booked` had been; is a zone used up."""

    enough: int
    booked: int
    dry: bool
    open: Mask | None


class Addresses:
    """The free addresses of one network in a round, on which placement books."""

    def __init__(self, name: str, network: Network, zones: Column) -> None:
        self._name = name
        self._network = network
        self._zones = zones
        self._free = np.array([each.free for each in network.pools], dtype=np.int64)
        self._reaches: dict[tuple[str, str], tuple[_Reach, ...]] = {}
        self._open: dict[tuple[str, str], Mask] = {}
        self._looks: dict[tuple[str, str, bool], _Seen] = {}
        self._booked = 0
        self._unbooked: list[tuple[Shape, Sequence[tuple[int, int]]]] = []

    def served(self, shape: Shape) -> Filter | None:
        """The hosts of zones that the network has pools for; None when those are all."""
        known = self._open_zones(shape)
        if known[self._zones.used].all():
            return None
        told = f"are in a zone for which network {self._name} has a pool"
        return Filter(f"zone of network {self._name}", told, known[self._zones.codes])

    def open_to(self, shape: Shape, count: int) -> Mask | None:
        """The hosts for which there is an address; None when those are all."""
        return self._seen(shape, count).open

    def scarce(self, shape: Shape, count: int) -> bool:
        """May it be that there are too few for `count` more of a shape on the hosts for which there are any."""
        return self.enough(shape, count) < count

    def enough(self, shape: Shape, count: int) -> int:
        """So many more of a shape, `count` perhaps, are sure to have one on whichever of those hosts they are."""
        seen = self._seen(shape, count)
        return seen.enough - (self._booked - seen.booked)

    def limited(self, shape: Shape, count: int) -> bool:
        """Does it matter for `count` more of a shape in which zones they are."""
        return self._seen(shape, count).dry or self.scarce(shape, count)

    def supply(self, shape: Shape, count: int) -> Supply:
        """What limits `count` more of a shape, zone by zone."""
        self._settle()
        reach = self._reach(shape)
        plenty, used = self._plenty(reach), self._zones.used & self._open_zones(shape)
        room = _room(self._free, reach, len(used))
        whole = bool(((room == 0) | (plenty >= count))[used].all())
        return Supply(
            ZONE,
            self._zones.codes,
            room,
            f"free address in {self._name}",
            self._told((room == 0) & used),
            whole,
            self._free.copy(),
            reach,
        )

    def _seen(self, shape: Shape, count: int) -> _Seen:
        """What was seen last; looked at anew when that may be too little to say that there are enough for so many."""
        scope = (shape.bu, shape.environment, shape.sticky)
        seen = self._looks.get(scope)
        if seen is None or seen.enough - (self._booked - seen.booked) < count:
            seen = self._looks[scope] = self._look(shape)
        return seen

    def _look(self, shape: Shape) -> _Seen:
        self._settle()
        reach, used, known = self._reach(shape), self._zones.used, self._open_zones(shape)
        enough, wet = UNBOUNDED, known
        if not shape.sticky:
            wet = _room(self._free, reach, len(used)) > 0
            enough = self._plenty(reach)[used & wet].min(initial=UNBOUNDED)
        all_open = bool(wet[used].all())
        mask = None if all_open else wet[self._zones.codes]
        return _Seen(int(enough), self._booked, bool((known & ~wet)[used].any()), mask)

    def in_order(self, rows: Counts) -> Counts:
        """Places of rows, one zone after the other: in that order what they are given is booked, and launched."""
        order: Counts = np.argsort(self._zones.codes[rows], kind="stable")
        return order

    def book(self, shape: Shape, given: Sequence[tuple[int, int]]) -> None:
        """So many more are on these rows, in this order."""
        if shape.pinned or shape.sticky or not given:
            return
        self._booked += sum(number for _, number in given)
        self._unbooked.append((shape, given))

    def _settle(self) -> None:
        """Few need to know how many are left of each pool: it is worked out for them."""
        for shape, given in self._unbooked:
            for code, there in groupby(given, lambda each: int(self._zones.codes[each[0]])):
                number = sum(number for _, number in there)
                _take(self._free, self._reach(shape), code, number)
        self._unbooked.clear()

    def _reach(self, shape: Shape) -> tuple[_Reach, ...]:
        scope = (shape.bu, shape.environment)
        if scope not in self._reaches:
            mine = {id(each) for each in self._network.pools_for(*scope)}
            self._reaches[scope] = tuple(
                self._of_family(each, mine) for each in self._network.families
            )
        return self._reaches[scope]

    def _open_zones(self, shape: Shape) -> Mask:
        """By zone, has it a pool of each family for a shape, whether anything is free there or not."""
        scope = (shape.bu, shape.environment)
        if scope not in self._open:
            every = np.ones_like(self._free)
            self._open[scope] = _room(every, self._reach(shape), len(self._zones.values)) > 0
        return self._open[scope]

    def _of_family(self, family: int, mine: set[int]) -> _Reach:
        pools = self._network.pools
        open_to = [each.family == family and id(each) in mine for each in pools]
        of_zone = [
            [may and each.serves(zone) for may, each in zip(open_to, pools, strict=True)]
            for zone in self._zones.values
        ]
        shared = [may and not each.zone for may, each in zip(open_to, pools, strict=True)]
        size = (len(self._zones.values), len(pools))
        of_zones = np.array(of_zone, dtype=np.int64).reshape(size)
        return _Reach(of_zones, np.array(shared, dtype=np.int64))

    def _plenty(self, reach: Sequence[_Reach]) -> Counts:
        """By zone, how many may go there wherever the others go: its own pools would do for all, or those for all."""
        plenty = np.full(len(self._zones.values), UNBOUNDED if reach else 0)
        for of_zone, shared in reach:
            of_all = shared @ self._free
            np.minimum(plenty, np.maximum(of_zone @ self._free - of_all, of_all), out=plenty)
        return plenty

    def _told(self, dry: Mask) -> str:
        told = f"have a free address of network {self._name} in their zone"
        names = self._zones.values
        without = sorted(names[n] for n in np.flatnonzero(dry).tolist() if n)
        if not without:
            return told
        if len(without) > NAMED:
            return f"{told} ({len(without)} zones have none)"
        which = (
            f"zone {without[0]} has" if len(without) == 1 else f"zones {', '.join(without)} have"
        )
        return f"{told} ({which} none)"


def _room(free: Counts, reach: Sequence[_Reach], zones: int) -> Counts:
    """By zone, for how many instances on its hosts alone there are addresses: of the scarcer family."""
    if not reach:
        return np.zeros(zones, dtype=np.int64)
    room: Counts = np.minimum.reduce([of_zone @ free for of_zone, _ in reach])
    return room


def _take(free: Counts, reach: Sequence[_Reach], code: int, number: int) -> bool:
    """Take addresses for so many on hosts of a zone, each pool up before the next one; False: there are not enough."""
    enough = True
    for of_zone, _ in reach:
        mine = of_zone[code] * free
        taken = np.clip(number - (np.cumsum(mine) - mine), 0, mine)
        enough &= int(taken.sum()) == number
        np.subtract(free, taken, out=free)
    return enough
