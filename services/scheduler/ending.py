"""What the end of an attempt means for its instance. Pure.

It goes on elsewhere, its container is taken over, or it is over: by who says so, why, and what was wanted.
"""

from __future__ import annotations

from dataclasses import replace

from libs.common.events import model as ev
from libs.common.task import TaskReport
from libs.mesos.messages import TERMINAL_STATES, TaskStatus
from services.scheduler import backing_off, cleaning, roles, runs
from services.scheduler.cluster import Draft, Full
from services.scheduler.model import Instance, State
from services.scheduler.settings import SchedulerConfig
from services.scheduler.telling import place_of

# For us an unknown task is an ended one: we save before we launch, so it was launched or never will be.
ENDED_STATES = TERMINAL_STATES | {"TASK_UNKNOWN"}
ADOPT_AGAIN_MOST_S = 10.0  # so long at most between two tries to adopt
SETTLE_S = 10.0
"""After a subscription: by then reconciliation has told of the attempts that we have forgotten, if any."""
RETOLD_S = 80.0
"""An agent tells an end that nobody has acknowledged again, with its exit code: after 10 s, then 20 s, then 40 s.
By then it has been told three times more, of which two may have been lost."""
RECONCILED = "REASON_RECONCILIATION"
OWN_ENDS = frozenset({"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED"})
"""What an executor tells of its own, and a master repeats: when it is asked, or when an agent was away and is back."""
REPEATING = frozenset({RECONCILED, "REASON_AGENT_REREGISTERED"})
GONE_EXECUTOR = "REASON_EXECUTOR_TERMINATED"
GONE_STATES = frozenset({"TASK_GONE", "TASK_GONE_BY_OPERATOR"})
HOST_REASONS = ("REASON_AGENT_", "REASON_SLAVE_")
"""Ends that say nothing of the instance: its host was lost, or Mesos drained it."""
# The executor died, or did not come back to its agent in time: its containers run on.
ORPHANING = frozenset({GONE_EXECUTOR, "REASON_EXECUTOR_REREGISTRATION_TIMEOUT"})


def ended(
    draft: Draft,
    instance: Instance,
    status: TaskStatus,
    report: TaskReport,
    now: float,
    config: SchedulerConfig,
) -> None:
    """The current attempt has ended, or its host is no longer heard of: what comes next?"""
    reason = status.get("reason", "")
    message = report.detail or status.get("message", "")
    misplaced = roles.learn(draft, instance.agent, status, now)
    if status.get("source") != "SOURCE_EXECUTOR":
        draft.volatile.executors.discard(instance.agent)  # it may be gone: offers will say
        draft.volatile.roster.dirty.add(instance.agent)
    if _container_may_run(instance, status):
        since = max(instance.orphaned_at or now, draft.volatile.subscribed_at)
        if now - since >= config.adoption_deadline_s:
            give_up_adoption(draft, instance, now)
            return
        retold_at = _retold_at(instance, status, now)
        orphan = replace(
            instance,
            state=State.ORPHANED,
            since=now,
            adopt=instance.container,
            orphaned_at=instance.orphaned_at or max(now, retold_at),
            not_before=max(
                now + _adopt_again_s(instance, now, config) if instance.adopt else now,
                _settled_at(draft, reason),
                retold_at,
            ),
            message=instance.message if instance.stop else message,
        )
        draft.put(orphan)
        return
    if report.refused and instance.state in (State.STAGED, State.STARTING) and not instance.stop:
        _put_off(draft, instance, message, now, config)
        return
    if instance.yields_to and not instance.stop and instance.live:
        _made_room(draft, instance, status, now, config)
        return
    lost = status["state"] in GONE_STATES or reason.startswith(HOST_REASONS)
    if instance.run is not None:
        settled_at = _settled_at(draft, reason)
        if misplaced:
            runs.never_began(draft, instance, message, settled_at, now)
        else:
            runs.ended(draft, instance, status, report, lost, settled_at, now)
        return
    failures = backing_off.remembered(instance, now, config) + (not (lost or misplaced))
    done = instance.cleanup and status["state"] == "TASK_FINISHED"
    final = instance.stop or done or 0 < config.max_attempts <= failures
    exited = ev.ContainerExited(
        **place_of(instance),
        state=status["state"],
        reason=reason,
        message=message,
        exit_code=report.exit_code,
        wanted=instance.stop,
        final=final,
    )
    after = replace(
        instance,
        state=State.ENDED if final else State.PENDING,
        since=now,
        failures=failures,
        not_before=max(now + backing_off.pause_s(failures, config), _settled_at(draft, reason)),
        healthy=None,
        adopt="",
        orphaned_at=0.0,
        message=message,
    )
    draft.volatile.killed.pop(instance.id, None)
    draft.put(after, exited)


