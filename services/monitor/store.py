"""The monitor's documents: nodes and alerts."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.errors import Fenced
from libs.common.events import Event, seal
from libs.common.store.base import (
    Collection,
    CollectionSpec,
    Fence,
    Index,
    Op,
    Outcome,
    Query,
    Schema,
    Store,
    Where,
    Write,
    eq,
)
from libs.common.store.shapes import fields
from services.monitor.model import Alert, Node, alert_body, alert_of, node_body, node_of

NODES = CollectionSpec(
    "monitor_nodes", schema=Schema(known=lambda body: node_body(node_of("", 0, body)))
)
PULSE = CollectionSpec("monitor_pulse", schema=Schema(known=fields("at")))
ALERTS = CollectionSpec(
    "monitor_alerts",
    (Index("unsettled", ("unsettled",)), Index("firing", ("firing",))),
    Schema(known=lambda body: alert_body(alert_of("", 0, body))),
)
_PAGE = 1000


class MonitorStore:
    """Typed access; every write carries the leader's fence."""

    def __init__(
        self, nodes: Collection, alerts: Collection, pulse: Collection, fence: Fence
    ) -> None:
        self.collections = (nodes, alerts)
        self._nodes, self._alerts = self.collections
        self._pulse = pulse
        self._fence = fence

    @classmethod
    async def open(cls, store: Store) -> MonitorStore:
        """Open both collections and begin a new epoch."""
        specs = (NODES, ALERTS, PULSE)
        nodes, alerts, pulse = [await store.collection(spec) for spec in specs]
        return cls(nodes, alerts, pulse, Fence("monitor", await store.raise_epoch("monitor")))

    async def beat(self, now: float) -> float | None:
        """Say that somebody watches at `now`; returns when that was said the last time. Raises Fenced."""
        doc = await self._pulse.get("monitor")
        version = doc.version if doc else 0
        await self._save(self._pulse, "monitor", version, {"at": now}, (), now)
        return float(doc.body["at"]) if doc else None

    async def nodes(self) -> dict[str, Node]:
        """All nodes, lost ones included."""
        page = await self._nodes.find(Query(limit=20_000))
        return {doc.id: node_of(doc.id, doc.version, doc.body) for doc in page.docs}

    async def save_node(self, node: Node, events: Sequence[Event], now: float) -> bool:
        """Compare-and-set. Raises Fenced."""
        return await self._save(self._nodes, node.id, node.version, node_body(node), events, now)

    async def alert(self, alert_id: str) -> Alert | None:
        """One alert."""
        doc = await self._alerts.get(alert_id)
        return alert_of(doc.id, doc.version, doc.body) if doc else None

    async def alerts(self, *where: Where) -> list[Alert]:
        """Alerts, at most a page of them."""
        page = await self._alerts.find(Query(where, limit=_PAGE))
        return [alert_of(doc.id, doc.version, doc.body) for doc in page.docs]

    async def unsettled(self) -> list[Alert]:
        """Alerts that still need something done."""
        return await self.alerts(eq("unsettled", True))

    async def firing(self) -> list[Alert]:
        """Alerts that fire."""
        return await self.alerts(eq("firing", True))

    async def save_alert(self, alert: Alert, events: Sequence[Event], now: float) -> bool:
        """Compare-and-set. Raises Fenced."""
        body = alert_body(alert)
        return await self._save(self._alerts, alert.id, alert.version, body, events, now)

    async def forget_alerts(self, before: float, limit: int = 500) -> int:
        """Delete alerts that have been over since before then; how many. Raises Fenced."""
        where = (eq("unsettled", False), eq("firing", False), Where("since", Op.LT, before))
        page = await self._alerts.find(Query(where, limit=limit))
        return sum([await self._delete(self._alerts, doc.id, doc.version) for doc in page.docs])

    async def forget_node(self, node: Node) -> bool:
        """Delete a node as it was read. Raises Fenced."""
        return await self._delete(self._nodes, node.id, node.version)

    async def _delete(self, collection: Collection, doc_id: str, version: int) -> bool:
        result = await collection.delete(doc_id, version, self._fence)
        if result.outcome is Outcome.FENCED:
            raise Fenced("another monitor leads")
        return result.ok

    async def _save(
        self,
        collection: Collection,
        doc_id: str,
        version: int,
        body: dict[str, object],
        events: Sequence[Event],
        now: float,
    ) -> bool:
        sealed = seal(events, source="monitor", sequence=version + 1, now=now)
        write = Write(doc_id, version, body, sealed)
        (result,) = await collection.replace_many([write], self._fence)
        if result.outcome is Outcome.FENCED:
            raise Fenced("another monitor leads")
        return result.ok
