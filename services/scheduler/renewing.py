"""Everything is placed anew, after Mesos has removed the framework and its tasks with it. Pure."""

from __future__ import annotations

from dataclasses import replace

from libs.common.events import model as ev
from services.scheduler import cleaning, runs
from services.scheduler.cluster import Draft
from services.scheduler.model import Instance, State
from services.scheduler.telling import place_of

REASON = "REASON_FRAMEWORK_REMOVED"
MESSAGE = "Mesos has removed the framework; it is placed anew"


def place_anew(draft: Draft, now: float) -> None:
    """Nothing runs any more, whatever we last heard: each instance goes on in a new attempt, or ends if it should."""
    for known in list(draft.cluster.instances.values()):
        instance = draft.get(known.id)
        if instance is not None and instance.state is not State.ENDED:
            _renew(draft, instance, now)
    volatile = draft.volatile
    for told in (volatile.unknown, volatile.killed, volatile.asked, volatile.full):
        told.clear()
    volatile.breaker_open = False
    draft.roles = dict.fromkeys(draft.cluster.roles, "")  # no executor is left


def _renew(draft: Draft, instance: Instance, now: float) -> None:
    if not instance.live and instance.state is not State.ORPHANED:
        if instance.strays:
            draft.put(replace(instance, strays=()))
        return
    if instance.state is State.ORPHANED:
        cleaning.leave_behind(draft, instance, now)  # no executor was there to stop its container
    if instance.run is not None:
        runs.give_up(draft, replace(instance, strays=()), now, MESSAGE)
        return
    after = replace(
        instance,
        state=State.ENDED if instance.stop else State.PENDING,
        since=now,
        not_before=now,
        healthy=None,
        adopt="",
        orphaned_at=0.0,
        yields_to="",
        strays=(),
        message=MESSAGE,
    )
    exited = ev.ContainerExited(
        **place_of(instance),
        state="TASK_KILLED",
        reason=REASON,
        message=MESSAGE,
        wanted=instance.stop,
        final=instance.stop,
    )
    draft.put(after, exited)
