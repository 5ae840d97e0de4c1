"""A pool's addresses as the console draws them, and one address with its history, as data. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from libs.client.addressmap import MOST, Cell, block_size, distance, extent, grid, moved
from libs.client.networks import AddressMap, AddressView, PoolView, Span, Tenure
from services.gateway.console.network_view import BAR_STATES, amount, network_url

CELLS = 512
ROW = 16
MAX_LINES = 200  # of the map in words
ORDER = ("free", *BAR_STATES, "excluded", "unknown")
WORDS: Mapping[str, str] = {
    "free": "free",
    "allocated": "allocated: an instance has it",
    "held": "held: kept for its last owner",
    "cooling": "cooling: given back a short time ago",
    "reserved": "reserved for a name",
    "quarantined": "in quarantine: somebody else uses it",
    "excluded": "excluded: never given out",
    "unknown": "not told",
}


@dataclass(frozen=True, slots=True)
class MapCell:
    """A cell of the map; `told` is what it says when it is looked at, `name` unique on the page."""

    name: str
    look: str
    level: int
    told: str
    url: str
    is_shown: bool


@dataclass(frozen=True, slots=True)
class MapRow:
    """Cells beside each other, with the first one's address."""

    label: str
    cells: tuple[MapCell, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A span in words."""

    first: str
    last: str
    count: str
    state: str
    instance: str


@dataclass(frozen=True, slots=True)
class PoolMap:
    """A range of a pool. `crumbs` lead to the ranges that it is part of, as text and URL."""

    pool: str
    cidr: str
    first: str
    last: str
    count: int
    block: int
    rows: tuple[MapRow, ...]
    crumbs: tuple[tuple[str, str], ...]
    before: str
    after: str
    legend: tuple[tuple[str, str, str], ...]  # state, words, how many
    lines: tuple[Line, ...]
    more_lines: int
    is_cut: bool

    @property
    def block_text(self) -> str:
        """How many addresses a cell is."""
        return amount(self.block)


@dataclass(frozen=True, slots=True)
class TenureRow:
    """Who had an address, and when."""

    since: str
    until: str
    instance: str
    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class Detail:
    """One address."""

    address: str
    state: str
    words: str
    facts: tuple[tuple[str, str], ...]
    history: tuple[TenureRow, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """What of a pool is to be seen."""

    first: str
    count: int


# -- the map ---------------------------------------------------------------------------------------


def range_of(pool: PoolView, first: str, count: int) -> Range:
    """A range as it was asked for, as far as the pool has it. Raises ValueError.

    When nothing was: all of the pool, or of a very large one the beginning, which is used first.
    """
    begin, size = extent(pool.cidr)
    at = distance(begin, first) if first else 0
    if not 0 <= at < size:
        raise ValueError(f"{first} is not in {pool.cidr}")
    usual = size if size <= MOST else CELLS
    return Range(moved(begin, at), min(count or usual, size - at))


def pool_map(network: str, pool: PoolView, shown: Range, told: AddressMap, address: str) -> PoolMap:
    """The map of a range; `address` is the one whose detail is on the page."""
    cells = grid(shown.first, shown.count, told.spans, CELLS)
    block = block_size(shown.count, CELLS)

    def url(cell: Cell) -> str:
        if cell.count > 1:
            return network_url(network, pool.pool, cell.first, cell.count)
        return network_url(network, pool.pool, shown.first, shown.count, cell.first) + "#address"

    made = [
        MapCell(
            name=f"m-{cell.first}",
            look=cell.state,
            level=_level(cell),
            told=told_of(cell),
            url=url(cell),
            is_shown=cell.count == 1 and cell.first == address,
        )
        for cell in cells
    ]
    rows = tuple(
        MapRow(cells[at].first, tuple(made[at : at + ROW])) for at in range(0, len(made), ROW)
    )
    counts: dict[str, int] = {}
    for cell in cells:
        for state, count in cell.states.items():
            counts[state] = counts.get(state, 0) + count
    lines = _lines(told.spans)
    return PoolMap(
        pool=pool.pool,
        cidr=pool.cidr,
        first=shown.first,
        last=moved(shown.first, shown.count - 1),
        count=shown.count,
        block=block,
        rows=rows,
        crumbs=_crumbs(network, pool, shown),
        before=_neighbour(network, pool, shown, -1),
        after=_neighbour(network, pool, shown, 1),
        legend=tuple(
            (state, WORDS[state], amount(counts[state])) for state in ORDER if state in counts
        ),
        lines=lines[:MAX_LINES],
        more_lines=max(0, len(lines) - MAX_LINES),
        is_cut=bool(told.next),
    )


def told_of(cell: Cell) -> str:
    """A cell in words."""
    if cell.count > 1:
        return f"{cell.first} to {cell.last}: {cell.told}"
    whose = f", {cell.instance}" if cell.instance else ""
    since = f", since {time_of(cell.since)}" if cell.since else ""
    return f"{cell.first}: {cell.state}{whose}{since}"


def _level(cell: Cell) -> int:
    """How full a block is, in five steps; 0 for a cell of one state."""
    return 0 if len(cell.states) <= 1 else 1 + min(4, int(cell.used * 5))


def _lines(spans: Sequence[Span]) -> tuple[Line, ...]:
    return tuple(
        Line(
            first=each.first,
            last=moved(each.first, each.count - 1) if each.count > 1 else "",
            count=amount(each.count),
            state=each.state,
            instance=each.instance,
        )
        for each in spans
    )


def _crumbs(network: str, pool: PoolView, shown: Range) -> tuple[tuple[str, str], ...]:
    """From the whole pool to the range: each one a block of the one before, aligned."""
    begin, size = extent(pool.cidr)
    found = [(pool.cidr, network_url(network, pool.pool, begin, size))]
    at, width = distance(begin, shown.first), size
    while shown.count < width:
        width = block_size(width, CELLS)
        if width <= shown.count or width == 1:
            break
        first = moved(begin, at - at % width)
        url = network_url(network, pool.pool, first, width)
        found.append((f"{first} + {amount(width)}", url))
    if shown.count < size:
        found.append((f"{shown.first} + {amount(shown.count)}", ""))
    else:
        found[-1] = (pool.cidr, "")
    return tuple(found)


def _neighbour(network: str, pool: PoolView, shown: Range, step: int) -> str:
    """The range of the same size before or after; "" at the pool's ends."""
    begin, size = extent(pool.cidr)
    at = distance(begin, shown.first) + step * shown.count
    if at >= size or at + shown.count <= 0:
        return ""
    return network_url(network, pool.pool, moved(begin, max(0, at)), shown.count)


# -- one address -----------------------------------------------------------------------------------


def detail(view: AddressView) -> Detail:
    """An address and who had it."""
    facts = (
        ("Instance", view.instance),
        ("Business unit", view.bu),
        ("Host", view.host),
        ("Other station", view.seen_mac),
        ("Reserved as", view.reservation),
        ("Since", time_of(view.since)),
        ("Free again", time_of(view.free_at) if view.state in ("held", "cooling") else ""),
        ("Generation", str(view.generation or "")),
    )
    return Detail(
        address=view.address,
        state=view.state,
        words=WORDS.get(view.state, view.state),
        facts=tuple(each for each in facts if each[1]),
        history=tuple(_tenure(each) for each in view.history),
    )


def _tenure(each: Tenure) -> TenureRow:
    return TenureRow(
        since=time_of(each.since),
        until=time_of(each.until),
        instance=each.instance,
        host=each.host,
        reason=each.why,
    )


def time_of(seconds: float | None) -> str:
    """A time, UTC."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
