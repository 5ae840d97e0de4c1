"""What is asked of jobs: taken or refused, once for each request. Pure.

A refusal is an outcome like any other: it is saved, told and audited, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from libs.common.errors import Conflict, InvalidInput, NotFound, Refused
from libs.common.jobs import JobSpec
from libs.common.schedule import parse
from services.scheduler import runs
from services.scheduler.cluster import Draft
from services.scheduler.jobs import core, counting, starting
from services.scheduler.jobs.book import JobDraft
from services.scheduler.jobs.model import Due, Job, JobAsked, Outcome
from services.scheduler.jobs.run import JobId, run_id
from services.scheduler.model import InstanceId
from services.scheduler.settings import SchedulerConfig

Get = Callable[[JobId], Job | None]
AHEAD_S = 60.0
"""So far the clock of who asks is believed to be before ours."""


def ask(draft: Draft, asked: JobAsked, now: float, config: SchedulerConfig) -> None:
    """Do what is asked, or refuse it; a request that was handled keeps its outcome."""
    if asked.request in draft.jobs.book.answered or asked.request in draft.jobs.outcomes:
        return
    known = draft.jobs.get(asked.job)
    outcome = known.outcome_of(asked.request) if known is not None else None
    if outcome is None:
        try:
            outcome = _do(draft, asked, now, config)
        except Refused as error:
            outcome = Outcome(asked.request, "refused", str(error))
    draft.jobs.outcomes[asked.request] = (asked.job, asked.action, asked.actor, outcome)


def _do(draft: Draft, asked: JobAsked, now: float, config: SchedulerConfig) -> Outcome:
    if asked.problem:
        raise Conflict(asked.problem)
    known = draft.jobs.get(asked.job)
    if asked.action == "put":
        job = _put(draft, asked, known, now, config)
    elif known is None or known.deleted:
        raise NotFound(f"there is no job {asked.job}")
    else:
        job = known
    outcome = Outcome(asked.request, "done")
    match asked.action:
        case "delete":
            job = _delete(draft, job, now)
        case "run":
            run = run_id(job.id, f"request {asked.request}")
            due = Due(run, now, "manual", asked.command)
            job = _run_now(draft, job, due, now, config)
            outcome = outcome._replace(run=due.run)
        case "kill":
            job = _kill(draft, job, asked.run, f"killed by {asked.actor}", now)
        case "pause":
            job = replace(job, paused=True, changed=now, changed_by=asked.actor)
        case "resume":
            job = _resumed(draft.jobs, job, _at(asked, now))
            job = replace(job, changed=now, changed_by=asked.actor)
        case "report":
            _report(draft, job, asked, now)
        case "succeed":
            job = counting.succeeded(job, now, now)
        case _:
            pass
    job = job.after(outcome)
    if known is None:  # it is saved before anything of it starts, or what starts might have no job
        look = now if job.queue else core.next_look(draft, job)
        draft.jobs.put(replace(job, look=look))
        return outcome
    draft.jobs.put(job)
    core.look(draft, job.id, now, config)
    if asked.action == "succeed":
        for child in draft.jobs.children(job.id):
            core.look(draft, child.id, now, config)
    return outcome


# -- put and delete ------------------------------------------------------------------------------------


def _put(
    draft: Draft, asked: JobAsked, known: Job | None, now: float, config: SchedulerConfig
) -> Job:
    spec = asked.spec
    assert spec is not None
    check(draft.jobs.get, asked.job, spec)
    if known is None and len(draft.jobs.book.jobs) >= config.jobs.most:
        raise Conflict(f"there are {config.jobs.most} jobs, and there may be no more")
    at, fresh = _at(asked, now), known is None or bool(known.deleted)
    job = known or Job(asked.job, spec, asked.image)
    if fresh:
        # Its version and its runs under way are those of the job that it was before.
        job = Job(
            asked.job,
            spec,
            asked.image,
            version=job.version,
            cursor=job.cursor,
            running=job.running,
            recorded=job.recorded,
            handled=job.handled,
            created=now,
        )
    same = not fresh and _cause(spec) == _cause(job.spec)
    overdue = _overdue(job, asked, spec, at, same)
    if job.off and spec.enabled:  # what passed meanwhile is not caught up with
        job = replace(job, cursor=max(job.cursor, at), consumed={})
    if not same:
        job = _timed(job, asked, spec, at, now)
    job = replace(
        job,
        spec=spec,
        image=asked.image,
        login=asked.login,
        disabled="",
        failures_in_a_row=0 if job.disabled else job.failures_in_a_row,
        consumed=_consumed(draft.jobs, replace(job, spec=spec)),
        changed=now,
        changed_by=asked.actor,
    )
    if not overdue:
        return job
    due = Due(run_id(job.id, f"request {asked.request}"), now, "manual")
    if fresh:  # after a run of the job that it was before, if one is still to end
        return replace(job, queue=(due,))
    return starting.arrive(draft, job, due, now, config)


def _at(asked: JobAsked, now: float) -> float:
    """When it was asked: what is due since then is the job's, however long it took until it came to be decided on."""
    return min(asked.at or now, now + AHEAD_S)


def _cause(spec: JobSpec) -> tuple[str, str]:
    return spec.schedule or "", spec.time_zone


def _timed(job: Job, asked: JobAsked, spec: JobSpec, at: float, now: float) -> Job:
    """With another schedule, which begins when it was asked for; without a start, now.

    What the one before has decided on is not decided on again. One that is put disabled is looked back on when it is
    enabled.
    """
    text = spec.schedule or ""
    anchored = parse(text, spec.time_zone, salt=job.id).anchored(max(now, at)) if text else ""
    begins = max(job.cursor, at)
    if not spec.enabled and asked.since is not None:
        begins = min(begins, asked.since)
    return replace(job, text=anchored, cursor=begins)


