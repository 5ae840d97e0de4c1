"""How attempts of jobs' runs end, where a service's instance would just be started again. Pure.

A run whose try went well is over. One that failed is tried again, after the wait that its job says, until its tries are
used up; the wait is a time in the instance's document, so it survives whoever leads. Whoever can't tell how far a try
came, because its host is gone, says so, and counts it as a failed one. What never began was no try.
"""

from __future__ import annotations

from dataclasses import replace

from libs.common.task import TaskReport
from libs.mesos.messages import TaskStatus
from services.scheduler.cluster import Draft
from services.scheduler.jobs.run import Run, RunState
from services.scheduler.model import Instance, State

AGAIN_S = 1.0
"""The pause after an attempt that never began."""
NEVER_BEGUN = frozenset({"TASK_DROPPED", "TASK_UNKNOWN"})
UNTOLD_S = 366 * 86_400.0
"""So long at most a run waits to be told how it ended."""
UNKNOWN_TO_AGENT = ("TASK_GONE", "REASON_RECONCILIATION")
"""Of a task that was not seen to run: its agent is there, and was never told of it."""


def begun(run: Run, report: TaskReport, now: float) -> Run:
    """The run when the process of its current try is known to run, or to have run."""
    if run.begun > run.failed:
        return run
    at = report.started_at or now
    return replace(run, begun=run.failed + 1, began=at, started=run.started or at)


def ended(
    draft: Draft,
    instance: Instance,
    status: TaskStatus,
    report: TaskReport,
    lost: bool,
    settled_at: float,
    now: float,
) -> None:
    """The current attempt is over. `lost`: with its host; nothing goes on before `settled_at`."""
    run = instance.run
    assert run is not None
    ran = bool(instance.adopt) or report.started_at > 0
    if ran or instance.state in (State.RUNNING, State.UNREACHABLE):
        run = begun(run, report, now)
    run = replace(
        run, exit_code=report.exit_code, output=report.output, ended=report.ended_at or now
    )
    message = report.detail or status.get("message", "")
    draft.volatile.killed.pop(instance.id, None)
    if _went_well(run, status["state"], report):
        _command_went_well(draft, replace(instance, run=run), settled_at, now)
    elif instance.stop:
        finish(draft, replace(instance, run=run), RunState.KILLED, instance.message, now)
    elif _never_begun(run, status):
        never_began(draft, instance, message, settled_at, now)
    elif _unseen(instance, status, report):
        give_up(draft, replace(instance, run=run), now, reason_of(report, status, run))
    elif lost:
        give_up(draft, replace(instance, run=run), now, f"its host {instance.hostname} was lost")
    else:
        drained = f"it was ended, as {instance.hostname} is drained by force"
        why = drained if instance.leaving == "forced" else reason_of(report, status, run)
        _failed(draft, replace(instance, run=run), RunState.FAILED, why, settled_at, now)


def never_began(
    draft: Draft, instance: Instance, message: str, settled_at: float, now: float
) -> None:
    """Nothing of the current attempt was begun: it counts nowhere, unless the run is to end anyway."""
    run = instance.run
    assert run is not None
    if run.report is not None:  # who reports on it has seen it
        _as_told(draft, replace(instance, run=begun(run, TaskReport(), now)), settled_at, now)
        return
    if instance.stop:
        finish(draft, instance, RunState.KILLED, instance.message, now)
        return
    again = replace(_waiting(instance, now, message), not_before=max(now + AGAIN_S, settled_at))
    draft.put(again)


def _never_begun(run: Run, status: TaskStatus) -> bool:
    told = (status["state"], status.get("reason", ""))
    return run.begun == run.failed and (told[0] in NEVER_BEGUN or told == UNKNOWN_TO_AGENT)


def _unseen(instance: Instance, status: TaskStatus, report: TaskReport) -> bool:
    """It was to be taken over from an executor that died, and was not there any more."""
    failed = status["state"] == "TASK_FAILED"
    return bool(instance.adopt) and failed and report.exit_code is None and not report.timed_out


def give_up(draft: Draft, instance: Instance, now: float, reason: str) -> None:
    """Nobody will ever know how far the current try came, unless somebody has reported it."""
    run = instance.run
    assert run is not None
    if run.report is not None:
        _as_told(draft, instance, 0.0, now)
        return
    run = replace(begun(run, TaskReport(), now), lost=run.lost + 1, exit_code=None, output="")
    if instance.stop:
        finish(draft, replace(instance, run=run), RunState.LOST, reason, now)
    else:
        _failed(draft, replace(instance, run=run), RunState.LOST, reason, 0.0, now)


