"""The monitor's HTTP face: hosts and alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from libs.common.errors import InvalidInput
from libs.common.http import Request, Response, Route, reply
from libs.common.leaving import LEAVES
from libs.common.store.base import eq
from services.monitor.model import Alert, Node
from services.monitor.restarts import Restarts
from services.monitor.store import MonitorStore


class View(Protocol):
    """What the API needs of the service."""

    store: MonitorStore
    restarts: Restarts
    live: dict[str, Node]
    seen_at: float


def routes(monitor: View) -> Sequence[Route]:
    """All routes."""

    async def nodes(_request: Request) -> Response:
        known = await monitor.store.nodes()
        return reply(
            {"nodes": [node_view(node, monitor.live.get(node.id)) for node in known.values()]}
        )

    async def alerts(request: Request) -> Response:
        state = request.query.get("state", "")
        if state not in ("", "firing", "resolved"):
            raise InvalidInput.of("state", f"unknown state {state!r}", "firing or resolved")
        where = (eq("firing", state == "firing"),) if state else ()
        found = [each for each in await monitor.store.alerts(*where) if each.since > 0]
        return reply({"alerts": [alert_view(each) for each in found]})

    async def summary(_request: Request) -> Response:
        return reply({"nodes": len(monitor.live), "seen_at": monitor.seen_at})

    async def leave(request: Request) -> Response:
        monitor.restarts.leave(request.params["run"])
        return reply({})

    return (
        Route(
            "PUT", f"{LEAVES}/{{run}}", leave, summary="A service's process ends as it was told to"
        ),
        Route("GET", "/v1/nodes", nodes, summary="Hosts, by the operator stream"),
        Route(
            "GET",
            "/v1/alerts",
            alerts,
            summary="Alerts that fire or have fired",
            query={"state": "firing or resolved"},
        ),
        Route("GET", "/v1/metrics-summary", summary, summary="How fresh the view is"),
    )


def node_view(node: Node, live: Node | None) -> Mapping[str, Any]:
    """A node for readers, with what is in use now."""
    view = asdict(node)
    view["agent"] = view.pop("id")
    view["state"] = node.state.value
    del view["version"]
    if live is not None:
        view["used_cpus"], view["used_mem_mib"] = live.used_cpus, live.used_mem_mib
    return view


def alert_view(alert: Alert) -> Mapping[str, Any]:
    """An alert for readers."""
    return {
        "alert": alert.id,
        "rule": alert.rule,
        "severity": alert.severity,
        "state": "firing" if alert.firing else "resolved",
        "labels": dict(alert.labels),
        "summary": alert.summary,
        "since": alert.since,
        "notified": alert.notified == alert.firing,
    }
