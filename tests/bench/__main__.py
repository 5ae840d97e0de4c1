"""`make bench`: measure on this machine. `python -m tests.bench [PART]… [--count N]`; all parts, unless said."""

from __future__ import annotations

import argparse
import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping

from tests.bench import (
    backlog,
    bus,
    containers,
    cron,
    drivers,
    failover,
    ipam,
    network,
    path,
    placement,
    preemption,
    services,
    tasks,
)
from tests.bench.report import Report

Part = Callable[[Report], Awaitable[None] | None]


def parts_of(count: int) -> dict[str, Part]:
    """All parts, those first that what was promised is read from."""
    return {
        "containers": lambda report: containers.measure(report, count),
        "bus": bus.measure,
        "backlog": backlog.measure,
        "placement": placement.measure,
        "preemption": preemption.measure,
        "path": path.measure,
        "failover": failover.measure,
        "network": network.measure,
        "ipam": ipam.measure,
        "services": services.measure,
        "drivers": drivers.measure,
        "cron": cron.measure,
        "tasks": tasks.measure,
    }


async def main(parts: Mapping[str, Part], report: Report) -> list[str]:
    """Measure and print what came out; which parts failed, which keeps no other from being measured, and what is not
    as was promised."""
    failed = []
    try:
        for name, measure in parts.items():
            try:
                measured = measure(report)
                if measured is not None:
                    await measured
            except Exception:
                print(f"{name} failed:\n{traceback.format_exc()}", file=sys.stderr)
                failed.append(name)
    finally:
        report.print()
    return [*(f"{name} failed" for name in failed), *report.missed()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts_of(0)))
    parser.add_argument("--count", type=int, default=containers.COUNT)
    given = parser.parse_args()
    known = parts_of(given.count)
    if unknown := sorted(set(given.parts) - known.keys()):
        parser.error(f"no such part: {', '.join(unknown)}")
    chosen = {name: each for name, each in known.items() if name in (given.parts or known)}
    if wrong := asyncio.run(main(chosen, Report())):
        sys.exit("\n".join(wrong))
