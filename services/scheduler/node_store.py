"""Documents of hosts that people have closed: few, written seldom, each with its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from libs.common.errors import Fenced, Unavailable
from libs.common.events import Event
from libs.common.events.base import seal
from libs.common.store.base import (
    Collection,
    Fence,
    OutboxEvent,
    Outcome,
    Write,
)
from libs.common.store.paging import documents
from services.scheduler.model import Node
from services.scheduler.nodes import node_body, node_of

_PAGE = 1000
_TRIES = 5


class NodeStore:
    """Every write carries the leader's fence."""

    def __init__(self, collection: Collection, fence: Fence) -> None:
        self.collection = collection
        self._fence = fence

    async def load(self) -> dict[str, Node]:
        """All hosts that were ever closed, by name."""
        docs = documents(self.collection, (), _PAGE)
        return {doc.id: node_of(doc.id, doc.version, doc.body) async for doc in docs}

    async def save(
        self, node: Node, events: Sequence[Event], now: float
    ) -> tuple[Node, Sequence[OutboxEvent]]:
        """Save it over whatever this leader saved before; with its new version. Raises Fenced, Unavailable."""
        for _ in range(_TRIES):
            # All of a host's events go by its document, whatever they are about.
            sealed = seal(
                events,
                source="scheduler",
                sequence=node.version + 1,
                now=now,
                aggregate=f"node {node.hostname}",
            )
            write = Write(node.hostname, node.version, node_body(node), sealed)
            (result,) = await self.collection.replace_many([write], self._fence)
            if result.ok:
                return replace(node, version=node.version + 1), sealed
            if result.outcome is not Outcome.CONFLICT:
                raise Fenced(f"host {node.hostname}: {result.outcome.value}")
            # A write of ours whose answer was lost: a newer leader would have fenced us.
            stored = await self.collection.get(node.hostname)
            node = replace(node, version=stored.version if stored is not None else 0)
        raise Unavailable(f"host {node.hostname} could not be saved")