def _put_off(
    draft: Draft, instance: Instance, message: str, now: float, config: SchedulerConfig
) -> None:
    """Its host has no room: no failure of the instance, which goes elsewhere at once; the host is left alone."""
    known = draft.volatile.full.get(instance.agent)
    pause_s = config.full_pause_s if known is None else known.pause_s
    if known is None or now >= known.until:  # several that were on their way count once
        longer_s = min(2 * pause_s, config.full_pause_max_s)
        draft.volatile.full[instance.agent] = Full(now + pause_s, longer_s)
    after = replace(instance, state=State.PENDING, since=now, not_before=now, message=message)
    dropped = ev.ContainerExited(
        **place_of(instance),
        state="TASK_DROPPED",
        reason="REASON_CONTAINER_LAUNCH_FAILED",
        message=message,
        wanted=False,
        final=False,
    )
    draft.put(replace(after, healthy=None, adopt="", orphaned_at=0.0), dropped)


def _made_room(
    draft: Draft, instance: Instance, status: TaskStatus, now: float, config: SchedulerConfig
) -> None:
    """It ended for a more important one, which is no failure of its own; it waits for another place."""
    exited = ev.ContainerExited(
        **place_of(instance),
        state=status["state"],
        reason="REASON_EXECUTOR_PREEMPTED",
        message=instance.message,
        wanted=False,
        final=False,
    )
    draft.volatile.killed.pop(instance.id, None)
    after = replace(
        instance,
        state=State.PENDING,
        since=now,
        not_before=now + config.restart_backoff_s,
        healthy=None,
        yields_to="",
        adopt="",
        orphaned_at=0.0,
    )
    draft.put(after, exited)


def _adopt_again_s(orphan: Instance, now: float, config: SchedulerConfig) -> float:
    """The pause before another try to adopt: a quarter of the time for which nobody could so far."""
    waited_s = now - (orphan.orphaned_at or now)
    return max(config.restart_backoff_s, min(waited_s / 4, ADOPT_AGAIN_MOST_S))


def _settled_at(draft: Draft, reason: str) -> float:
    """When to go on after an end that only reconciliation tells: a later attempt may run that it has yet to tell of."""
    return draft.volatile.subscribed_at + SETTLE_S if reason == RECONCILED else 0.0


def _retold_at(instance: Instance, status: TaskStatus, now: float) -> float:
    """When to go on with a run whose end a master has told of, without what its executor said of it.

    Who looks for it at once finds nothing: it would be given up, and done again.
    """
    repeated = status.get("reason", "") in REPEATING and status["state"] in OWN_ENDS
    return now + RETOLD_S if instance.run is not None and repeated else 0.0


def _container_may_run(instance: Instance, status: TaskStatus) -> bool:
    """The task is over, but nobody has seen its container end: the next attempt takes that over, or starts anew.

    So it is when the executor died, and whenever somebody else than the executor speaks of the end of one that ran.
    """
    if status["state"] == "TASK_GONE_BY_OPERATOR" or instance.cleanup:
        return False
    ran = bool(instance.adopt) or instance.state in (State.RUNNING, State.UNREACHABLE)
    unseen = ran and status.get("source") != "SOURCE_EXECUTOR"
    return unseen or status.get("reason", "") in ORPHANING


def end(draft: Draft, instance: Instance, now: float, reason: str) -> None:
    """An instance without a task is no longer wanted."""
    if instance.run is not None:
        runs.end_unseen(draft, instance, now, reason)
        return
    exited = ev.ContainerExited(
        **place_of(instance), state="TASK_KILLED", reason=reason, wanted=True, final=True
    )
    draft.put(replace(instance, state=State.ENDED, since=now, message=reason), exited)


def give_up_adoption(draft: Draft, instance: Instance, now: float) -> None:
    """Nobody could take the container over in time; its host's executor removes it when it is back."""
    cleaning.leave_behind(draft, instance, now)
    if instance.run is not None:
        runs.give_up(draft, instance, now, "its executor died, and nobody saw its end")
        return
    after = replace(
        instance,
        state=State.ENDED if instance.stop else State.PENDING,
        since=now,
        not_before=now,
        adopt="",
        orphaned_at=0.0,
        healthy=None,
        message="its executor died, and its container was not adopted in time",
    )
    exited = ev.ContainerExited(
        **place_of(instance),
        state="TASK_FAILED",
        reason=GONE_EXECUTOR,
        message=after.message,
        wanted=instance.stop,
        final=instance.stop,
    )
    draft.put(after, exited)
