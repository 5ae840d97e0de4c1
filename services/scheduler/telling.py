"""What the scheduler tells of an instance: where it is, how it is, and its last words. Pure."""

from __future__ import annotations

from typing import Any

from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.spec import InstanceSpec, Resources
from services.scheduler import nodes
from services.scheduler.cluster import Draft
from services.scheduler.model import Instance, Retell, State, Unwant


def place_of(instance: Instance) -> dict[str, Any]:
    """The fields that all its events have."""
    return {
        "instance": instance.id,
        "app": instance.app,
        "attempt": instance.attempt,
        "agent": instance.agent,
        "hostname": instance.hostname,
        "container": instance.container,
        "address": instance.address,
        "returned": bool(instance.returned),
    }


def retell(draft: Draft, asking: Retell) -> None:
    """Tell an instance's present state once more, with a new sequence number; nothing changes by it."""
    stored = asking.instance
    current = draft.get(stored.id)
    if current is None:
        if draft.cluster.ended.get(stored.id) == stored.version:
            draft.put(stored.asked_by(asking), _last_words(stored))
    elif current.state is State.ENDED:
        pass  # it ended in this very draft, which tells so
    else:
        after = current.asked_by(asking)
        events = _present(current)
        if current.leaving:
            doors = draft.volatile.nodes
            events.append(nodes.asked_to_move(current, current.leaving, doors))
        if events or after != current:
            draft.put(after, *events)


def _present(instance: Instance) -> list[Event]:
    """The events that tell how a live instance is."""
    if instance.state is State.UNREACHABLE:
        return [ev.ContainerLost(**place_of(instance), reason=instance.message)]
    if instance.state is not State.RUNNING:
        return []
    events: list[Event] = [ev.ContainerStarted(**place_of(instance))]
    if instance.healthy is not None:
        kind = ev.ContainerHealthy if instance.healthy else ev.ContainerUnhealthy
        events.append(kind(**place_of(instance)))
    return events


def _last_words(instance: Instance) -> ev.ContainerExited:
    return ev.ContainerExited(
        **place_of(instance),
        state="TASK_KILLED" if instance.stop else "TASK_FAILED",
        message=instance.message,
        wanted=instance.stop,
        final=True,
    )


def bury(draft: Draft, unwant: Unwant, now: float) -> None:
    """A tombstone for an instance whose stop overtook its request: it will never be."""
    grave = _tombstone(unwant, now)
    draft.put(grave, _last_words(grave))


def _tombstone(unwant: Unwant, now: float) -> Instance:
    nothing = InstanceSpec(image="", network="", resources=Resources())
    return Instance(
        id=unwant.id,
        app=unwant.app,
        release=0,
        deployment="",
        spec=nothing,
        state=State.ENDED,
        stop=True,
        since=now,
        message=unwant.reason,
        asked=unwant.asked,
        direct_until=unwant.direct_until,
    )
