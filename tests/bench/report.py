"""Figures of one run: printed as a table, written to build/bench.json as {key: {value, unit, peer, ratio, …}}.

What a run of some parts did not measure stays there; each figure has the commit and the time at which it was measured.
Machines are noisy: trust ratios to a peer of the same run, not the seconds. What was promised of a figure is its bound:
`make bench` exits with 1 when one is missed.
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
    and `least` are what was promised."""

    value: float
    unit: str
    peer: float | None = None
    ratio: float | None = None
    note: str = ""
    most: float | None = None
    least: float | None = None

    def bound(self) -> str:
        """What was promised, for the table."""
        least = "" if self.least is None else f"≥ {self.least:g}"
        return " ".join(filter(None, (least, "" if self.most is None else f"≤ {self.most:g}")))

    def missed(self) -> str:
        """What was promised and is not so, in words; "": nothing. What is no number keeps no promise."""
        if self.most is not None and not self.value <= self.most:
            return f"at most {self.most:g} was promised"
        if self.least is not None and not self.value >= self.least:
            return f"at least {self.least:g} was promised"
        return ""


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
        least: float | None = None,
    ) -> None:
        """Add a figure, with its ratio when there is a peer."""
        ratio = round(value / peer, 3) if peer else None
        rounded = None if peer is None else round(peer, 3)
        self.figures[key] = Figure(round(value, 3), unit, rounded, ratio, note, most, least)
        merge(self._file, {key: asdict(self.figures[key])})

    def missed(self) -> list[str]:
        """The figures that are not what was promised."""
        return [
            f"{key} is {each.value:g} {each.unit}".rstrip() + f", and {why}"
            for key, each in self.figures.items()
            if (why := each.missed())
        ]

    def print(self) -> None:
        """The table."""
        table = Table(title="Gantry bench")
        for name in ("key", "value", "unit", "bound", "peer", "ratio", "note"):
            table.add_column(name)
        for key, each in self.figures.items():
            peer = "" if each.peer is None else f"{each.peer:g}"
            ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
            figures = (f"{each.value:g}", each.unit, each.bound(), peer, ratio)
            table.add_row(key, *figures, each.note)
        Console().print(table)
