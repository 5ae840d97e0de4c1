"""Pure: an attempt that runs is looked at, probed, and told to stop."""

from __future__ import annotations

import signal

from services.executor import checks, containers
from services.executor import moves as m
from services.executor.ending import begin_stop, end
from services.executor.launching import fail, launch_due, proceed
from services.executor.model import (
    CLEANING,
    Attempt,
    Destroyed,
    Died,
    Op,
    Outcome,
    Phase,
    State,
    Stop,
    StopReason,
    TaskState,
    View,
)
from services.executor.reporting import (
    BY_SIGNAL,
    HEALTH_CHANGED,
    World,
    changed,
    outcome_of,
    report_of,
    tell,
    to,
)

_LOOK_AGAIN_S = 0.05
_MEMORY_TOLD_S = 0.2
"""The engine learns by an event of its own that memory ran out, which on a busy host may come after that of the end."""
_REMOVED = "the container was removed by somebody else"


def inspected(a: Attempt, move: m.Inspected, world: World) -> m.Step:
    """A close look at the container: after a start, a recovery, or a suspicion."""
    if a.state in CLEANING or a.state is State.PREPARING:
        return m.Step(a)
    a, view = changed(a, busy=a.busy - {Op.INSPECT}), move.view
    if view is None:
        return _vanished(a)
    if view.phase is Phase.EXITED:
        a = changed(a, started_at=view.started_at, ended_at=view.ended_at)
        return _ended(a, view.exit_code, view.oom_killed)
    if view.phase is Phase.CREATED:
        return end(a, Outcome(state=TaskState.FAILED, message="it never started"))
    a = changed(a, stop_signal=view.stop_signal, exit_code=None)
    if a.state is State.STOPPING:
        return m.Step(a)
    if view.netns_inode is None:  # its process is gone: the engine will know in a moment
        return m.Step(changed(a, busy=a.busy | {Op.INSPECT}), (m.Inspect(_LOOK_AGAIN_S),))
    fault = _fault(a, view, world)
    if fault:
        return begin_stop(a, Stop(reason=StopReason.FAULT, grace_s=0, message=fault), world)
    return _run(a, view, world) if a.state is State.STARTING else m.Step(a)


def _fault(a: Attempt, view: View, world: World) -> str:
    """Why a running container must not run: it is not where hostd wired it."""
    if view.runtime != world.config.runtime:
        return containers.wrong_runtime(view, world.config.runtime)
    if a.network is None or view.netns_inode != a.network.inode:
        return "it runs in a network namespace that is not its own"
    if view.netns_inode == a.network.host_inode:
        return "it runs in the host's network namespace"
    return ""


def _run(a: Attempt, view: View, world: World) -> m.Step:
    a = changed(
        to(a, State.RUNNING),
        started_at=view.started_at or world.now,
        busy=frozenset(),
        adopting=False,
    )
    if a.stop is not None:
        return begin_stop(a, a.stop, world)
    if not a.checks:
        a, told = tell(changed(a, healthy=True), TaskState.RUNNING, "running")
        return m.Step(a, (*told, *_alarm(a, world)))
    return m.Step(a, watch(a, world))


def watch(a: Attempt, world: World) -> tuple[m.Action, ...]:
    """Probe from now on. A success that comes soon goes into the same report as RUNNING."""
    probes = tuple(m.Probe(index, 0.0) for index in range(len(a.checks)))
    return (*probes, m.Wake(world.config.report_after_s), *_alarm(a, world))


def _alarm(a: Attempt, world: World) -> tuple[m.Action, ...]:
    """A run that has a container to itself is timed here."""
    left_s = _left_s(a, world)
    return () if left_s is None else (m.Wake(max(0.0, left_s)),)


def _left_s(a: Attempt, world: World) -> float | None:
    """How long it may run still; None: as long as it likes."""
    run = a.payload.run
    if run is None or run.timeout_s <= 0:
        return None
    return a.started_at + run.timeout_s - world.now


def probed(a: Attempt, move: m.Probed, world: World) -> m.Step:
    """The result of a health check."""
    if a.state is not State.RUNNING:
        return m.Step(a)
    health, age_s = a.payload.spec.health, world.now - a.started_at
    states = list(a.checks)
    check = health[move.index]
    states[move.index] = checks.judge(check, states[move.index], move.result, age_s)
    a = changed(a, checks=tuple(states), healthy=checks.verdict(health, states, before=a.healthy))
    told: tuple[m.Action, ...] = ()
    why = checks.why(health, states)
    if a.healthy is not a.reported_healthy:
        reason = HEALTH_CHANGED if a.reported is TaskState.RUNNING else ""
        a, told = tell(a, TaskState.RUNNING, why or "running", reason)
    if a.healthy is False:
        grace_s = a.payload.spec.stop_grace_s
        stop = Stop(reason=StopReason.UNHEALTHY, grace_s=grace_s, message=why)
        step = begin_stop(a, stop, world)
        return m.Step(step.attempt, (*told, *step.actions))
    after_s = checks.next_probe_s(check, states[move.index], age_s, world.config.first_probe_s)
    return m.Step(a, (*told, m.Probe(move.index, after_s)))


