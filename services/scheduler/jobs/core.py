"""What becomes of jobs in one decision: what their runs tell, then what time brings. Pure.

**Invariant**: a run is decided on by its id, which is a function of its job and target (or request). The instance is
saved before the job that has it in `running` and its cursor behind the target; so whoever leads next either finds the
cursor moved, or decides on the same id again and finds it known.

Reading order: `turn` → `settle` (what has begun and ended) → `look` (one job: what is due, what may start) →
`starting.py` (concurrency) → `counting.py` (what an end means for its job).
"""

from __future__ import annotations

from dataclasses import replace

from libs.common.events import model as ev
from services.scheduler.cluster import Draft
from services.scheduler.jobs import counting, starting, timing
from services.scheduler.jobs.model import Due, Job, Record, Told
from services.scheduler.jobs.run import JobId, Run, target_id
from services.scheduler.model import Instance, InstanceId, State
from services.scheduler.settings import SchedulerConfig


def turn(draft: Draft, now: float, config: SchedulerConfig) -> None:
    """Take in what has become of runs, then start what is due."""
    settle(draft, now, config)
    for name in draft.jobs.due(now, config.jobs.looks):
        look(draft, name, now, config)


def settle(draft: Draft, now: float, config: SchedulerConfig) -> None:
    """What this draft has made of runs, into their jobs."""
    touched = _left_by_others(draft, now)
    heard: set[InstanceId] = set()
    while True:
        for instance in list(draft.changed.values()):
            if instance.run is not None and _hear(draft, instance, instance.run, heard, now):
                touched[instance.run.job] = None
        if not touched:
            return
        for name in touched:
            look(draft, name, now, config)
            for child in draft.jobs.children(name):
                look(draft, child.id, now, config)
        touched = {}  # looking at them may have ended others


def _left_by_others(draft: Draft, now: float) -> dict[JobId, None]:
    """Runs that are over and were not counted by who led before."""
    touched: dict[JobId, None] = {}
    if draft.jobs.book.left and not draft.jobs.left_taken:
        draft.jobs.left_taken = True
        for record in draft.jobs.book.left:
            if counting.count(draft, record, now):
                touched[record.job] = None
    return touched


def _hear(draft: Draft, instance: Instance, run: Run, heard: set[InstanceId], now: float) -> bool:
    """True when its job should be looked at: the run is over, or waits for something else now."""
    job = draft.jobs.get(run.job)
    told = job.running.get(instance.id) if job is not None else None
    if job is None or told is None:
        return False
    knows = Told(max(told.begun, run.begun), max(told.lost, run.lost))
    if knows != told:
        job = job.having(instance.id, knows)
        if knows.begun > told.begun and run.reuse == "shared" and run.target >= job.home_at:
            # With the job, so that whoever leads next makes a container ready there, too.
            job = replace(job, home=instance.agent, home_at=run.target)
        draft.jobs.put(job, *_news(instance, run, told))
    if instance.state is State.ENDED:
        return counting.count(draft, Record.of(instance), now)
    waits = starting.waits_for_its_start(instance) or instance.untold
    again = waits and instance.id not in heard
    heard.add(instance.id)
    return again


def _news(instance: Instance, run: Run, told: Told) -> list[ev.JobRunStarted | ev.JobRunFailed]:
    news: list[ev.JobRunStarted | ev.JobRunFailed] = []
    about = {"job": run.job, "run": instance.id, "target": run.target}
    if run.begun > told.begun:
        place = {"hostname": instance.hostname, "instance": instance.id}
        news.append(ev.JobRunStarted(**about, **place, attempt=instance.attempt, tries=run.begun))
    if run.lost > told.lost and instance.state is not State.ENDED:
        host, why = instance.hostname, run.reason
        news.append(ev.JobRunFailed(**about, reason=why, hostname=host, host_lost=True, again=True))
    return news


def look(draft: Draft, name: JobId, now: float, config: SchedulerConfig) -> None:
    """One job: drop what can't start any more, start what is due, and say when to look again."""
    job = draft.jobs.get(name)
    if job is None or job.deleted:
        return
    job = starting.drop_overdue(draft, job, now)
    if not job.off and not job.paused:
        job = _targets(draft, job, now, config)
        job = _after_parents(draft, job, now, config)
    if job.off:
        job = starting.drop_queue(draft, job, "the job was disabled", now)
    else:
        job = starting.begin_queued(draft, job, now, config)
    draft.jobs.looked_at[name] = None
    draft.jobs.put(replace(job, look=next_look(draft, job)))


def _targets(draft: Draft, job: Job, now: float, config: SchedulerConfig) -> Job:
    came = timing.came(job, now, config.jobs.late_s)
    for due, reason in came.missed:
        job = starting.miss(draft, job, due, reason, now)
    for due in came.run:
        job = starting.arrive(draft, job, due, now, config)
    newest = [due.target for due in (*came.run, *(due for due, _ in came.missed))]
    return replace(job, cursor=max(newest)) if newest else job


def _after_parents(draft: Draft, job: Job, now: float, config: SchedulerConfig) -> Job:
    """A run, when all its parents have had newer successes than it last ran after; they are consumed by that."""
    passed: dict[str, float] = {each: _passed(draft, each) for each in job.parents}
    if not passed or any(at <= job.consumed.get(each, 0.0) for each, at in passed.items()):
        return job
    target = max(passed.values())
    due = Due(target_id(job.id, target), target, "parents")
    waits = job.queue or (job.running and job.spec.concurrency in ("forbid", "queue"))
    # Who led before may have begun it and died before that was written down with the job: then it is consumed already.
    if waits and not starting.known(draft, due.run):
        return job  # and runs once for all that comes meanwhile
    job = replace(job, consumed=passed)
    return starting.arrive(draft, job, due, now, config)


def _passed(draft: Draft, name: JobId) -> float:
    parent = draft.jobs.get(name)
    return parent.passed if parent is not None else 0.0


def next_look(draft: Draft, job: Job) -> float | None:
    """When time alone brings something about."""
    times = [timing.next_target(job)]
    if job.spec.start_deadline_s is not None:
        times += [starting.start_by(job, due.target) for due in job.queue if due.cause != "manual"]
    for name in job.running:
        instance = draft.get(InstanceId(name))
        if instance is not None and instance.untold:
            times.append(instance.not_before)
        elif instance is not None and starting.waits_for_its_start(instance):
            times.append(instance.run.start_by if instance.run else None)
    return min((each for each in times if each), default=None)
