"""Pure: the life of a run in a shared container: it waits for one, starts in it, runs, ends, is forgotten there.

It is an attempt like others to Mesos and the journal; what happens to its container is that one's own life.
**Invariant**: what the init knows of a task is forgotten there only after its end was saved here.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from libs.common.task import TaskPayload
from services.executor import moves as m
from services.executor.ending import end_unstarted
from services.executor.model import (
    CLEANING,
    Attempt,
    AttemptId,
    ContainerName,
    Op,
    Outcome,
    State,
    Stop,
    StopReason,
    TaskState,
)
from services.executor.reporting import (
    LAUNCH_FAILED,
    World,
    changed,
    outcome_of,
    tell,
    to,
)
from services.executor.running import asked_anew
from services.executor.runs.model import TaskView


def launch(task_id: str, payload: TaskPayload, world: World) -> m.Step:
    """A LAUNCH of a run that may share a container came."""
    attempt = Attempt(
        id=AttemptId(task_id),
        payload=payload,
        container=ContainerName(""),
        launched_at=world.now,
        generation=payload.generation,
        shared=True,
    )
    return _prepare(attempt, world)


def _prepare(a: Attempt, world: World) -> m.Step:
    alarms = (m.Wake(world.config.starting_after_s), m.Wake(world.config.launch_timeout_s))
    secrets = bool(a.payload.spec.secrets)
    a = changed(a, busy=frozenset({Op.FETCH, Op.JOIN} if secrets else {Op.JOIN}))
    return m.Step(a, (m.Fetch(), *alarms) if secrets else alarms)


def waits(a: Attempt) -> bool:
    """Does it want a place in a container, and nothing else?"""
    return a.state is State.PREPARING and a.busy == {Op.JOIN}


def recover(a: Attempt, world: World) -> m.Step:
    """Take up a run that an earlier worker left. What became of its task, the init tells."""
    match a.state:
        case State.PREPARING:
            return _prepare(changed(a, busy=frozenset()), world)
        case State.STOPPING if a.stop is not None:
            grace_s = max(0.0, (a.stop.kill_at or world.now) - world.now)
            return m.Step(a, _stop_actions(a, grace_s, world))
        case State.REMOVING:
            return m.Step(a, (m.ForgetTask(),))
        case _:
            return m.Step(changed(a, busy=frozenset()))


def advance(a: Attempt, move: m.Input, world: World) -> m.Step:
    """What the input makes of the run; those that are no business of a run's change nothing."""
    handler = _HANDLERS.get(type(move))
    return handler(a, move, world) if handler else m.Step(a)


def _fetched(a: Attempt, _move: m.Fetched, _world: World) -> m.Step:
    return m.Step(changed(a, busy=a.busy - {Op.FETCH}))


def _fetch_failed(a: Attempt, move: m.FetchFailed, _world: World) -> m.Step:
    return _end_unstarted(a, move.message) if Op.FETCH in a.busy else m.Step(a)


def _no_container(a: Attempt, move: m.NoContainer, _world: World) -> m.Step:
    if a.state is not State.PREPARING:
        return m.Step(a)
    if not move.started:
        return _end_unstarted(a, move.message)
    outcome = Outcome(state=TaskState.FAILED, message=move.message)
    a, told = tell(to(a, State.DONE), outcome.state, outcome.message)
    return m.Step(changed(a, outcome=outcome), told)


def _end_unstarted(a: Attempt, message: str) -> m.Step:
    """Nothing of it is anywhere."""
    stop = a.stop or Stop(reason=StopReason.FAULT, grace_s=0, message=message)
    return end_unstarted(changed(a, keep=True), stop)


def _joined(a: Attempt, move: m.Joined, _world: World) -> m.Step:
    if not waits(a):
        return m.Step(a)
    a = to(a, State.STARTING)
    a = changed(a, container=move.container, network=move.network, task=move.task, busy=frozenset())
    return m.Step(a) if move.task else m.Step(a, (m.BeginTask(),))


def _seen(a: Attempt, move: m.TaskSeen, world: World) -> m.Step:
    if a.state in CLEANING or a.state is State.PREPARING:
        return m.Step(a)
    view = move.view
    a = changed(a, started_at=view.began_at)
    if not view.running:
        return _ended(a, view)
    if a.state is not State.STARTING:
        return m.Step(a)
    a = changed(to(a, State.RUNNING), healthy=True)
    if a.stop is not None:
        return _begin_stop(a, a.stop, world)
    a, told = tell(a, TaskState.RUNNING, "running")
    return m.Step(a, told)


def _ended(a: Attempt, view: TaskView) -> m.Step:
    a = changed(a, ended_at=view.ended_at, output=view.output)
    if view.failed:
        a = changed(a, started_at=0.0)
        return _end(a, Outcome(state=TaskState.FAILED, message=view.failed, reason=LAUNCH_FAILED))
    timeout_s = a.payload.run.timeout_s if a.payload.run else 0.0
    if view.timed_out and a.stop is None:
        message = f"it took longer than {timeout_s:g} s"
        a = changed(a, stop=Stop(reason=StopReason.TIMED_OUT, grace_s=0, message=message))
    by_us = a.stop is not None and view.exit_code == 128 + signal.SIGKILL and not view.oom_killed
    if a.stop is not None and by_us and a.stop.grace_s > 0:
        a = changed(a, stop=a.stop.model_copy(update={"killed": True}))
    return _end(a, outcome_of(a, view.exit_code, view.oom_killed))


