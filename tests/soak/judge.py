"""What was asked, what the witness saw and what the API tells, put together and judged. Pure.

What ran is taken from the witness alone; where each run has a container of its own, the engines must have started as
many. The API says which target a process was for (by the token in the run's output), which targets were missed, and how
many tries there were; where the two differ, that is a fault.

What is excused, and why: while no scheduler leads, nothing can be started. From the kill of the leader until one
answers again (an `Outage`), and for RECOVERY_S after it, in which what is overdue is started, a window that was open or
opened stays open; and a target that the API says was missed in that time needs no run (its job runs once for the
newest target that passed, as `catch_up: latest` says, or it forbids overlaps). Nothing else is excused: no double,
no run before its target or for none, no overlap, no run after a delete, none beyond the count.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from libs.client.jobs import ENDED, RunView
from tests.cron.checker import Job, Outage, Rules, Run, Verdict, check
from tests.cron.workload import Drawn
from tests.soak.engines import Started
from tests.soak.witness import Seen

RECOVERY_S = 15.0
START_S = 5.0  # from a container's start until its process has told of itself
SLACK_S = 2.0  # between the clocks of who says that a run began: witness, host, scheduler


@dataclass
class Asked:
    """A job, and when it was asked for and acknowledged; times are Unix seconds."""

    drawn: Drawn
    concurrency: str
    alone: bool = False  # each try has a container of its own
    acknowledged: float | None = None
    delete_asked: float = math.inf
    delete_acknowledged: float = math.inf

    def job(self) -> Job:
        """For the checker."""
        job = self.drawn.job(self.acknowledged)
        return replace(
            job,
            delete_asked=self.delete_asked,
            delete_acknowledged=self.delete_acknowledged,
            duration_s=self.drawn.duration_s + SLACK_S,
            may_overlap=self.concurrency == "allow",
        )


@dataclass
class Judged:
    """The checker's verdict, and what is wrong besides; the runs as they were judged."""

    verdict: Verdict
    runs: list[Run]
    unclaimed: list[Seen] = field(default_factory=list)  # ran, and no run of the API's is it
    unseen: list[RunView] = field(default_factory=list)  # has tries that nobody saw
    bad: list[RunView] = field(default_factory=list)  # failed or was lost, which nothing here may
    containers: list[str] = field(default_factory=list)  # more or fewer of them than processes
    twice: list[RunView] = field(default_factory=list)  # of a target of which another run was told

    @property
    def faults(self) -> dict[str, list[object]]:
        """Rule → what breaks it."""
        found: dict[str, list[object]] = dict(self.verdict.faults)
        for name in ("unclaimed", "unseen", "bad", "containers", "twice"):
            if getattr(self, name):
                found[name] = list(getattr(self, name))
        return found


def judge(
    asked: Sequence[Asked],
    seen: Iterable[Seen],
    views: Iterable[RunView],
    read_at: float,
    outages: Sequence[Outage],
    started: Sequence[Started] = (),
) -> Judged:
    """All of it. `views` are all runs that the API told from `read_at` on; of deleted jobs, before their end."""
    processes: dict[str, list[Seen]] = defaultdict(list)
    for each in seen:
        processes[each.job].append(each)
    told: dict[str, list[RunView]] = defaultdict(list)
    missed: dict[str, list[float]] = defaultdict(list)
    judged = Judged(Verdict(Rules()), [])
    targets: set[tuple[str, float]] = set()
    for view in views:
        judged.twice += [view] if (view.job, view.target) in targets else []
        targets.add((view.job, view.target))
        if view.state == "missed":
            missed[view.job].append(_rounded(view.target))
        else:
            told[view.job].append(view)
    gone = {each.drawn.name for each in asked if each.delete_asked < math.inf}
    for job in sorted(processes.keys() | told.keys()):
        _join(judged, processes[job], told[job], read_at, known=job not in gone)
    for wanted in asked:
        if wanted.alone and wanted.drawn.name not in gone:  # a delete may end what was just started
            name = wanted.drawn.name
            mine = [one for one in started if one.job == name]
            judged.containers += _uncounted(name, mine, processes[name], read_at)
    rules = Rules(recovery_s=RECOVERY_S)
    jobs = [each.job() for each in asked]
    judged.verdict = check(jobs, judged.runs, read_at, rules=rules, outages=outages, missed=missed)
    return judged


