"""Pure: from LAUNCH until the container is started where it should be."""

from __future__ import annotations

from libs.common.task import container_name
from services.executor import containers, spoilt
from services.executor import moves as m
from services.executor.ending import begin_stop, end, end_unstarted
from services.executor.model import (
    Attempt,
    Begun,
    ContainerName,
    Op,
    Outcome,
    Phase,
    Ref,
    State,
    Stop,
    StopReason,
    TaskState,
    View,
)
from services.executor.reporting import (
    KILLED_DURING_LAUNCH,
    LAUNCH_FAILED,
    World,
    changed,
    outcome_of,
    tell,
    to,
)


def prepare(a: Attempt, world: World) -> m.Step:
    """Create the container and wire its network, side by side; or look for the one to adopt."""
    alarms = (m.Wake(world.config.starting_after_s), m.Wake(world.config.launch_timeout_s))
    if Op.CLEAR in a.busy:
        return m.Step(a, (m.Clear(), *alarms))
    if a.adopting:
        return m.Step(changed(a, busy=frozenset({Op.INSPECT})), (m.Find(), *alarms))
    op, action = _making(a)
    a = changed(a, busy=frozenset({op, Op.ATTACH}))
    return m.Step(a, (m.Attach(), action, *alarms))


def _making(a: Attempt) -> tuple[Op, m.Action]:
    """What comes first on the way to a container: its secrets, if it has any."""
    return (Op.FETCH, m.Fetch()) if a.payload.spec.secrets else (Op.CREATE, m.Create())


def proceed(a: Attempt, world: World) -> m.Step:
    """Go on when nothing is awaited any more."""
    if a.stop is not None:
        if a.busy - {Op.PULL}:
            return m.Step(a)
        return begin_stop(a, a.stop, world) if a.adopting else end_unstarted(a, a.stop)
    if a.busy or not a.container_id or a.network is None:
        return m.Step(a)
    a = to(a, State.STARTING)
    if a.adopting:
        return m.Step(changed(a, busy=frozenset({Op.INSPECT})), (m.Inspect(),))
    return m.Step(changed(a, busy=frozenset({Op.START})), (m.Start(),))


def fail(a: Attempt, message: str, world: World) -> m.Step:
    """It can't be launched. What is under way comes back first, so that nothing turns up after the clean-up."""
    if a.adopting and a.stop is not None:
        return proceed(a, world)
    stop = a.stop or Stop(reason=StopReason.FAULT, grace_s=0, message=message)
    # A running container that could not be taken over stays for the next who tries.
    return proceed(changed(a, stop=stop, adopting=False, keep=a.keep or a.adopting), world)


def fetched(a: Attempt, _move: m.Fetched, world: World) -> m.Step:
    """The secrets are here."""
    if not _awaits(a, Op.FETCH):
        return m.Step(a)
    a = changed(a, busy=a.busy - {Op.FETCH})
    if a.stop:
        return proceed(a, world)
    return m.Step(changed(a, busy=a.busy | {Op.CREATE}), (m.Create(),))


def fetch_failed(a: Attempt, move: m.FetchFailed, world: World) -> m.Step:
    """It can't have what it needs."""
    if not _awaits(a, Op.FETCH):
        return m.Step(a)
    return fail(changed(a, busy=a.busy - {Op.FETCH}), move.message, world)


def created(a: Attempt, move: m.Created, world: World) -> m.Step:
    """The container exists."""
    if not _awaits(a, Op.CREATE):
        return m.Step(a)
    return proceed(changed(a, container_id=move.container_id, busy=a.busy - {Op.CREATE}), world)


def create_failed(a: Attempt, move: m.CreateFailed, world: World) -> m.Step:
    """It could not be created; a missing image is pulled once."""
    if not _awaits(a, Op.CREATE):
        return m.Step(a)
    a = changed(a, busy=a.busy - {Op.CREATE})
    if not move.image_missing or a.pulled or a.stop:
        return fail(a, move.message, world)
    a = changed(a, busy=a.busy | {Op.PULL})
    a, told = tell(a, TaskState.STARTING, f"pulling {a.payload.spec.image}")
    return m.Step(a, (*told, m.Pull()))


def pulled(a: Attempt, _move: m.Pulled, _world: World) -> m.Step:
    """The image is here."""
    if not _awaits(a, Op.PULL) or a.stop:
        return m.Step(a)
    return m.Step(changed(a, pulled=True, busy=a.busy - {Op.PULL} | {Op.CREATE}), (m.Create(),))


def pull_failed(a: Attempt, move: m.PullFailed, world: World) -> m.Step:
    """The image can't be had."""
    if not _awaits(a, Op.PULL):
        return m.Step(a)
    return fail(changed(a, busy=a.busy - {Op.PULL}), move.message, world)


def attached(a: Attempt, move: m.Attached, world: World) -> m.Step:
    """The network is wired."""
    if not _awaits(a, Op.ATTACH):
        return m.Step(a)
    return proceed(changed(a, network=move.network, busy=a.busy - {Op.ATTACH}), world)


def attach_failed(a: Attempt, move: m.AttachFailed, world: World) -> m.Step:
    """There is no network for it."""
    if not _awaits(a, Op.ATTACH):
        return m.Step(a)
    return fail(changed(a, busy=a.busy - {Op.ATTACH}), move.message, world)


def _awaits(a: Attempt, op: Op) -> bool:
    return a.state is State.PREPARING and op in a.busy


