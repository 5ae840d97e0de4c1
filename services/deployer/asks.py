"""What comes of a request: a deployment accepted, or a refusal with its reason; pause, resume and abort. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from libs.common.errors import Conflict
from libs.common.events import Cause
from libs.common.events.model import DeployAction, DeployRequested
from libs.common.http import Role
from libs.common.spec import IMAGE, AppSpec, SecretRef
from services.deployer.core import (
    Decision,
    Snapshot,
    begin,
    check_move,
    decide,
    end,
    event_of,
    turn_back,
)
from services.deployer.model import (
    App,
    AppId,
    Deployment,
    DeploymentId,
    DeployState,
    Goal,
    Release,
)

MAX_INSTANCES = 10_000
RESOLVE_AGAIN_S = 1.0
DIRECT_S = 3600.0  # so long what comes of a broken glass goes directly
MAY_DEPLOY = frozenset({Role.DEPLOYER.value, Role.ADMIN.value})


@dataclass(frozen=True, slots=True)
class Facts:
    """What a request is judged by, besides the app itself."""

    releases: dict[
        int, Release
    ]  # the app's current release and the one asked for, where they exist
    balancers: Collection[str]  # load-balancer drivers that this cluster has
    secrets: Mapping[str, bool]  # the unit's secrets that are named; may they be variables


def authorise(request: DeployRequested) -> str:
    """Why the actor may not do this; "" when it may. The gateway's check before was a courtesy."""
    bu = request.app.partition("/")[0]
    if request.actor_bu not in ("*", bu):
        return f"{request.actor} may not act for business unit {bu}"
    if request.actor_role not in MAY_DEPLOY:
        return f"{request.actor} is {request.actor_role or 'nobody'} in {bu}; this needs deployer"
    if request.break_glass and request.actor_role != Role.ADMIN.value:
        return f"{request.actor} is {request.actor_role} in {bu}; breaking the glass needs admin"
    return ""


def overtaken(app: App | None, asked_at: float) -> str:
    """Why a request comes too late: it waited for the bus while somebody broke the glass. "" when it does not."""
    if app is None or asked_at >= app.glass_at:
        return ""
    return (
        "it was asked for before somebody broke the glass, and came after; ask again if it is still"
        " wanted"
    )


def refuse(app: App | None, request: DeployRequested, facts: Facts) -> str:
    """Why the request can't be taken; "" when it can."""
    if app is None:
        return f"there is no app {request.app}; put its spec first"
    if app.deployment is not None and not (request.force or request.break_glass):
        running = app.deployment
        counts = running.counts
        return (
            f"deployment {running.id} ({running.action} by {running.actor}) is {running.state}, "
            f"{counts.ready} of {counts.wanted} ready; wait, abort it, or use force to take over"
        )
    match request.action:
        case DeployAction.RELEASE:
            driver = app.spec.load_balancer.driver
            if driver != "none" and driver not in facts.balancers:
                return f"load_balancer.driver: this cluster has no {driver} configured"
            if request.image and not IMAGE.fullmatch(request.image):
                return f"image: {request.image[:200]!r} is not an image reference"
        case DeployAction.SCALE:
            if request.instances is None or not 0 <= request.instances <= MAX_INSTANCES:
                return f"instances: {request.instances} is not a number from 0 to {MAX_INSTANCES}"
        case DeployAction.ROLLBACK:
            target = request.release or app.previous
            if target is None:
                return "there is no release before the current one"
            if target not in facts.releases:
                return f"there is no release {target} of {app.id}"
    needs_release = request.action not in (DeployAction.RELEASE, DeployAction.ROLLBACK)
    if needs_release and app.release is None and (app.deployment is None or not _ends(request)):
        return f"nothing of {app.id} has been released yet"
    spec = _spec_to_run(app, request, facts)
    if spec is None:
        return ""
    if spec.address is not None and not spec.address.many and (request.instances or 0) > 1:
        return f"instances: {app.id} has an address of its own, which only one instance can have"
    return missing_secret(app.bu, spec.secrets, facts.secrets)


