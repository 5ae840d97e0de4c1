"""What one save tells of an instance: of two events that speak of the same, the newer one. Pure.

An end takes nothing back that came before it.

All events of a save have one sequence number, and consumers take one event a topic and number, in any order. So of
two that speak of the same, the older one is left out; it would be taken for the newer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from libs.common.events import Event
from libs.common.events import model as ev

_HEALTH = (ev.ContainerHealthy, ev.ContainerUnhealthy)
_CONDITION = (ev.ContainerStarted, ev.ContainerLost, *_HEALTH)


def latest(told: Sequence[Event], more: Iterable[Event]) -> list[Event]:
    """The events of a save: what it tells already, and what comes to that."""
    events = list(told)
    for each in more:
        overtaken = _overtaken(each)
        if overtaken:
            events = [event for event in events if not isinstance(event, overtaken)]
        events.append(each)
    return events


def _overtaken(event: Event) -> tuple[type[Event], ...]:
    """Which events say nothing any more once this one follows."""
    if isinstance(event, ev.AuditRecorded):
        return ()  # each is a deed of its own
    if isinstance(event, ev.ContainerStarted | ev.ContainerLost):
        return _CONDITION
    if isinstance(event, _HEALTH):
        return (*_HEALTH, ev.ContainerLost)
    return (type(event),)
