"""What the end of a run means for its job: counted, told and kept, once. Pure."""

from __future__ import annotations

from dataclasses import replace

from libs.common.events import Event
from libs.common.events import model as ev
from services.scheduler.cluster import Draft
from services.scheduler.jobs.model import Job, Record, Told
from services.scheduler.jobs.run import RunState

PASSED_STEP_S = 1e-6  # as fine as the targets of children, which are such times


def count(draft: Draft, record: Record, now: float) -> bool:
    """Take the end of a run into its job; False when that was done, or there is no such job any more."""
    job = draft.jobs.get(record.job)
    if job is None or record.run in draft.jobs.records:
        return False
    if record.version and record.job_version <= job.version:
        return False  # it was stored with a job that is stored, too
    if not record.version:
        number, version = job.recorded + 1, job.version + 1
        record = replace(record, number=number, job_version=version, at=now)
    if record.begun > job.running.get(record.run, Told(record.begun)).begun:
        begun = ev.JobRunStarted(
            job=job.id,
            run=record.run,
            target=record.target,
            hostname=record.hostname,
            instance=record.run,
            tries=record.begun,
        )
        draft.jobs.put(job, begun)  # its begin was to be told with its end
    recorded = max(job.recorded, record.number)
    job = replace(job.without(record.run), recorded=recorded, last_run=record.run)
    draft.jobs.records[record.run] = record
    draft.jobs.put(_counted(job, record, now), told(record))
    return True


def _counted(job: Job, record: Record, now: float) -> Job:
    ended = record.ended or now
    match record.state:
        case RunState.SUCCEEDED:
            return succeeded(job, ended, record.settled)
        case RunState.MISSED:
            return replace(job, missed=job.missed + 1)
        case RunState.FAILED | RunState.LOST if record.soft:
            # Its children go on as if it had gone well.
            job = _passed(job, record.settled)
            return replace(job, failed=job.failed + 1, last_error=ended)
        case RunState.FAILED | RunState.LOST:
            row = job.failures_in_a_row + 1
            job = replace(job, failed=job.failed + 1, last_error=ended, failures_in_a_row=row)
            if 0 < job.spec.disable_after <= row and not job.disabled:
                why = f"{row} runs in a row have failed, the last one: {record.reason}"
                return replace(job, disabled=why)
            return job
        case _:
            return job


def succeeded(job: Job, ended: float, settled: float) -> Job:
    """The job with one more success: when it was by its host's clock, and when the scheduler learnt of it."""
    job = replace(job, succeeded=job.succeeded + 1, failures_in_a_row=0, last_success=ended)
    return _passed(job, settled)


def _passed(job: Job, at: float) -> Job:
    """Each time is newer than the one before, whatever the clocks say, or children would not see it."""
    return replace(job, passed=max(job.passed + PASSED_STEP_S, at))


def told(record: Record) -> Event:
    """The event of a run's end."""
    about = {"job": record.job, "run": record.run, "target": record.target}
    match record.state:
        case RunState.SUCCEEDED:
            return ev.JobRunFinished(
                **about,
                exit_code=record.exit_code or 0,
                hostname=record.hostname,
                duration_s=record.duration_s or 0.0,
            )
        case RunState.MISSED:
            return ev.JobRunMissed(**about, reason=record.reason)
        case _:
            killed = "killed: " if record.state is RunState.KILLED else ""
            return ev.JobRunFailed(
                **about,
                exit_code=record.exit_code,
                reason=f"{killed}{record.reason}",
                hostname=record.hostname,
                soft=record.soft,
                host_lost=record.state is RunState.LOST,
            )
