"""The rules, evaluated on the stream. Pure: an alert, what happened and when → the alert as it is then, and events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from libs.common.events import Event
from libs.common.events import model as ev
from services.monitor.model import Alert, Exit, MonitorConfig, Node, NodeState

APP_CRASHING = "app-crashing"
NODE_LOST = "node-lost"
BREAKER_OPEN = "scheduler-breaker-open"
DRAIN_OVERDUE = "drain-overdue"
FRAMEWORK_REMOVED = "framework-removed"
COMPONENT_DOWN = "component-down"
COMPONENT_RESTARTED = "component-restarted"
BLIND = "monitoring-blind"
CONSUMER_LAG = "consumer-lag"
DISK_LOW = "disk-low"
POOL_LOW = "pool-low"
JOB_FAILING = "job-failing"
EXECUTOR_SILENT = "executor-silent"
EXECUTOR_RESTARTED = "executor-restarted"


@dataclass(frozen=True, slots=True)
class Change:
    """A document to save (None: nothing changed) and what to tell."""

    alert: Alert | None
    events: tuple[Event, ...] = ()


def on_exit(
    alert: Alert | None, app: str, ended: Exit, message: str, now: float, config: MonitorConfig
) -> Change:
    """An instance of an app ended without being asked to.

    Told again, or so late that it would be over already, it changes nothing.
    """
    current = alert or Alert(
        f"{APP_CRASHING}:{app}", APP_CRASHING, labels={"app": app, "bu": app.partition("/")[0]}
    )
    at = ended[0]
    if ended in current.exits or now - at >= config.crash_quiet_s:
        return Change(None)
    newest = max((t for t, _ in current.exits), default=at)
    since = max(newest, at) - config.crash_window_s
    kept = sorted(each for each in (*current.exits, ended) if each[0] > since)
    exits = tuple(kept)[-config.crash_count :]
    if exits == current.exits:
        return Change(None)
    counted = replace(current, exits=exits)
    if current.firing or len(exits) < config.crash_count:
        return Change(counted)
    summary = (
        f"{app}: {len(exits)} instances ended within {config.crash_window_s:g} s; last: {message}"
    )
    return _fire(counted, at, summary)


def condition(alert: Alert, holds: bool, now: float, summary: str) -> Change:
    """A rule that simply holds or doesn't."""
    if holds and not alert.firing:
        return _fire(alert, now, summary)
    if not holds and alert.firing:
        return _resolve(alert, now)
    return Change(None)


def on_time(alert: Alert, now: float, config: MonitorConfig) -> Change:
    """What has been quiet for long enough is over."""
    if alert.rule != APP_CRASHING or not alert.exits:
        return Change(None)
    if now - max(at for at, _ in alert.exits) < config.crash_quiet_s:
        return Change(None)
    quiet = replace(alert, exits=())
    return _resolve(quiet, now) if alert.firing else Change(quiet)


def _fire(alert: Alert, now: float, summary: str) -> Change:
    fired = replace(alert, firing=True, since=now, summary=summary, notified=None)
    return Change(fired, (ev.AlertRaised(**_event(fired)),))


def _resolve(alert: Alert, now: float) -> Change:
    resolved = replace(alert, firing=False, since=now, notified=None)
    return Change(resolved, (ev.AlertResolved(**_event(resolved)),))


def _event(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.id,
        "rule": alert.rule,
        "severity": alert.severity,
        "labels": dict(alert.labels),
        "summary": alert.summary,
    }


def component_alert(name: str) -> Alert:
    """The alert about a component that does not answer, before it ever fired."""
    return Alert(f"{COMPONENT_DOWN}:{name}", COMPONENT_DOWN, "critical", {"component": name})


def restarted_alert(name: str) -> Alert:
    """The alert about a service whose process ended unasked and was started anew, before it ever fired."""
    labels = {"component": name}
    return Alert(f"{COMPONENT_RESTARTED}:{name}", COMPONENT_RESTARTED, "warning", labels)


def lag_alert(service: str) -> Alert:
    """The alert about a service that does not keep up with its events, before it ever fired."""
    return Alert(f"{CONSUMER_LAG}:{service}", CONSUMER_LAG, "warning", {"service": service})