def found(a: Attempt, move: m.Found, world: World) -> m.Step:
    """A container has the name we wanted to create, or the one to adopt was looked for."""
    if a.state is not State.PREPARING:
        return m.Step(a)
    a, view = changed(a, busy=a.busy - {Op.CREATE, Op.INSPECT}), move.view
    over = view is None or view.phase is Phase.EXITED
    if a.adopting and over and a.payload.run is not None:
        return _adopt_ended(a, view, world)
    if view is not None and move.half_started:
        return spoilt.adopted(a, view)
    if view is None or (a.adopting and view.phase is not Phase.RUNNING):
        return _start_anew(a, view, world)
    strange = containers.foreign(view, a.payload, world.identity, adopt=a.adopting)
    if strange:
        message = f"container {view.name} is not this instance's: {strange}"
        return fail(changed(a, keep=True), message, world)
    if view.runtime != world.config.runtime and view.phase is Phase.CREATED:
        message = containers.wrong_runtime(view, world.config.runtime)
        return fail(changed(a, container_id=view.id), message, world)
    a = changed(
        a,
        container=view.name,  # of one to adopt there may be a successor
        container_id=view.id,
        generation=containers.generation_of(view, a.generation),
        stop_signal=view.stop_signal,
        adopting=view.phase is Phase.RUNNING,
    )
    if view.phase is Phase.EXITED:
        return end(a, outcome_of(a, view.exit_code, view.oom_killed))
    if a.network is None and Op.ATTACH not in a.busy:
        return m.Step(changed(a, busy=a.busy | {Op.ATTACH}), (m.Attach(),))
    return proceed(a, world)


def _adopt_ended(a: Attempt, view: View | None, world: World) -> m.Step:
    """A job's run that ended while nobody looked: that was its try, and whether there is another one is not our say."""
    if view is None or containers.foreign(view, a.payload, world.identity, adopt=True):
        message = f"nobody can tell how it ended: {a.container} is gone"
        state = TaskState.KILLED if a.stop is not None else TaskState.FAILED
        return end(changed(a, keep=view is not None), Outcome(state=state, message=message))
    a = changed(
        a,
        container_id=view.id,
        generation=containers.generation_of(view, a.generation),
        started_at=view.started_at,
        ended_at=view.ended_at,
        adopting=False,
    )
    return end(a, outcome_of(a, view.exit_code, view.oom_killed))


def _start_anew(a: Attempt, old: View | Ref | None, world: World) -> m.Step:
    """The container is gone, dead or was never started: make one of this attempt's own, if it is not to end."""
    own = ContainerName(container_name(a.payload.cluster, a.id))
    leftover = (m.Discard(old.name, old.id),) if old is not None and old.name != own else ()
    a = changed(a, adopting=False, container=own, generation=a.payload.generation)
    if a.payload.ending and a.stop is None:
        a = changed(a, stop=Stop(reason=StopReason.ASKED, grace_s=0.0, message="stopped"))
    if a.stop:
        step = proceed(a, world)
    else:
        op, action = _making(a)
        wired = a.network is not None or Op.ATTACH in a.busy
        missing = frozenset({op}) if wired else frozenset({op, Op.ATTACH})
        actions = (action,) if wired else (m.Attach(), action)
        step = m.Step(changed(a, busy=a.busy | missing), actions)
    return m.Step(step.attempt, (*leftover, *step.actions))


def rewired(a: Attempt, move: m.Rewired, _world: World) -> m.Step:
    """Start it in its new network instead."""
    if a.state is not State.STARTING or Op.START not in a.busy:
        return m.Step(a)
    return m.Step(changed(a, network=move.network), (m.Start(again=True),))


def cleared(a: Attempt, _move: m.Cleared, world: World) -> m.Step:
    """There is room for a fresh one."""
    if not _awaits(a, Op.CLEAR):
        return m.Step(a)
    a = changed(a, busy=a.busy - {Op.CLEAR})
    return _start_anew(a, Ref(a.container, a.spoilt[-1]), world)


def started(a: Attempt, _move: m.Started, _world: World) -> m.Step:
    """The engine says that it runs; look where."""
    if a.state is not State.STARTING:
        return m.Step(a)
    return m.Step(changed(a, busy=frozenset({Op.INSPECT})), (m.Inspect(),))


def start_failed(a: Attempt, move: m.StartFailed, _world: World) -> m.Step:
    """It did not start."""
    if a.state is not State.STARTING:
        return m.Step(a)
    if a.stop is not None and a.stop.reason is StopReason.ASKED:
        state, reason = TaskState.KILLED, KILLED_DURING_LAUNCH
    else:
        state, reason = TaskState.FAILED, LAUNCH_FAILED
    outcome = Outcome(state=state, message=move.message, reason=reason, dead=move.certain)
    return end(a, outcome)


def begun(a: Attempt, move: Begun, _world: World) -> m.Step:
    """Somebody else started a container that we have only created: it goes."""
    if a.state is State.STARTING and a.container_id == move.container_id and not a.started_at:
        return m.Step(changed(a, started_at=move.at))
    if a.state is not State.PREPARING or a.adopting or a.container_id != move.container_id:
        return m.Step(a)
    message = "the container was started by somebody else"
    outcome = Outcome(state=TaskState.FAILED, message=message, reason=LAUNCH_FAILED, dead=False)
    return end(a, outcome)


def launch_due(a: Attempt, world: World) -> m.Step:
    """It has been launching for long: say so, or give up."""
    awaited = f"waiting for: {', '.join(sorted(a.busy)) or 'nothing'}"
    if world.now - a.launched_at >= world.config.launch_timeout_s:
        message = f"not running after {world.config.launch_timeout_s:g} s ({awaited})"
        outcome = Outcome(state=TaskState.FAILED, message=message, reason=LAUNCH_FAILED, dead=False)
        return end(a, outcome)
    a, told = tell(a, TaskState.STARTING, awaited)
    return m.Step(a, told)
