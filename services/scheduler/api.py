"""The scheduler's HTTP face: what runs where, why something waits, and the breaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from pydantic import Field

from libs.common.actor import Actor
from libs.common.errors import Conflict, NotFound
from libs.common.http import Request, Response, Role, Route, reply
from libs.common.spec import InstanceSpec, Strict
from services.scheduler.cluster import Cluster
from services.scheduler.core import Input
from services.scheduler.maintenance import Asked, Maintenance
from services.scheduler.membership import Membership
from services.scheduler.model import (
    Amounts,
    Door,
    Instance,
    InstanceId,
    Node,
    ReleaseBreaker,
    State,
)
from services.scheduler.nodes import left_on
from services.scheduler.planning import Placed
from services.scheduler.policy import Refusal


class Leader(Protocol):
    """What the API needs of the service."""

    cluster: Cluster
    membership: Membership
    maintenance: Maintenance

    async def submit(self, given: Input) -> None:
        """Hand an input to the loop."""
        ...

    async def reregister(self) -> None:
        """Begin anew as another framework. Raises Conflict."""
        ...

    def plan(self, app: str, spec: InstanceSpec, count: int, replacing: bool) -> Placed:
        """Where instances would go."""
        ...


class PlanRequest(Strict):
    """POST /v1/plan: so many instances of an app, `replacing` those that it has or besides them."""

    app: str = Field(max_length=100)
    spec: InstanceSpec
    count: int = Field(ge=0, le=20_000)
    replacing: bool = False


class DoorRequest(Strict):
    """PUT /v1/nodes/{host}. `deadline_s` of a drain, 0 none; `force`: what is left then is stopped all the same."""

    door: Door
    reason: str = Field("", max_length=500)
    deadline_s: float = Field(0.0, ge=0, le=30 * 86_400.0)
    force: bool = False


def routes(leader: Leader) -> Sequence[Route]:
    """All routes; they answer from the leader's memory."""

    def why(instance: Instance) -> Refusal | None:
        return why_of(leader.cluster, instance, leader.membership.alarm)

    async def instances(request: Request) -> Response:
        app = request.query.get("app")
        found = leader.cluster.instances.values()
        shown = [i for i in found if app in (None, i.app)]
        return reply({"instances": [instance_view(i, why(i)) for i in shown]})

    async def instance(request: Request) -> Response:
        name = InstanceId(request.params["instance"])
        found = leader.cluster.instances.get(name)
        if found is None:
            raise NotFound(f"there is no instance {name!r} that has not ended")
        return reply(instance_view(found, why(found)))

    async def make_plan(request: Request) -> Response:
        asked = request.parse(PlanRequest)
        return reply(plan_view(leader.plan(asked.app, asked.spec, asked.count, asked.replacing)))

    async def agents(_request: Request) -> Response:
        cluster = leader.cluster
        return reply({"agents": agent_views(cluster), "nodes": node_views(cluster)})

    async def set_node(request: Request) -> Response:
        actor = Actor.of(request)
        actor.require("*", Role.ADMIN)
        asked, host = request.parse(DoorRequest), request.params["host"]
        node = await leader.maintenance.change(
            Asked(host, asked.door, asked.reason, actor.name, asked.deadline_s, asked.force)
        )
        return reply(node_view(leader.cluster, node))

    async def status(_request: Request) -> Response:
        return reply(status_view(leader))

    async def release_breaker(_request: Request) -> Response:
        if not leader.cluster.volatile.breaker_open:
            raise Conflict("the breaker is not open")
        await leader.submit(ReleaseBreaker())
        return reply(status_view(leader))

    async def reregister(_request: Request) -> Response:
        await leader.reregister()
        return reply(status_view(leader), 202)

    return (
        Route(
            "GET",
            "/v1/instances",
            instances,
            summary="Instances that have not ended",
            query={"app": "of this app only, bu/app"},
        ),
        Route("GET", "/v1/instances/{instance}", instance, summary="One of them"),
        Route(
            "POST",
            "/v1/plan",
            make_plan,
            summary="Where instances would go: a dry run",
            request=PlanRequest,
        ),
        Route(
            "GET", "/v1/agents", agents, summary="Agents seen in offers, and hosts that are closed"
        ),
        Route(
            "PUT",
            "/v1/nodes/{host}",
            set_node,
            summary="Open, cordon or drain a host",
            request=DoorRequest,
        ),
        Route("GET", "/v1/status", status, summary="The leader's state"),
        Route(
            "POST",
            "/v1/breaker/release",
            release_breaker,
            summary="Kill the unknown tasks that the breaker held back",
        ),
        Route(
            "POST",
            "/v1/framework/reregister",
            reregister,
            summary="Begin as a new framework, after Mesos has removed this one, and place everything anew",
        ),
    )