def _spec_to_run(app: App, request: DeployRequested, facts: Facts) -> AppSpec | None:
    """What new instances would be made of; None when there will be none, or of a release that is still being made."""
    match request.action:
        case DeployAction.RELEASE:
            return app.spec
        case DeployAction.STOP:
            return None
        case DeployAction.ROLLBACK:
            number = request.release or app.previous
        case DeployAction.RESTART:
            number = app.release
        case DeployAction.SCALE:
            number = app.release if (request.instances or 0) > app.wanted else None
    release = facts.releases.get(number or 0)
    return release.spec if release is not None else None


def missing_secret(bu: str, refs: Sequence[SecretRef], known: Mapping[str, bool]) -> str:
    """Which secret of a spec an instance could not be given, and why; "" when there is none such."""
    for n, ref in enumerate(refs):
        if ref.name not in known:
            return f"secrets.{n}.name: business unit {bu} has no secret {ref.name!r}"
        if ref.env is not None and not known[ref.name]:
            return f"secrets.{n}.env: secret {ref.name!r} is not text; ask for it as a file"
    return ""


def accept(
    app: App,
    request: DeployRequested,
    facts: Facts,
    cause: Cause,
    now: float,
    asked_at: float = 0.0,
) -> Decision:
    """The app with the new deployment; `ended` is one that it took over from. Only after `refuse` said "".

    `asked_at` is when the request was made, by its writer's clock.
    """
    before = Goal(release=app.release, wanted=app.wanted)
    spec = app.spec
    if request.image:
        spec = spec.model_copy(update={"image": request.image})
    release = request.action is DeployAction.RELEASE
    deployment = Deployment(
        id=DeploymentId(request.deployment),
        app=app.id,
        action=request.action,
        actor=request.actor,
        state=DeployState.ACCEPTED,
        created_at=now,
        image=spec.image if release else "",
        before=before,
        strategy=spec.strategy,
        spec=spec if release else None,
        spec_version=app.spec_version,
        progress_at=now,
        deadline_s=deadline_s(spec, facts.releases.get(app.release or 0)),
        traceparent=cause.traceparent,
        correlation_id=cause.correlation_id,
        break_glass=request.break_glass,
        direct_until=now + DIRECT_S if request.break_glass else 0.0,
    )
    if not release:
        deployment = begin(deployment, _goal(app, request), now)
        deployment = deployment.model_copy(update={"release": deployment.goal.release})
    ended: Deployment | None = None
    events = [event_of(deployment)]
    if app.deployment is not None:
        reason = f"deployment {request.deployment} of {request.actor} took over"
        over = end(app, app.deployment, DeployState.SUPERSEDED, reason, now)
        ended, events = over.ended, [*over.events, *events]
    fields = {"deployment": deployment, "updated_at": now, "traceparent": cause.traceparent}
    if request.break_glass:
        fields["glass_at"] = asked_at
    return Decision(app.model_copy(update=fields), events=tuple(events), ended=ended)


def _ends(request: DeployRequested) -> bool:
    """It leaves no instance, so that a first release that is under way need not be there for it."""
    if request.action is DeployAction.SCALE:
        return request.instances == 0
    return request.action is DeployAction.STOP


def _goal(app: App, request: DeployRequested) -> Goal:
    # A stopped app that is restarted or rolled back runs again, with what its spec says.
    running = app.wanted or app.spec.instances
    match request.action:
        case DeployAction.SCALE:
            return Goal(release=app.release, wanted=request.instances or 0)
        case DeployAction.ROLLBACK:
            return Goal(release=request.release or app.previous, wanted=running)
        case DeployAction.RESTART:
            return Goal(release=app.release, wanted=running, restart=True)
        case DeployAction.STOP:
            return Goal(release=app.release, wanted=0)
        case DeployAction.RELEASE:
            raise ValueError("a release has its goal when its image is resolved")


def deadline_s(spec: AppSpec, current: Release | None) -> float:
    """The strategy's deadline, and on top what the app itself has us wait for: to be ready, to drain, to stop."""
    specs = [spec, current.spec] if current is not None else [spec]
    draining = max(
        each.load_balancer.drain_s + each.load_balancer.deadline_s
        if each.load_balancer.driver != "none"
        else 0.0
        for each in specs
    )
    stopping = max(each.stop_grace_s for each in specs)
    return spec.strategy.deadline_s + spec.strategy.min_ready_s + draining + stopping