def _overdue(job: Job, asked: JobAsked, spec: JobSpec, at: float, same: bool) -> bool:
    """Is a run to be made up for times that passed before the job was put so, as `since` says."""
    goes_on = same and not job.off
    if asked.since is None or spec.schedule is None or not spec.enabled or job.paused or goes_on:
        return False
    after = max(asked.since, job.cursor) if same else asked.since
    schedule = parse(spec.schedule, spec.time_zone, salt=job.id)
    has_start = schedule.anchored(at) == str(schedule)
    return has_start and bool(schedule.between(after, at, 1))


def _consumed(jobs: JobDraft, job: Job) -> dict[str, float]:
    """Only successes that are newer than the wish for them count."""
    found: dict[str, float] = {}
    for name in job.parents:
        parent = jobs.get(name)
        found[name] = job.consumed.get(name, parent.passed if parent is not None else 0.0)
    return found


def check(get: Get, name: JobId, spec: JobSpec) -> None:
    """Whether a job may be put so. Raises InvalidInput naming the field."""
    if spec.schedule is not None:
        parse(spec.schedule, spec.time_zone, salt=name)
    bu, _, own = name.partition("/")
    for parent in spec.parents:
        found = get(JobId(f"{bu}/{parent}"))
        if parent != own and (found is None or found.deleted):
            raise InvalidInput.of("parents", f"there is no job {bu}/{parent}", "put it first")
    if path := _cycle(get, name, spec):
        raise InvalidInput.of("parents", f"a cycle: {' → '.join(path)}", "none runs after itself")


def _cycle(get: Get, name: JobId, spec: JobSpec) -> list[str]:
    """A way from the job up to itself, as names; [] when there is none."""
    bu, _, own = name.partition("/")
    came_from: dict[str, str] = {}
    todo = [(own, each) for each in spec.parents]
    while todo:
        child, parent = todo.pop()
        if parent in came_from:
            continue
        came_from[parent] = child
        if parent == own:
            path = [own]
            while len(path) == 1 or path[-1] != own:
                path.append(came_from[path[-1]])
            return path
        job = get(JobId(f"{bu}/{parent}"))
        todo += [(parent, each) for each in job.spec.parents] if job is not None else []
    return []


def _delete(draft: Draft, job: Job, now: float) -> Job:
    if children := sorted(each.name for each in draft.jobs.children(job.id)):
        raise Conflict(f"{', '.join(children)} run after it; delete those first, or change them")
    _stop_all(draft, job, f"job {job.id} was deleted", now)
    job = starting.drop_queue(draft, job, "the job was deleted", now)
    return replace(job, deleted=now, look=None)


# -- the rest ------------------------------------------------------------------------------------------


def _run_now(draft: Draft, job: Job, due: Due, now: float, config: SchedulerConfig) -> Job:
    """Paused or not; but nothing starts of a disabled job, and `forbid` forbids here, too."""
    if job.off:
        why = job.disabled or "`enabled` is false"
        raise Conflict(f"{job.id} is disabled: {why}")
    if starting.known(draft, due.run):  # it was made, and whoever made it led no longer than that
        return starting.take_up(draft, job, due.run)
    busy = job.running or job.queue
    if busy and job.spec.concurrency == "forbid":
        run = next(iter(job.running), None) or job.queue[0].run
        raise Conflict(f"run {run} of {job.id} is under way, and its concurrency is forbid")
    if busy and job.spec.concurrency == "queue" and len(job.queue) >= job.spec.queue_limit:
        raise Conflict(f"{len(job.queue)} runs of {job.id} wait already")
    return starting.arrive(draft, job, due, now, config)


def _kill(draft: Draft, job: Job, run: str, reason: str, now: float) -> Job:
    if not run:
        _stop_all(draft, job, reason, now)
        return starting.drop_queue(draft, job, reason, now)
    waiting = next((each for each in job.queue if each.run == run), None)
    if waiting is not None:
        job = replace(job, queue=tuple(each for each in job.queue if each != waiting))
        return starting.miss(draft, job, waiting, reason, now)
    instance = draft.get(InstanceId(run))
    if run not in job.running or instance is None:
        raise NotFound(f"no run {run} of {job.id} is under way")
    runs.stop(draft, instance, reason, now)
    return job


def _report(draft: Draft, job: Job, asked: JobAsked, now: float) -> None:
    instance = draft.get(InstanceId(asked.run))
    if asked.run not in job.running or instance is None or instance.run is None:
        raise NotFound(f"no run {asked.run} of {job.id} is under way")
    if not instance.run.told:
        raise Conflict(f"run {asked.run} ends with its command, whatever is reported")
    if asked.tries != instance.run.failed:
        raise Conflict(f"try {asked.tries} of run {asked.run} is not the current one")
    runs.report(draft, instance, asked.status, now)


def _stop_all(draft: Draft, job: Job, reason: str, now: float) -> None:
    for name in job.running:
        instance = draft.get(InstanceId(name))
        if instance is not None:
            runs.stop(draft, instance, reason, now)


def _resumed(jobs: JobDraft, job: Job, at: float) -> Job:
    """What passed while it was paused is caught up with as its policy says; not what passed while it was disabled."""
    if not job.spec.enabled:
        raise Conflict(f"{job.id} is disabled by its spec: put it with `enabled: true`")
    if job.disabled:
        job = replace(job, disabled="", failures_in_a_row=0, cursor=max(job.cursor, at))
        job = replace(job, consumed=_consumed(jobs, replace(job, consumed={})))
    return replace(job, paused=False)
