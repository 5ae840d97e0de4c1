"""`make bench`: measure on this machine. `python -m tests.bench [PART]… [--count N]`; all of PARTS, unless said."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.bench import (
    backlog,
    bus,
    containers,
    cron,
    drivers,
    ipam,
    network,
    path,
    placement,
    services,
    tasks,
)
from tests.bench.report import Report

PARTS = [
    "bus",
    "backlog",
    "placement",
    "path",
    "network",
    "containers",
    "ipam",
    "services",
    "drivers",
    "cron",
    "tasks",
]


async def main(parts: list[str], count: int) -> list[str]:
    """Measure the chosen parts and print what came out, also of a run that fails half-way; what is above its bound."""
    report = Report()
    try:
        if "bus" in parts:
            await bus.measure(report)
        if "backlog" in parts:
            await backlog.measure(report)
        if "placement" in parts:
            placement.measure(report)
        if "path" in parts:
            await path.measure(report)
        if "network" in parts:
            await network.measure(report)
        if "containers" in parts:
            await containers.measure(report, count)
        if "ipam" in parts:
            await ipam.measure(report)
        if "services" in parts:
            await services.measure(report)
        if "drivers" in parts:
            await drivers.measure(report)
        if "cron" in parts:
            await cron.measure(report)
        if "tasks" in parts:
            await tasks.measure(report)
    finally:
        report.print()
    return report.exceeded()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS)
    parser.add_argument("--count", type=int, default=containers.COUNT)
    given = parser.parse_args()
    if above := asyncio.run(main(given.parts, given.count)):
        sys.exit("\n".join(above))
