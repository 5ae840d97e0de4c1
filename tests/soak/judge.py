"""What was asked, what the witness saw and what the API tells, put together and judged. Pure.

What ran is taken from the witness alone; where each run has a container of its own, the engines must have started as
many. The API says which target a process was for (by the token in the run's output), which targets were missed, and how
many tries there were; where the two differ, that is a fault. How runs of `async` jobs ended is what the reporter told.

What is excused, and why: while no scheduler leads, nothing can be started. From the kill of the leader until one
answers again (an `Outage`), and for RECOVERY_S after it, in which what is overdue is started, a window that was open or
opened stays open; and a target that the API says was missed in that time needs no run (its job runs once for the
newest target that passed, as `catch_up: latest` says, or it forbids overlaps). So is then one whose run the next target
replaced before it began, or before it could tell of itself.

The death of an executor excuses no time, and no process: whatever had begun is found by the next executor, and how it
ended is told (ADR 36), so a run has one process. Only a try of which nobody ever saw a process may be told as lost, and
be followed by another, when an executor died meanwhile: it was on its way there, and not begun. Nothing else is
excused: no double, no run before its target or for none, no overlap, no run after a delete, none beyond the count.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from libs.client.jobs import ENDED, RunView
from tests.cron.checker import Job, Outage, Rules, Run, Verdict, check
from tests.cron.workload import Drawn
from tests.soak.engines import Started
from tests.soak.reporter import WITHIN_S, Word
from tests.soak.witness import Seen

RECOVERY_S = 15.0
START_S = 5.0  # from a container's start until its process has told of itself
SLACK_S = 2.0  # between the clocks of who says that a run began: witness, host, scheduler
FOUND_S = 20.0  # from an executor's death until another one has told what became of its runs
TRIES = 3
AGAIN_S = 1.0  # between two of them
_REPLACED = re.compile(r"^replaced by run (\S+)$")


@dataclass
class Death:
    """Of a host's executor, at a Unix time; `back`: the next one was there.

    `under_way`: tokens of runs there that share containers.
    """

    host: str
    at: float
    under_way: list[str]
    back: float = math.inf


def longest_told_s(lasts_s: float) -> float:
    """Until a run is over whose end is told, with all its tries."""
    return TRIES * (max(lasts_s, WITHIN_S) + AGAIN_S + SLACK_S)


@dataclass
class Asked:
    """A job, and when it was asked for and acknowledged; times are Unix seconds."""

    drawn: Drawn
    concurrency: str
    alone: bool = False  # each try has a container of its own
    told: bool = False  # `async`: how its runs end is told by the reporter
    acknowledged: float | None = None
    delete_asked: float = math.inf
    delete_acknowledged: float = math.inf

    def job(self) -> Job:
        """For the checker."""
        job = self.drawn.job(self.acknowledged)
        lasts_s = self.drawn.duration_s
        return replace(
            job,
            delete_asked=self.delete_asked,
            delete_acknowledged=self.delete_acknowledged,
            duration_s=(longest_told_s(lasts_s) if self.told else lasts_s) + SLACK_S,
            may_overlap=self.concurrency == "allow",
        )


@dataclass
class Judged:
    """The checker's verdict, and what is wrong besides; the runs as they were judged."""

    verdict: Verdict
    runs: list[Run]
    unclaimed: list[Seen] = field(default_factory=list)  # ran, and no run of the API's is it
    unseen: list[RunView] = field(default_factory=list)  # has tries that nobody saw
    bad: list[RunView] = field(default_factory=list)  # failed, was lost or killed, and must not be
    endless: list[RunView] = field(default_factory=list)  # its process had ended long ago
    cut: list[RunView] = field(default_factory=list)  # succeeded, and its process did not
    again: list[RunView] = field(
        default_factory=list
    )  # had more processes than one, and should not
    untrue: list[RunView] = field(default_factory=list)  # did not end as it was told
    unheard: list[Word] = field(default_factory=list)  # of an end, of which nothing came
    containers: list[str] = field(default_factory=list)  # more or fewer of them than processes
    twice: list[RunView] = field(default_factory=list)  # of a target of which another run was told

    @property
    def faults(self) -> dict[str, list[object]]:
        """Rule → what breaks it."""
        found: dict[str, list[object]] = dict(self.verdict.faults)
        for name in _NAMES:
            if getattr(self, name):
                found[name] = list(getattr(self, name))
        return found


