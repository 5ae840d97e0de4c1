"""`make soak`: 200 jobs for ten minutes on a real cluster of many processes; exit 1 when the checker is not content.

Kafka, a MongoDB-wire server, ZooKeeper, two Docker engines, two of each service; the scheduler's leader is killed each
minute, and between two of them the executor of a host, while runs are under way there. What ran is known from the runs
themselves (witness.py). judge.py says what is excused, and why.
`python -m tests.soak [--minutes N] [--jobs N] [--seed N]`. Prints a table, writes build/soak.json; what the witness
saw is in build/soak-witness.jsonl, and the cluster's logs are in build/distributed-logs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.local.layout import SHARED_OVS
from tests.cron.checker import Outage
from tests.e2e.distributed import distributed
from tests.figures import commit
from tests.soak.judge import Judged, Late, judge, late, percentile
from tests.soak.runner import Result, Soak

FILE = Path("build/soak.json")
WITNESS = Path("build/soak-witness.jsonl")
REPLICAS = 2
SHOWN = 10
CONSOLE = Console(width=160)


async def main(minutes: float, jobs: int, seed: int) -> int:
    """Run, judge, tell."""
    async with distributed(SHARED_OVS, REPLICAS, size=0) as cloud:
        soak = Soak(cloud, jobs, minutes * 60.0, random.Random(seed), CONSOLE.print)
        result = await soak.run()
        shutil.copy(soak.file, WITNESS)
    seen = result.seen, result.runs, result.read_at, result.outages, result.started
    judged = judge(result.asked, *seen, deaths=result.deaths, words=result.words)
    told = {"commit": commit(), "minutes": minutes, "seed": seed, **figures(result, judged)}
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(told, indent=2) + "\n")
    show(told)
    return 1 if told["faults"] else 0


def figures(result: Result, judged: Judged) -> dict[str, Any]:
    """What is printed and written. Times in seconds."""
    dead = [Outage(each.at, each.back) for each in result.deaths]
    quiet, disturbed = late(judged.runs, [*result.outages, *dead])
    under_way = {token for each in result.deaths for token in each.under_way}
    verdict = judged.verdict
    states = [each.state for each in result.runs]
    return {
        "read_at": result.read_at,
        "jobs": len(result.asked),
        "acknowledged": sum(each.acknowledged is not None for each in result.asked),
        "deleted": sum(each.delete_acknowledged < float("inf") for each in result.asked),
        "targets": verdict.wanted,
        "met": verdict.met,
        "processes": len(result.seen),
        "containers": {
            "alone": sum(each.job != "" for each in result.started),
            "shared": sum(each.job == "" for each in result.started),
        },
        "runs": {state: states.count(state) for state in sorted(set(states))},
        "more_tries": sum(max(0, each.tries - 1) for each in result.runs),
        "lost_tries": sum(each.lost_tries for each in result.runs),
        "told": {
            "well": sum(not each.status for each in result.words),
            "failed": sum(each.status != 0 for each in result.words),
        },
        "executors_killed": [
            {"host": d.host, "runs": len(d.under_way), "back_s": round(d.back - d.at, 2)}
            for d in result.deaths
        ],
        "went_on": sum(each.token in under_way and each.end is not None for each in result.seen),
        "late_s": _late(quiet),
        "late_in_outages_s": _late(disturbed),
        "no_leader_s": [round(each.led - each.at, 2) for each in result.kills],
        "first_run_after_s": [
            round(min((s.begin for s in result.seen if s.begin > k.led), default=k.led) - k.at, 2)
            for k in result.kills
        ],
        "load": [round(each, 1) for each in os.getloadavg()],
        "faults": {name: [str(each) for each in found] for name, found in judged.faults.items()},
    }


def _late(runs: list[Late]) -> dict[str, Any]:
    """Of rising ones."""
    values = [each.late_s for each in runs]
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        "count": len(values),
        **{name: round(percentile(values, share), 3) for name, share in shares.items()},
        "latest": [asdict(each) for each in runs[: -SHOWN - 1 : -1]],
    }


def show(told: dict[str, Any]) -> None:
    """The table, and what did not hold."""
    table = Table(
        title=f"{told['minutes']:g} minutes of jobs, a leader and an executor killed each minute"
    )
    table.add_column("what")
    table.add_column("found")
    table.add_row(
        "jobs",
        f"{told['jobs']}: {told['acknowledged']} acknowledged, {told['deleted']} deleted again",
    )
    table.add_row("targets that must have a run", f"{told['targets']}: {told['met']} met")
    runs = ", ".join(f"{count} {state}" for state, count in told["runs"].items())
    tries = f"{told['more_tries']} more tries, {told['lost_tries']} lost before they began"
    table.add_row("runs by the API", f"{runs}; {tries}")
    words = told["told"]
    table.add_row("ends told", f"{words['well']} well, {words['failed']} failed")
    table.add_row(
        "runs under way at executors' deaths",
        f"{'  '.join(str(each['runs']) for each in told['executors_killed'])}; {told['went_on']} went on",
    )
    backs = "  ".join(f"{each['back_s']:g}" for each in told["executors_killed"])
    table.add_row("another executor after, s", backs)
    table.add_row("processes seen by the witness", str(told["processes"]))
    made = told["containers"]
    table.add_row(
        "containers by the engines", f"{made['shared']} shared, {made['alone']} of one run"
    )
    for title, key in (("late, s", "late_s"), ("late when one was dead, s", "late_in_outages_s")):
        each = told[key]
        table.add_row(
            title,
            f"p50 {each['p50']:g}  p99 {each['p99']:g}  max {each['max']:g}  ({each['count']} runs)",
        )
    table.add_row(
        "somebody leads again after, s", "  ".join(f"{each:g}" for each in told["no_leader_s"])
    )
    table.add_row(
        "next run began after, s", "  ".join(f"{each:g}" for each in told["first_run_after_s"])
    )
    CONSOLE.print(table)
    for name, found in told["faults"].items():
        CONSOLE.print(f"[bold red]✗ {name}: {len(found)}[/]")
        for each in found[:SHOWN]:
            CONSOLE.print(f"    {each}", markup=False)
    if not told["faults"]:
        CONSOLE.print(
            "[bold green]✓ every target that had to have a run had one, and nothing else ran[/]"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.minutes, given.jobs, given.seed)))
