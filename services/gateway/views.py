"""Composed views: one answer from what several services know; a service that is away leaves its part out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.client.doctor import NetworkDiagnosis
from libs.client.model import Alerts, Apps, Instances, Nodes, NodeView
from libs.client.stats import InstanceStats
from libs.common.actor import Actor
from libs.common.errors import Conflict, InvalidInput, NotFound, Unavailable
from libs.common.serve import segment
from services.gateway.core import Part, bu_of_labels, bu_of_target, incomplete
from services.gateway.parts import Gateway
from services.gateway.peers import DEPLOYER, MONITOR, SCHEDULER, whole, with_query

# What the scheduler tells of an instance beyond what the deployer does.
_FROM_SCHEDULER = (
    "attempt",
    "cpus",
    "mem_mib",
    "failures",
    "not_before",
    "message",
    "since",
    "why",
)
MAX_INSTANCE = 200
_FROM_AGENT = ("instances", "reserved_cpus", "reserved_mem_mib", "offered_cpus", "offered_mem_mib")


async def list_apps(gateway: Gateway, actor: Actor) -> Apps:
    """The apps that the actor sees, by name."""
    query = {"bu": "" if actor.bu == "*" else actor.bu}
    part = await gateway.peers.part(actor, DEPLOYER, "/v1/apps", query)
    rows = [row for row in part.rows("apps") if actor.sees(bu_of_target(str(row["app"])))]
    rows.sort(key=lambda row: str(row["app"]))
    return Apps.model_validate({"apps": rows, "incomplete": incomplete(part)})


async def list_instances(gateway: Gateway, actor: Actor, app: str = "") -> Instances:
    """Instances of an app, or all that the actor sees: what the deployer wants, with what the scheduler observes."""
    own = "" if actor.bu == "*" or app else actor.bu
    wanted, observed = await gateway.peers.parts(
        actor,
        (DEPLOYER, with_query("/v1/instances", {"app": app, "bu": own})),
        (SCHEDULER, with_query("/v1/instances", {"app": app})),
    )
    rows = join_instances(wanted, observed, gateway.clock.now())
    seen = [row for row in rows if actor.sees(bu_of_target(str(row.get("app", ""))))]
    content = {"instances": seen, "incomplete": incomplete(wanted, observed)}
    return Instances.model_validate(content)


def join_instances(wanted: Part, observed: Part, now: float) -> list[dict[str, Any]]:
    """The deployer's rows, each with what the scheduler adds; the scheduler's own when the deployer is away."""
    theirs = {row["instance"]: row for row in observed.rows("instances")}
    if wanted.away:
        return sorted(theirs.values(), key=_order)
    rows = []
    for row in wanted.rows("instances"):
        also = theirs.get(row["instance"], {})
        extra = {name: also[name] for name in _FROM_SCHEDULER if name in also and name not in row}
        rows.append({**row, **extra, "waiting": _waits_for(row, also, now)})
    return sorted(rows, key=_order)


def _waits_for(row: Mapping[str, Any], also: Mapping[str, Any], now: float) -> str:
    """The scheduler knows at once why it places nothing; the deployer by events, and all other reasons."""
    if also.get("why") and also.get("waiting") and row.get("wanted") != "stop":
        return f"not placed: {also['waiting']}"
    pause_s, failures = float(also.get("not_before") or 0.0) - now, also.get("failures")
    if failures and pause_s > 0 and row.get("wanted") != "stop":
        last = f": {row['last_exit']}" if row.get("last_exit") else ""
        return f"next attempt in {pause_s:.0f} s, after {failures} failures{last}"
    return str(row.get("waiting") or also.get("waiting", ""))


def _order(row: Mapping[str, Any]) -> tuple[str, str]:
    return (str(row.get("app", "")), str(row["instance"]))


async def list_nodes(gateway: Gateway, actor: Actor) -> Nodes:
    """All hosts: what monitor sees of them, with what the scheduler has reserved there."""
    seen, agents = await gateway.peers.parts(
        actor, (MONITOR, "/v1/nodes"), (SCHEDULER, "/v1/agents")
    )
    rows = with_doors(join_nodes(seen, agents), agents, actor)
    content = {"nodes": rows, "incomplete": incomplete(seen, agents)}
    return Nodes.model_validate(content)


def join_nodes(seen: Part, agents: Part) -> list[dict[str, Any]]:
    """Monitor's rows, each with what the scheduler adds; the scheduler's own when monitor is away."""
    theirs = {row["agent"]: row for row in agents.rows("agents")}
    if seen.away:
        return sorted(theirs.values(), key=lambda row: str(row.get("hostname", "")))
    rows = []
    for row in seen.rows("nodes"):
        also = theirs.get(row["agent"], {})
        rows.append({**{name: also[name] for name in _FROM_AGENT if name in also}, **row})
    return sorted(rows, key=lambda row: str(row.get("hostname", "")))


def with_doors(rows: list[dict[str, Any]], agents: Part, actor: Actor) -> list[dict[str, Any]]:
    """The hosts, each with what its maintenance has come to; apps are named to those who may see them."""
    doors = {row["hostname"]: row for row in agents.rows("nodes")}
    told = {name: door_text(row, actor) for name, row in doors.items()}
    return [{**row, "maintenance": told.get(row.get("hostname"), "")} for row in rows]


def door_text(door: Mapping[str, Any], actor: Actor) -> str:
    """A closed host in words."""
    reason = f" ({door['reason']})" if door.get("reason") else ""
    left: Mapping[str, int] = door.get("left", {})
    if door["door"] != "draining":
        return f"{door['door']}{reason}"
    if not left:
        return f"drained{reason}"
    seen = [f"{count} of {app}" for app, count in left.items() if actor.sees(bu_of_target(app))]
    apps = f": {', '.join(seen)}" if seen else ""
    word = "overdue" if door.get("overdue") else "draining"
    return f"{word}, {sum(left.values())} left{apps}{reason}"


async def list_alerts(gateway: Gateway, actor: Actor, state: str = "") -> Alerts:
    """Alerts: of the actor's apps, and of the cluster too for those who see all."""
    part = await gateway.peers.part(actor, MONITOR, "/v1/alerts", {"state": state})
    rows = [row for row in part.rows("alerts") if actor.sees(_bu_of_alert(row))]
    return Alerts.model_validate({"alerts": rows, "incomplete": incomplete(part)})


