"""`make matrix`: all parts × all kinds of outage, printed as a table; exit 1 when something did not hold.

`python -m tests.matrix [--parts a,b] [--kinds stop,kill9,pause] [--size N] [--outage S]`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.local.layout import SHARED_OVS
from tests.e2e.distributed import distributed
from tests.figures import merge
from tests.matrix.parts import PARTS
from tests.matrix.runner import KINDS, Matrix, Row, describe

FILE = Path("build/matrix.json")
CONSOLE = Console(width=200)


async def main(parts: Sequence[str], kinds: Sequence[str], size: int, outage_s: float) -> int:
    """Run the cells in order; the table and FILE grow with each."""
    rows: list[Row] = []
    try:
        async with distributed(SHARED_OVS, 2, size) as cloud:
            matrix = Matrix(cloud, size=size, outage_s=outage_s)
            try:
                await matrix.begin()
                for part, kind in product(parts, kinds):
                    rows.append(await matrix.cell(part, kind))
                    merge(FILE, {f"{part} {kind}": asdict(rows[-1])})
                    CONSOLE.print(*describe(rows[-1]), sep="  ", markup=False)
            finally:
                await matrix.end()
    finally:
        show(rows)
    return 1 if any(row.errors for row in rows) else 0


def show(rows: Sequence[Row]) -> None:
    """The table."""
    table = Table(title="outages in the middle of a release")
    heads = (
        "part",
        "kind",
        "outage s",
        "release s",
        "recovery s",
        "failed",
        "writes kept",
        "requests ended",
    )
    for name in (*heads, "alerts", "held"):
        table.add_column(name)
    for row in rows:
        table.add_row(*map(escape, describe(row)))
    CONSOLE.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--size", type=int, default=20)
    parser.add_argument("--outage", type=float, default=30.0)
    given = parser.parse_args()
    wanted = given.parts.split(","), given.kinds.split(",")
    sys.exit(asyncio.run(main(*wanted, given.size, given.outage)))