def _end(a: Attempt, outcome: Outcome) -> m.Step:
    a = changed(to(a, State.REMOVING), outcome=outcome, busy=frozenset(), healthy=None)
    a, told = tell(a, outcome.state, outcome.message, outcome.reason)
    return m.Step(a, (*told, m.ForgetTask()))


def _unknown(a: Attempt, _move: m.TaskUnknown, world: World) -> m.Step:
    """It has not been started yet, or the init is not the one that started it."""
    if a.state is State.STARTING and not a.task:
        return m.Step(a, (m.BeginTask(),))
    return _lost(a, m.TaskLost("its init knows nothing of it"), world)


def _lost(a: Attempt, move: m.TaskLost, _world: World) -> m.Step:
    if a.state in CLEANING or a.state is State.PREPARING:
        return m.Step(a)
    reason = "" if move.started else LAUNCH_FAILED
    state = TaskState.FAILED
    if a.stop is not None and a.stop.reason is StopReason.ASKED:
        state = TaskState.KILLED
    return _end(a, Outcome(state=state, message=move.message, reason=reason))


def _stop_asked(a: Attempt, move: m.StopAsked, world: World) -> m.Step:
    if a.state in CLEANING:
        return m.Step(a)
    grace_s = a.payload.spec.stop_grace_s if move.grace_s is None else max(0.0, move.grace_s)
    stop = Stop(reason=StopReason.ASKED, grace_s=grace_s, message=move.message)
    match a.state:
        case State.PREPARING if a.payload.adopt:
            # An earlier attempt's task runs on: it is looked for first, and ended then.
            return m.Step(changed(a, stop=a.stop or stop))
        case State.PREPARING:
            return end_unstarted(changed(a, keep=True), stop)
        case State.STARTING:
            return m.Step(changed(a, stop=a.stop or stop))
        case State.RUNNING:
            return _begin_stop(a, stop, world)
    if a.stop is None or a.stop.kill_at is None or world.now + grace_s >= a.stop.kill_at:
        return m.Step(a)
    a = changed(a, stop=a.stop.model_copy(update={"kill_at": world.now + grace_s}))
    return m.Step(a, _stop_actions(a, grace_s, world))


def _begin_stop(a: Attempt, stop: Stop, world: World) -> m.Step:
    stop = stop.model_copy(update={"kill_at": world.now + stop.grace_s})
    a = changed(to(a, State.STOPPING), stop=stop)
    return m.Step(a, _stop_actions(a, stop.grace_s, world))


def _stop_actions(a: Attempt, grace_s: float, world: World) -> tuple[m.Action, ...]:
    """The init keeps the grace; we ask again when it has not been heard of by then."""
    return (m.KillTask("", grace_s), m.Wake(grace_s + world.config.kill_retry_s))


def _due(a: Attempt, _move: m.Due, world: World) -> m.Step:
    if a.state is State.PREPARING:
        awaited = f"waiting for: {', '.join(sorted(a.busy))}"
        if world.now - a.launched_at >= world.config.launch_timeout_s:
            late_s = world.config.launch_timeout_s
            return _end_unstarted(a, f"not running after {late_s:g} s ({awaited})")
        a, told = tell(a, TaskState.STARTING, awaited)
        return m.Step(a, told)
    if a.state is State.STARTING and world.now - a.launched_at >= world.config.launch_timeout_s:
        message = f"its init did not start it in {world.config.launch_timeout_s:g} s"
        step = _lost(a, m.TaskLost(message), world)
        return m.Step(step.attempt, (m.KillTask("SIGKILL", 0.0), *step.actions))
    late = a.stop is not None and a.stop.kill_at is not None and world.now >= a.stop.kill_at
    if a.state is State.STOPPING and late:
        return m.Step(a, (m.KillTask("SIGKILL", 0.0), m.Wake(world.config.kill_retry_s)))
    return m.Step(a)


def _broken(a: Attempt, move: m.Broken, world: World) -> m.Step:
    if a.state is State.PREPARING:
        return _end_unstarted(a, move.message)
    step = _lost(a, m.TaskLost(move.message), world)
    return m.Step(step.attempt, (m.KillTask("SIGKILL", 0.0), *step.actions))


def _removed(a: Attempt, _move: m.Removed, _world: World) -> m.Step:
    return m.Step(to(a, State.DONE)) if a.state is State.REMOVING else m.Step(a)


_HANDLERS: dict[type, Callable[[Attempt, Any, World], m.Step]] = {
    m.Fetched: _fetched,
    m.FetchFailed: _fetch_failed,
    m.Joined: _joined,
    m.NoContainer: _no_container,
    m.TaskSeen: _seen,
    m.TaskUnknown: _unknown,
    m.TaskLost: _lost,
    m.StopAsked: _stop_asked,
    m.Due: _due,
    m.Broken: _broken,
    m.Removed: _removed,
    m.AskedAnew: asked_anew,
}
