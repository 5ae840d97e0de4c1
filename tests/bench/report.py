"""Figures of one run: printed as a table, written to build/bench.json as {key: {value, unit, peer, ratio, …}}.

What a run of some parts did not measure stays there; each figure has the commit and the time at which it was measured.
Machines are noisy: trust ratios to a peer of the same run, not the seconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.figures import merge

FILE = Path("build/bench.json")


@dataclass(frozen=True)
class Figure:
    """One figure. `peer` is what the same work costs without Gantry, in the same unit; `ratio` is value / peer; `most`
    is what was promised."""

    value: float
    unit: str
    peer: float | None = None
    ratio: float | None = None
    note: str = ""
    most: float | None = None


class Report:
    """Collects figures; each is on disk as soon as it is known."""

    def __init__(self, file: Path = FILE) -> None:
        self.figures: dict[str, Figure] = {}
        self._file = file

    def add(
        self,
        key: str,
        value: float,
        unit: str,
        peer: float | None = None,
        note: str = "",
        most: float | None = None,
    ) -> None:
        """Add a figure, with its ratio when there is a peer."""
        ratio = round(value / peer, 3) if peer else None
        rounded = None if peer is None else round(peer, 3)
        self.figures[key] = Figure(round(value, 3), unit, rounded, ratio, note, most)
        merge(self._file, {key: asdict(self.figures[key])})

    def exceeded(self) -> list[str]:
        """The figures that are above what was promised."""
        return [
            f"{key} is {each.value:g} {each.unit}, and at most {each.most:g} was promised"
            for key, each in self.figures.items()
            if each.most is not None and each.value > each.most
        ]

    def print(self) -> None:
        """The table."""
        table = Table(title="Gantry bench")
        for name in ("key", "value", "unit", "peer", "ratio", "note"):
            table.add_column(name)
        for key, each in self.figures.items():
            peer = "" if each.peer is None else f"{each.peer:g}"
            ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
            table.add_row(key, f"{each.value:g}", each.unit, peer, ratio, each.note)
        Console().print(table)