_NAMES = (
    *("unclaimed", "unseen", "bad", "endless", "cut", "again", "untrue", "unheard", "containers"),
    "twice",
)


def judge(
    asked: Sequence[Asked],
    seen: Iterable[Seen],
    views: Iterable[RunView],
    read_at: float,
    outages: Sequence[Outage],
    started: Sequence[Started] = (),
    deaths: Sequence[Death] = (),
    words: Sequence[Word] = (),
) -> Judged:
    """All of it. `views` are all runs that the API told from `read_at` on; of deleted jobs, before their end."""
    processes: dict[str, list[Seen]] = defaultdict(list)
    for each in seen:
        processes[each.job].append(each)
    told: dict[str, list[RunView]] = defaultdict(list)
    missed: dict[str, list[float]] = defaultdict(list)
    judged = Judged(Verdict(Rules()), [], unheard=_unheard(words, outages))
    reports = {each.token: each for each in words}
    targets: set[tuple[str, float]] = set()
    for view in views:
        judged.twice += [view] if (view.job, view.target) in targets else []
        targets.add((view.job, view.target))
        if view.state == "missed":
            missed[view.job].append(_rounded(view.target))
        else:
            told[view.job].append(view)
    gone = {each.drawn.name: each.delete_asked for each in asked if each.delete_asked < math.inf}
    tell = {each.drawn.name for each in asked if each.told}
    for job in sorted(processes.keys() | told.keys()):
        known, told_at = job not in gone, min(read_at, gone.get(job, math.inf))
        of_run = _join(judged, processes[job], told[job], read_at, known=known)
        for view in told[job]:
            mine = of_run[view.run]
            judged.cut += [view] if _is_cut(view, mine) else []
            if job in tell:
                judged.runs += _reported(judged, view, mine, reports, read_at)
            else:
                judged.runs += [_run(each, view) for each in mine if each.begin <= read_at]
                judged.again += [view] if len(mine) > 1 else []
                judged.endless += [view] if _is_endless(view, mine, told_at) else []
            missed[job] += _tries(judged, view, len(mine), told[job], deaths, job in tell)
    for wanted in asked:
        if wanted.alone and wanted.drawn.name not in gone:  # a delete may end what was just started
            name = wanted.drawn.name
            made = [one for one in started if one.job == name]
            judged.containers += _uncounted(name, made, processes[name], read_at)
    rules = Rules(recovery_s=RECOVERY_S)
    jobs = [each.job() for each in asked]
    judged.verdict = check(jobs, judged.runs, read_at, rules=rules, outages=outages, missed=missed)
    return judged


def _join(
    judged: Judged, processes: Sequence[Seen], views: Sequence[RunView], read_at: float, known: bool
) -> dict[str, list[Seen]]:
    """One job's processes by their runs: by token; those of earlier tries, of which no output is kept, by time."""
    by_token = {view.output.strip(): view for view in views if view.output.strip()}
    of_run: dict[str, list[Seen]] = defaultdict(list)
    rest: list[Seen] = []
    for each in processes:
        view = by_token.get(each.token)
        if view is None:
            rest.append(each)
        else:
            of_run[view.run].append(each)
    for each in rest:
        view = next(
            (v for v in views if v.tries > len(of_run[v.run]) and _covers(v, each, read_at)), None
        )
        if view is not None:
            of_run[view.run].append(each)
        elif each.begin <= read_at:
            # While the API was read, more began; they are no part of this.
            judged.runs.append(Run(each.job, each.begin, each.end, id=each.token))
            # A run may have begun before the scheduler could say so.
            if known and not any(v.state not in ENDED and _covers(v, each, read_at) for v in views):
                judged.unclaimed.append(each)
    for mine in of_run.values():
        mine.sort(key=lambda each: each.begin)
    return of_run


