"""Runs of a job that are to start: at once, after the one before, in its place, or not at all. Pure."""

from __future__ import annotations

from dataclasses import replace

from libs.common.jobs import CHRONOS_ASYNC
from services.scheduler import runs
from services.scheduler.cluster import Draft
from services.scheduler.jobs import counting
from services.scheduler.jobs.model import Due, Job, Record, Told
from services.scheduler.jobs.run import Run, RunState, app_of
from services.scheduler.model import Instance, InstanceId, State
from services.scheduler.settings import SchedulerConfig


def start_by(job: Job, target: float) -> float:
    """Until when a run must have been placed; 0: whenever."""
    deadline_s = job.spec.start_deadline_s
    return target + deadline_s if deadline_s is not None else 0.0


def arrive(draft: Draft, job: Job, due: Due, now: float, config: SchedulerConfig) -> Job:
    """A run is due: what becomes of it depends on those under way, and on what the job says of that."""
    if known(draft, due.run):
        return take_up(draft, job, due.run)
    if 0 < start_by(job, due.target) <= now and due.cause != "manual":
        return miss(draft, job, due, "its start deadline had passed", now)
    if job.spec.concurrency == "allow" or not (job.running or job.queue):
        return begin(draft, job, due, now, config)
    if job.spec.concurrency == "replace":
        return _replace(draft, job, due, now)
    if due.cause == "catch_up":  # one after the other: they are wanted, and bounded already
        return replace(job, queue=(*job.queue, due))
    if job.spec.concurrency == "queue":
        if len(job.queue) < job.spec.queue_limit:
            return replace(job, queue=(*job.queue, due))
        return miss(draft, job, due, f"{len(job.queue)} runs wait already", now)
    under_way = next(iter(job.running), None) or job.queue[0].run
    return miss(draft, job, due, f"run {under_way} is still under way", now)


def begin(draft: Draft, job: Job, due: Due, now: float, config: SchedulerConfig) -> Job:
    """Make its instance, which waits for a place from now on."""
    spec = config.within(job.bu, draft.jobs.book.spec_of(job))
    if due.command:
        spec = spec.model_copy(update={"command": due.command})
    run = Run(
        job=job.id,
        target=due.target,
        cause=due.cause,
        created=now,
        retry=job.spec.retry,
        start_by=start_by(job, due.target) if due.cause != "manual" else 0.0,
        timeout_s=job.spec.timeout_s or 0.0,
        success_codes=job.spec.success_codes,
        soft=job.spec.soft_errors,
        reuse=job.spec.reuse,
        told=job.spec.labels.get(CHRONOS_ASYNC) == "true",
    )
    instance = Instance(
        id=InstanceId(due.run),
        app=app_of(job.id),
        release=0,
        deployment="",
        spec=spec,
        since=now,
        not_before=now,
        run=run,
    )
    draft.put(instance)
    return replace(job.having(due.run, Told()), last_run=due.run)


def begin_queued(draft: Draft, job: Job, now: float, config: SchedulerConfig) -> Job:
    """The next one that waited, if nothing of the job is under way; of a paused job, only what somebody asked for."""
    while not job.running or job.spec.concurrency == "allow":
        due = next((d for d in job.queue if d.cause == "manual" or not job.paused), None)
        if due is None:
            break
        job = replace(job, queue=tuple(each for each in job.queue if each != due))
        job = (
            take_up(draft, job, due.run)
            if known(draft, due.run)
            else begin(draft, job, due, now, config)
        )
    return job


def drop_overdue(draft: Draft, job: Job, now: float) -> Job:
    """What should have started by now is missed."""
    if job.spec.start_deadline_s is not None:
        for due in job.queue:
            if due.cause != "manual" and start_by(job, due.target) <= now:
                job = replace(job, queue=tuple(each for each in job.queue if each != due))
                job = miss(draft, job, due, "the run before it took too long", now)
    for name in job.running:
        instance = draft.get(InstanceId(name))
        if instance is None or instance.run is None:
            continue
        if instance.untold and instance.not_before <= now:
            runs.never_told(draft, instance, now)
            continue
        if not waits_for_its_start(instance):
            continue
        if instance.run.start_by <= now:
            why = instance.delayed or "there was no room"
            runs.finish(draft, instance, RunState.MISSED, f"not started in time: {why}", now)
            draft.jobs.put(job)
            counting.count(draft, Record.of(draft.changed[instance.id]), now)
            job = draft.jobs.get(job.id) or job
    return job


def drop_queue(draft: Draft, job: Job, reason: str, now: float) -> Job:
    """Nothing that waits will run."""
    waiting, job = job.queue, replace(job, queue=())
    for due in waiting:
        job = miss(draft, job, due, reason, now)
    return job


def waits_for_its_start(instance: Instance) -> bool:
    """Is it to be missed if it is not placed in time."""
    run = instance.run
    return (
        run is not None
        and run.start_by > 0
        and not run.tries
        and instance.state is State.PENDING
        and not instance.stop
    )


def miss(draft: Draft, job: Job, due: Due, reason: str, now: float) -> Job:
    """It will not run, which is told and kept."""
    if known(draft, due.run):
        return take_up(draft, job, due.run)
    draft.jobs.put(job)
    record = Record(
        run=due.run,
        job=job.id,
        target=due.target,
        cause=due.cause,
        state=RunState.MISSED,
        created=now,
        ended=now,
        reason=reason,
    )
    counting.count(draft, record, now)
    return draft.jobs.get(job.id) or job


def _replace(draft: Draft, job: Job, due: Due, now: float) -> Job:
    """Those under way end; it waits for that, so that two never overlap."""
    job = drop_queue(draft, job, f"run {due.run} came before it could start", now)
    job = replace(job, queue=(due,))
    for name in job.running:
        instance = draft.get(InstanceId(name))
        if instance is not None:
            runs.stop(draft, instance, f"replaced by run {due.run}", now)
    return job


def known(draft: Draft, run: str) -> bool:
    """Was it decided on before: by who led before, whose job document could not be saved any more."""
    name = InstanceId(run)
    cluster = draft.cluster
    return (
        draft.get(name) is not None
        or name in cluster.ended
        or run in cluster.jobs.known
        or run in draft.jobs.records
    )


def take_up(draft: Draft, job: Job, run: str) -> Job:
    """A known run that is under way is the job's."""
    instance = draft.get(InstanceId(run))
    if instance is None or instance.state is State.ENDED or run in job.running:
        return job
    return replace(job.having(run, Told()), last_run=run)
