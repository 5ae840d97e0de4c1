"""The scheduler's decisions. Pure: `decide(cluster, inputs, now, config) -> Draft`; nothing here waits or remembers.

The service saves the draft, commits it, and only then does its actions: what Mesos is told is always in the store
already (save before act), and an update is acknowledged only after what it says is saved.

Reading order: `decide` → the inputs (`_want`, `_unwant`, `_offers`, `_update`) → what time brings (`_watch`) →
placement (`placing.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from libs.mesos import events as mesos
from services.scheduler import cleaning, ending, networks, nodes, returning, roles, telling, updates
from services.scheduler.cluster import Cluster, Draft
from services.scheduler.jobs import core as jobs
from services.scheduler.jobs.asking import ask
from services.scheduler.jobs.model import JobAsked
from services.scheduler.jobs.warming import prepare
from services.scheduler.ledger import bu_of
from services.scheduler.model import (
    Acknowledge,
    Agent,
    AgentId,
    Instance,
    InstanceId,
    Kill,
    NodeSet,
    Offer,
    OfferId,
    Recall,
    Reconcile,
    ReleaseBreaker,
    Reregister,
    Retell,
    State,
    Tick,
    Unwant,
    Want,
    changed,
    split_attempt,
)
from services.scheduler.networks import Pools
from services.scheduler.placing import place_pending
from services.scheduler.renewing import place_anew
from services.scheduler.roster import Roster
from services.scheduler.rounds import inhabited
from services.scheduler.settings import SchedulerConfig
from services.scheduler.tasks import EXECUTOR_ID, TaskFactory, parse_offer

Input = (
    Want
    | Unwant
    | Retell
    | Tick
    | Recall
    | ReleaseBreaker
    | Reregister
    | Pools
    | NodeSet
    | JobAsked
    | mesos.Subscribed
    | mesos.Disconnected
    | mesos.Offers
    | mesos.Rescind
    | mesos.Failure
    | mesos.Update
)

IMPLICIT_AFTER_S = 5.0
UNKNOWN_GRACE_S = 2.0


def decide(
    cluster: Cluster,
    inputs: Iterable[Input],
    now: float,
    config: SchedulerConfig,
    tasks: TaskFactory,
) -> Draft:
    """What a batch of inputs leads to. Changes nothing but the returned draft."""
    draft = Draft(cluster)
    for each in inputs:
        _take(draft, each, now, config)
    jobs.turn(draft, now, config)
    _watch(draft, now, config)
    jobs.settle(draft, now, config)  # what time has ended
    prepare(draft, now, config.jobs)
    _breaker(draft, now, config)
    if draft.volatile.subscribed:
        place_pending(draft, now, config, tasks)
    if draft.heard:
        draft.act(Acknowledge(tuple(draft.heard)))
    return draft


def _take(draft: Draft, each: Input, now: float, config: SchedulerConfig) -> None:
    match each:
        case Want(instance):
            _want(draft, instance, now, config)
        case Unwant():
            _unwant(draft, each, now)
        case Retell():
            telling.retell(draft, each)
        case mesos.Subscribed():
            _subscribed(draft, now)
        case mesos.Disconnected():
            draft.volatile.subscribed = False
            draft.volatile.drop_all()
        case mesos.Offers(offers):
            _offers(draft, [parse_offer(offer, now) for offer in offers], now, config)
        case mesos.Rescind(offer_id):
            draft.volatile.drop(OfferId(offer_id))
        case mesos.Failure(agent, executor, _):
            _failed(draft, agent, executor)
        case mesos.Update(status):
            updates.update(draft, status, now, config)
        case Recall(ended):
            _recall(draft, ended)
        case ReleaseBreaker():
            draft.volatile.breaker_open = False
            _kill_unknown(draft)
        case Reregister():
            place_anew(draft, now)
        case Pools():
            coming = chain(draft.in_state(State.STAGED), draft.in_state(State.STARTING))
            draft.volatile.networks = networks.told(each, coming, now)
        case NodeSet():
            nodes.set_node(draft, each)
        case JobAsked():
            ask(draft, each, now, config)
        case Tick():
            nodes.ask_to_move(draft)


# -- inputs --------------------------------------------------------------------------------------------


def _want(draft: Draft, instance: Instance, now: float, config: SchedulerConfig) -> None:
    if draft.get(instance.id) is None and instance.id not in draft.cluster.ended:
        spec = config.within(bu_of(instance), instance.spec)
        draft.put(changed(instance, {"spec": spec, "state": State.PENDING, "since": now}))


def _unwant(draft: Draft, unwant: Unwant, now: float) -> None:
    instance = draft.get(unwant.id)
    if instance is None:
        if unwant.id not in draft.cluster.ended:
            # Its request is still on the way: the tombstone makes that one a no-op.
            telling.bury(draft, unwant, now)
    elif instance.state is State.PENDING:
        ending.end(draft, replace(instance.asked_by(unwant), stop=True), now, unwant.reason)
    elif not instance.stop and instance.state is not State.ENDED:
        draft.put(replace(instance.asked_by(unwant), stop=True, message=unwant.reason))
    elif unwant.direct_until > instance.direct_until and instance.state is not State.ENDED:
        draft.put(instance.asked_by(unwant))


def _subscribed(draft: Draft, now: float) -> None:
    """First ask for each task by name, then for all: those nobody knows come with the second answer."""
    volatile = draft.volatile
    volatile.subscribed = True
    volatile.subscribed_at = now
    volatile.suppressed = volatile.spared = False
    volatile.revived_at = now
    volatile.offers.clear()
    volatile.waited.clear()
    volatile.kept_for.clear()
    volatile.executors.clear()
    # Who is there says so by its first offer; where something of ours is, we know it already.
    volatile.roster = Roster()
    volatile.roster.expect(inhabited(draft), draft.ours_on)
    volatile.killed.clear()
    volatile.unknown.clear()
    volatile.lost.clear()
    known = [each for each in draft.cluster.instances.values() if each.live]
    strays = [each for one in draft.cluster.instances.values() for each in one.strays]
    if known or strays:
        named = [(each.attempt, each.agent or None) for each in known]
        draft.act(Reconcile((*named, *((task, agent or None) for task, agent in strays))))
    volatile.reconcile_at = now + IMPLICIT_AFTER_S


def _failed(draft: Draft, agent: str | None, executor: str | None) -> None:
    volatile = draft.volatile
    if agent is None:
        return
    gone = AgentId(agent)
    if executor is None and gone in volatile.roster.rows.index:
        volatile.lost.add(gone)
    if executor in (None, EXECUTOR_ID) and gone in volatile.executors:
        volatile.executors.discard(gone)  # an offer that is held leaves room for the next one
        volatile.roster.dirty.add(gone)


def _offers(draft: Draft, offers: Sequence[Offer], now: float, config: SchedulerConfig) -> None:
    fresh = [offer for offer in offers if offer.id not in draft.volatile.offers]
    draft.volatile.lost.difference_update(offer.agent for offer in fresh)
    fresh = roles.sort_out(draft, fresh, now, config)
    draft.volatile.roster.add(fresh, draft.ours_on)
    for offer in fresh:
        draft.volatile.offers[offer.id] = offer
        draft.volatile.agents[offer.agent] = Agent(
            offer.agent, offer.hostname, offer.attributes, offer.free, offer.received_at
        )


# -- what time brings ----------------------------------------------------------------------------------


def _watch(draft: Draft, now: float, config: SchedulerConfig) -> None:
    # Time in which nobody could act does not count.
    able_since = draft.volatile.subscribed_at if draft.volatile.subscribed else now
    # A host may have come back meanwhile: by then, reconciliation has said so.
    settled = now - able_since >= ending.SETTLE_S
    due = {
        State.STAGED: now - config.staged_timeout_s,
        State.UNREACHABLE: now,  # all of them: each app has a patience of its own
        State.ORPHANED: now - config.adoption_deadline_s,
    }
    for instance in draft.due(due):
        age_s = now - instance.since
        orphaned_s = now - max(instance.orphaned_at, able_since)
        match instance.state:
            case State.PENDING if instance.stop:
                ending.end(draft, instance, now, instance.message)
            case State.UNREACHABLE if age_s >= config.unreachable_after_s and instance.stop:
                # Nobody waits for a host that may never come back; if it does, the task is killed.
                cleaning.leave_behind(draft, instance, now)
                ending.end(draft, instance, now, f"{instance.hostname} is unreachable")
                continue
            case State.UNREACHABLE if settled and age_s >= instance.spec.unreachable.patience_s(
                config.unreachable_after_s
            ):
                returning.replace_unreachable(draft, instance, now)
            case State.ORPHANED if orphaned_s >= config.adoption_deadline_s:
                ending.give_up_adoption(draft, instance, now)
            case State.STAGED if age_s >= config.staged_timeout_s:
                _ask(draft, instance, now, config)
            case _:
                pass
        if instance.ending and instance.live:
            kill(draft, instance, now, config)
    if draft.volatile.subscribed and now >= draft.volatile.reconcile_at:
        draft.act(Reconcile())
        draft.volatile.reconcile_at = now + config.reconcile_interval_s


def _ask(draft: Draft, instance: Instance, now: float, config: SchedulerConfig) -> None:
    asked = draft.volatile.asked
    if now - asked.get(instance.id, float("-inf")) >= config.staged_timeout_s:
        asked[instance.id] = now
        draft.act(Reconcile(((instance.attempt, instance.agent or None),)))


def kill(draft: Draft, instance: Instance, now: float, config: SchedulerConfig) -> None:
    """Ask for the kill of an unwanted task, again and again until it is seen to end."""
    killed = draft.volatile.killed
    if not draft.volatile.subscribed:
        return
    if now - killed.get(instance.id, float("-inf")) >= config.kill_retry_s:
        killed[instance.id] = now
        draft.act(Kill(instance.attempt, instance.agent or None, instance.spec.stop_grace_s))


def _breaker(draft: Draft, now: float, config: SchedulerConfig) -> None:
    """Tasks of instances that are not stored wait for a person, or for their own end.

    We save before we launch, so the store has been lost or has gone back in time, and that must not kill a fleet.
    """
    volatile = draft.volatile
    if not volatile.unknown and now - volatile.subscribed_at >= ending.SETTLE_S:
        volatile.breaker_open = False
    if (
        not volatile.unknown
        or volatile.breaker_open
        or now - volatile.unknown_since < UNKNOWN_GRACE_S
    ):
        return
    cluster = draft.cluster
    empty = not cluster.instances and not cluster.ended
    if empty or len(volatile.unknown) > config.breaker_limit:
        volatile.breaker_open = True
    else:
        _kill_unknown(draft)


def _recall(draft: Draft, ended: Mapping[InstanceId, int]) -> None:
    """These tasks are no strangers: their instances have ended."""
    for attempt, agent in list(draft.volatile.unknown.items()):
        name = split_attempt(attempt)
        if name is not None and name[0] in ended:
            del draft.volatile.unknown[attempt]
            draft.act(Kill(attempt, agent, updates.STRAY_GRACE_S))


def _kill_unknown(draft: Draft) -> None:
    for attempt, agent in draft.volatile.unknown.items():
        draft.act(Kill(attempt, agent, updates.STRAY_GRACE_S))
    draft.volatile.unknown.clear()
