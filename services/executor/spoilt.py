"""Pure: a container that an engine had half started when it died. It goes, and a fresh one takes its place."""

from __future__ import annotations

from services.executor import moves as m
from services.executor.ending import end, end_unstarted
from services.executor.model import Attempt, Op, Outcome, State, TaskState, View
from services.executor.reporting import LAUNCH_FAILED, World, changed, to

_MOST = 3  # containers of one attempt
_HOW_FAR = "the engine died while it started it: how far it came is not known"


def spoilt(a: Attempt, move: m.Spoilt, _world: World) -> m.Step:
    """It can't be started. Never this one again, whatever its engine says: an app may have written to its files.

    And no fresh one for a run that has a container to itself: it may have begun, and would do twice what it did.
    """
    if a.state is not State.STARTING or Op.START not in a.busy:
        return m.Step(a)
    if a.stop is not None:
        return end_unstarted(a, a.stop, dead=False)
    if a.payload.run is not None:
        return end(a, Outcome(state=TaskState.FAILED, message=_HOW_FAR, dead=False))
    if len(a.spoilt) == _MOST:
        message = f"the container did not start: {move.message}"
        outcome = Outcome(state=TaskState.FAILED, message=message, reason=LAUNCH_FAILED, dead=False)
        return end(a, outcome)
    a = to(a, State.PREPARING)
    return clear(changed(a, spoilt=(*a.spoilt, a.container_id), container_id=""))


def adopted(a: Attempt, view: View) -> m.Step:
    """The container to adopt is such a one."""
    a = changed(a, container=view.name, adopting=False)
    if a.payload.run is not None:
        state = TaskState.KILLED if a.stop is not None else TaskState.FAILED
        outcome = Outcome(state=state, message=_HOW_FAR, dead=False)
        return end(changed(a, container_id=view.id), outcome)
    return clear(changed(a, spoilt=(*a.spoilt, view.id)))


def clear(a: Attempt) -> m.Step:
    """Begin, or go on, to clear away the newest one; see `launching.cleared`."""
    return m.Step(changed(a, busy=frozenset({Op.CLEAR})), (m.Clear(),))
