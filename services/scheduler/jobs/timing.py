"""When a job is to be looked at, and which of its targets have come. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from libs.common.schedule import Schedule, parse
from services.scheduler.jobs.model import Due, Job
from services.scheduler.jobs.run import target_id

TOLD_ONE_BY_ONE = 20
"""Of targets that are missed together, so many, the newest, are told each; the others as one."""


@lru_cache(maxsize=65_536)
def _parsed(text: str, zone: str, salt: str) -> Schedule:
    return parse(text, zone, salt=salt)


def schedule_of(job: Job) -> Schedule | None:
    """What its targets are; None: it has none of its own."""
    if not job.text:
        return None
    # Most jobs share their text with others, and only hash jitter makes a difference between them.
    salt = job.id if any(each in job.text for each in "Hh~") else ""
    return _parsed(job.text, job.spec.time_zone, salt)


def next_target(job: Job) -> float | None:
    """The next target; None when there is none, or nothing would start then."""
    schedule = schedule_of(job)
    return schedule.after(job.cursor) if schedule and not job.off and not job.paused else None


@dataclass(frozen=True, slots=True)
class Came:
    """Targets that have come: which are to run, and which are missed, with the reason. Oldest first."""

    run: tuple[Due, ...] = ()
    missed: tuple[tuple[Due, str], ...] = ()


def came(job: Job, now: float, late_s: float) -> Came:
    """The targets from its cursor until now, by its catch-up policy.

    The newest one is on time, unless it is more than `late_s` ago; all others are to be caught up with, or missed.
    """
    schedule = schedule_of(job)
    if schedule is None:
        return Came()
    policy = job.spec.catch_up
    most = (policy.limit if policy.policy == "all" else 1) + TOLD_ONE_BY_ONE
    targets = schedule.between(job.cursor, now, most)
    if not targets:
        return Came()
    on_time = now - targets[-1] <= late_s
    wanted = {"none": 0, "latest": 1, "all": policy.limit}[policy.policy]
    if on_time:
        wanted = max(wanted, 1) if policy.policy != "all" else wanted + 1
    split = max(0, len(targets) - wanted)
    runs = [_due(job, each, "catch_up") for each in targets[split:]]
    if on_time:
        runs[-1] = runs[-1]._replace(cause="schedule")
    first = schedule.after(job.cursor) if len(targets) == most else None
    missed = [(_due(job, each, "schedule"), "its time had passed") for each in targets[:split]]
    if first is not None and first < targets[0]:
        told = (
            f"its time had passed, and that of all targets since, of which the last {most} are told"
        )
        missed.insert(0, (_due(job, first, "schedule"), told))
    return Came(tuple(runs), tuple(missed))


def _due(job: Job, target: float, cause: str) -> Due:
    return Due(target_id(job.id, target), target, cause)
