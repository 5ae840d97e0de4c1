"""backlog_drain_events_per_s_<adapter>, backlog_drain_rss_mib_<adapter>: a million events, consumed as a service does.

A process fills the log, another drains it: validated, handled, committed. The second figure is how far the drain's
memory grew at the worst, beyond what the process had before: no more than `tests/contract/bus` allows for a tenth of
them, as it must not grow with the backlog.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from infra import provision
from tests.bench.report import Report
from tests.contract.bus.backlog import run_child

EVENTS = 1_000_000
DEADLINE_S = 1800.0
MOST_MIB = 40


async def measure(report: Report, events: int = EVENTS) -> None:
    """SQLite, then Kafka."""
    for adapter in ("sqlite", "kafka"):
        async with _log(adapter) as url:
            filled = await run_child("fill", url, events, timeout_s=DEADLINE_S)
            drained = await run_child("drain", url, events, timeout_s=DEADLINE_S)
        rate = filled.events / filled.seconds
        note = (
            f"{drained.events} events, {drained.batches} batches, {drained.commits} commits; "
            f"filled at {rate:.0f}/s, {filled.grown_mib:.1f} MiB"
        )
        per_s = drained.events / drained.seconds
        report.add(f"backlog_drain_events_per_s_{adapter}", per_s, "events/s", note=note)
        report.add(f"backlog_drain_rss_mib_{adapter}", drained.grown_mib, "MiB", most=MOST_MIB)


@asynccontextmanager
async def _log(adapter: str) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp") as directory:
        if adapter == "sqlite":
            yield f"sqlite://{directory}/bus.db"
            return
        async with provision.kafka(Path(directory), own=True) as server:
            yield server.url
