"""Pure: what Mesos is told of an attempt, and how an end is put into words."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from libs.common.task import TaskReport
from services.executor import checks
from services.executor import moves as m
from services.executor.config import ExecutorConfig
from services.executor.model import (
    RUN_TRANSITIONS,
    TRANSITIONS,
    Attempt,
    Identity,
    Outcome,
    State,
    StopReason,
    TaskState,
)

LAUNCH_FAILED = "REASON_CONTAINER_LAUNCH_FAILED"
HEALTH_CHANGED = "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED"
OUT_OF_MEMORY = "REASON_CONTAINER_LIMITATION_MEMORY"
KILLED_DURING_LAUNCH = "REASON_TASK_KILLED_DURING_LAUNCH"
NO_ROOM = "no space left on device"  # as the engine says it, of a pull, a create or a start
BY_SIGNAL = 128  # an exit code above it is a signal's number


@dataclass(frozen=True, slots=True)
class World:
    """What decisions depend on besides the attempt."""

    config: ExecutorConfig
    identity: Identity
    now: float


def changed(a: Attempt, **changes: Any) -> Attempt:
    """The attempt with other fields; its state is moved by `to` alone."""
    return a.model_copy(update=changes)


def to(a: Attempt, state: State) -> Attempt:
    """The attempt in another state. Raises ValueError when the table forbids it."""
    table = RUN_TRANSITIONS if a.shared else TRANSITIONS
    if state not in table.get(a.state, ()):
        raise ValueError(f"{a.id}: {a.state} -> {state}")
    return a.model_copy(update={"state": state})


_ORDER = {None: 0, TaskState.STARTING: 1, TaskState.RUNNING: 2}


def tell(
    a: Attempt, state: TaskState, message: str, reason: str = ""
) -> tuple[Attempt, tuple[m.Action, ...]]:
    """Report a state, unless it would go back; RUNNING again only when health changed."""
    before, now = _ORDER.get(a.reported, 3), _ORDER.get(state, 3)
    same = state is a.reported and a.healthy is a.reported_healthy
    if now < before or before == 3 or same or (state is a.reported is TaskState.STARTING):
        return a, ()
    healthy = a.healthy if state is TaskState.RUNNING else None
    a = changed(a, reported=state, reported_healthy=a.healthy)
    return a, (m.Report(state, message, reason, healthy, report_of(a)),)


def report_of(a: Attempt) -> TaskReport:
    """What goes into TaskStatus.data."""
    outcome = a.outcome
    return TaskReport(
        container=a.container,
        address=a.network.ip if a.network else "",
        exit_code=outcome.exit_code if outcome else None,
        oom_killed=outcome.oom_killed if outcome else False,
        healthy=a.healthy,
        detail=outcome.message if outcome else checks.why(a.payload.spec.health, a.checks),
        started_at=a.started_at if a.payload.run else 0.0,
        ended_at=a.ended_at if a.payload.run else 0.0,
        timed_out=outcome.timed_out if outcome else False,
        output=a.output,
        refused="disk" if outcome and not a.started_at and NO_ROOM in outcome.message else "",
    )


def put_off(identity: Identity, why: str) -> m.Report:
    """A task that is not even begun, because the host has no room for it now."""
    message = f"{identity.agent}: no room for a container: {why}"
    report = TaskReport(detail=message, refused="disk")
    return m.Report(TaskState.FAILED, message, LAUNCH_FAILED, None, report)


def outcome_of(a: Attempt, exit_code: int | None, oom_killed: bool) -> Outcome:
    how = _how(exit_code)
    stop = a.stop
    if oom_killed and (stop is None or not stop.killed):
        message = f"out of memory: it needed more than {a.payload.spec.resources.mem_mib} MiB"
        state, reason = TaskState.FAILED, OUT_OF_MEMORY
    elif stop is not None and stop.reason is StopReason.ASKED:
        late = f" (killed after a grace of {stop.grace_s:g} s)" if stop.killed else ""
        state, message, reason = TaskState.KILLED, f"{stop.message or 'stopped'}: {how}{late}", ""
    elif stop is not None:
        state, message, reason = TaskState.FAILED, stop.message, ""
    elif exit_code == 0:
        state, message, reason = TaskState.FINISHED, how, ""
    else:
        state, message, reason = TaskState.FAILED, how, ""
    return Outcome(
        state=state,
        message=message,
        reason=reason,
        exit_code=exit_code,
        oom_killed=oom_killed,
        timed_out=stop is not None and stop.reason is StopReason.TIMED_OUT,
    )


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "the container was removed"
    if exit_code > BY_SIGNAL:
        try:
            return f"ended by {signal.Signals(exit_code - BY_SIGNAL).name}"
        except ValueError:
            pass
    return f"exited with code {exit_code}"
