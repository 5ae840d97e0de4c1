"""What a status update does to an instance. Pure.

The order of states is the attempt's own: an update of an older attempt, or one that would go back, changes
nothing. Whatever it says, the update is acknowledged once the draft is saved.
"""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace

from pydantic import ValidationError

from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.task import TaskReport
from libs.mesos.messages import TaskStatus
from services.scheduler import backing_off, ending, returning, runs
from services.scheduler.cluster import Draft
from services.scheduler.model import (
    AgentId,
    AskAnew,
    AttemptId,
    Instance,
    Kill,
    Reconcile,
    State,
    changed,
    split_attempt,
)
from services.scheduler.settings import SchedulerConfig
from services.scheduler.telling import place_of

STRAY_GRACE_S = 10.0


def update(draft: Draft, status: TaskStatus, now: float, config: SchedulerConfig) -> None:
    """Take one update in."""
    task = AttemptId(status["task_id"]["value"])
    agent = AgentId(status["agent_id"]["value"]) if "agent_id" in status else None
    if status.get("uuid"):
        draft.heard.append(status)
    name = split_attempt(task)
    instance = draft.get(name[0]) if name else None
    if name is None or instance is None or instance.state is State.ENDED:
        known = name is not None and (name[0] in draft.cluster.ended or instance is not None)
        _foreign(draft, task, agent, status, known, now)
    elif returning.goes_on(instance, task, status):
        back = returning.taken_back(draft, instance, task, agent, now)
        _current(draft, back, status, now, config)
    elif name[1] != instance.number and name[1] <= instance.generation:
        _older(draft, instance, task, agent, status)
    elif name[1] > instance.generation and status.get("reason") == ending.RECONCILED:
        _newer(draft, instance, name[1], agent, status, now, config)
    elif name[1] > instance.generation:
        # A host's word is not enough to give up an attempt on another: the master says whether there is such a task.
        draft.act(Reconcile(((task, agent),)))
    elif instance.live or _ended_after_all(instance, status):
        _current(draft, instance, status, now, config)


def _ended_after_all(instance: Instance, status: TaskStatus) -> bool:
    """It waits to be taken over, and its executor has seen the end: another attempt would only find nothing.

    So it is when reconciliation, which knows no exit code, is faster than an update that is told again.
    """
    seen = status.get("source") == "SOURCE_EXECUTOR" and status["state"] in ending.ENDED_STATES
    return instance.state is State.ORPHANED and instance.run is not None and seen


def _foreign(
    draft: Draft,
    task: AttemptId,
    agent: AgentId | None,
    status: TaskStatus,
    known: bool,
    now: float,
) -> None:
    """A task of no instance that we have: an ended one's is killed, any other goes through the breaker."""
    volatile = draft.volatile
    if status["state"] in ending.ENDED_STATES:
        volatile.unknown.pop(task, None)
    elif known and status["state"] == "TASK_UNREACHABLE":
        pass  # a kill would only be answered by this same word; it is killed when its host is back and says so
    elif known:
        draft.act(Kill(task, agent, STRAY_GRACE_S))
    else:
        if not volatile.unknown:
            volatile.unknown_since = now
        volatile.unknown[task] = agent


def _older(
    draft: Draft, instance: Instance, task: AttemptId, agent: AgentId | None, status: TaskStatus
) -> None:
    """An attempt that has been replaced: it must end."""
    if status["state"] in ending.ENDED_STATES:
        after = returning.is_over(instance, task)
        if after != instance:
            draft.put(after)
    elif status["state"] != "TASK_UNREACHABLE":
        draft.act(Kill(task, agent, STRAY_GRACE_S))


