"""Instances whose host can't be reached: when they are replaced, and who goes on when the host is back. Pure.

`unreachable.keep` of the app says who: `newest`, and the old attempt is killed as soon as it is heard of; or `first`,
and the instance goes on in the old attempt, and its replacement is killed. Only the attempt that was replaced first may
return so, and only while it was not told to end. Its number stays what it was; the next attempt's is a new one.
"""

from __future__ import annotations

from dataclasses import replace

from libs.common.events import model as ev
from libs.mesos.messages import TaskStatus
from services.scheduler import cleaning, runs
from services.scheduler.cluster import Draft
from services.scheduler.model import AgentId, AttemptId, Instance, Kill, State, split_attempt
from services.scheduler.telling import place_of

RETURNED = frozenset({"TASK_STAGING", "TASK_STARTING", "TASK_RUNNING"})


def replace_unreachable(draft: Draft, instance: Instance, now: float) -> None:
    """Its host has been silent for long enough: a new attempt."""
    cleaning.leave_behind(draft, instance, now)
    if instance.run is not None:
        left = replace(instance, strays=(*instance.strays, (instance.attempt, instance.agent)))
        runs.give_up(draft, left, now, f"its host {instance.hostname} could not be reached")
        return
    may_return, host = instance.may_return, instance.return_host
    if instance.spec.unreachable.keep == "first" and not may_return:
        may_return, host = instance.attempt, instance.hostname
    draft.put(
        replace(
            instance,
            state=State.PENDING,
            since=now,
            not_before=now,
            strays=(*instance.strays, (instance.attempt, instance.agent)),
            returned=0,
            may_return=may_return,
            return_host=host,
            message=f"{instance.hostname} is unreachable",
        ),
        ev.ContainerExited(
            **place_of(instance),
            state="TASK_UNREACHABLE",
            reason="REASON_AGENT_REMOVED",
            message=f"{instance.hostname} was unreachable for too long; it is replaced",
        ),
    )


def goes_on(instance: Instance, task: AttemptId, status: TaskStatus) -> bool:
    """Is this the replaced attempt that is to go on, and has it not ended."""
    return task == instance.may_return and not instance.stop and status["state"] in RETURNED


def taken_back(
    draft: Draft, instance: Instance, task: AttemptId, agent: AgentId | None, now: float
) -> Instance:
    """The instance in its old attempt again, whose update is yet to be taken in; its replacement is killed."""
    strays = dict(instance.strays)
    place = agent or strays.get(task, AgentId(""))
    strays.pop(task, None)
    if instance.live:
        strays[instance.attempt] = instance.agent
        draft.act(Kill(instance.attempt, instance.agent or None, instance.spec.stop_grace_s))
    elif instance.state is State.ORPHANED:
        cleaning.leave_behind(draft, instance, now)
    name = split_attempt(task)
    assert name is not None
    back = replace(
        instance,
        state=State.PENDING,
        returned=name[1],
        may_return=AttemptId(""),
        return_host="",
        agent=place,
        hostname=instance.return_host,
        attributes=draft.attributes_of(place),
        address="",
        container="",
        healthy=None,
        since=now,
        not_before=now,
        adopt="",
        orphaned_at=0.0,
        delayed="",
        message="",
        yields_to="",
        strays=tuple(strays.items()),
    )
    draft.put(back)
    staged = replace(back, state=State.STAGED)
    draft.put(staged)
    return staged


def is_over(instance: Instance, task: AttemptId) -> Instance:
    """One of its older attempts has ended."""
    strays = tuple(each for each in instance.strays if each[0] != task)
    after = instance if strays == instance.strays else replace(instance, strays=strays)
    if task == instance.may_return:
        after = replace(after, may_return=AttemptId(""), return_host="")
    return after