def _bu_of_alert(row: Mapping[str, Any]) -> str:
    return bu_of_labels(row.get("labels") or {})


@dataclass(frozen=True, slots=True)
class Container:
    """A container: its host, the base URL of hostd there, and its name."""

    host: str
    url: str
    name: str


async def find_container(gateway: Gateway, actor: Actor, instance: str) -> Container:
    """Where an instance runs.

    Raises InvalidInput, NotFound, Conflict when it has no container (yet), Unavailable when its host can't be told.
    """
    if len(instance) > MAX_INSTANCE:
        raise InvalidInput.of("instance", "is too long", f"at most {MAX_INSTANCE} characters")
    instances = await list_instances(gateway, actor)
    row = next((each for each in instances.instances if each.instance == instance), None)
    if row is None:
        if instances.incomplete:
            raise Unavailable(f"{', '.join(instances.incomplete)}: no answer; try again")
        raise NotFound(f"there is no instance {instance!r}")
    if not row.container or not row.agent:
        waiting = f": {row.waiting}" if row.waiting else ""
        raise Conflict(f"{instance} has no container yet ({row.state}{waiting})")
    return await container_on(gateway, actor, row.agent, row.hostname, row.container)


async def container_on(
    gateway: Gateway, actor: Actor, agent: str, hostname: str, container: str
) -> Container:
    """A container of that agent's host. Raises Unavailable when where its hostd listens can't be told."""
    nodes = await list_nodes(gateway, actor)
    for node in nodes.nodes:
        url = hostd_url(node)
        if node.agent == agent and url:
            return Container(node.hostname, url, container)
    raise Unavailable(f"where hostd of {hostname or agent} listens is not known")


async def instance_stats(gateway: Gateway, actor: Actor, instance: str) -> InstanceStats:
    """What an instance uses, asked of its host now. Raises what `find_container` does; NotFound if it just ended."""
    container = await find_container(gateway, actor, instance)
    path = f"/v1/containers/{segment(container.name)}/stats"
    opened = await gateway.peers.open(actor, container.host, container.url, path)
    answer = await whole(opened, gateway.peers.timeout_s)
    try:
        # An older hostd does not say when.
        told = {"at": gateway.clock.now(), **answer.json(), "instance": instance}
        return InstanceStats.model_validate(told)
    except (TypeError, ValueError):
        raise Unavailable(f"hostd on {container.host} answered what can't be read") from None


def hostd_url(node: NodeView) -> str:
    """The base URL of hostd on a host, "" when it does not say."""
    url = str(node.attributes.get("hostd", ""))
    return url if url.startswith(("http://", "https://")) else ""


async def diagnose_host(gateway: Gateway, actor: Actor, host: str) -> NetworkDiagnosis:
    """What hostd of a host finds wrong with its network.

    Raises NotFound for an unknown host, Unavailable when it does not answer.
    """
    nodes = await list_nodes(gateway, actor)
    found = [each for each in nodes.nodes if each.hostname == host]
    if not found:
        if nodes.incomplete:
            raise Unavailable(f"{', '.join(nodes.incomplete)}: no answer; try again")
        raise NotFound(f"there is no host {host!r}")
    # One that came back has a row for each agent that it was.
    urls = [url for node in found if (url := hostd_url(node))]
    if not urls:
        raise Unavailable(f"where hostd of {host} listens is not known")
    opened = await gateway.peers.open(actor, host, urls[-1], "/v1/doctor")
    answer = await whole(opened, gateway.peers.timeout_s)
    try:
        return NetworkDiagnosis.model_validate(answer.json())
    except ValueError:
        raise Unavailable(f"hostd on {host} answered what can't be read") from None
