"""Jobs and runs for readers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.scheduler.jobs import timing
from services.scheduler.jobs.model import Due, Job, Record
from services.scheduler.jobs.run import RunState
from services.scheduler.model import Instance, State

_UNDER_WAY = frozenset({State.RUNNING, State.UNREACHABLE, State.ORPHANED})


def job_view(job: Job, last_run: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A job. `schedule` has its start filled in; `image` is the pinned one; `next` is the next target, unless nothing
    would start then.
    """
    state, reason = state_of(job)
    return {
        "job": job.id,
        "bu": job.bu,
        "name": job.name,
        "version": job.version,
        "spec": job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "image": job.image,
        "schedule": job.text,
        "state": state,
        "reason": reason,
        "next": timing.next_target(job),
        "running": list(job.running),
        "queued": len(job.queue),
        "last_run": last_run,
        "counts": {"succeeded": job.succeeded, "failed": job.failed, "missed": job.missed},
        "failures_in_a_row": job.failures_in_a_row,
        "last_success": job.last_success or None,
        "last_error": job.last_error or None,
        "created": job.created,
        "changed": job.changed,
        "changed_by": job.changed_by,
    }


def state_of(job: Job) -> tuple[str, str]:
    """Active, paused, disabled or finished; and why."""
    if job.off:
        return "disabled", job.disabled or "its spec says so"
    if job.paused:
        return "paused", f"paused by {job.changed_by}"
    over = job.text and timing.next_target(job) is None
    if over and not job.running and not job.queue:
        return "finished", "its schedule has no further targets"
    return "active", ""


def trouble_of(job: Job) -> str:
    """Why somebody should look at it: its runs fail, or it was disabled for that. "": nothing is wrong."""
    if job.deleted or not job.spec.enabled:
        return ""
    if job.disabled:
        return job.disabled
    if not job.failures_in_a_row:
        return ""
    return (
        f"its last {job.failures_in_a_row} runs failed"
        if job.failures_in_a_row > 1
        else "its last run failed"
    )


def run_view(record: Record) -> Mapping[str, Any]:
    """A run that is over."""
    return {
        "run": record.run,
        "job": record.job,
        "target": record.target,
        "cause": record.cause,
        "state": record.state.value,
        "tries": record.tries,
        "created": record.created,
        "started": record.started,
        "ended": record.ended,
        "duration_s": record.duration_s,
        "exit_code": record.exit_code,
        "hostname": record.hostname,
        "reason": record.reason,
        "output": record.output,
        "soft": record.soft,
        "lost_tries": record.lost,
        "instance": record.run if record.state is not RunState.MISSED else "",
    }


def live_view(instance: Instance) -> Mapping[str, Any]:
    """A run that is under way, or waits for its place or its next try."""
    run = instance.run
    assert run is not None
    running = instance.state in _UNDER_WAY or instance.untold
    pending = instance.state is State.PENDING and not instance.untold
    return {
        "run": instance.id,
        "job": run.job,
        "target": run.target,
        "cause": run.cause,
        "state": (RunState.RUNNING if running else RunState.PENDING).value,
        "tries": run.tries,
        "created": run.created,
        "started": run.started or None,
        "ended": None,
        "duration_s": None,
        "exit_code": run.exit_code,
        "hostname": instance.hostname,
        "reason": instance.delayed if pending and instance.delayed else instance.message,
        "output": run.output,
        "soft": run.soft,
        "lost_tries": run.lost,
        "instance": instance.id,
        "not_before": instance.not_before if pending else None,
        # What a host needs to be given its secrets is asked by attempt.
        "attempt": instance.attempt if instance.generation else "",
        "placement": instance.state.value,
        "image": instance.spec.image,
        "registry_login": instance.spec.registry_login,
        "secrets": [each.model_dump(mode="json") for each in instance.spec.secrets],
    }


def queued_view(job: Job, due: Due) -> Mapping[str, Any]:
    """A run that waits for the one before to end."""
    record = Record(due.run, job.id, due.target, due.cause, RunState.PENDING, due.target)
    return {**run_view(record), "reason": "it waits for the run before to end", "instance": ""}
