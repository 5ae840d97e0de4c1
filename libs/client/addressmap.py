"""A range of addresses as a grid: a cell an address, or a block of them when there are more than cells. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from libs.client.networks import Span

MAX_CELLS = 1024
MAX_EXTENT = 2**52  # of a larger range no more is ever given out
MOST = 2**24  # of a larger pool the beginning is shown, which is used first
WARNING = "quarantined"
NOT_USED = frozenset({"free", "excluded", "unknown"})
MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Cell:
    """`count` addresses from `first` on, by state; of a single one also whose it is and since when."""

    first: str
    last: str
    count: int
    states: dict[str, int] = field(default_factory=dict)
    instance: str = ""
    since: float | None = None

    @property
    def state(self) -> str:
        """The state of all of them; what somebody must look at, if there is any; `mixed` else."""
        if len(self.states) == 1:
            return next(iter(self.states))
        return WARNING if WARNING in self.states else MIXED

    @property
    def used(self) -> float:
        """The share of them that nobody could get, of those that are ever given out: 0 to 1."""
        given = self.count - self.states.get("excluded", 0)
        taken = sum(n for state, n in self.states.items() if state not in NOT_USED)
        return taken / given if given > 0 else 0.0

    @property
    def told(self) -> str:
        """Its addresses by state, in words."""
        if self.count == 1:
            return self.state
        parts = sorted(self.states.items(), key=lambda each: -each[1])
        return ", ".join(f"{count:,} {state}" for state, count in parts)


def extent(cidr: str) -> tuple[str, int]:
    """The first address of a range and how many of it are ever given out. Raises ValueError for what is none."""
    network = ip_network(cidr)
    return str(network.network_address), min(network.num_addresses, MAX_EXTENT)


def block_size(count: int, cells: int = MAX_CELLS) -> int:
    """The least power of two by which `count` addresses need at most so many cells."""
    size = 1
    while -(-count // size) > cells:
        size *= 2
    return size


def moved(address: str, by: int) -> str:
    """The address that is `by` further; the first or last of its family when there is none."""
    given = ip_address(address)
    most = 2**given.max_prefixlen - 1
    kind: type[IPv4Address | IPv6Address] = type(given)
    return str(kind(min(most, max(0, int(given) + by))))


def distance(first: str, last: str) -> int:
    """How much further `last` is than `first`. Raises ValueError when they are of two families, or none."""
    begin, end = ip_address(first), ip_address(last)
    if begin.version != end.version:
        raise ValueError(f"{last} is of another family than {first}")
    return int(end) - int(begin)


def grid(first: str, count: int, spans: Iterable[Span], cells: int = MAX_CELLS) -> list[Cell]:
    """The cells of `count` addresses from `first` on; what no span tells of is `unknown`."""
    size = block_size(count, cells)
    told: dict[int, tuple[dict[str, int], Span]] = {}
    for at, length, span in _pieces(first, count, spans):
        while length > 0:
            cell, within = divmod(at, size)
            part = min(length, size - within)
            states, _ = told.setdefault(cell, ({}, span))
            states[span.state] = states.get(span.state, 0) + part
            at, length = at + part, length - part
    return [
        _cell(moved(first, at), min(size, count - at), told.get(at // size))
        for at in range(0, count, size)
    ]


def _pieces(first: str, count: int, spans: Iterable[Span]) -> Iterator[tuple[int, int, Span]]:
    """The parts of spans that lie in the range: offset, length, span."""
    for span in spans:
        begin = distance(first, span.first)
        end = min(begin + span.count, count)
        begin = max(begin, 0)
        if begin < end:
            yield begin, end - begin, span


def _cell(first: str, count: int, told: tuple[dict[str, int], Span] | None) -> Cell:
    states, span = told if told else ({}, None)
    missing = count - sum(states.values())
    if missing > 0:
        states = {**states, "unknown": missing}
    single = span if count == 1 else None
    return Cell(
        first=first,
        last=moved(first, count - 1),
        count=count,
        states=states,
        instance=single.instance if single else "",
        since=single.since if single else None,
    )
