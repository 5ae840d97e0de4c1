"""The load-balancer side of an instance's life, decided without I/O.

in:  healthy for long enough → ADDING (saved) → submit, poll → ON: only now the instance counts as ready.
out: to be stopped, unhealthy or dead → REMOVING (saved) → submit, poll → OFF: only now it may be stopped.

A removal that misses its deadline lets the instance go all the same, which is said; it is tried on, since an
endpoint left behind would get traffic meant for whoever has the address next.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from libs.common.spec import LoadBalancer
from services.deployer.loadbalancer.base import Answer, AnswerState, Change, ChangeKind
from services.deployer.model import (
    HOOK_MOVES,
    Endpoint,
    Hook,
    HookPhase,
    Instance,
    State,
    Wanted,
)

POLL_S = 0.25
RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
GIVE_UP_S = 3600.0


class Verb(StrEnum):
    """What to ask the driver."""

    SUBMIT = "submit"
    POLL = "poll"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Ask:
    """One call to make."""

    verb: Verb
    change: Change


@dataclass(frozen=True, slots=True)
class Step:
    """The instance to save first, and then the calls to make, in order; the last one's answer counts."""

    instance: Instance
    asks: tuple[Ask, ...] = ()


def should_be_in(instance: Instance, now: float) -> bool:
    """Traffic may go there."""
    if instance.wanted is Wanted.STOP or not instance.hooked:
        return False
    if instance.hook.phase is HookPhase.ON and _may_still_serve(instance):
        return True
    ready_at = instance.ready_at()
    return ready_at is not None and now >= ready_at and bool(instance.address)


def _may_still_serve(instance: Instance) -> bool:
    """It was in, and nobody has told that it ended or is sick.

    Its host can't be reached, or a new attempt adopts its container: to take it out on that account would turn
    our blindness into an outage.
    """
    if instance.state is State.LOST:
        return True
    if instance.state not in (State.PLACED, State.STARTED):
        return False
    endpoint = instance.hook.endpoint
    same = endpoint is not None and instance.address in ("", endpoint.address)
    return same and instance.may_be_adopted


def let_go(instance: Instance, now: float) -> bool:
    """It may be stopped as far as the load balancer is concerned."""
    hook = instance.hook
    if hook.phase is HookPhase.OFF:
        return True
    return hook.phase is HookPhase.REMOVING and now >= hook.until


def next_step(instance: Instance, balancer: LoadBalancer, now: float) -> Step:
    """What to do now; a step without asks and with the same instance is nothing."""
    hook = instance.hook
    inside = should_be_in(instance, now)
    match hook.phase:
        case HookPhase.OFF:
            if not inside or now < hook.retry_at:
                return Step(instance)
            added = _adding(instance, balancer, now)
            return Step(added, (Ask(Verb.SUBMIT, change_of(added)),))
        case HookPhase.ADDING:
            return _adding_on(instance, balancer, inside, now)
        case HookPhase.ON:
            endpoint = hook.endpoint
            if inside and endpoint is not None and instance.address in ("", endpoint.address):
                return Step(instance)
            removed = _removing(instance, balancer, now)
            return Step(removed, (Ask(Verb.SUBMIT, change_of(removed)),))
        case HookPhase.REMOVING:
            if now >= hook.until + GIVE_UP_S:
                message = f"given up after {GIVE_UP_S:g} s: {hook.message}"
                return Step(_with(instance, phase=HookPhase.OFF, message=message))
            if now < hook.retry_at:
                return Step(instance)
            return Step(instance, (_go_on(instance),))


def _adding_on(instance: Instance, balancer: LoadBalancer, inside: bool, now: float) -> Step:
    hook = instance.hook
    late = now >= hook.until
    moved = hook.endpoint is None or hook.endpoint.address != instance.address
    if inside and not late and not moved:
        waits = now < hook.retry_at
        return Step(instance) if waits else Step(instance, (_go_on(instance),))
    given_up = Ask(Verb.CANCEL, change_of(instance))
    removed = _removing(instance, balancer, now)
    if late:
        said = hook.message or "no answer"
        message = f"not taken in within {balancer.deadline_s:g} s: {said}"
        removed = _with(removed, message=message, failures=hook.failures + 1)
    return Step(removed, (given_up, Ask(Verb.SUBMIT, change_of(removed))))


def _go_on(instance: Instance) -> Ask:
    verb = Verb.POLL if instance.hook.submitted else Verb.SUBMIT
    return Ask(verb, change_of(instance))


def change_of(instance: Instance) -> Change:
    """The change under way; its id is the same after a restart of the deployer."""
    hook = instance.hook
    if hook.endpoint is None or hook.phase not in (HookPhase.ADDING, HookPhase.REMOVING):
        raise ValueError(f"{instance.id} has no change under way")
    kind = ChangeKind.ADD if hook.phase is HookPhase.ADDING else ChangeKind.REMOVE
    return Change(
        f"{instance.id}-{hook.changes}",
        kind,
        instance.app,
        instance.id,
        hook.endpoint,
        hook.drain_until,
    )


