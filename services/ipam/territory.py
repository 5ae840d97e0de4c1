"""Which addresses of a pool have never been used: one document a pool, and leases of blocks of it. Pure.

Offsets from the frontier on have never been used by anybody. Below it those may be unused that a replica has leased
and not yet spent, and those in `holes`. A lease keeps replicas out of each other's way and no more: an address is
taken by inserting its document, which succeeds once. So a block whose holder has died is looked through by somebody
else, and one of a living holder too when nothing else is left. See docs/adr/0018.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

from services.ipam.pools import MAX_SPAN, Pool, Span, merged, without

LEASE_S = 120.0
BLOCK = 64  # offsets leased at a time, at most; fewer of a small pool
SHARE = 8  # a lease takes no more than this part of a pool, unless more are asked for
MAX_HOLES = 256


@dataclass(frozen=True, slots=True)
class Block:
    """Offsets that a replica has leased."""

    first: int
    last: int
    holder: str
    until: float

    @property
    def span(self) -> Span:
        """Its offsets."""
        return self.first, self.last


@dataclass(frozen=True, slots=True)
class Territory:
    """The document; `excluded` is what its frontier has jumped over."""

    cidr: str
    excluded: tuple[Span, ...] = ()
    frontier: int = 0
    holes: tuple[Span, ...] = ()
    blocks: tuple[Block, ...] = ()
    version: int = 0

    @classmethod
    def of(cls, pool: Pool) -> Territory:
        """Of a pool that nobody has used yet, as far as is known."""
        return cls(str(pool.config.cidr), pool.excluded)


def block_size(pool: Pool) -> int:
    """How many offsets a replica leases at a time."""
    return max(1, min(BLOCK, pool.usable // SHARE))


def fitted(territory: Territory, pool: Pool) -> Territory:
    """Of the pool as it is defined now: its range or what it excludes may have changed since.

    What is not known to have been used becomes a hole; who takes it looks for its documents first.
    """
    if (territory.cidr, territory.excluded) == (str(pool.config.cidr), pool.excluded):
        return territory
    old, new = ip_network(territory.cidr), pool.config.cidr
    size = pool.size
    if old.version != new.version:
        return replace(Territory.of(pool), version=territory.version)
    shift = int(old.network_address) - int(new.network_address)
    frontier = max(0, min(size, territory.frontier + shift))
    walked_from = min(frontier, max(0, shift))
    known = [(first + shift, last + shift) for first, last in territory.holes]
    known += [(each.first + shift, each.last + shift) for each in territory.blocks]
    known += [(first + shift, last + shift) for first, last in territory.excluded]
    known.append((0, walked_from - 1))
    return Territory(
        cidr=str(new),
        excluded=pool.excluded,
        frontier=frontier,
        holes=coarse(_within(known, frontier, pool)),
        version=territory.version,
    )


def _within(spans: Iterable[Span], frontier: int, pool: Pool) -> list[Span]:
    """Those usable parts of spans that lie below the frontier."""
    cut = merged((max(0, first), min(frontier - 1, last)) for first, last in spans)
    return [left for span in cut for left in without(span, pool.excluded)]


def coarse(spans: Iterable[Span], limit: int = MAX_HOLES) -> tuple[Span, ...]:
    """At most `limit` spans that cover the same and perhaps more, by closing the narrowest gaps."""
    found = list(merged(spans))
    if len(found) <= limit:
        return tuple(found)
    gaps = sorted((found[n + 1][0] - found[n][1], n) for n in range(len(found) - 1))
    closed = {n for _, n in gaps[: len(found) - limit]}
    result = [found[0]]
    for n, span in enumerate(found[1:]):
        if n in closed:
            result[-1] = (result[-1][0], span[1])
        else:
            result.append(span)
    return tuple(result)


def lease(
    territory: Territory,
    pool: Pool,
    holder: str,
    known: Sequence[Span],
    mine: Sequence[Span],
    wanted: int,
    now: float,
    *,
    steal: bool = False,
) -> tuple[Territory, list[Span]]:
    """`wanted` offsets for a replica, or fewer, as spans; none when there are none.

    `known` is what the replica knows it has leased (of other leases of its own the answer never came), and `mine` what
    of it is not spent. `steal`: take half of what another one has.
    """
    others, free = _unheld(territory, holder, known, now)
    taken, holes = _cut(merged([*territory.holes, *free]), wanted)
    frontier = territory.frontier
    missing = wanted - _size(taken)
    if missing > 0:
        fresh, frontier = _advance(pool, frontier, missing)
        taken += fresh
    if not taken and steal and others:
        victim = max(others, key=lambda each: each.last - each.first)
        others.remove(victim)
        middle = (victim.first + victim.last + 1) // 2
        taken = [(middle, victim.last)]
        if middle > victim.first:
            others.append(replace(victim, last=middle - 1))
    if not taken:
        return territory, []
    own = [Block(*span, holder, now + LEASE_S) for span in merged([*mine, *taken])]
    blocks = tuple(sorted([*others, *own], key=lambda each: each.first))
    return replace(territory, frontier=frontier, holes=coarse(holes), blocks=blocks), taken


def given_back(
    territory: Territory, holder: str, known: Sequence[Span], mine: Sequence[Span]
) -> Territory:
    """A replica goes, and leaves what it has not spent to the others. `known` and `mine` as for `lease`."""
    others = tuple(each for each in territory.blocks if each.holder != holder)
    leased = merged(known)
    unknown = [
        span
        for each in territory.blocks
        if each.holder == holder
        for span in without(each.span, leased)
    ]
    return replace(territory, blocks=others, holes=coarse([*territory.holes, *unknown, *mine]))


def _unheld(
    territory: Territory, holder: str, known: Sequence[Span], now: float
) -> tuple[list[Block], list[Span]]:
    """Others' blocks, and spans of blocks that nobody has any more, or that the holder itself does not know of."""
    others: list[Block] = []
    free: list[Span] = []
    leased = merged(known)
    for each in territory.blocks:
        if each.holder == holder:
            free += without(each.span, leased)
        elif each.until <= now:
            free.append(each.span)
        else:
            others.append(each)
    return others, free