def suspect(a: Attempt, _move: m.Suspect, _world: World) -> m.Step:
    """The sweep did not see it running."""
    if a.state not in (State.RUNNING, State.STOPPING) or Op.INSPECT in a.busy:
        return m.Step(a)
    return m.Step(changed(a, busy=a.busy | {Op.INSPECT}), (m.Inspect(),))


def asked_anew(a: Attempt, _move: m.AskedAnew, _world: World) -> m.Step:
    """Told again as it was told last; what has not been told yet will be."""
    if a.state is not State.RUNNING or a.reported is not TaskState.RUNNING:
        return m.Step(a)
    return m.Step(a, (m.Report(TaskState.RUNNING, "running", "", a.healthy, report_of(a)),))


def died(a: Attempt, move: Died, _world: World) -> m.Step:
    """Its first process has ended."""
    if a.state in CLEANING or a.state is State.PREPARING or a.container_id != move.container_id:
        return m.Step(a)
    a = changed(a, ended_at=move.at)
    if move.exit_code == BY_SIGNAL + signal.SIGKILL and not move.oom_killed and a.stop is None:
        # Killed, and not by us: only a look at it tells whether memory ran out.
        a = changed(a, exit_code=move.exit_code, busy=a.busy | {Op.INSPECT})
        return m.Step(a, (m.Inspect(_MEMORY_TOLD_S),))
    return _ended(a, move.exit_code, move.oom_killed)


def _ended(a: Attempt, exit_code: int | None, oom_killed: bool) -> m.Step:
    is_late = a.stop is not None and a.stop.reason is StopReason.TIMED_OUT
    if is_late and a.payload.run and a.ended_at < a.started_at + a.payload.run.timeout_s:
        # It ended in time, while the engine was away: the stop that it was given came too late for it.
        a = changed(a, stop=None)
    return end(a, outcome_of(a, exit_code, oom_killed))


def destroyed(a: Attempt, move: Destroyed, world: World) -> m.Step:
    """It was removed, and not by us."""
    if a.state in CLEANING or a.container_id != move.container_id:
        return m.Step(a)
    if a.state is State.PREPARING:
        return fail(changed(a, adopting=False), _REMOVED, world)
    return _vanished(a)


def _vanished(a: Attempt) -> m.Step:
    if a.exit_code is not None or a.stop is not None:
        return end(a, outcome_of(a, a.exit_code, False))
    return end(a, Outcome(state=TaskState.FAILED, message=_REMOVED))


def stop_asked(a: Attempt, move: m.StopAsked, world: World) -> m.Step:
    """KILL or SHUTDOWN."""
    if a.state in CLEANING:
        return m.Step(a)
    grace_s = a.payload.spec.stop_grace_s if move.grace_s is None else max(0.0, move.grace_s)
    asked = Stop(reason=StopReason.ASKED, grace_s=grace_s, message=move.message)
    if a.state is State.PREPARING:
        return proceed(changed(a, stop=a.stop or asked), world)
    if a.state is State.STARTING:
        return m.Step(changed(a, stop=a.stop or asked))
    if a.state is State.RUNNING:
        return begin_stop(a, asked, world)
    # Stopping already: a shorter grace counts, a longer one does not.
    kill_at = world.now + grace_s
    if a.stop is None or a.stop.kill_at is None or kill_at >= a.stop.kill_at:
        return m.Step(a)
    stop = a.stop.model_copy(update={"kill_at": kill_at})
    return m.Step(changed(a, stop=stop), (m.Wake(grace_s),))


def due(a: Attempt, _move: m.Due, world: World) -> m.Step:
    """A time that was asked for has come; what for, the state says."""
    if a.state in (State.PREPARING, State.STARTING):
        return launch_due(a, world)
    if a.state is State.RUNNING:
        left_s = _left_s(a, world)
        if left_s is not None and left_s <= 0 and a.payload.run is not None:
            message = f"it took longer than {a.payload.run.timeout_s:g} s"
            grace_s = a.payload.spec.stop_grace_s
            late = Stop(reason=StopReason.TIMED_OUT, grace_s=grace_s, message=message)
            return begin_stop(a, late, world)
        a, told = tell(a, TaskState.RUNNING, "running")
        return m.Step(a, told)
    stop = a.stop
    if a.state is not State.STOPPING or stop is None or stop.kill_at is None:
        return m.Step(a)
    if world.now < stop.kill_at:
        return m.Step(a)
    retry_s = world.config.kill_retry_s
    look = (m.Inspect(),) if stop.killed else ()
    stop = stop.model_copy(update={"killed": True, "kill_at": world.now + retry_s})
    return m.Step(changed(a, stop=stop), (m.Signal("SIGKILL"), *look, m.Wake(retry_s)))
