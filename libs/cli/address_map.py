"""A range of addresses in a terminal: a character each, with a ruler, a legend and the counts. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from libs.client.addressmap import Cell, block_size, grid, moved
from libs.client.networks import AddressMap

COLUMNS = 64
# State → character, colour, and the legend's words.
LOOKS = {
    "free": (".", "dim"),
    "allocated": ("#", "green"),
    "held": ("h", "cyan"),
    "cooling": ("c", "blue"),
    "quarantined": ("!", "bold red"),
    "reserved": ("r", "magenta"),
    "excluded": ("x", "dim"),
    "unknown": ("?", "yellow"),
}


def draw(told: AddressMap, gateway: str = "") -> Iterator[Text]:
    """The lines of a map."""
    count = told.count or sum(span.count for span in told.spans)
    first = told.first or (told.spans[0].first if told.spans else "")
    if not count:
        yield Text("no addresses")
        return
    cells = grid(first, count, told.spans)
    size = block_size(count)
    yield Text(_head(told, first, count, size, gateway))
    width = max(len(cells[at].first) for at in range(0, len(cells), COLUMNS))
    for at in range(0, len(cells), COLUMNS):
        row = cells[at : at + COLUMNS]
        yield Text.assemble(f"{row[0].first:<{width}}  ", *(_mark(each) for each in row))
    yield Text("")
    yield from _legend(cells, size)
    if told.next:
        yield Text(f"more from {told.next} on: --from {told.next}", style="yellow")


def _head(told: AddressMap, first: str, count: int, size: int, gateway: str) -> str:
    what = f"{told.network}/{told.pool} {told.cidr}".strip()
    parts = [what, f"{first} to {moved(first, count - 1)}, {count:,} addresses"]
    if size > 1:
        parts.append(f"a character is {size:,} of them")
    if gateway:
        parts.append(f"gateway {gateway}")
    return "; ".join(parts)


def _mark(cell: Cell) -> tuple[str, str]:
    if cell.state in LOOKS:
        return LOOKS[cell.state]
    return (str(min(9, int(cell.used * 10))), "green" if cell.used < 0.9 else "yellow")


def _legend(cells: list[Cell], size: int) -> Iterator[Text]:
    counts: dict[str, int] = {}
    for cell in cells:
        for state, count in cell.states.items():
            counts[state] = counts.get(state, 0) + count
    parts: list[str | tuple[str, str]] = []
    for state, look in LOOKS.items():
        if state in counts:
            parts += [look, f" {state} {counts[state]:,}   "]
    yield Text.assemble(*parts)
    if size > 1 and any(cell.state not in LOOKS for cell in cells):
        yield Text("0 to 9: a block of several states, so many tenths of it in use or kept")
