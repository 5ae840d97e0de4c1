"""Instances that are asked to leave their host, which is drained: replaced as a release would be. Pure.

Between deployments only: a deployment replaces instances by itself, ends, and whoever is still to move moves then. No
more of an app are missing at once than its strategy allows, or its disruption budget where that is more; those who are
missing for any other reason count. What is forced goes at once, whatever else is going on.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.deployer.model import FORCED, App, Instance
from services.deployer.rolling import MAX_BIRTHS, Make, Stop, births, replaced, surplus


@dataclass(frozen=True, slots=True)
class Moves:
    """What to make and stop now; `recheck_s`: when time alone changes that."""

    make: tuple[Make, ...]
    stop: tuple[Stop, ...]
    recheck_s: float | None


def allowed_missing(app: App) -> int:
    """Instances that may be missing while others are moved."""
    return max(app.spec.strategy.unavailable(app.wanted), app.spec.budget(app.wanted))


def moves(app: App, instances: tuple[Instance, ...], may_make: bool, now: float) -> Moves:
    """The next step of moving those that are asked to; `may_make`: nothing holds births back."""
    run = [each for each in instances if each.runs_for_us]
    stay = tuple(each for each in run if not each.leaving)
    go = tuple(each for each in run if each.leaving)
    stopping = tuple(each for each in instances if each.exists and not each.runs_for_us)
    ready = frozenset(each.id for each in run if each.is_ready(now))
    existing = len(run) + len(stopping)
    room = app.wanted + app.spec.strategy.surge(app.wanted) - existing
    count = min(app.wanted - len(stay), room, MAX_BIRTHS) if may_make else 0
    make: tuple[Make, ...] = ()
    if app.release is not None and count > 0:
        make = births(instances, app.release, count)
    unready = sum(each.id not in ready for each in stay)
    floor = max(0, app.wanted - allowed_missing(app))
    stop: list[Stop] = [
        (each.id, f"more than the {app.wanted} wanted") for each in surplus(stay, ready, app.wanted)
    ]
    stop += [(each.id, each.leave_reason) for each in replaced(stay, go, ready, unready, floor)]
    waits = [at - now for each in run if (at := each.ready_at()) is not None and at > now]
    return Moves(make, tuple(stop), min(waits, default=None))


def forced(instances: tuple[Instance, ...]) -> tuple[Stop, ...]:
    """Those whose host is out of patience."""
    return tuple(
        (each.id, f"{each.leave_reason}; its deadline has passed")
        for each in instances
        if each.runs_for_us and each.leaving == FORCED
    )
