"""Where the time of a burst goes, by its trace: one row a kind of span, from what all processes wrote down."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FILE = Path("build/timeline.json")
LEAST = 0.5  # of the instances: kinds of spans that fewer have are no part of the way


@dataclass(frozen=True)
class Row:
    """One kind of span: how many, how long, and when after the start of the burst; seconds."""

    service: str
    name: str
    count: int
    mean_s: float
    p95_s: float
    median_end_s: float
    last_end_s: float


def rows(spans: Iterable[Mapping[str, Any]], start_ns: int, least: int) -> list[Row]:
    """Rows of spans that began after `start_ns` and are at least `least` of their kind, in the order they end."""
    kinds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for each in spans:
        if each["start_ns"] >= start_ns:
            took_s = (each["end_ns"] - each["start_ns"]) / 1e9
            ended_s = (each["end_ns"] - start_ns) / 1e9
            kinds.setdefault((each["service"], each["name"]), []).append((took_s, ended_s))
    found = [_row(kind, times) for kind, times in kinds.items() if len(times) >= least]
    return sorted(found, key=lambda row: row.median_end_s)


def _row(kind: tuple[str, str], times: Sequence[tuple[float, float]]) -> Row:
    took, ended = sorted(each[0] for each in times), sorted(each[1] for each in times)
    p95 = took[math.ceil(0.95 * len(took)) - 1]
    service, name = kind
    mean = sum(took) / len(took)
    return Row(service, name, len(took), mean, p95, ended[len(ended) // 2], ended[-1])


class Timeline:
    """Reads a cluster's span file from now on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._skip = file.stat().st_size if file.exists() else 0
        self._start_ns = time.time_ns()

    def rows(self, instances: int) -> list[Row]:
        """What was written since."""
        with self._file.open("rb") as file:
            file.seek(self._skip)
            spans = [json.loads(line) for line in file]
        return rows(spans, self._start_ns, max(1, int(LEAST * instances)))


def show(title: str, found: Sequence[Row], file: Path = FILE) -> None:
    """Print the table, and keep it beside the figures."""
    table = Table(title=title)
    for name in ("service", "span", "count", "mean ms", "p95 ms", "median ends s", "last ends s"):
        table.add_column(name)
    for row in found:
        took = f"{1000 * row.mean_s:.1f}", f"{1000 * row.p95_s:.1f}"
        ended = f"{row.median_end_s:.2f}", f"{row.last_end_s:.2f}"
        table.add_row(row.service, row.name, str(row.count), *took, *ended)
    Console(width=140).print(table)
    file.parent.mkdir(exist_ok=True)
    known = json.loads(file.read_text()) if file.exists() else {}
    known[title] = [asdict(row) for row in found]
    file.write_text(json.dumps(known, indent=2) + "\n")
