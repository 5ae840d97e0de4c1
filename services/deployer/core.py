"""Which instances should exist: `decide(snapshot, now)` says what to do next for one app. Pure.

**Invariant:** every deployment ends, with a reason. Progress is a new best of ready new instances, or a new
least of old ones left; both can improve only finitely often, and without progress for the deadline a
deployment turns back, and one on its way back fails. A pause has a deadline, and so has the resolving of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.events.model import DeployAction
from services.deployer import moving
from services.deployer.model import (
    DEPLOY_MOVES,
    ENDED,
    App,
    Deployment,
    DeployState,
    Goal,
    Instance,
    State,
    Wanted,
)
from services.deployer.reasons import stuck, too_many_failures
from services.deployer.rolling import (
    MAX_BIRTHS,
    Make,
    Stop,
    Tally,
    births,
    kill_order,
    steps,
    tally,
)

RESOLVE_DEADLINE_S = 30.0
PAUSE_DEADLINE_S = 86_400.0
DEATHS_WINDOW_S = 600.0
MAX_REPLACE_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An app and the documents of its instances, gone ones included while they are kept."""

    app: App
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """The app's next state and what goes with it. `recheck_s`: when time alone changes the answer."""

    app: App
    make: tuple[Make, ...] = ()
    stop: tuple[Stop, ...] = ()
    events: tuple[Event, ...] = ()
    ended: Deployment | None = None
    recheck_s: float | None = None


def decide(snapshot: Snapshot, now: float) -> Decision:
    """What to do now. Never raises for a state that events can bring about."""
    decision = _decide(snapshot, now)
    stopped = {name for name, _ in decision.stop}
    forced = tuple(each for each in moving.forced(snapshot.instances) if each[0] not in stopped)
    return replace(decision, stop=(*decision.stop, *forced)) if forced else decision


def _decide(snapshot: Snapshot, now: float) -> Decision:
    before = snapshot.app.deployment
    if before is None:
        return _keep(snapshot, now)
    decision = _DECIDERS[before.state](snapshot, before, now)
    after = decision.app.deployment
    if after is None or (after.state, after.counts) == (before.state, before.counts):
        return decision
    app = decision.app.model_copy(update={"updated_at": now})
    return replace(decision, app=app, events=(*decision.events, event_of(after)))


def _await_image(snapshot: Snapshot, deployment: Deployment, now: float) -> Decision:
    left_s = deployment.created_at + RESOLVE_DEADLINE_S - now
    if left_s > 0:
        return Decision(snapshot.app, recheck_s=left_s)
    why = deployment.reason or "no answer"
    reason = f"image {deployment.image} was not resolved within {RESOLVE_DEADLINE_S:g} s: {why}"
    return end(snapshot.app, deployment, DeployState.FAILED, reason, now)


def _hold(snapshot: Snapshot, deployment: Deployment, now: float) -> Decision:
    """A paused deployment makes no step; only the count that was there before is kept up."""
    left_s = deployment.paused_at + PAUSE_DEADLINE_S - now
    if left_s <= 0:
        reason = f"paused for longer than {PAUSE_DEADLINE_S / 3600:g} h"
        return _fail(snapshot, deployment, reason, now)
    wanted = min(deployment.before.wanted, deployment.goal.wanted)
    kept = _refill(snapshot, deployment.before.release, wanted, now)
    counts = tally(deployment, snapshot.instances, now).counts
    app = _with(snapshot.app, deployment.model_copy(update={"counts": counts}))
    recheck_s = min(left_s, kept.recheck_s) if kept.recheck_s is not None else left_s
    return replace(kept, app=app, recheck_s=recheck_s)


def _advance(snapshot: Snapshot, deployment: Deployment, now: float) -> Decision:
    facts = tally(deployment, snapshot.instances, now)
    wanted = deployment.goal.wanted
    if facts.failures > deployment.strategy.max_failures:
        reason = too_many_failures(deployment, snapshot.instances, facts)
        return _fail(snapshot, deployment, reason, now)
    only_stops = facts.counts.ready == len(facts.new) == wanted and not facts.old
    if only_stops and not facts.stopping:
        return _reached(snapshot.app, deployment, facts, "", now)
    deployment = _progress(deployment, facts, now)
    left_s = deployment.progress_at + deployment.deadline_s - now
    if left_s <= 0 and not only_stops:
        return _fail(snapshot, deployment, stuck(deployment, facts), now)
    if left_s <= 0:
        return _end_without_stops(snapshot.app, deployment, facts, now)
    make, stop = steps(deployment, facts, snapshot.instances)
    why = _stop_reason(deployment)
    return Decision(
        _with(snapshot.app, deployment.model_copy(update={"counts": facts.counts})),
        make,
        tuple((each, why) for each in stop),
        recheck_s=0.0 if len(make) == MAX_BIRTHS else _next_ready_s(facts, left_s, now),
    )