def disk_alert(host: str) -> Alert:
    """The alert about a host's disks, before it ever fired."""
    return Alert(f"{DISK_LOW}:{host}", DISK_LOW, "warning", {"hostname": host})


def host_alerts(host: str) -> tuple[Alert, ...]:
    """Those that are nobody's any more when a host is gone for good."""
    return component_alert(host_component(host)), disk_alert(host), *executor_alerts(host)


def host_component(host: str) -> str:
    """The name of a host's hostd among the components."""
    return f"host@{host}"


def executor_alerts(host: str) -> tuple[Alert, Alert]:
    """That a host's executor stands still, and that it was started anew, before they ever fired."""
    labels = {"hostname": host}
    return (
        Alert(f"{EXECUTOR_SILENT}:{host}", EXECUTOR_SILENT, "critical", labels),
        Alert(f"{EXECUTOR_RESTARTED}:{host}", EXECUTOR_RESTARTED, "warning", labels),
    )


def of_executor(host: str, said: Mapping[str, Any]) -> list[tuple[Alert, str]]:
    """The alerts of a host's executor and why each holds, "" if it doesn't, or if hostd is too old to say anything."""
    if said.get("service") != "hostd":
        return []
    words = (said.get("executor_silent"), said.get("executor_restarted"))
    alerts = zip(executor_alerts(host), words, strict=True)
    return [(alert, why if isinstance(why, str) else "") for alert, why in alerts]


def pool_alert(place: str) -> Alert:
    """The alert about pools that run out of addresses (`network/pool`), before it ever fired."""
    network, _, pool = place.partition("/")
    return Alert(f"{POOL_LOW}:{place}", POOL_LOW, "warning", {"network": network, "pool": pool})


def job_alert(job: str) -> Alert:
    """The alert about a job whose runs fail, before it ever fired."""
    labels = {"job": job, "bu": job.partition("/")[0]}
    return Alert(f"{JOB_FAILING}:{job}", JOB_FAILING, "warning", labels)


def blind_alert() -> Alert:
    """The alert about a time in which nobody watched, before it ever fired."""
    return Alert(BLIND, BLIND, "warning")


def node_alert(node: Node) -> Alert:
    """The alert about a host's loss, before it ever fired."""
    return Alert(f"{NODE_LOST}:{node.id}", NODE_LOST, "critical", {"hostname": node.hostname})


def node_conditions(nodes: Iterable[Node], firing: Iterable[str]) -> list[tuple[Node, bool]]:
    """Nodes whose alert is not what it should be, and whether it should fire.

    A host that came back as another agent is not lost.
    """
    every, fires = list(nodes), set(firing)
    up = {each.hostname for each in every if each.state is NodeState.UP}
    wanted = [(n, n.state is NodeState.LOST and n.hostname not in up) for n in every]
    return [(node, lost) for node, lost in wanted if lost != (node_alert(node).id in fires)]


@dataclass(frozen=True, slots=True)
class NodeChange:
    """A node to save and what to tell."""

    node: Node
    events: tuple[Event, ...]


def nodes(known: Mapping[str, Node], seen: Iterable[Node], now: float) -> list[NodeChange]:
    """Compare what is stored with what the master says: who joined, who is lost, who changed."""
    changes = []
    current = {each.id: each for each in seen}
    for node in current.values():
        before = known.get(node.id)
        if before is not None and before.same_host(node):
            continue
        since = before.since if before and before.state is node.state else now
        after = replace(node, since=since, version=before.version if before else 0)
        changes.append(NodeChange(after, _node_events(before, after)))
    for before in known.values():
        if before.id not in current and before.state is not NodeState.LOST:
            lost = replace(before, state=NodeState.LOST, since=now)
            changes.append(NodeChange(lost, _node_events(before, lost)))
    return changes


def _node_events(before: Node | None, after: Node) -> tuple[Event, ...]:
    if before is not None and before.state is after.state:
        return ()
    if after.state is NodeState.LOST:
        if before is None:
            return ()
        reason = "the master lost its connection"
        return (ev.NodeLost(agent=after.id, hostname=after.hostname, reason=reason),)
    return (
        ev.NodeJoined(
            agent=after.id,
            hostname=after.hostname,
            attributes=dict(after.attributes),
            cpus=after.cpus,
            mem_mib=after.mem_mib,
        ),
    )
