"""The scheduler's decisions. Pure: `decide(cluster, inputs, now, config) -> Draft`; nothing here waits or remembers.

The service saves the draft, commits it, and only then does its actions: what Mesos is told is always in the store
already (save before act), and an update is acknowledged only after what it says is saved.

Reading order: `decide` → the inputs (`_want`, `_unwant`, `_offers`, `_update`) → what time brings (`_watch`) →
placement (`_place`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from libs.common.events import model as ev
from libs.common.task import container_name
from libs.mesos import events as mesos
from services.scheduler import policy, updates
from services.scheduler.cluster import Cluster, Draft
from services.scheduler.model import (
    EXECUTOR_AMOUNTS,
    Agent,
    AgentId,
    Amounts,
    Decline,
    Instance,
    Kill,
    Launch,
    Offer,
    OfferId,
    Reconcile,
    ReleaseBreaker,
    Retell,
    Revive,
    SchedulerConfig,
    State,
    Suppress,
    Tick,
    Unwant,
    Want,
    attempt_id,
)
from services.scheduler.tasks import TaskFactory, parse_offer

Input = (
    Want
    | Unwant
    | Retell
    | Tick
    | ReleaseBreaker
    | mesos.Subscribed
    | mesos.Disconnected
    | mesos.Offers
    | mesos.Rescind
    | mesos.Update
)

IMPLICIT_AFTER_S = 5.0
UNKNOWN_GRACE_S = 2.0
NEW_REVIVE_S = 0.05
REVIVE_EVERY_S = 1.0  # the master's own allocation cycle
IDLE_REFUSE_S = 3600.0  # REVIVE clears it as soon as there is something to place


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
    _watch(draft, now, config)
    _breaker(draft, now, config)
    if draft.volatile.subscribed:
        _place(draft, now, config, tasks)
    return draft


def _take(draft: Draft, each: Input, now: float, config: SchedulerConfig) -> None:
    match each:
        case Want(instance):
            _want(draft, instance, now)
        case Unwant():
            _unwant(draft, each, now)
        case Retell(instance):
            updates.retell(draft, instance)
        case mesos.Subscribed():
            _subscribed(draft, now)
        case mesos.Disconnected():
            draft.volatile.subscribed = False
            draft.volatile.offers.clear()
        case mesos.Offers(offers):
            _offers(draft, (parse_offer(offer, now) for offer in offers))
        case mesos.Rescind(offer_id):
            draft.volatile.offers.pop(OfferId(offer_id), None)
        case mesos.Update(status):
            updates.update(draft, status, now, config)
        case ReleaseBreaker():
            draft.volatile.breaker_open = False
            _kill_unknown(draft)
        case Tick():
            pass


# -- inputs --------------------------------------------------------------------------------------------


def _want(draft: Draft, instance: Instance, now: float) -> None:
    if draft.get(instance.id) is None and instance.id not in draft.cluster.ended:
        draft.put(replace(instance, state=State.PENDING, since=now))


def _unwant(draft: Draft, unwant: Unwant, now: float) -> None:
    instance = draft.get(unwant.id)
    if instance is None:
        if unwant.id not in draft.cluster.ended:
            # Its request is still on the way: the tombstone makes that one a no-op.
            updates.bury(draft, unwant, now)
    elif instance.state is State.PENDING:
        updates.end(draft, replace(instance, stop=True), now, unwant.reason)
    elif not instance.stop and instance.state is not State.ENDED:
        draft.put(replace(instance, stop=True, message=unwant.reason))


def _subscribed(draft: Draft, now: float) -> None:
    """First ask for each task by name, then for all: those nobody knows come with the second answer."""
    volatile = draft.volatile
    volatile.subscribed = True
    volatile.subscribed_at = now
    volatile.suppressed = False
    volatile.revived_at = now
    volatile.offers.clear()
    volatile.killed.clear()
    volatile.unknown.clear()
    known = [each for each in draft.cluster.instances.values() if each.live]
    strays = [each for one in draft.cluster.instances.values() for each in one.strays]
    if known or strays:
        named = [(each.attempt, each.agent or None) for each in known]
        draft.act(Reconcile((*named, *((task, agent or None) for task, agent in strays))))
    volatile.reconcile_at = now + IMPLICIT_AFTER_S


def _offers(draft: Draft, offers: Iterable[Offer]) -> None:
    for offer in offers:
        draft.volatile.offers[offer.id] = offer
        draft.volatile.agents[offer.agent] = Agent(
            offer.agent, offer.hostname, offer.attributes, offer.free, offer.received_at
        )


# -- what time brings ----------------------------------------------------------------------------------


def _watch(draft: Draft, now: float, config: SchedulerConfig) -> None:
    # Time in which nobody could act does not count.
    able_since = draft.volatile.subscribed_at if draft.volatile.subscribed else now
    for instance in list(draft.watched()):
        age_s = now - instance.since
        orphaned_s = now - max(instance.orphaned_at, able_since)
        match instance.state:
            case State.PENDING if instance.stop:
                updates.end(draft, instance, now, instance.message)
            case State.UNREACHABLE if age_s >= config.unreachable_after_s and instance.stop:
                # Nobody waits for a host that may never come back; if it does, the task is killed.
                updates.end(draft, instance, now, f"{instance.hostname} is unreachable")
                continue
            case State.UNREACHABLE if age_s >= config.unreachable_after_s:
                updates.replace_unreachable(draft, instance, now)
            case State.ORPHANED if orphaned_s >= config.adoption_deadline_s:
                updates.give_up_adoption(draft, instance, now)
            case State.STAGED if age_s >= config.staged_timeout_s:
                _ask(draft, instance, now, config)
            case _:
                pass
        if instance.stop and instance.live:
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
    """A few unknown tasks are killed; many, or any beside an empty store, wait for a person.

    A lost database must not kill a fleet.
    """
    volatile = draft.volatile
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


def _kill_unknown(draft: Draft) -> None:
    for attempt, agent in draft.volatile.unknown.items():
        draft.act(Kill(attempt, agent, 10.0))
    draft.volatile.unknown.clear()


# -- placement -----------------------------------------------------------------------------------------


def _place(draft: Draft, now: float, config: SchedulerConfig, tasks: TaskFactory) -> None:
    waiting = [
        each
        for each in draft.watched()
        if each.state in (State.PENDING, State.ORPHANED) and not _held_back(each)
    ]
    pending = list({each.id: each for each in waiting if each.not_before <= now}.values())
    offers = _by_agent(draft.volatile.offers)
    if pending and offers:
        result = policy.place(
            [_need(each) for each in pending],
            _candidates(draft, offers, pending),
            _siblings(draft, pending),
        )
        _launch(draft, result, offers, now, tasks)
        for each in pending:
            if each.id in result.refused:
                _delayed(draft, each, result.refused[each.id], len(offers), now, config)
    unplaced = [each for each in pending if not _launched(draft, each)]
    _offer_flow(draft, waiting, unplaced, now, config)


def _launched(draft: Draft, instance: Instance) -> bool:
    current = draft.get(instance.id)
    return current is not None and current.state is State.STAGED


def _held_back(instance: Instance) -> bool:
    return instance.stop and instance.state is State.PENDING


def _need(instance: Instance) -> policy.Need:
    pin = instance.agent if instance.state is State.ORPHANED else None
    return policy.Need(instance.id, instance.app, instance.spec, pin)


def _by_agent(offers: Mapping[OfferId, Offer]) -> dict[AgentId, list[Offer]]:
    grouped: dict[AgentId, list[Offer]] = {}
    for offer in offers.values():
        grouped.setdefault(offer.agent, []).append(offer)
    return grouped


def _candidates(
    draft: Draft, offers: Mapping[AgentId, list[Offer]], pending: list[Instance]
) -> list[policy.Candidate]:
    """Agents with what their offers add up to, less what Mesos does not know to be taken."""
    asking = {each.id for each in pending}
    candidates = []
    for agent, mine in offers.items():
        free = sum((offer.free for offer in mine), Amounts())
        there = draft.on_agent(agent)
        if not any(each.live for each in there):
            free = free - EXECUTOR_AMOUNTS
        for each in there:
            if each.state is State.ORPHANED and each.id not in asking:
                free = free - Amounts.of(each.spec)
        candidates.append(policy.Candidate(agent, mine[0].hostname, mine[0].attributes, free))
    return candidates


def _siblings(draft: Draft, pending: list[Instance]) -> dict[str, list[dict[str, str]]]:
    """Where the live instances of the apps with constraints are."""
    apps = {each.app for each in pending if each.spec.constraints}
    where: dict[str, list[dict[str, str]]] = {app: [] for app in apps}
    if not apps:
        return where
    for instance in draft.cluster.instances.values():
        current = draft.get(instance.id)
        if current is None or current.app not in apps or not current.live or current.stop:
            continue
        agent = draft.volatile.agents.get(current.agent)
        attributes = dict(agent.attributes) if agent else {}
        where[current.app].append({**attributes, "hostname": current.hostname})
    return where


def _launch(
    draft: Draft,
    result: policy.Placement,
    offers: Mapping[AgentId, list[Offer]],
    now: float,
    tasks: TaskFactory,
) -> None:
    by_agent: dict[AgentId, list[Instance]] = {}
    for instance_id, agent in result.placed.items():
        instance = draft.get(instance_id)
        assert instance is not None
        by_agent.setdefault(agent, []).append(instance)
    for agent, instances in by_agent.items():
        mine = offers[agent]
        launched = [_staged(each, mine[0], now, tasks.cluster) for each in instances]
        for each in launched:
            draft.put(each, _accepted(each, mine[0]))
        infos = tuple(tasks.task_info(each) for each in launched)
        draft.act(Launch(tuple(offer.id for offer in mine), agent, infos))
        for offer in mine:
            del draft.volatile.offers[offer.id]


def _staged(instance: Instance, offer: Offer, now: float, cluster: str) -> Instance:
    fresh = container_name(cluster, attempt_id(instance.id, instance.generation + 1))
    return replace(
        instance,
        state=State.STAGED,
        generation=instance.generation + 1,
        agent=offer.agent,
        hostname=offer.hostname,
        since=now,
        healthy=None,
        delayed="",
        message="",
        address=instance.address if instance.adopt else "",
        container=instance.adopt or fresh,
    )


def _accepted(instance: Instance, offer: Offer) -> ev.OfferAccepted:
    return ev.OfferAccepted(
        instance=instance.id,
        app=instance.app,
        attempt=instance.attempt,
        offer=offer.id,
        agent=offer.agent,
        hostname=offer.hostname,
        zone=offer.attributes.get("zone", ""),
        network=instance.spec.network,
        cpus=instance.spec.resources.cpus,
        mem_mib=instance.spec.resources.mem_mib,
    )


def _delayed(
    draft: Draft,
    instance: Instance,
    failed: Mapping[str, int],
    agents: int,
    now: float,
    config: SchedulerConfig,
) -> None:
    """Say why an instance waits: at once, when the reason changes, and every so often."""
    reasons = ", ".join(f"{count} lack {name}" for name, count in sorted(failed.items()))
    message = f"of {agents} agents with offers {reasons or 'none has room'}"
    if instance.delayed == message and now - instance.delayed_at < config.delayed_every_s:
        return
    draft.put(
        replace(instance, delayed=message, delayed_at=now),
        ev.PlacementDelayed(
            instance=instance.id,
            app=instance.app,
            agents=agents,
            failed=dict(failed),
            message=message,
        ),
    )


def _offer_flow(
    draft: Draft,
    waiting: list[Instance],
    unplaced: list[Instance],
    now: float,
    config: SchedulerConfig,
) -> None:
    """Hold offers no longer than it helps; ask for none when nothing waits, and for some when something does."""
    volatile = draft.volatile
    if not waiting or all(_launched(draft, each) for each in waiting):
        if volatile.offers:
            draft.act(Decline(tuple(volatile.offers), IDLE_REFUSE_S))
            volatile.offers.clear()
        if not volatile.suppressed:
            draft.act(Suppress())
            volatile.suppressed = True
        return
    stale = [o.id for o in volatile.offers.values() if now - o.received_at >= config.offer_hold_s]
    if stale:
        draft.act(Decline(tuple(stale), config.decline_s))
        for offer_id in stale:
            del volatile.offers[offer_id]
    # Something new asks at once; what has been waiting for long asks at Mesos' own pace.
    pause_s = NEW_REVIVE_S if any(each.version == 0 for each in unplaced) else REVIVE_EVERY_S
    starving = unplaced and not volatile.offers and now - volatile.revived_at >= pause_s
    if volatile.suppressed or starving:
        draft.act(Revive())
        volatile.suppressed = False
        volatile.revived_at = now
