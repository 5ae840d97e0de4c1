"""What the commands of jobs show: jobs, runs and statistics in words and columns."""

from __future__ import annotations

from collections.abc import Iterator

from libs.cli.output import Column, number, time_of
from libs.client.jobs import Durations, JobStats, JobView, RunView, whole_spec

_NAME_WIDTH = 13


def job_columns() -> tuple[Column, ...]:
    """Of a table of jobs."""
    return (
        Column("JOB", lambda j: j.job),
        Column("STATE", lambda j: j.state),
        Column("SCHEDULE", when),
        Column("NEXT", lambda j: time_of(j.next)),
        Column("RUNNING", lambda j: len(j.running) or None, right=True),
        Column("LAST", lambda j: time_of(last_time(j.last_run))),
        Column("RESULT", lambda j: j.last_run.state if j.last_run else None),
        Column("FAILURES", lambda j: j.failures_in_a_row, right=True),
        Column("OWNER", lambda j: j.spec.get("owner"), wide=True),
        Column("IMAGE", lambda j: j.image, wide=True),
    )


def run_columns() -> tuple[Column, ...]:
    """Of a table of runs."""
    return (
        Column("RUN", lambda r: r.run),
        Column("TARGET", lambda r: time_of(r.target)),
        Column("CAUSE", lambda r: r.cause),
        Column("STATE", lambda r: r.state),
        Column("TRIES", lambda r: r.tries, right=True),
        Column("STARTED", lambda r: time_of(r.started)),
        Column("TOOK", lambda r: seconds(r.duration_s), right=True),
        Column("EXIT", lambda r: r.exit_code, right=True),
        Column("HOST", lambda r: r.hostname),
        Column("INSTANCE", lambda r: r.instance, wide=True),
        Column("REASON", lambda r: r.reason),
    )


def when(job: JobView) -> str:
    """Its schedule and zone, or its parents."""
    parents, schedule = job.spec.get("parents"), job.spec.get("schedule")
    if parents:
        return f"after {', '.join(parents)}"
    if not schedule:
        return "when asked to"
    zone = job.spec.get("time_zone", "UTC")
    return str(schedule) if zone == "UTC" else f"{schedule} ({zone})"


def last_time(run: RunView | None) -> float | None:
    """When a run ended or, until then, began, or was due."""
    return (run.ended or run.started or run.target) if run is not None else None


def seconds(value: float | None) -> str:
    """A duration; "" when there is none."""
    if value is None:
        return ""
    return f"{number(value, 3)} s" if value < 1 else f"{number(value)} s"


def describe(job: JobView) -> Iterator[str]:
    """A job in lines."""
    state = f"{job.state}: {job.reason}" if job.reason else job.state
    spec, last, counts = whole_spec(job), job.last_run, job.counts
    told = (
        ("job", job.job),
        ("state", state),
        ("about", spec.get("description")),
        ("owner", spec.get("owner")),
        ("schedule", when(job)),
        ("next", time_of(job.next)),
        ("running", ", ".join(job.running)),
        ("waiting", job.queued or None),
        ("last run", last and describe_run(last)),
        ("runs", f"{counts.succeeded} succeeded, {counts.failed} failed, {counts.missed} missed"),
        ("in a row", f"{job.failures_in_a_row} failed" if job.failures_in_a_row else ""),
        ("last success", time_of(job.last_success)),
        ("last error", time_of(job.last_error)),
        ("image", job.image),
        ("version", f"{job.version}, by {job.changed_by or '?'} {time_of(job.changed)}"),
    )
    for name, value in told:
        if value:
            yield f"{name:<{_NAME_WIDTH}}{value}"
    for name in (
        "command",
        "concurrency",
        "timeout_s",
        "retry",
        "catch_up",
        "disable_after",
        "reuse",
    ):
        if spec.get(name):
            yield f"{name:<{_NAME_WIDTH}}{spec[name]}"


def describe_run(run: RunView) -> str:
    """A run in a line: how it stands, or ended, and why."""
    parts = [f"{run.run}: {run.state}"]
    if run.exit_code is not None:
        parts.append(f"exit code {run.exit_code}")
    if run.duration_s is not None:
        parts.append(f"after {seconds(run.duration_s)}")
    if run.hostname:
        parts.append(f"on {run.hostname}")
    if run.tries > 1:
        parts.append(f"{run.tries} tries")
    text = ", ".join(parts)
    return f"{text}: {run.reason}" if run.reason else text


def describe_stats(job: str, stats: JobStats) -> Iterator[str]:
    """Statistics in lines."""
    yield f"{job}: {stats.runs} runs, {stats.succeeded} succeeded, {stats.failed} failed, {stats.missed} missed"
    took = stats.duration
    if not took.count:
        yield "no successful run yet: no durations"
        return
    yield f"durations of {took.count} successful runs"
    for name in Durations.model_fields:
        value = getattr(took, name)
        if name != "count" and value is not None:
            yield f"{name:<{_NAME_WIDTH}}{seconds(value)}"