def why_of(cluster: Cluster, instance: Instance, alarm: str = "") -> Refusal | None:
    """Why an instance waits, by the last decision; None when it does not, or nobody knows yet.

    Nothing is decided without a subscription: then that is why, or what the framework's `alarm` says.
    """
    shape = cluster.ledger.shapes.get(instance.id)
    if shape is None:
        return None
    if not cluster.volatile.subscribed:
        agents = len(cluster.volatile.roster.rows)
        told = alarm or "the scheduler is not subscribed to Mesos"
        return Refusal(agents, {"subscription": agents} if agents else {}, told)
    known = cluster.volatile.why.get(shape)
    return known.refusal if known is not None else None


def why_view(why: Refusal | None) -> Mapping[str, Any] | None:
    """A refusal for readers."""
    if why is None:
        return None
    return {"agents": why.agents, "failed": dict(why.failed), "nearest": why.nearest}


def plan_view(placed: Placed) -> Mapping[str, Any]:
    """Where instances would go, for readers."""
    return {
        "places": [asdict(each) for each in placed.places],
        "unplaced": placed.unplaced,
        "why": why_view(placed.why),
        "agents": placed.agents,
    }


def instance_view(instance: Instance, why: Refusal | None = None) -> Mapping[str, Any]:
    """An instance for readers."""
    pending = instance.state is State.PENDING
    return {
        "instance": instance.id,
        "version": instance.version,
        "app": instance.app,
        "release": instance.release,
        "attempt": instance.attempt if instance.generation else "",
        "state": instance.state.value,
        "stopping": instance.stop,
        "leaving": instance.leaving,
        "agent": instance.agent,
        "hostname": instance.hostname,
        "address": instance.address,
        "container": instance.container,
        "returned": bool(instance.returned),
        "healthy": instance.healthy,
        "failures": instance.failures,
        "since": instance.since,
        "not_before": instance.not_before if instance.state is State.PENDING else None,
        "waiting": (why.nearest if why is not None else instance.delayed) if pending else "",
        "why": why_view(why),
        "message": instance.message,
        "cpus": instance.spec.resources.cpus,
        "mem_mib": instance.spec.resources.mem_mib,
    }


def agent_views(cluster: Cluster) -> list[Mapping[str, Any]]:
    """Agents with what our instances have reserved on them."""
    views: list[Mapping[str, Any]] = []
    for agent in cluster.volatile.agents.values():
        there = [cluster.instances[each] for each in cluster.on_agent.get(agent.id, {})]
        used = sum((Amounts.of(each.spec) for each in there), Amounts())
        views.append(
            {
                "agent": agent.id,
                "hostname": agent.hostname,
                "attributes": dict(agent.attributes),
                "role": cluster.roles.get(agent.id, ""),
                "instances": len(there),
                "reserved_cpus": used.cpus,
                "reserved_mem_mib": used.mem_mib,
                "offered_cpus": agent.last_free.cpus,
                "offered_mem_mib": agent.last_free.mem_mib,
                "seen_at": agent.seen_at,
            }
        )
    return views


def node_views(cluster: Cluster) -> list[Mapping[str, Any]]:
    """Hosts that are closed, by name."""
    known = sorted(cluster.volatile.nodes.values(), key=lambda node: node.hostname)
    return [node_view(cluster, node) for node in known if node.door is not Door.OPEN]


def node_view(cluster: Cluster, node: Node) -> Mapping[str, Any]:
    """A host's door, and how many instances of which app are left behind it."""
    return {
        "hostname": node.hostname,
        "door": node.door.value,
        "reason": node.reason,
        "by": node.by,
        "since": node.since,
        "deadline_at": node.deadline_at or None,
        "force": node.force,
        "drained_at": node.drained_at or None,
        "overdue": bool(node.overdue_at),
        "left": left_on(cluster, node.hostname),
    }


def status_view(leader: Leader) -> Mapping[str, Any]:
    """The leader in a few figures."""
    cluster = leader.cluster
    by_state: dict[str, int] = {}
    for instance in cluster.instances.values():
        by_state[instance.state.value] = by_state.get(instance.state.value, 0) + 1
    return {
        "framework": leader.membership.framework.id,
        "subscribed": cluster.volatile.subscribed,
        "alarm": leader.membership.alarm,
        "framework_removed": leader.membership.removed,
        "breaker_open": cluster.volatile.breaker_open,
        "unknown_tasks": sorted(cluster.volatile.unknown),
        "overdue_drains": sorted(
            name
            for name, node in cluster.volatile.nodes.items()
            if node.door is Door.DRAINING and node.overdue_at and not node.drained_at
        ),
        "instances": by_state,
        "offers": len(cluster.volatile.offers),
    }
