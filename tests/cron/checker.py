"""Judges a cron by what it acknowledged and what ran, after the rules of Jepsen's analysis of Chronos.

With R the time at which the final read was begun, an acknowledged job's targets before R - epsilon - duration must each
have had a run of their own, which began in [target, target + epsilon + 5 s] and ended. That is all Jepsen asks. The
other rules are ours, and each can be switched off (`Rules`): nothing runs twice, outside, over itself, after its end,
or unasked.

When a run began and ended is taken from where it ran. What the cron says about itself (which target a run was for, that
a host was lost, that a try failed, that a target was missed) excuses only what could not be otherwise.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.cron.matching import Matching, Window

FORGIVENESS_S = 5.0


@dataclass(frozen=True)
class Job:
    """What was asked for, and when it was acknowledged. Times are Unix seconds.

    `targets`: all the times it names, rising, also those after the end of the test. `acknowledged`: None if the asking
    was refused. `doubtful`: nobody knows whether it was taken (a time-out), so it may run and need not.
    """

    name: str
    targets: Sequence[float]
    epsilon_s: float
    duration_s: float = 0.0
    count: int | None = None
    acknowledged: float | None = -math.inf
    doubtful: bool = False
    delete_asked: float = math.inf
    delete_acknowledged: float = math.inf
    may_overlap: bool = False


@dataclass(frozen=True)
class Run:
    """One try of a run. `end`: None if it had not ended at the final read. `target`: what the cron said it is for.

    `failed`, `host_lost`: so it was said; another try of the same target is then no double.
    """

    job: str
    start: float
    end: float | None = None
    target: float | None = None
    host_lost: bool = False
    failed: bool = False
    id: str = ""

    @property
    def bad(self) -> bool:
        """It was said that it came to nothing."""
        return self.failed or self.host_lost


@dataclass(frozen=True)
class Outage:
    """A time in which nothing could be started.

    A window that it touches stays open until it is over and recovered from. Targets that were said to be missed are
    excused in it, and only there.
    """

    start: float
    end: float


@dataclass(frozen=True)
class Rules:
    """Which rules hold; all off but `missing` is what Jepsen asks."""

    missing: bool = True
    extra: bool = True
    outside: bool = True
    doubles: bool = True
    strange: bool = True
    overlaps: bool = True
    after_delete: bool = True
    beyond_count: bool = True
    unacknowledged: bool = True
    forgiveness_s: float = FORGIVENESS_S
    recovery_s: float = 60.0


OURS = Rules()
_NAMES = (
    *("missing", "extra", "outside", "doubles", "strange", "overlaps", "after_delete"),
    *("beyond_count", "unacknowledged"),
)
JEPSEN = Rules(**{name: name == "missing" for name in _NAMES})


@dataclass
class Verdict:
    """What is wrong; runs and targets by their jobs' order, then by time."""

    rules: Rules
    missing: list[tuple[str, float]] = field(default_factory=list)  # job, target
    extra: list[Run] = field(default_factory=list)  # got no target of its own; those outside too
    outside: list[Run] = field(default_factory=list)  # began in no window
    doubles: list[tuple[Run, Run]] = field(default_factory=list)  # for one target
    strange: list[Run] = field(default_factory=list)  # for a target that its job has not
    overlaps: list[tuple[Run, Run]] = field(default_factory=list)
    after_delete: list[Run] = field(default_factory=list)
    beyond_count: list[Run] = field(default_factory=list)
    unacknowledged: list[Run] = field(default_factory=list)
    wanted: int = 0  # so many targets had to have a run
    met: int = 0
    lost: list[Run] = field(default_factory=list)  # excuse their targets, and are no fault

    @property
    def faults(self) -> dict[str, list[object]]:
        """Rule → what breaks it, of the rules that hold."""
        found = {name: list(getattr(self, name)) for name in _NAMES if getattr(self.rules, name)}
        return {name: each for name, each in found.items() if each}

    @property
    def valid(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        lines = [f"{self.met} of {self.wanted} targets met, {len(self.lost)} tries lost with hosts"]
        for name, found in self.faults.items():
            lines.append(f"{name}: {len(found)}")
            lines += [f"    {each}" for each in found[:10]]
        return "\n".join(lines)


def check(
    jobs: Iterable[Job],
    runs: Iterable[Run],
    read_at: float,
    *,
    rules: Rules = OURS,
    outages: Sequence[Outage] = (),
    missed: Mapping[str, Iterable[float]] | None = None,
) -> Verdict:
    """Judges all jobs. `read_at`: when the final read was begun. `missed`: job → targets that were said to be missed.

    The cost is that of sorting the runs, but for windows of a job that overlap each other and lack runs.
    """
    verdict = Verdict(rules)
    of_job: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        of_job[run.job].append(run)
    for job in jobs:
        mine = sorted(of_job.pop(job.name, []), key=lambda each: each.start)
        if job.acknowledged is None and not job.doubtful:
            verdict.unacknowledged += mine
            continue
        said = set((missed or {}).get(job.name, ()))
        _check_job(verdict, job, mine, _windows(job, rules, read_at, outages, said))
    for _, unknown in sorted(of_job.items()):
        verdict.unacknowledged += sorted(unknown, key=lambda each: each.start)
    return verdict


def _windows(
    job: Job, rules: Rules, read_at: float, outages: Sequence[Outage], missed: set[float]
) -> list[Window]:
    """When each target may have its run, and whether it must."""
    finish = read_at - job.epsilon_s - job.duration_s
    windows = []
    for target in job.targets:
        if target > read_at or target > job.delete_acknowledged:
            break
        closes = target + job.epsilon_s + rules.forgiveness_s
        # One outage may put off the recovery into the next.
        excused = False
        for outage in sorted(outages, key=lambda each: each.start):
            if outage.start <= closes and outage.end >= target:
                excused = True
                closes = max(closes, outage.end + rules.recovery_s)
        wanted = (
            not job.doubtful
            and job.acknowledged is not None
            and job.acknowledged <= target < finish
            and (closes + job.duration_s < read_at or not excused)
            and closes + job.duration_s < job.delete_asked
            and not (excused and target in missed)
        )
        windows.append(Window(target, target, closes, wanted))
    return windows


def _check_job(verdict: Verdict, job: Job, runs: list[Run], windows: list[Window]) -> None:
    again, doubles = _tries(runs)
    verdict.doubles += doubles
    first = [run for at, run in enumerate(runs) if at not in again]
    matching = _match(first, windows)
    for index, window in enumerate(windows):
        taken = matching.of_window.get(index)
        met = taken is not None and (first[taken].end is not None or first[taken].host_lost)
        verdict.wanted += window.wanted
        verdict.met += window.wanted and met
        if window.wanted and not met:
            verdict.missing.append((job.name, window.target))
    # What was said to have failed may be tried again, when nobody says for which target it was.
    unplaced = [
        run
        for at, run in enumerate(first)
        if at not in matching.of_start and not (run.bad and matching.around(run.start))
    ]
    verdict.extra += unplaced
    verdict.outside += [run for run in unplaced if not matching.around(run.start)]
    named = set(job.targets)
    verdict.strange += [run for run in runs if run.target is not None and run.target not in named]
    verdict.lost += [run for run in runs if run.host_lost]
    grace = job.delete_acknowledged + verdict.rules.forgiveness_s
    verdict.after_delete += [run for run in runs if run.start > grace]
    if job.count is not None:
        verdict.beyond_count += [run for run in first if not run.bad][job.count :]
    if not job.may_overlap:
        verdict.overlaps += _overlaps(runs)


def _match(runs: list[Run], windows: list[Window]) -> Matching:
    """Ended runs to targets that must have one; then those that came to nothing; then to whatever is left."""
    matching = Matching(windows, [run.start for run in runs])
    good = [at for at, run in enumerate(runs) if run.end is not None and not run.bad]
    bad = [at for at, run in enumerate(runs) if run.bad]
    rest = [at for at, run in enumerate(runs) if run.end is None and not run.bad]
    matching.greedy(good, [at for at, window in enumerate(windows) if window.wanted])
    for some in (good, bad):
        # A target that is excused must not take a run away from one that is not.
        matching.augment(some, wanted=True)
        unmatched = [at for at in some if at not in matching.of_start]
        matching.greedy(unmatched, matching.free())
        matching.augment(unmatched)
    # A run that has not ended meets no target, so it must not take one from a run that has.
    matching.greedy(rest, matching.free())
    return matching


def _tries(runs: list[Run]) -> tuple[set[int], list[tuple[Run, Run]]]:
    """By the targets they were said to be for: the runs that follow one that came to nothing, and those that follow
    one that did not."""
    again: set[int] = set()
    doubles: list[tuple[Run, Run]] = []
    latest: dict[float, Run] = {}
    for at, run in enumerate(runs):
        if run.target is None:
            continue
        before = latest.get(run.target)
        if before is None or before.bad:
            latest[run.target] = run
        if before is not None and before.bad:
            again.add(at)
        elif before is not None:
            doubles.append((before, run))
    return again, doubles


def _overlaps(runs: list[Run]) -> list[tuple[Run, Run]]:
    """Pairs of which the second began before the first had ended. When a lost one ended, nobody knows."""
    found: list[tuple[Run, Run]] = []
    longest: Run | None = None
    for run in runs:
        if run.host_lost:
            continue
        if longest is not None and run.start < _end(longest):
            found.append((longest, run))
        if longest is None or _end(run) > _end(longest):
            longest = run
    return found


def _end(run: Run) -> float:
    return math.inf if run.end is None else run.end