_DECIDERS = {
    DeployState.ACCEPTED: _await_image,
    DeployState.PAUSED: _hold,
    DeployState.ROLLING: _advance,
    DeployState.ROLLING_BACK: _advance,
}


def _with(app: App, deployment: Deployment) -> App:
    if app.deployment == deployment:
        return app
    return app.model_copy(update={"deployment": deployment})


def _progress(deployment: Deployment, facts: Tally, now: float) -> Deployment:
    best = max(deployment.best_ready, facts.counts.ready)
    least = min(deployment.least_left, facts.left)
    if (best, least) == (deployment.best_ready, deployment.least_left):
        return deployment
    return deployment.model_copy(
        update={"best_ready": best, "least_left": least, "progress_at": now}
    )


def _next_ready_s(facts: Tally, left_s: float, now: float) -> float:
    """Until the next instance has been healthy for long enough, or the deadline."""
    ready_at = [each.ready_at() for each in (*facts.new, *facts.old)]
    return min([left_s, *(at - now for at in ready_at if at is not None and at > now)])


def _stop_reason(deployment: Deployment) -> str:
    if deployment.on_way_back:
        return f"deployment {deployment.id} goes back: {deployment.reason}"
    return f"{deployment.action} by deployment {deployment.id}"


# -- the ends of a deployment ----------------------------------------------------------------------


def _reached(app: App, deployment: Deployment, facts: Tally, remark: str, now: float) -> Decision:
    deployment = deployment.model_copy(update={"counts": facts.counts})
    if deployment.on_way_back:
        reason = "; ".join(filter(None, (deployment.reason, remark)))
        return end(app, deployment, deployment.outcome, reason, now)
    done = f"{facts.counts.ready} of {deployment.goal.wanted} ready"
    if deployment.goal.wanted == 0:
        done = "all instances are stopped"
    reason = f"{done}; {remark}" if remark else done
    return end(app, deployment, DeployState.SUCCEEDED, reason, now)


def _end_without_stops(app: App, deployment: Deployment, facts: Tally, now: float) -> Decision:
    """All is as wanted but for instances that don't confirm their stop; going back would mend nothing."""
    if deployment.goal.wanted:
        remark = f"{len(facts.stopping)} old instances have not confirmed their stop"
        return _reached(app, deployment, facts, remark, now)
    reason = "; ".join(filter(None, (deployment.reason, stuck(deployment, facts))))
    counted = deployment.model_copy(update={"counts": facts.counts})
    return end(app, counted, DeployState.FAILED, reason, now)


def _fail(snapshot: Snapshot, deployment: Deployment, reason: str, now: float) -> Decision:
    """Go back to what was there before; or end, if on the way back already or not wished for."""
    if deployment.on_way_back:
        both = f"{deployment.reason}; and the way back failed: {reason}"
        return end(snapshot.app, deployment, DeployState.FAILED, both, now)
    if not deployment.strategy.auto_rollback or deployment.action is DeployAction.STOP:
        return end(snapshot.app, deployment, DeployState.FAILED, reason, now)
    outcome = DeployState.ROLLED_BACK
    if deployment.before.release is None:
        outcome = DeployState.FAILED
        reason = f"{reason}; there is no release to go back to"
    turned = turn_back(deployment, reason, outcome, now)
    return _advance(replace(snapshot, app=_with(snapshot.app, turned)), turned, now)


def turn_back(deployment: Deployment, reason: str, outcome: DeployState, now: float) -> Deployment:
    """The deployment on its way back to what was there before; it has a deadline of its own."""
    check_move(deployment.state, DeployState.ROLLING_BACK)
    return deployment.model_copy(
        update={
            "state": DeployState.ROLLING_BACK,
            "goal": deployment.before,
            "outcome": outcome,
            "reason": reason,
            "progress_at": now,
            "best_ready": 0,
            "least_left": Deployment.model_fields["least_left"].default,
        }
    )


def begin(deployment: Deployment, goal: Goal, now: float) -> Deployment:
    """The accepted deployment, rolling towards `goal`."""
    check_move(deployment.state, DeployState.ROLLING)
    return deployment.model_copy(
        update={"state": DeployState.ROLLING, "goal": goal, "progress_at": now, "reason": ""}
    )


def end(app: App, deployment: Deployment, state: DeployState, reason: str, now: float) -> Decision:
    """The decision that ends a deployment; the app keeps what is true afterwards."""
    check_move(deployment.state, state)
    ended = deployment.model_copy(update={"state": state, "reason": reason, "ended_at": now})
    fields: dict[str, object] = {"deployment": None, "updated_at": now}
    stays = deployment.state in (DeployState.ROLLING, DeployState.PAUSED)
    if state is DeployState.SUCCEEDED:
        fields |= _after_success(app, ended)
    elif state is DeployState.FAILED and stays:
        fields["wanted"] = deployment.goal.wanted
    return Decision(
        app.model_copy(update=fields), events=(event_of(ended),), ended=ended, recheck_s=0.0
    )