def _newer(
    draft: Draft,
    instance: Instance,
    generation: int,
    agent: AgentId | None,
    status: TaskStatus,
    now: float,
    config: SchedulerConfig,
) -> None:
    """An attempt that we have forgotten: we save before we launch, so the store has gone back in time.

    It is the current one, wherever it is; the one that we took for that is over, and killed should it turn up.
    """
    place = agent or AgentId("")
    host = draft.volatile.agents.get(place)
    strays = tuple(each for each in instance.strays if each[0] != status["task_id"]["value"])
    if instance.live:
        strays = (*strays, (instance.attempt, instance.agent))
        draft.act(Kill(instance.attempt, instance.agent or None, STRAY_GRACE_S))
    fresh = replace(
        instance,
        state=State.PENDING,
        generation=generation,
        returned=0,
        may_return=AttemptId(""),
        return_host="",
        agent=place,
        hostname=host.hostname if host else instance.hostname if place == instance.agent else "",
        attributes=draft.attributes_of(place),
        address="",
        container="",
        healthy=None,
        since=now,
        not_before=now,
        adopt="",
        orphaned_at=0.0,
        strays=strays,
    )
    draft.put(fresh)
    if status["state"] not in ending.ENDED_STATES:
        staged = replace(fresh, state=State.STAGED)
        draft.put(staged)
        _current(draft, staged, status, now, config)


def _current(
    draft: Draft, instance: Instance, status: TaskStatus, now: float, config: SchedulerConfig
) -> None:
    state = status["state"]
    report = _report(status)
    if state in ("TASK_STARTING", "TASK_RUNNING"):
        draft.volatile.lost.discard(instance.agent)  # who has nothing to offer is back, too
    if state in ending.ENDED_STATES:
        ending.ended(draft, instance, status, report, now, config)
    elif state == "TASK_UNREACHABLE":
        if instance.state is not State.UNREACHABLE:
            lost = ev.ContainerLost(
                **place_of(instance), reason=status.get("reason", "") or status.get("message", "")
            )
            draft.put(replace(instance, state=State.UNREACHABLE, since=now, healthy=None), lost)
    elif state in ("TASK_STAGING", "TASK_STARTING"):
        # Its host was silent, and is back; or its executor has it.
        back = instance.state is State.UNREACHABLE
        if back or (instance.state is State.STAGED and state == "TASK_STARTING"):
            draft.put(changed(instance, {"state": State.STARTING, "since": now}))
    elif state == "TASK_RUNNING":
        _running(draft, instance, status, report, now, config)


def _running(
    draft: Draft,
    instance: Instance,
    status: TaskStatus,
    report: TaskReport,
    now: float,
    config: SchedulerConfig,
) -> None:
    healthy = status.get("healthy", report.healthy)
    if healthy is None:
        # A reconciliation may carry no health: what was known stays. Without checks, running is healthy.
        healthy = True if not instance.spec.health else instance.healthy
    fresh = instance.state is not State.RUNNING
    after = changed(
        instance,
        {
            "state": State.RUNNING,
            "since": now if fresh or healthy != instance.healthy else instance.since,
            "healthy": healthy,
            # Whoever gets sick is about to be ended: how long it was well is known only now.
            "failures": (
                instance.failures if healthy else backing_off.remembered(instance, now, config)
            ),
            "address": report.address or instance.address,
            "container": report.container or instance.container,
            "adopt": "",
            "orphaned_at": 0.0,
            "attributes": (
                draft.attributes_of(instance.agent)
                if instance.attributes is None
                else instance.attributes
            ),
            "message": instance.message if instance.stop else report.detail,
            "run": runs.begun(instance.run, report, now) if instance.run is not None else None,
        },
    )
    if not after.address:
        draft.act(AskAnew((after.attempt,), after.agent))  # a master keeps no report
    if after == instance:
        return
    if fresh:
        draft.volatile.full.pop(instance.agent, None)
    place = place_of(after)
    events: list[Event] = []
    # A reconciliation may say that it runs before its own update says where.
    located = (after.address, after.container) != (instance.address, instance.container)
    if fresh or located:
        events.append(ev.ContainerStarted(**place))
    if healthy is not None and (fresh or located or healthy != instance.healthy):
        events.append(
            ev.ContainerHealthy(**place)
            if healthy
            else ev.ContainerUnhealthy(**place, message=report.detail)
        )
    draft.put(after, *events)


_NOTHING = TaskReport()


def _report(status: TaskStatus) -> TaskReport:
    data = status.get("data")
    if data:
        try:
            return TaskReport.model_validate_json(b64decode(data))
        except (ValidationError, ValueError):
            pass  # of a newer or foreign executor: its state counts all the same
    return _NOTHING
