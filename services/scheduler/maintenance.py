"""Closing and opening hosts: what people ask is saved, then given to the loop; what becomes of a drain is told.

Like all that the scheduler acts upon, a door is in the store before anything follows from it, so a new leader goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.store.base import OutboxEvent
from libs.common.telemetry import Log
from services.scheduler.cluster import Cluster
from services.scheduler.model import Door, Node, NodeSet
from services.scheduler.node_store import NodeStore
from services.scheduler.nodes import left_on

LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants of a host. `deadline_s`: 0 is none."""

    hostname: str
    door: Door
    reason: str
    by: str
    deadline_s: float = 0.0
    force: bool = False


class Maintenance:
    """The doors of hosts; one leader's."""

    def __init__(
        self,
        store: NodeStore,
        cluster: Cluster,
        submit: Callable[[NodeSet], Awaitable[None]],
        kick: Callable[[Sequence[OutboxEvent]], None],
        clock: Clock,
        log: Log,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._submit = submit
        self._kick = kick
        self._clock = clock
        self._log = log
        self._one_at_a_time = asyncio.Lock()

    async def change(self, asked: Asked) -> Node:
        """Open or close a host; returns when the scheduler goes by it. Raises Unavailable, Fenced."""
        async with self._one_at_a_time:
            now = self._clock.now()
            known = self._cluster.volatile.nodes.get(asked.hostname)
            node = Node(
                hostname=asked.hostname,
                door=asked.door,
                reason=asked.reason,
                by=asked.by,
                since=now,
                deadline_at=now + asked.deadline_s if asked.deadline_s else 0.0,
                force=asked.force,
                version=known.version if known is not None else 0,
            )
            return await self._save(node, (), now)

    async def run(self) -> None:
        """Tell when a host is empty, and when its deadline has passed; until cancelled."""
        while True:
            await self._clock.sleep(LOOK_S)
            for name in list(self._cluster.volatile.nodes):
                try:
                    async with self._one_at_a_time:
                        await self._look(name)
                except Unavailable as error:
                    self._log.warning("a drain is not followed", host=name, error=str(error))

    async def _look(self, name: str) -> None:
        node, now = self._cluster.volatile.nodes[name], self._clock.now()
        if node.door is not Door.DRAINING or not self._cluster.volatile.subscribed:
            return
        left = left_on(self._cluster, name)
        if not left and not node.drained_at:
            await self._save(replace(node, drained_at=now), self._drained(name), now)
        elif left and node.drained_at:  # a host that came back brought something along
            await self._save(replace(node, drained_at=0.0), (), now)
        elif left and node.deadline_at and now >= node.deadline_at and not node.overdue_at:
            overdue = ev.AuditRecorded(
                actor="scheduler",
                action="node.drain-forced" if node.force else "node.drain-overdue",
                target=f"*/nodes/{name}",
                allowed=True,
                detail=overdue_text(node, left),
            )
            await self._save(replace(node, overdue_at=now), (overdue,), now)

    def _drained(self, name: str) -> Sequence[Event]:
        agents = self._cluster.volatile.agents.values()
        return [
            ev.NodeDrained(agent=each.id, hostname=name) for each in agents if each.hostname == name
        ] or [ev.NodeDrained(agent="", hostname=name)]

    async def _save(self, node: Node, events: Sequence[Event], now: float) -> Node:
        saved, sealed = await self._store.save(node, events, now)
        if sealed:
            self._kick(sealed)
        await self._submit(NodeSet(saved))
        self._log.info("host", host=node.hostname, door=node.door.value, by=node.by)
        return saved


def overdue_text(node: Node, left: dict[str, int]) -> str:
    """What a drain that is late says."""
    apps = ", ".join(f"{count} of {app}" for app, count in left.items())
    then = "they are stopped without regard to budgets" if node.force else "nothing is forced"
    return f"the deadline of {node.hostname}'s drain has passed; left: {apps}; {then}"