def _join(
    judged: Judged, processes: Sequence[Seen], views: Sequence[RunView], read_at: float, known: bool
) -> None:
    """One job's processes and its runs, by token; those of earlier tries, of which no output is kept, by time."""
    by_token = {view.output.strip(): view for view in views if view.output.strip()}
    rest: list[Seen] = []
    ran: list[Run] = []
    tries: dict[str, int] = {view.run: view.tries for view in views}
    for each in processes:
        view = by_token.get(each.token)
        if view is None:
            rest.append(each)
            continue
        tries[view.run] -= 1
        ran.append(_run(each, view, failed=view.state != "succeeded"))
    for each in rest:
        view = next((v for v in views if tries[v.run] > 0 and _covers(v, each, read_at)), None)
        if view is not None:
            tries[view.run] -= 1
            ran.append(_run(each, view, failed=view.state in ENDED or view.tries > 1))
        elif each.begin <= read_at:
            ran.append(Run(each.job, each.begin, each.end, id=each.token))
            # A run may have begun before the scheduler could say so.
            if known and not any(v.state not in ENDED and _covers(v, each, read_at) for v in views):
                judged.unclaimed.append(each)
    # While the API was read, more began; they are no part of this.
    judged.runs += [each for each in ran if each.start <= read_at]
    judged.unseen += [view for view in views if tries[view.run] > 0 and view.state in ENDED]
    judged.bad += [view for view in views if view.state in ("failed", "lost")]


def _uncounted(
    job: str, started: Sequence[Started], processes: Sequence[Seen], read_at: float
) -> list[str]:
    """What is wrong with the number of the job's containers. In the last moments either may be ahead of the other."""
    least = sum(each.begin < read_at for each in processes)
    most = sum(each.at < read_at - START_S for each in started)
    if least <= len(started) and most <= len(processes):
        return []
    return [f"{job}: {len(started)} containers, {len(processes)} processes"]


def _covers(view: RunView, seen: Seen, read_at: float) -> bool:
    """May the process have been a try of the run."""
    begins = (view.created or view.target) - SLACK_S
    return begins <= seen.begin <= (view.ended or read_at) + SLACK_S


def _run(seen: Seen, view: RunView, *, failed: bool) -> Run:
    end = seen.end if seen.end is not None or view.state not in ENDED else view.ended
    return Run(seen.job, seen.begin, end, _rounded(view.target), failed=failed, id=seen.token)


def _rounded(target: float) -> float:
    """As schedules of the workload name it."""
    return round(target, 3)


@dataclass(frozen=True, order=True)
class Late:
    """How late the first try of a target began, seconds."""

    late_s: float
    job: str
    target: float


def late(runs: Iterable[Run], outages: Sequence[Outage]) -> tuple[list[Late], list[Late]]:
    """First tries by how late they were, rising: those of targets that no outage touched, and the others."""
    first: dict[tuple[str, float], float] = {}
    for run in runs:
        if run.target is not None:
            key = run.job, run.target
            first[key] = min(run.start, first.get(key, math.inf))
    quiet: list[Late] = []
    disturbed: list[Late] = []
    for (job, target), start in first.items():
        touched = any(o.start - SLACK_S <= target <= o.end for o in outages)
        (disturbed if touched else quiet).append(Late(start - target, job, target))
    return sorted(quiet), sorted(disturbed)


def percentile(values: Sequence[float], share: float) -> float:
    """Of rising values, the smallest that no less than this share is not above; 0 when there is none."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0
