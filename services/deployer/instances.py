"""Changes to one instance's document besides what events say: made, to be stopped, asked to stop, asked again. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.spec import InstanceSpec
from services.deployer.hook import let_go
from services.deployer.model import (
    App,
    Birth,
    HookPhase,
    Instance,
    Release,
    State,
    Wanted,
)

NUDGE_AFTER_S = 30.0
NUDGE_DIRECT_S = 5.0  # where nothing waits for the bus
MAX_NUDGE_S = 600.0

Change = tuple[Instance, Event | None]
"""The instance as it shall be, and the event that goes with it."""


def born(birth: Birth, app: App, release: Release, now: float) -> Change:
    """A new instance and the request for it."""
    deployment = app.deployment
    traceparent = deployment.traceparent if deployment else app.traceparent
    instance = Instance(
        id=birth.id,
        app=app.id,
        release=birth.release,
        deployment=birth.deployment,
        rollback=birth.rollback,
        slot=birth.slot,
        created_at=now,
        changed_at=now,
        hooked=release.spec.load_balancer.driver != "none",
        min_ready_s=release.spec.strategy.min_ready_s,
        stop_grace_s=release.spec.stop_grace_s,
        traceparent=traceparent,
        direct_until=app.direct_until,
    )
    return instance, requested(instance, release)


def requested(instance: Instance, release: Release) -> ev.InstanceRequested:
    """The request for an instance; the same one however often it is made."""
    sticky = f"{instance.app}/{instance.slot}" if release.spec.keep_address else ""
    return ev.InstanceRequested(
        instance=instance.id,
        app=instance.app,
        release=instance.release,
        deployment=instance.deployment,
        spec=InstanceSpec.of(
            release.spec,
            release.image,
            sticky,
            slot=instance.slot,
            registry_login=release.login,
        ),
    )


def doomed(instance: Instance, reason: str, now: float, direct_until: float = 0.0) -> Change:
    """To be stopped; asked for at once where no load balancer has to let it go first."""
    if instance.wanted is Wanted.STOP:
        return instance, None
    until = max(instance.direct_until, direct_until)
    fields = {"wanted": Wanted.STOP, "stop_reason": reason, "direct_until": until}
    return asked_to_stop(instance.model_copy(update=fields), now)


def asked_to_stop(instance: Instance, now: float) -> Change:
    """With the request to stop it, if it is time for that."""
    if instance.wanted is Wanted.RUN or instance.stop_sent_at is not None:
        return instance, None
    if instance.state is State.GONE or not let_go(instance, now):
        return instance, None
    reason = instance.stop_reason
    if instance.hook.phase is HookPhase.REMOVING:
        waited_s = now - instance.hook.since
        said = instance.hook.message or "no answer"
        reason += f"; the load balancer had not let it go after {waited_s:.0f} s: {said}"
    event = ev.InstanceStopRequested(instance=instance.id, app=instance.app, reason=reason)
    return instance.model_copy(
        update={"stop_sent_at": now, "stop_reason": reason, "nudges": 0}
    ), event


def nudge_s(instance: Instance, now: float, direct_until: float = 0.0) -> float | None:
    """Seconds until a request that nobody has answered is made again; None when none is open.

    At once when somebody broke the glass since it was made: it may lie in an outbox.
    """
    first_s = NUDGE_DIRECT_S if instance.direct_until > now else NUDGE_AFTER_S
    pause_s = min(MAX_NUDGE_S, first_s * 2.0 ** min(instance.nudges, 10))
    unasked = direct_until > instance.direct_until
    if instance.state is State.GONE and not instance.turned_up:
        return None
    if instance.stop_sent_at is not None or instance.turned_up:
        since = max(instance.stop_sent_at or 0.0, instance.nudged_at)
        return 0.0 if unasked else since + instance.stop_grace_s + pause_s - now
    if instance.wanted is Wanted.RUN and instance.seen < 0:
        since = max(instance.created_at, instance.nudged_at)
        return 0.0 if unasked else since + pause_s - now
    return None


def nudged(
    instance: Instance, releases: Mapping[int, Release], now: float, direct_until: float = 0.0
) -> Change:
    """The request once more: events may be lost to retention, and so may the scheduler's memory."""
    event: Event
    if instance.stop_sent_at is not None or instance.turned_up:
        reason = instance.stop_reason or "it was taken for gone"
        event = ev.InstanceStopRequested(instance=instance.id, app=instance.app, reason=reason)
    else:
        event = requested(instance, releases[instance.release])
    unasked = direct_until > instance.direct_until
    fields = {
        "nudges": 0 if unasked else instance.nudges + 1,
        "nudged_at": now,
        "direct_until": max(instance.direct_until, direct_until),
    }
    if instance.turned_up:
        fields["stop_sent_at"] = instance.stop_sent_at or now
    return instance.model_copy(update=fields), event


def is_over(instance: Instance, keep_s: float, now: float) -> bool:
    """Its document may go: it is gone, was told of for long enough, and no load balancer has it."""
    return (
        instance.state is State.GONE
        and not instance.turned_up
        and instance.hook.phase is HookPhase.OFF
        and now - instance.changed_at >= keep_s
    )