def _adding(instance: Instance, balancer: LoadBalancer, now: float) -> Instance:
    endpoint = Endpoint(
        driver=balancer.driver,
        backend=balancer.backend or instance.app.replace("/", "-"),
        address=instance.address,
        port=balancer.port or 0,
    )
    return _begin(instance, HookPhase.ADDING, now, now + balancer.deadline_s, endpoint=endpoint)


def _removing(instance: Instance, balancer: LoadBalancer, now: float) -> Instance:
    # Only a healthy one has requests that are worth waiting for.
    serves = instance.state in (State.HEALTHY, State.LOST)
    drain_until = now + balancer.drain_s if serves else now
    until = drain_until + balancer.deadline_s
    return _begin(instance, HookPhase.REMOVING, now, until, drain_until=drain_until)


def _begin(
    instance: Instance, phase: HookPhase, now: float, until: float, **fields: Any
) -> Instance:
    return _with(
        instance,
        phase=phase,
        changes=instance.hook.changes + 1,
        submitted=False,
        since=now,
        until=until,
        retry_at=0.0,
        **fields,
    )


def _with(instance: Instance, **fields: Any) -> Instance:
    hook: Hook = instance.hook
    phase = fields.get("phase", hook.phase)
    if phase is not hook.phase and phase not in HOOK_MOVES[hook.phase]:
        raise ValueError(f"a hook can't go from {hook.phase} to {phase}")
    return instance.model_copy(update={"hook": hook.model_copy(update=fields)})


def answered(instance: Instance, change: Change, answer: Answer, now: float) -> Instance:
    """The instance after its driver's answer; unchanged when the change is no longer the one under way."""
    hook = instance.hook
    if hook.phase not in (HookPhase.ADDING, HookPhase.REMOVING):
        return instance
    if change_of(instance).id != change.id:
        return instance
    adding = hook.phase is HookPhase.ADDING
    match answer.state:
        case AnswerState.SUCCESS if adding:
            return _with(instance, phase=HookPhase.ON, failures=0, message="", retry_at=0.0)
        case AnswerState.SUCCESS:
            return _with(instance, phase=HookPhase.OFF, endpoint=None, **_calm(hook, answer))
        case AnswerState.WAITING:
            return instance if hook.submitted else _with(instance, submitted=True)
        case AnswerState.UNKNOWN if hook.submitted:
            return _with(instance, submitted=False)
        case AnswerState.FAILED if adding:
            return _with(instance, phase=HookPhase.OFF, **_failed(hook, answer, now))
        case _:
            return _with(instance, submitted=False, **_failed(hook, answer, now))


def unreachable(instance: Instance, change: Change, error: str, now: float) -> Instance:
    """The driver gave no answer: it is tried again, the same change, a little later."""
    hook = instance.hook
    busy = hook.phase in (HookPhase.ADDING, HookPhase.REMOVING)
    if not busy or change_of(instance).id != change.id:
        return instance
    failed = _failed(hook, Answer(AnswerState.FAILED, error), now)
    return _with(instance, submitted=False, **failed)


def _calm(hook: Hook, answer: Answer) -> dict[str, Any]:
    """After a removal. One that followed a failed adding keeps its words, and the pause before the next try."""
    if hook.failures:
        return {"retry_at": hook.since + _pause_s(hook.failures)}
    return {"retry_at": 0.0, "message": answer.message}


def _failed(hook: Hook, answer: Answer, now: float) -> dict[str, Any]:
    failures = hook.failures + 1
    said = answer.message or answer.state.value
    return {"failures": failures, "retry_at": now + _pause_s(failures), "message": said}


def _pause_s(failures: int) -> float:
    return RETRY_S[min(failures, len(RETRY_S)) - 1]


def forgotten(instance: Instance, balancer: LoadBalancer, now: float) -> Instance:
    """The balancer no longer has an endpoint that it had taken in (it was restarted): add it again."""
    if instance.hook.phase is not HookPhase.ON:
        return instance
    return _adding(instance, balancer, now)


def wake_s(instance: Instance, now: float) -> float | None:
    """Seconds until time alone asks for a step; None when only an event can."""
    hook = instance.hook
    if not instance.hooked:
        return None
    if hook.phase is HookPhase.ON:
        return None
    if hook.phase is HookPhase.OFF:
        ready_at = instance.ready_at()
        if instance.wanted is Wanted.STOP or ready_at is None or not instance.address:
            return None
        return max(0.0, ready_at - now, hook.retry_at - now)
    if hook.submitted:
        return POLL_S
    wait_s = max(0.0, hook.retry_at - now)
    return min(wait_s, hook.until - now) if now < hook.until else wait_s