def end_unseen(draft: Draft, instance: Instance, now: float, reason: str) -> None:
    """It is not wanted any more, and nobody will see it end: it waits for a place, or its host can't be reached."""
    if instance.state is State.UNREACHABLE:
        give_up(draft, instance, now, reason)
    else:
        finish(draft, instance, RunState.KILLED, reason, now)


def stop(draft: Draft, instance: Instance, reason: str, now: float) -> None:
    """It is not wanted any more: it ends at once if it waits, or when its task does."""
    if instance.state is State.PENDING:
        finish(draft, instance, RunState.KILLED, reason, now)
    elif not instance.stop and instance.state is not State.ENDED:
        draft.put(replace(instance, stop=True, message=reason))


def finish(draft: Draft, instance: Instance, outcome: RunState, reason: str, now: float) -> None:
    """The run is over."""
    run = instance.run
    assert run is not None
    over = replace(run, outcome=outcome.value, reason=reason, ended=run.ended or now)
    after = replace(instance, state=State.ENDED, since=now, message=reason, run=over)
    draft.put(replace(after, healthy=None, adopt="", orphaned_at=0.0))


# -- runs whose end is told --------------------------------------------------------------------------


def report(draft: Draft, instance: Instance, status: int, now: float) -> None:
    """Somebody says how the current try ended, 0: well. Its command may be at it still; the first word counts."""
    run = instance.run
    assert run is not None
    if run.report is not None:
        return
    told = replace(instance, run=replace(run, report=status))
    if instance.untold:
        _as_told(draft, told, 0.0, now)
    else:
        draft.put(told)


def never_told(draft: Draft, instance: Instance, now: float) -> None:
    """Its time is over, and nobody has said how it ended."""
    run = instance.run
    assert run is not None
    within_s = run.timeout_s or UNTOLD_S
    why = f"nobody told within {within_s:g} s how it ended"
    unknown = replace(instance, run=replace(run, exit_code=None))
    _failed(draft, unknown, RunState.FAILED, why, 0.0, now)


def _command_went_well(draft: Draft, instance: Instance, settled_at: float, now: float) -> None:
    run = instance.run
    assert run is not None
    if not run.told:
        finish(draft, instance, RunState.SUCCEEDED, "", now)
    elif run.report is not None:
        _as_told(draft, instance, settled_at, now)
    elif instance.stop:
        finish(draft, instance, RunState.KILLED, instance.message, now)
    else:
        # A release that knows no reports would begin it anew, but not before that time.
        until = run.began + run.timeout_s if run.timeout_s else now + UNTOLD_S
        waiting = _waiting(instance, now, "its command has ended; it waits to be told how it went")
        draft.put(replace(waiting, not_before=until, run=replace(run, untold=True, ended=0.0)))


def _as_told(draft: Draft, instance: Instance, settled_at: float, now: float) -> None:
    run = instance.run
    assert run is not None
    run = replace(run, exit_code=run.report, ended=now)
    told = replace(instance, run=run)
    if run.report == 0:
        finish(draft, told, RunState.SUCCEEDED, "", now)
    elif instance.stop:
        finish(draft, told, RunState.KILLED, instance.message, now)
    else:
        why = f"it was reported to have failed, with status {run.report}"
        _failed(draft, told, RunState.FAILED, why, settled_at, now)


def reason_of(report: TaskReport, status: TaskStatus, run: Run) -> str:
    """Why a try failed, in words."""
    if report.timed_out:
        return f"it took longer than {run.timeout_s:g} s"
    if report.oom_killed:
        return "it needed more memory than it may have"
    told = report.detail or status.get("message", "")
    if report.exit_code is not None:
        return f"exit code {report.exit_code}" + (f": {told}" if told else "")
    return told or status.get("reason", "") or status["state"]


def _went_well(run: Run, state: str, report: TaskReport) -> bool:
    if report.timed_out or report.oom_killed or state not in ("TASK_FINISHED", "TASK_FAILED"):
        return False
    if report.exit_code is None:
        return state == "TASK_FINISHED"
    return report.exit_code in run.success_codes


def _failed(
    draft: Draft, instance: Instance, kind: RunState, reason: str, settled_at: float, now: float
) -> None:
    run = instance.run
    assert run is not None
    run = replace(run, failed=run.failed + 1, reason=reason, report=None, untold=False)
    if run.failed > run.retry.limit:
        finish(draft, replace(instance, run=run), kind, reason, now)
        return
    wait_s = run.retry.wait_s(run.failed)
    after = replace(_waiting(instance, now, reason), run=replace(run, ended=0.0))
    draft.put(replace(after, not_before=max(now + wait_s, settled_at)))


def _waiting(instance: Instance, now: float, message: str) -> Instance:
    return replace(
        instance,
        state=State.PENDING,
        since=now,
        healthy=None,
        adopt="",
        orphaned_at=0.0,
        message=message,
    )
