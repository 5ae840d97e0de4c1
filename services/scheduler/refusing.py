"""Why instances wait: kept by shape for whoever asks; told in events soon, on changes, and every so often. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

from libs.common.events import model as ev
from services.scheduler.cluster import Draft, Why
from services.scheduler.model import Instance
from services.scheduler.policy import Refusal, Shape
from services.scheduler.settings import SchedulerConfig
from services.scheduler.waiting import Waiting

MOST = 500  # are told in one decision; the others in the next
OFFERS_COME_S = 2.0
"""Who waits for less may be helped by offers that are on their way: a master makes them once a second."""
NEVER = float("-inf")


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
    untold = {
        shape: known.refusal
        for shape, known in why.items()
        if known.told_at == NEVER and shape not in looked_at
    }
    left = MOST
    for shape, refusal in {**untold, **refused}.items():
        known = why.get(shape)
        due = (
            known is None
            or known.refusal.failed.keys() != refusal.failed.keys()
            or now - known.told_at >= config.delayed_every_s
        )
        told_at = now if due or known is None else known.told_at
        for each in list(waiting.ready(shape) if due else waiting.new(shape)):
            if left <= 0 or now - max(each.since, each.not_before) < OFFERS_COME_S:
                told_at = NEVER
                break
            left -= _delayed(draft, each, refusal, now, config)
        why[shape] = Why(refusal, told_at)


def _delayed(
    draft: Draft, instance: Instance, refusal: Refusal, now: float, config: SchedulerConfig
) -> bool:
    if instance.cleanup:
        return False
    message = refusal.nearest
    recent = now - instance.delayed_at < config.delayed_every_s
    if instance.delayed == message and recent:
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
