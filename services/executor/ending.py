"""Pure: stopping an attempt, and clearing away what it leaves: revoke, remove, detach, in this order."""

from __future__ import annotations

from services.executor import moves as m
from services.executor.model import (
    CLEANING,
    ENDED,
    Attempt,
    Op,
    Outcome,
    State,
    Stop,
    StopReason,
    TaskState,
)
from services.executor.reporting import (
    KILLED_DURING_LAUNCH,
    LAUNCH_FAILED,
    World,
    changed,
    tell,
    to,
)


def begin_stop(a: Attempt, stop: Stop, world: World) -> m.Step:
    """Send the stop signal, or KILL when there is no grace."""
    at_once = stop.grace_s <= 0
    stop = stop.model_copy(update={"kill_at": world.now + stop.grace_s, "killed": at_once})
    a = changed(to(a, State.STOPPING), stop=stop, busy=frozenset())
    wait_s = world.config.kill_retry_s if at_once else stop.grace_s
    return m.Step(a, (m.Signal("SIGKILL" if at_once else a.stop_signal), m.Wake(wait_s)))


def end_unstarted(a: Attempt, stop: Stop, *, dead: bool = True) -> m.Step:
    """It was stopped, or failed, before it ran. Not `dead`: an engine that died may have begun to start it."""
    if stop.reason is StopReason.ASKED:
        state, message, reason = TaskState.KILLED, "stopped before it ran", KILLED_DURING_LAUNCH
    else:
        state, message, reason = TaskState.FAILED, stop.message, LAUNCH_FAILED
    return end(a, Outcome(state=state, message=message, reason=reason, dead=dead))


def end(a: Attempt, outcome: Outcome) -> m.Step:
    """It is over. Told at once when it is known to be dead, else after the removal."""
    a = changed(a, outcome=outcome, busy=frozenset(), healthy=None)
    if a.keep:
        a, told = tell(to(a, State.DONE), outcome.state, outcome.message, outcome.reason)
        return m.Step(a, told)
    return over(to(a, State.REVOKING), outcome)


def over(a: Attempt, outcome: Outcome) -> m.Step:
    """Tell it, if it is known, and revoke. What a run wrote last is read before, as it is told with the end."""
    if outcome.dead and a.payload.run is not None and a.container_id and a.reported not in ENDED:
        return m.Step(changed(a, busy=frozenset({Op.OUTPUT})), (m.ReadOutput(),))
    told: tuple[m.Action, ...] = ()
    if outcome.dead:
        a, told = tell(a, outcome.state, outcome.message, outcome.reason)
    return m.Step(a, (*told, m.Revoke()))


def output_read(a: Attempt, move: m.OutputRead, _world: World) -> m.Step:
    """The last that the run wrote is here."""
    if a.state is not State.REVOKING or Op.OUTPUT not in a.busy or a.outcome is None:
        return m.Step(a)
    outcome = a.outcome
    a = changed(a, output=move.text, busy=frozenset())
    a, told = tell(a, outcome.state, outcome.message, outcome.reason)
    return m.Step(a, (*told, m.Revoke()))


def broken(a: Attempt, move: m.Broken, _world: World) -> m.Step:
    """The executor has a bug that this attempt meets: it ends, so that the others go on."""
    if a.state in CLEANING:
        return m.Step(a)
    outcome = Outcome(state=TaskState.FAILED, message=move.message, dead=False)
    return end(changed(a, checks=()), outcome)


def revoked(a: Attempt, _move: m.Revoked, _world: World) -> m.Step:
    """Nobody can start it any more."""
    if a.state is not State.REVOKING:
        return m.Step(a)
    return m.Step(to(a, State.REMOVING), (m.Remove(),))


def removed(a: Attempt, _move: m.Removed, _world: World) -> m.Step:
    """It is dead for certain now."""
    if a.state is not State.REMOVING or a.outcome is None:
        return m.Step(a)
    outcome = a.outcome
    a, told = tell(a, outcome.state, outcome.message, outcome.reason)  # says nothing twice
    return m.Step(to(a, State.DETACHING), (*told, m.Detach()))


def detached(a: Attempt, _move: m.Detached, _world: World) -> m.Step:
    """Nothing is left."""
    return m.Step(to(a, State.DONE)) if a.state is State.DETACHING else m.Step(a)
