"""How the deployer's things look to those who ask. Shapes are the public API's, `libs/client/model.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from libs.common.spec import AppSpec, InstanceSpec
from services.deployer.model import App, Deployment, Instance, Release, State, Wanted
from services.deployer.plan import Plan
from services.deployer.reasons import stops_on, waits_for

View = Mapping[str, Any]


def app_view(app: App) -> View:
    """An app: its spec, what of it is live, and the deployment under way."""
    running = app.deployment
    return {
        "app": app.id,
        "version": app.spec_version,
        "spec": app.spec.model_dump(mode="json", by_alias=True),
        "release": app.release,
        "previous": app.previous,
        "wanted": app.wanted,
        "deployment": deployment_view(running) if running is not None else None,
        "created_at": app.created_at,
        "updated_at": app.updated_at,
    }


def release_view(release: Release, app: App | None) -> View:
    """A release; `current` is the one that is live."""
    return {
        "release": release.number,
        "app": release.app,
        "image": release.image,
        "reference": release.spec.image,
        "actor": release.actor,
        "created_at": release.created_at,
        "deployment": release.deployment,
        "current": app is not None and app.release == release.number,
        "spec": release.spec.model_dump(mode="json", by_alias=True),
    }


def deployment_view(deployment: Deployment) -> View:
    """A deployment: what it is to do, how far it is, and why."""
    return {
        "deployment": deployment.id,
        "app": deployment.app,
        "action": deployment.action.value,
        "state": deployment.state.value,
        "actor": deployment.actor,
        "image": deployment.image,
        "release": deployment.release,
        "from_release": deployment.before.release,
        "wanted": deployment.goal.wanted,
        "counts": deployment.counts.model_dump(),
        "reason": deployment.reason,
        "strategy": deployment.strategy.model_dump(mode="json"),
        "deadline_s": deployment.deadline_s,
        "progress_at": deployment.progress_at,
        "created_at": deployment.created_at,
        "ended_at": deployment.ended_at,
        "break_glass": deployment.break_glass,
    }


def instance_view(instance: Instance, now: float) -> View:
    """An instance: wanted and observed, and what it waits for."""
    ready = instance.is_ready(now)
    return {
        "instance": instance.id,
        "app": instance.app,
        "release": instance.release,
        "deployment": instance.deployment,
        "slot": instance.slot,
        "wanted": instance.wanted.value,
        "state": _state(instance),
        "attempt": instance.attempt,
        "agent": instance.agent,
        "hostname": instance.hostname,
        "address": instance.address,
        "container": instance.container,
        "healthy": _healthy(instance),
        "ready": ready,
        "healthy_since": instance.healthy_since,
        "restarts": instance.restarts,
        "load_balancer": instance.hook.phase.value if instance.hooked else None,
        "waiting": "" if ready else _waiting(instance),
        "last_exit": instance.last_exit,
        "stop_reason": instance.stop_reason,
        "leaving": instance.leave_reason if instance.leaving else "",
        "created_at": instance.created_at,
        "changed_at": instance.changed_at,
    }


def _state(instance: Instance) -> str:
    if instance.wanted is Wanted.STOP and instance.state is not State.GONE:
        return "draining" if instance.stop_sent_at is None else "stopping"
    return instance.state.value


def _healthy(instance: Instance) -> bool | None:
    if instance.state in (State.HEALTHY, State.UNHEALTHY):
        return instance.state is State.HEALTHY
    return None


def _waiting(instance: Instance) -> str:
    if instance.state is State.GONE:
        return ""
    if instance.wanted is Wanted.STOP:
        return stops_on(instance)
    return waits_for(instance)


def plan_view(app: App, plan: Plan, image: str) -> View:
    """A plan; `refused` is the reason for which nothing would be done."""
    return {
        "app": app.id,
        "refused": plan.refused,
        "image": image,
        "current": {"release": app.release, "wanted": app.wanted},
        "release": plan.release,
        "wanted": plan.wanted,
        "changes": list(plan.changes),
        "steps": [asdict(step) for step in plan.steps],
        "ends": plan.ends,
        "instance": _instance_of(plan.spec, image) if plan.spec is not None else None,
    }


def _instance_of(spec: AppSpec, image: str) -> View:
    """An instance as placement looks at it."""
    made = InstanceSpec.of(spec, image or spec.image, "sticky" if spec.keep_address else "")
    others = {"env", "secrets", "labels", "command", "health", "disruption_budget_pct"}
    return made.model_dump(mode="json", exclude=others)