def _size(spans: Iterable[Span]) -> int:
    return sum(last - first + 1 for first, last in spans)


def _cut(spans: Sequence[Span], wanted: int) -> tuple[list[Span], list[Span]]:
    """The first `wanted` offsets, and the rest."""
    taken: list[Span] = []
    rest: list[Span] = []
    for first, last in spans:
        room = min(wanted - _size(taken), last - first + 1)
        if room > 0:
            taken.append((first, first + room - 1))
        if first + max(0, room) <= last:
            rest.append((first + max(0, room), last))
    return taken, rest


def _advance(pool: Pool, frontier: int, wanted: int) -> tuple[list[Span], int]:
    """The next usable offsets from the frontier on."""
    taken: list[Span] = []
    while wanted > 0:
        first = pool.usable_from(frontier)
        if first is None:
            return taken, pool.size
        last = first
        room = next((start for start, _ in pool.excluded if start > first), pool.size)
        last = min(first + wanted, room) - 1
        taken.append((first, last))
        wanted -= last - first + 1
        frontier = last + 1
    return taken, frontier


def to_body(territory: Territory) -> dict[str, Any]:
    """The document's body."""
    return {
        "cidr": territory.cidr,
        "excluded": [list(each) for each in territory.excluded],
        "frontier": territory.frontier,
        "holes": [list(each) for each in territory.holes],
        "blocks": [[e.first, e.last, e.holder, e.until] for e in territory.blocks],
    }


def from_body(version: int, body: Mapping[str, Any]) -> Territory:
    """The territory of a document."""
    return Territory(
        cidr=body["cidr"],
        excluded=tuple((a, b) for a, b in body["excluded"]),
        frontier=min(int(body["frontier"]), MAX_SPAN),
        holes=tuple((a, b) for a, b in body["holes"]),
        blocks=tuple(Block(*each) for each in body["blocks"]),
        version=version,
    )
