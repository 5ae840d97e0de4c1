"""Pure: the life of an attempt. `launch` begins it, `recover` takes it up again, `advance` moves it by one input.

**Invariants**: a start comes after the registration, and that after creation and network; a terminal state is told
once, and nothing after it; what is over is revoked, removed, detached, in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libs.common.task import TaskPayload, container_name
from services.executor import ending, launching, running, spoilt
from services.executor import moves as m
from services.executor.model import (
    LABEL_POOL,
    Attempt,
    AttemptId,
    Begun,
    CheckState,
    ContainerName,
    Destroyed,
    Died,
    Op,
    Outcome,
    Phase,
    Pool,
    State,
    Summary,
    TaskState,
)
from services.executor.reporting import World, changed, outcome_of, tell
from services.executor.runs import core as runs
from services.executor.runs import shared
from services.executor.runs.pool import is_shared

_HANDLERS: dict[type, Callable[[Attempt, Any, World], m.Step]] = {
    m.Fetched: launching.fetched,
    m.FetchFailed: launching.fetch_failed,
    m.Created: launching.created,
    m.CreateFailed: launching.create_failed,
    m.Found: launching.found,
    m.Pulled: launching.pulled,
    m.PullFailed: launching.pull_failed,
    m.Attached: launching.attached,
    m.AttachFailed: launching.attach_failed,
    m.Rewired: launching.rewired,
    m.Spoilt: spoilt.spoilt,
    m.Cleared: launching.cleared,
    m.Started: launching.started,
    m.StartFailed: launching.start_failed,
    Begun: launching.begun,
    m.Inspected: running.inspected,
    m.Suspect: running.suspect,
    Died: running.died,
    Destroyed: running.destroyed,
    m.AskedAnew: running.asked_anew,
    m.StopAsked: running.stop_asked,
    m.Broken: ending.broken,
    m.Due: running.due,
    m.Probed: running.probed,
    m.Revoked: ending.revoked,
    m.Removed: ending.removed,
    m.Detached: ending.detached,
    m.OutputRead: ending.output_read,
    m.TaskJoined: shared.joined,
    m.TaskLeft: shared.left,
}


def advance(attempt: Attempt, move: m.Input, world: World) -> m.Step:
    """What the input makes of the attempt. One that comes too late changes nothing."""
    if attempt.shared:
        return runs.advance(attempt, move, world)
    return _HANDLERS[type(move)](attempt, move, world)


def launch(task_id: str, payload: TaskPayload, world: World) -> m.Step:
    """A LAUNCH came."""
    if is_shared(payload):
        return runs.launch(task_id, payload, world)
    attempt = Attempt(
        id=AttemptId(task_id),
        payload=payload,
        container=ContainerName(payload.adopt or container_name(payload.cluster, task_id)),
        launched_at=world.now,
        generation=payload.generation,
        adopting=bool(payload.adopt),
        checks=_unchecked(payload),
    )
    return launching.prepare(attempt, world)


def _unchecked(payload: TaskPayload) -> tuple[CheckState, ...]:
    return tuple(CheckState() for _ in payload.spec.health)


def recover(attempt: Attempt, seen: Summary | None, world: World) -> m.Step:
    """Take up an attempt that an earlier worker left; `seen` is its container in the engine's list."""
    if attempt.shared:
        return runs.recover(attempt, world)
    a = changed(attempt, busy=attempt.busy & {Op.CLEAR})
    match a.state:
        case State.PREPARING:
            over = a.stop is not None and not a.busy
            return launching.proceed(a, world) if over else launching.prepare(a, world)
        case State.STARTING | State.RUNNING | State.STOPPING:
            return _recover_container(a, seen, world)
        case State.REVOKING:
            return ending.over(a, a.outcome) if a.outcome else m.Step(a, (m.Revoke(),))
        case State.REMOVING:
            return m.Step(a, (m.Remove(),))
        case State.DETACHING:
            return m.Step(a, (m.Detach(),))
        case State.DONE:
            return m.Step(a)


def _recover_container(a: Attempt, seen: Summary | None, world: World) -> m.Step:
    if seen is None:
        if a.stop is not None:
            return ending.end(a, outcome_of(a, None, False))
        message = "the container vanished while nobody looked"
        return ending.end(a, Outcome(state=TaskState.FAILED, message=message))
    a = changed(a, container_id=seen.id)
    if a.state is State.STARTING and seen.phase is Phase.CREATED:
        if a.stop is not None:
            return ending.end_unstarted(a, a.stop, dead=False)
        alarm = m.Wake(world.config.launch_timeout_s)
        return m.Step(changed(a, busy=frozenset({Op.START})), (m.Start(again=True), alarm))
    a = changed(a, busy=frozenset({Op.INSPECT}))
    if a.state is State.RUNNING:
        return m.Step(a, (m.Inspect(), *running.watch(a, world)))
    if a.state is State.STOPPING and a.stop is not None:
        name = "SIGKILL" if a.stop.killed else a.stop_signal
        wait_s = max(0.0, (a.stop.kill_at or world.now) - world.now)
        return m.Step(a, (m.Inspect(), m.Signal(name), m.Wake(wait_s)))
    return m.Step(a, (m.Inspect(), m.Wake(world.config.launch_timeout_s)))


def tell_again(
    task_id: str, payload: TaskPayload, ended: Attempt, world: World, *, is_ours: bool
) -> m.Step:
    """The task is to take over a run that is over: its end is told, and it is not begun again.

    `is_ours`: the attempt that ended clears itself away. What an earlier executor left of it is cleared away by this
    one, unless that is in a shared container: there the keeper sees it.
    """
    outcome = ended.outcome
    assert outcome is not None
    attempt = changed(
        ended,
        id=AttemptId(task_id),
        payload=payload,
        launched_at=world.now,
        state=State.DONE if is_ours or ended.shared else ended.state,
        reported=None,
        reported_healthy=None,
    )
    attempt, told = tell(attempt, outcome.state, outcome.message, outcome.reason)
    step = recover(attempt, None, world)
    return m.Step(step.attempt, (*told, *step.actions))


def open_pool(pool: Pool, payload: TaskPayload, world: World) -> m.Step:
    """Make a shared container; `payload` is what a task of its own would have."""
    attempt = Attempt(
        id=AttemptId(payload.attempt),
        payload=payload,
        container=ContainerName(container_name(payload.cluster, payload.attempt)),
        launched_at=world.now,
        generation=payload.generation,
        pool=pool,
    )
    return launching.prepare(attempt, world)


def rebuild(payload: TaskPayload, seen: Summary) -> m.Step:
    """The journal is lost, but a container of this run of ours tells by its labels what it is: take it over."""
    attempt = Attempt(
        id=AttemptId(payload.attempt),
        payload=payload,
        container=seen.name,
        container_id=seen.id,
        launched_at=seen.created_at,
        generation=payload.generation,
        adopting=True,
        checks=_unchecked(payload),
        pool=_pool_of(seen),
        busy=frozenset({Op.ATTACH}),
    )
    return m.Step(attempt, (m.Attach(),))


def _pool_of(seen: Summary) -> Pool | None:
    key = seen.labels.get(LABEL_POOL, "")
    if not key:
        return None
    return Pool(key=key, sponsor=AttemptId(""), uses=1, idle_since=seen.created_at)
