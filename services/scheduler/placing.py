"""From pending instances and offers to launches: what `policy` decides, made true. Pure.

Who can't be placed is told why; offers are held no longer than they help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from libs.common.events import model as ev
from libs.common.task import container_name
from services.scheduler import cleaning, policy
from services.scheduler.cluster import Draft
from services.scheduler.model import (
    EXECUTOR_AMOUNTS,
    AgentId,
    Amounts,
    Decline,
    Instance,
    Launch,
    Offer,
    OfferId,
    Revive,
    SchedulerConfig,
    State,
    Suppress,
    attempt_id,
)
from services.scheduler.tasks import TaskFactory

NEW_REVIVE_S = 0.05
REVIVE_EVERY_S = 1.0  # the master's own allocation cycle
IDLE_REFUSE_S = 3600.0  # REVIVE clears it as soon as there is something to place


def place_pending(draft: Draft, now: float, config: SchedulerConfig, tasks: TaskFactory) -> None:
    """Place what waits on the offers there are, and ask for more or for none."""
    waiting = [
        each
        for each in draft.watched()
        if each.state in (State.PENDING, State.ORPHANED)
        and not _held_back(each)
        and not (each.cleanup and each.not_before > now)  # nobody is asked for offers meanwhile
    ]
    pending = list({each.id: each for each in waiting if each.not_before <= now}.values())
    offers = _by_agent(draft.volatile.offers)
    if pending and offers:
        result = policy.place(
            [_need(each) for each in pending],
            _candidates(draft, offers, pending, now),
            _siblings(draft, pending),
        )
        _launch(draft, result, offers, now, tasks)
        for each in pending:
            if each.id in result.refused and not each.cleanup:
                _delayed(draft, each, result.refused[each.id], len(offers), now, config)
    unplaced = [each for each in pending if not _launched(draft, each)]
    cleaning.put_off(draft, unplaced, now)
    _offer_flow(draft, waiting, unplaced, now, config)


def _launched(draft: Draft, instance: Instance) -> bool:
    current = draft.get(instance.id)
    return current is not None and current.state is State.STAGED


def _held_back(instance: Instance) -> bool:
    return instance.stop and instance.state is State.PENDING


def _need(instance: Instance) -> policy.Need:
    pin = instance.agent if instance.state is State.ORPHANED else None
    host = instance.hostname if instance.cleanup else ""
    return policy.Need(instance.id, instance.app, instance.spec, pin, host)


def _by_agent(offers: Mapping[OfferId, Offer]) -> dict[AgentId, list[Offer]]:
    grouped: dict[AgentId, list[Offer]] = {}
    for offer in offers.values():
        grouped.setdefault(offer.agent, []).append(offer)
    return grouped


def _candidates(
    draft: Draft, offers: Mapping[AgentId, list[Offer]], pending: list[Instance], now: float
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
        known = draft.volatile.full.get(agent)
        full = known is not None and now < known.until
        first = mine[0]
        candidates.append(policy.Candidate(agent, first.hostname, first.attributes, free, full))
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
