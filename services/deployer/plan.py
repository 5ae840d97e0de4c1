"""A dry run: what a deployment would change and which steps it would take, by the very core that would take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from libs.common.events import NO_CAUSE
from libs.common.events.model import DeployRequested
from libs.common.spec import AppSpec
from services.deployer import asks
from services.deployer.asks import Facts
from services.deployer.core import Snapshot, decide
from services.deployer.model import (
    App,
    DeployState,
    Instance,
    InstanceId,
    State,
    Wanted,
)

MAX_STEPS = 200
_UNSHOWN = frozenset({"instances"})


@dataclass(frozen=True, slots=True)
class Step:
    """One round of the strategy, if every instance gets ready and stops as it should."""

    make: int
    stop: int
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What would happen. `refused` says why nothing would."""

    refused: str
    release: int | None = None
    wanted: int = 0
    changes: tuple[Mapping[str, Any], ...] = ()
    steps: tuple[Step, ...] = ()
    ends: str = ""
    spec: AppSpec | None = None  # of the instances that would be made


def plan(
    app: App,
    instances: Iterable[Instance],
    request: DeployRequested,
    facts: Facts,
    image: str,
    now: float,
) -> Plan:
    """The plan for `request`; `image` is what its image resolves to ("" when it has none)."""
    refused = asks.refuse(app, request, facts)
    if refused:
        return Plan(refused)
    after = asks.accept(app, request, facts, NO_CAUSE, now).app
    if after.deployment is not None and after.deployment.state is DeployState.ACCEPTED:
        after, _ = asks.released(after, image, now)
    deployment = after.deployment
    if deployment is None:
        raise ValueError("an accepted request has a deployment")
    current = facts.releases.get(app.release or 0)
    target = facts.releases.get(deployment.goal.release or 0)
    spec = target.spec if target is not None else app.spec
    pinned = target.image if target is not None else image
    changes = differences(
        current.spec if current else None, spec, current.image if current else "", pinned
    )
    if deployment.goal.wanted != app.wanted:
        changes = (*changes, _change("instances", app.wanted, deployment.goal.wanted))
    steps, ends = simulate(after, tuple(instances), now)
    return Plan("", deployment.goal.release, deployment.goal.wanted, changes, steps, ends, spec)


def differences(
    before: AppSpec | None, after: AppSpec, image_before: str, image_after: str
) -> tuple[Mapping[str, Any], ...]:
    """The fields that differ, images by digest. Values of the environment are not shown."""
    old = before.model_dump(mode="json", by_alias=True) if before is not None else {}
    new = after.model_dump(mode="json", by_alias=True)
    old["image"], new["image"] = image_before or None, image_after
    found = []
    for name in dict.fromkeys((*new, *old)):  # what is empty may be left out
        if name in _UNSHOWN or old.get(name) == new.get(name):
            continue
        if name == "env":
            found.extend(_env_changes(old.get(name) or {}, new[name]))
        else:
            found.append(_change(name, old.get(name), new.get(name)))
    return tuple(found)


def _env_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[Mapping[str, Any]]:
    return [
        _change(f"env.{name}", name in old or None, name in new or None)
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _change(field: str, before: Any, after: Any) -> Mapping[str, Any]:
    return {"field": field, "before": before, "after": after}


def simulate(app: App, instances: tuple[Instance, ...], now: float) -> tuple[tuple[Step, ...], str]:
    """The rounds until the deployment ends, and how, when all goes well."""
    fleet = {each.id: _bare(each) for each in instances}
    steps: list[Step] = []
    for number in range(MAX_STEPS):
        decision = decide(Snapshot(app, tuple(fleet.values())), now)
        app = decision.app
        if decision.ended is not None:
            return tuple(steps), decision.ended.state.value
        if decision.make or decision.stop:
            counts = app.deployment.counts if app.deployment else None
            old, new = (counts.old, counts.new) if counts else (0, 0)
            steps.append(Step(len(decision.make), len(decision.stop), old, new))
        now += 1.0
        for n, each in enumerate(decision.make):
            made = Instance(
                id=InstanceId(f"plan-{number}-{n}"),
                app=app.id,
                release=each.release,
                deployment=each.deployment,
                rollback=each.rollback,
                slot=each.slot,
                created_at=now,
            )
            fleet[made.id] = made
        stopped = {name for name, _ in decision.stop}
        fleet = {name: _settled(each, name in stopped, now) for name, each in fleet.items()}
    return tuple(steps), f"not within {MAX_STEPS} steps"


def _bare(instance: Instance) -> Instance:
    """Without load balancer and waiting times: they change when a step is taken, not which."""
    return instance.model_copy(update={"hooked": False, "min_ready_s": 0.0})


def _settled(instance: Instance, stopped: bool, now: float) -> Instance:
    if instance.state is State.GONE:
        return instance
    if stopped or instance.wanted is Wanted.STOP:
        return instance.model_copy(update={"wanted": Wanted.STOP, "state": State.GONE})
    if instance.state is State.HEALTHY:
        return instance
    return instance.model_copy(update={"state": State.HEALTHY, "healthy_since": now})
