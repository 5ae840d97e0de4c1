"""Why instances wait: kept by shape for whoever asks; told in events soon, on changes, and every so often. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Set
from dataclasses import replace
from operator import itemgetter

from libs.common.events import model as ev
from services.scheduler.cluster import Draft, Why
from services.scheduler.model import Instance
from services.scheduler.policy import Refusal, Shape
from services.scheduler.policy.explain import NOTHING_YET, OFFERED_NOW
from services.scheduler.settings import SchedulerConfig
from services.scheduler.waiting import Waiting

MOST = 500  # are told in one decision; the others in the next
MOST_LOOKED_AT = (
    100  # without offers, in one decision: a third of a millisecond each at 5,000 agents
)
LOOK_EVERY_S = 1.0
OFFERS_COME_S = 2.0
"""Who waits for less may be helped by offers that are on their way: a master makes them once a second. It is told in no
event that it waits, but to whoever asks."""


def unexplained(draft: Draft, waiting: Waiting, now: float) -> list[Shape]:
    """While nobody offers anything: shapes whose time has come, and that have not been looked at just now.

    No more of them than one decision has time for, those that were looked at the longest ago first.
    """
    why, found = draft.volatile.why, []
    for shape in waiting.shapes():
        known = why.get(shape)
        if known is not None and now - known.at < LOOK_EVERY_S:
            continue
        if any(True for _ in waiting.ready(shape)):
            found.append((known.at if known is not None else 0.0, shape))
    return [shape for _, shape in heapq.nsmallest(MOST_LOOKED_AT, found, key=itemgetter(0))]


def begins(draft: Draft, now: float) -> Refusal | None:
    """Why nothing can be placed just after a subscription: what there is is not known before it has been offered."""
    if now - draft.volatile.subscribed_at >= OFFERS_COME_S:
        return None
    agents = len(draft.volatile.roster.rows)
    return Refusal(agents, {OFFERED_NOW: agents} if agents else {}, NOTHING_YET)


def tell_paced(draft: Draft, waiting: Waiting, now: float, config: SchedulerConfig) -> None:
    """The launch rate has let no more go: so those wait that nothing else is known to be in the way of.

    Kept for whoever asks, and told in no event: it is over in a moment, and there may be thousands.
    """
    why, agents = draft.volatile.why, len(draft.volatile.roster.rows)
    told = f"the cluster launches no more than {config.launches_per_s:g} a second"
    refusal = Refusal(agents, {"launch rate": agents}, told)
    for shape in waiting.shapes():
        known = why.get(shape)
        if known is not None and now - known.at < OFFERS_COME_S:
            failed = known.refusal.failed
            if failed and OFFERED_NOW not in failed:  # and offers there are, by now
                continue
        if any(True for _ in waiting.ready(shape)):
            why[shape] = Why(refusal, now, told=True, at=now)


def tell(
    draft: Draft,
    waiting: Waiting,
    refused: Mapping[Shape, Refusal],
    looked_at: Set[Shape],
    now: float,
    config: SchedulerConfig,
) -> None:
    """Keep why each of the refused shapes waits, and tell those that do not know it yet."""
    why, shapes = draft.volatile.why, waiting.shapes()
    for shape in [each for each in why if each not in shapes or each in looked_at - refused.keys()]:
        del why[shape]
    later = {s: known.refusal for s, known in why.items() if not known.told and s not in looked_at}
    left = MOST
    for shape, refusal in {**later, **refused}.items():
        known = why.get(shape)
        if (
            known is None
            or known.refusal.failed.keys() != refusal.failed.keys()
            or now - known.since >= config.delayed_every_s
        ):
            known = Why(refusal, now, told=False, at=now)
        told = True
        for each in list(waiting.new(shape) if known.told else waiting.ready(shape)):
            if left <= 0 or now - max(each.since, each.not_before) < OFFERS_COME_S:
                told = False  # the others in a later decision
                break
            left -= _delayed(draft, each, refusal, known.since, now, config)
        why[shape] = Why(refusal, known.since, told, known.at if shape in later else now)


def _delayed(
    draft: Draft,
    instance: Instance,
    refusal: Refusal,
    since: float,
    now: float,
    config: SchedulerConfig,
) -> bool:
    """Tell one, unless it was told since then, or the same not long ago."""
    if instance.cleanup:
        return False
    message = refusal.nearest
    recent = now - instance.delayed_at < config.delayed_every_s
    if instance.delayed and (
        instance.delayed_at >= since or (instance.delayed == message and recent)
    ):
        return False
    draft.put(
        replace(instance, delayed=message, delayed_at=now),
        ev.PlacementDelayed(
            instance=instance.id,
            app=instance.app,
            agents=refusal.agents,
            failed=dict(refusal.failed),
            message=message,
        ),
    )
    return True