def refused(request: DeployRequested, reason: str, now: float) -> Deployment:
    """The record of a request that was not taken."""
    return Deployment(
        id=DeploymentId(request.deployment),
        app=AppId(request.app),
        action=request.action,
        actor=request.actor,
        state=DeployState.REFUSED,
        created_at=now,
        ended_at=now,
        image=request.image or "",
        reason=reason,
        release=request.release,
        break_glass=request.break_glass,
    )


# -- the image -------------------------------------------------------------------------------------


def released(app: App, image: str, now: float, *, login: bool = False) -> tuple[App, Release]:
    """The image is resolved: the next release, and the deployment rolling towards it."""
    deployment = app.deployment
    if deployment is None or deployment.spec is None:
        raise ValueError(f"{app.id} has no release to be made")
    number = app.last_release + 1
    release = Release(
        app=app.id,
        number=number,
        image=image,
        login=login,
        spec=deployment.spec,
        deployment=deployment.id,
        actor=deployment.actor,
        created_at=now,
    )
    rolling = begin(deployment, Goal(release=number, wanted=deployment.spec.instances), now)
    rolling = rolling.model_copy(update={"release": number, "spec": None})
    fields = {"deployment": rolling, "last_release": number, "updated_at": now}
    return app.model_copy(update=fields), release


def unresolved(app: App, why: str, now: float) -> Decision:
    """The registry could not be asked: again soon, until the deadline."""
    deployment = app.deployment
    if deployment is None:
        raise ValueError(f"{app.id} has no deployment")
    if deployment.reason != why:
        app = app.model_copy(update={"deployment": deployment.model_copy(update={"reason": why})})
    waiting = decide(Snapshot(app, ()), now)
    if waiting.ended is not None:
        return waiting
    return replace(waiting, recheck_s=min(waiting.recheck_s or 0.0, RESOLVE_AGAIN_S))


def unresolvable(app: App, why: str, now: float) -> Decision:
    """There is no such image: the deployment fails, nothing else has changed."""
    deployment = app.deployment
    if deployment is None:
        raise ValueError(f"{app.id} has no deployment")
    reason = f"image {deployment.image}: {why}"
    return end(app, deployment, DeployState.FAILED, reason, now)


# -- by hand ---------------------------------------------------------------------------------------


def pause(app: App, deployment: Deployment, actor: str, now: float) -> Decision:
    """Hold it where it stands. Raises Conflict unless it is rolling."""
    if deployment.state is not DeployState.ROLLING:
        raise Conflict(f"deployment {deployment.id} is {deployment.state}, it can't be paused")
    fields = {"state": DeployState.PAUSED, "paused_at": now, "reason": f"paused by {actor}"}
    return _changed(app, deployment.model_copy(update=fields), now)


def resume(app: App, deployment: Deployment, now: float) -> Decision:
    """Let it go on; its deadline begins anew. Raises Conflict unless it is paused."""
    if deployment.state is not DeployState.PAUSED:
        raise Conflict(f"deployment {deployment.id} is {deployment.state}, it is not paused")
    fields = {"state": DeployState.ROLLING, "progress_at": now, "reason": ""}
    return _changed(app, deployment.model_copy(update=fields), now)


def abort(app: App, deployment: Deployment, actor: str, now: float) -> Decision:
    """Go back to what was there before; one that has not begun, or is on its way back, ends as it stands."""
    reason = f"aborted by {actor}"
    if deployment.state in (DeployState.ROLLING, DeployState.PAUSED):
        return _changed(app, turn_back(deployment, reason, DeployState.ABORTED, now), now)
    if deployment.on_way_back:
        reason = f"{deployment.reason}; {reason} on the way back, left as it was"
    check_move(deployment.state, DeployState.ABORTED)
    return end(app, deployment, DeployState.ABORTED, reason, now)


def _changed(app: App, deployment: Deployment, now: float) -> Decision:
    after = app.model_copy(update={"deployment": deployment, "updated_at": now})
    return Decision(after, events=(event_of(deployment),), recheck_s=0.0)