def _after_success(app: App, deployment: Deployment) -> dict[str, object]:
    """What the app is from now on. What was asked for goes into its spec, unless that was put anew."""
    goal = deployment.goal
    fields: dict[str, object] = {"wanted": goal.wanted, "release": goal.release}
    if goal.release != app.release and app.release is not None:
        fields["previous"] = app.release
    spec = app.spec
    if deployment.spec_version == app.spec_version:
        if deployment.action is DeployAction.RELEASE and deployment.image:
            spec = spec.model_copy(update={"image": deployment.image})
        elif deployment.action is DeployAction.SCALE:
            spec = spec.model_copy(update={"instances": goal.wanted})
    if spec != app.spec:
        fields |= {"spec": spec, "spec_version": app.spec_version + 1}
    return fields


def check_move(before: DeployState, after: DeployState) -> None:
    """Raises ValueError for a move that the table does not have: a bug, not an input."""
    if after not in DEPLOY_MOVES[before]:
        raise ValueError(f"a deployment can't go from {before} to {after}")


def event_of(deployment: Deployment) -> Event:
    """The event that tells the deployment's state."""
    kind: type[ev.DeployProgressed] | type[ev.DeploySucceeded] | type[ev.DeployFailed]
    kind = ev.DeployFailed if deployment.state in ENDED else ev.DeployProgressed
    if deployment.state is DeployState.SUCCEEDED:
        kind = ev.DeploySucceeded
    return kind(
        deployment=deployment.id,
        app=deployment.app,
        release=deployment.release or deployment.goal.release or 0,
        state=deployment.state.value,
        counts=deployment.counts,
        reason=deployment.reason,
    )


# -- between deployments ---------------------------------------------------------------------------


def _keep(snapshot: Snapshot, now: float) -> Decision:
    """No deployment: keep up the wanted count, and stop what is too many."""
    app = snapshot.app
    run = [each for each in snapshot.instances if each.runs_for_us]
    # Also while the last of them is stopping: its replacement may need its address, or its room.
    if any(each.leaving and each.exists for each in snapshot.instances):
        return _move(snapshot, now)
    excess = len(run) - app.wanted
    if excess <= 0:
        return _refill(snapshot, app.release, app.wanted, now)
    ready = frozenset(each.id for each in run if each.is_ready(now))
    order = kill_order(run, ready)
    # A stable sort: the unready still go first, then those of another release.
    order.sort(key=lambda each: (each.id in ready, each.release == app.release))
    why = f"more than the {app.wanted} wanted"
    return Decision(app, stop=tuple((each.id, why) for each in order[:excess]))


def _move(snapshot: Snapshot, now: float) -> Decision:
    """Some are to leave their hosts; what died meanwhile is replaced no faster than otherwise."""
    app = snapshot.app
    wait_s = _replace_at(snapshot.instances, app.wanted, now) - now
    step = moving.moves(app, snapshot.instances, wait_s <= 0, now)
    waits = [wait_s if wait_s > 0 else None, step.recheck_s]
    if len(step.make) == MAX_BIRTHS:
        waits.append(0.0)
    recheck_s = min((each for each in waits if each is not None), default=None)
    return Decision(app, step.make, step.stop, recheck_s=recheck_s)


def _refill(snapshot: Snapshot, release: int | None, wanted: int, now: float) -> Decision:
    """Replace instances that finally died; a second round of deaths within ten minutes waits a little."""
    app = snapshot.app
    missing = wanted - sum(each.runs_for_us for each in snapshot.instances)
    if missing <= 0 or release is None:
        return Decision(app)
    wait_s = _replace_at(snapshot.instances, wanted, now) - now
    if wait_s > 0:
        return Decision(app, recheck_s=wait_s)
    count = min(missing, MAX_BIRTHS)
    make = births(snapshot.instances, release, count)
    return Decision(app, make=make, recheck_s=0.0 if count < missing else None)


def _replace_at(instances: tuple[Instance, ...], wanted: int, now: float) -> float:
    deaths = [
        each.changed_at
        for each in instances
        if each.state is State.GONE
        and each.wanted is Wanted.RUN
        and now - each.changed_at < DEATHS_WINDOW_S
    ]
    rounds = len(deaths) // max(wanted, 1)
    if rounds < 2:
        return 0.0
    return max(deaths) + min(MAX_REPLACE_DELAY_S, 2.0**rounds)
