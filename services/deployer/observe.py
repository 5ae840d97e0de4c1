"""What the scheduler's events say of an instance, folded into its document. Pure.

Events of one instance come from one writer over several topics, so in any order, late and more than once. Three
guards make that harmless: an older `ce_sequence` than the newest seen is dropped; an event of an older attempt
than the newest known is dropped; within an attempt only the moves of `model.SAME_ATTEMPT` are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libs.common.events import Event
from libs.common.events import model as ev
from services.deployer.model import ASKED, FORCED, SAME_ATTEMPT, Instance, State, Wanted

ObservedFact = (
    ev.OfferAccepted
    | ev.PlacementDelayed
    | ev.ContainerStarted
    | ev.ContainerHealthy
    | ev.ContainerUnhealthy
    | ev.ContainerExited
    | ev.ContainerLost
)
ObservedEvent = ObservedFact | ev.InstanceMoveRequested

TARGET: Mapping[type[Event], State] = {
    ev.OfferAccepted: State.PLACED,
    ev.ContainerStarted: State.STARTED,
    ev.ContainerHealthy: State.HEALTHY,
    ev.ContainerUnhealthy: State.UNHEALTHY,
    ev.ContainerLost: State.LOST,
}


# Ends that say nothing of the app: its host or executor was lost. They don't count as its failures.
LOST_STATES = frozenset(
    {"TASK_LOST", "TASK_UNREACHABLE", "TASK_GONE", "TASK_GONE_BY_OPERATOR", "TASK_DROPPED"}
)
LOST_REASONS = ("REASON_AGENT_", "REASON_SLAVE_", "REASON_EXECUTOR_")


def generation_of(attempt: str) -> int:
    """The n of an attempt `instance.n`; 0 for an instance that never got as far."""
    number = attempt.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


def observe(instance: Instance, event: ObservedEvent, sequence: int, now: float) -> Instance:
    """The instance after `event`; the very same object when the event is stale or says nothing new."""
    if isinstance(event, ev.InstanceMoveRequested):
        return _asked_to_move(instance, event, sequence)
    if sequence < instance.seen:
        return instance
    if sequence == instance.seen and event.TOPIC in instance.seen_topics:
        return instance
    topics = instance.seen_topics if sequence == instance.seen else ()
    seen: dict[str, Any] = {"seen": sequence, "seen_topics": (*topics, event.TOPIC)}
    return instance.model_copy(update=seen | _fields(instance, event, now))


def _asked_to_move(instance: Instance, event: ev.InstanceMoveRequested, sequence: int) -> Instance:
    """With a request to leave a host, or to stay; it may come before older news of the instance, which still count."""
    elsewhere = event.hostname != instance.hostname and sequence < instance.seen
    if sequence <= instance.leave_seen or elsewhere:
        return instance
    asked = FORCED if event.forced else ASKED
    return instance.model_copy(
        update={
            "leaving": "" if event.withdrawn else asked,
            "leave_reason": event.reason,
            "leave_host": event.hostname,
            "leave_seen": sequence,
        }
    )


def _fields(instance: Instance, event: ObservedFact, now: float) -> dict[str, Any]:
    if isinstance(event, ev.PlacementDelayed):
        waits = instance.state in (State.REQUESTED, State.EXITED)
        return {"waiting": event.message} if waits else {}
    state, generation = _target(event), generation_of(event.attempt)
    if instance.state is State.GONE:
        # Its request lay in an outbox for so long that the scheduler, when asked, did not know of it yet.
        return {"turned_up": state is not State.GONE}
    returned = getattr(event, "returned", False)
    if generation < instance.generation and not returned:
        return {}
    newer = generation > instance.generation or (returned and _goes_on(instance, event, state))
    if not newer and instance.state not in SAME_ATTEMPT[state]:
        return _place(instance, event, newer=False)
    fields = _place(instance, event, newer=newer)
    fields.update(
        state=state,
        generation=max(generation, instance.generation),
        waiting="",
        changed_at=now,
        healthy_since=now if state is State.HEALTHY else None,
    )
    if isinstance(event, ev.ContainerExited):
        fields.update(last_exit=describe_exit(event), exited_generation=fields["generation"])
    elif isinstance(event, ev.ContainerUnhealthy) and event.message:
        fields["last_exit"] = f"unhealthy: {event.message}"
    if _is_failure(instance, event) and instance.failed_generation < generation:
        fields.update(failures=instance.failures + 1, failed_generation=generation)
    return fields


def _goes_on(instance: Instance, event: ObservedFact, state: State) -> bool:
    """Is this the first that is told of an older attempt's return: it was taken for over, or replaced."""
    over = instance.state is State.EXITED and state not in (State.EXITED, State.GONE)
    return over or getattr(event, "attempt", "") != instance.attempt


def _target(event: ObservedFact) -> State:
    if isinstance(event, ev.ContainerExited):
        return State.GONE if event.final else State.EXITED
    return TARGET[type(event)]


def _place(instance: Instance, event: Any, *, newer: bool) -> dict[str, Any]:
    """Where it runs. A late event of the same attempt may fill gaps, never overwrite."""
    fields: dict[str, Any] = {"attempt": event.attempt} if newer or not instance.attempt else {}
    for name in ("agent", "hostname", "container", "address"):
        told = getattr(event, name, "")
        if newer or (told and not getattr(instance, name)):
            fields[name] = told
    if instance.leaving and fields.get("hostname", instance.leave_host) != instance.leave_host:
        fields.update(leaving="", leave_reason="")  # it has moved by itself
    return fields


def _is_failure(instance: Instance, event: ObservedFact) -> bool:
    if instance.wanted is Wanted.STOP:
        return False
    if isinstance(event, ev.ContainerExited):
        lost = event.state in LOST_STATES or event.reason.startswith(LOST_REASONS)
        return not event.wanted and not lost
    return isinstance(event, ev.ContainerUnhealthy)


def describe_exit(event: ev.ContainerExited) -> str:
    """One line that says how an attempt ended."""
    parts = [event.state]
    if event.exit_code is not None:
        parts.append(f"exit code {event.exit_code}")
    if event.reason:
        parts.append(event.reason)
    text = ", ".join(parts)
    return f"{text}: {event.message}" if event.message else text