def _tries(
    judged: Judged,
    view: RunView,
    seen: int,
    views: Sequence[RunView],
    deaths: Sequence[Death],
    told: bool,
) -> list[float]:
    """Are there as many tries as processes, and did they end as they may? Returns the target that need not be met."""
    replaced = _is_replaced(view, views)
    may = {"failed": told, "lost": False, "killed": replaced}
    if not may.get(view.state, True):
        judged.bad.append(view)
    unseen = view.tries - seen if view.state in ENDED else 0
    if replaced and not seen and unseen <= 1:
        began, ended = view.started or view.ended or 0.0, view.ended or math.inf
        if ended - began < START_S:
            return [_rounded(view.target)]
    if unseen > 0 and not _never_begun(view, unseen, deaths):
        judged.unseen.append(view)
    return []


def _is_endless(view: RunView, seen: Sequence[Seen], told_at: float) -> bool:
    """Was nobody told that it had ended? That takes until its host has another executor, and somebody leads."""
    if view.state in ENDED or not seen:
        return False
    return all(each.end is not None and each.end + FOUND_S < told_at for each in seen)


def _is_cut(view: RunView, seen: Sequence[Seen]) -> bool:
    """Is it said to have succeeded, though none of its processes came to its end?"""
    return view.state == "succeeded" and bool(seen) and all(each.end is None for each in seen)


def _is_replaced(view: RunView, views: Sequence[RunView]) -> bool:
    """Was it ended because the next one of its job was due?"""
    found = _REPLACED.match(view.reason) if view.state == "killed" else None
    if found is None:
        return False
    heirs = [each for each in views if each.run == found[1]]
    ended = (view.ended or 0.0) + SLACK_S
    return any(view.target < each.target <= ended for each in heirs)


def _never_begun(view: RunView, unseen: int, deaths: Sequence[Death]) -> bool:
    """Were the tries that nobody saw on their way to an executor when it died?"""
    begins, ends = (view.created or view.target) - SLACK_S, (view.ended or math.inf) + SLACK_S
    return unseen <= min(view.lost_tries, sum(begins <= each.at <= ends for each in deaths))


def _reported(
    judged: Judged,
    view: RunView,
    seen: Sequence[Seen],
    words: Mapping[str, Word],
    read_at: float,
) -> list[Run]:
    """The tries of a run whose end is told. It is tried again when that is a failure, and for nothing else."""
    if not seen:
        return []
    told = [words.get(each.token) for each in seen]
    right = all(word is not None and word.status != 0 for word in told[:-1])
    last, process = told[-1], seen[-1]
    over = view.state in ENDED
    if over:
        right &= last is not None and _is_as_told(view, last, process, len(seen))
    elif last is not None and process.end is not None:  # the scheduler has known it for long
        right &= max(last.acknowledged, process.end) + RECOVERY_S > read_at
    if not right:
        judged.untrue.append(view)
    runs = [replace(_run(each, view), failed=True) for each in seen[:-1]]
    runs.append(replace(_run(process, view), end=view.ended if over else None))
    return [each for each in runs if each.start <= read_at]


def _unheard(words: Iterable[Word], outages: Sequence[Outage]) -> list[Word]:
    """Those that were noted to have come to nothing. A leader that dies may have saved a word, and not what came of it:
    then the next one says so of one that counted.
    """
    return [
        word
        for word in words
        if word.notes
        and not any(o.start <= word.acknowledged and o.end >= word.asked for o in outages)
    ]


def _is_as_told(view: RunView, word: Word, process: Seen, tries: int) -> bool:
    state = "failed" if word.status else "succeeded"
    used_up = tries + view.lost_tries >= TRIES
    soonest = max(word.asked, process.end or process.begin) - SLACK_S
    return (
        (view.state, view.exit_code) == (state, word.status)
        and (used_up or not word.status)
        and (view.ended or 0.0) >= soonest
    )


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


def _run(seen: Seen, view: RunView) -> Run:
    end = seen.end if seen.end is not None or view.state not in ENDED else view.ended
    failed = view.state in ENDED and view.state != "succeeded"
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
