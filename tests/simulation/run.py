"""One seed, from the start of the cloud to the last check; what a run tells about itself."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests import garbage
from tests.cron.checker import Outage
from tests.simulation import loop, trace
from tests.simulation.chaos import Chaos
from tests.simulation.cloud import Cloud, SimulationFailed
from tests.simulation.faults import Point
from tests.simulation.final import check_end
from tests.simulation.invariants import Invariants
from tests.simulation.jobs.judge import Judge
from tests.simulation.jobs.ledger import Ledger
from tests.simulation.jobs.outages import Observer
from tests.simulation.jobs.users import JobUser
from tests.simulation.loop import EPOCH_S
from tests.simulation.operator import Operator
from tests.simulation.promises import Acked, Promises
from tests.simulation.workload import APPS, User, begin

MakeCloud = Callable[[loop.World], Cloud]


@dataclass(frozen=True)
class Plan:
    """How long what goes on; seconds of virtual time."""

    faults_from_s: float = 45.0
    faults_until_s: float = 1200.0
    work_until_s: float = 1260.0
    settled_s: float = 1560.0
    end_s: float = 1800.0
    faults: bool = True
    jobs: bool = True


@dataclass
class Result:
    """What a seed came to. `error` is empty when all went well."""

    seed: int
    digest: str = ""
    lines: int = 0
    steps: int = 0
    checks: int = 0
    placements: int = 0  # with constraints, looked at
    stops: int = 0  # of ready instances, looked at
    evictions: int = 0  # for others that are more important, looked at
    targets: int = 0  # of jobs, each of which had to have its run
    tries: int = 0  # of runs of jobs, that began
    error: str = ""
    tail: list[str] = field(default_factory=list)
    hits: Counter[Point] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)


def simulate(seed: int, plan: Plan | None = None, make: MakeCloud = Cloud) -> Result:
    """Run one seed. Never raises for what the simulated cloud does wrong."""
    result = Result(seed)
    given = plan or Plan()
    clouds: list[Cloud] = []
    random.seed(seed)  # for whatever reaches for the global generator behind our back

    async def main(world: loop.World) -> None:
        cloud = make(world)
        clouds.append(cloud)
        await _play(cloud, given, result)

    try:
        loop.run(main, seed)
    except (SimulationFailed, loop.NothingWillHappen, TimeoutError) as error:
        result.error = f"{type(error).__name__}: {error}"
    except Exception as error:
        result.error = f"{type(error).__name__}: {error!r:.2000}"
    if clouds:
        kept = clouds[0].trace
        result.digest, result.lines = kept.digest, kept.lines
        result.tail = list(kept.last)
        result.hits = clouds[0].faults.hits
        result.steps = clouds[0].loop.steps
    return result


async def _play(cloud: Cloud, plan: Plan, result: Result) -> None:
    invariants, acked = Invariants(cloud), Acked()
    promises = Promises(cloud, acked, invariants.fail)
    await begin(cloud, invariants.after_step)
    users = [User(cloud, app, acked) for app in APPS]
    jobs = JobUser(cloud)
    ledger = Ledger(cloud, invariants.given_up, invariants.fail, jobs.may_overlap)
    observer = Observer(cloud, ledger)
    if plan.jobs:
        cloud.loop.create_task(observer.watch(), name="observer")
    asking = cloud.loop.create_task(jobs.all(), name="jobs") if plan.jobs else None
    async with asyncio.TaskGroup() as group:
        for user in users:
            group.create_task(user.first())
    await _until(cloud, plan.faults_from_s)
    async with asyncio.TaskGroup() as group:
        for user in users:
            group.create_task(user.work(plan.work_until_s))
        if plan.faults:
            cloud.faults.on = True
            group.create_task(Operator(cloud, invariants).work(plan.faults_until_s))
            group.create_task(Chaos(cloud).run(plan.faults_until_s))
    well_again = ledger.now()
    await _until(cloud, plan.faults_until_s + 120.0)
    for user in users:
        await user.resume_paused()
    await _until(cloud, plan.settled_s)
    last = [await user.last() for user in users]
    await _until(cloud, plan.end_s)
    result.checks = invariants.checks
    result.placements = invariants.placements
    result.stops = invariants.readiness.stops
    result.evictions = invariants.evictions
    if asking is not None:
        await asking
        faults = Outage(EPOCH_S + plan.faults_from_s, well_again)
        judge = Judge(jobs, ledger, invariants.fail, observer, faults)
        await judge.judge()
        result.targets, result.tries = judge.wanted, len(ledger.tries)
    await check_end(cloud, users, promises, invariants, result.outcomes, last)
    cloud.loop.after_step = None
    cloud.check()


async def _until(cloud: Cloud, at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - cloud.loop.time()))


def settle(lines: int = trace.KEPT_LINES) -> None:
    """So many lines of a trace are kept. What is imported stays, and what a seed makes lives to its end."""
    trace.KEPT_LINES = max(lines, trace.KEPT_LINES)
    garbage.spare()


def repeat_command(seed: int) -> str:
    """What to type to see it again."""
    return f"make sim SEEDS=1 SEED_FROM={seed}"


def is_pinned() -> bool:
    """Are hashes of strings the same in every process."""
    return os.environ.get("PYTHONHASHSEED", "random") != "random"


def told(result: Result, lines: int) -> str:
    """A failed seed for people: what failed, the last lines, the command that repeats it."""
    tail = "\n".join(f"    {line[:220]}" for line in result.tail[-lines:])
    return f"seed {result.seed}: {result.error}\n{tail}\n  again: {repeat_command(result.seed)}"
