"""`python -m tests.simulation --seeds N --from M`: run a range of seeds and say what was covered.

Exit 0 when every seed passed and every fault point was hit (the latter is asked for from 20 seeds on).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from tests.simulation.faults import Point
from tests.simulation.run import Result, is_pinned, settle, simulate, told

COVERED_FROM = 20
FAILURES_TOLD = 5
SEEDS_A_PROCESS = 20  # then a fresh one, so that memory does not pile up


def main(argv: Sequence[str]) -> int:
    """The command."""
    if not is_pinned():
        # Sets of strings would differ from one process to the next, and so would traces.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-m", "tests.simulation", *argv]
        os.execve(sys.executable, command, environment)
    given = _arguments(argv)
    seeds = range(given.first, given.first + given.seeds)
    started = time.monotonic()
    results = list(_watched(_run(seeds, given), len(seeds), given.quiet))
    took_s = time.monotonic() - started
    failed = [each for each in results if each.error]
    for each in failed[:FAILURES_TOLD]:
        print(told(each, given.lines), flush=True)
    missing = _report(results, took_s, given.quiet)
    if given.digests:
        print(json.dumps({each.seed: each.digest for each in results}))
    if failed:
        print(f"FAILED seeds: {' '.join(str(each.seed) for each in failed)}")
    if missing and len(seeds) >= COVERED_FROM:
        print(f"fault points that were never hit: {'; '.join(missing)}")
        return 1
    return 1 if failed else 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first seed")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--lines", type=int, default=40, help="trace lines of a failed seed")
    parser.add_argument("--digests", action="store_true", help="print each seed's trace hash")
    parser.add_argument("--quiet", action="store_true", help="no progress, no table")
    return parser.parse_args(argv)


def _run(seeds: Sequence[int], given: argparse.Namespace) -> Iterable[Result]:
    if given.processes < 2 or len(seeds) < 2:
        settle(given.lines)
        yield from map(simulate, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(
        given.processes, settle, (given.lines,), maxtasksperchild=SEEDS_A_PROCESS
    ) as pool:
        yield from pool.imap(simulate, seeds)


def _watched(results: Iterable[Result], count: int, quiet: bool) -> Iterable[Result]:
    for number, each in enumerate(results, 1):
        if each.error:
            print(f"seed {each.seed} FAILED: {each.error[:300]}", flush=True)
        elif not quiet and (number % 10 == 0 or number == count):
            print(f"{number} of {count} seeds", flush=True)
        yield each


def _report(results: Sequence[Result], took_s: float, quiet: bool) -> list[str]:
    hits: Counter[Point] = Counter()
    outcomes: Counter[str] = Counter()
    for each in results:
        hits.update(each.hits)
        outcomes.update(each.outcomes)
    missing = [point.value for point in Point if not hits[point]]
    if quiet:
        return missing
    print("\nfault points, and how often each was hit:")
    for point in Point:
        print(f"  {hits[point]:8d}  {point}")
    print("deployments:", ", ".join(f"{n} {state}" for state, n in outcomes.most_common()))
    steps, checks = sum(each.steps for each in results), sum(each.checks for each in results)
    targets, tries = sum(each.targets for each in results), sum(each.tries for each in results)
    placed, stops = sum(each.placements for each in results), sum(each.stops for each in results)
    evictions = sum(each.evictions for each in results)
    print(
        f"looked at: {placed} placements by rules, {stops} stops of ready ones, {evictions} evictions"
    )
    print(f"jobs: {targets} targets that had to have their run; {tries} tries of runs began")
    passed = sum(not each.error for each in results)
    print(
        f"{passed} of {len(results)} seeds passed; {steps} steps, invariants looked at after each,"
        f" {checks} times in full; {took_s / max(1, len(results)):.2f} s a seed"
    )
    return missing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
