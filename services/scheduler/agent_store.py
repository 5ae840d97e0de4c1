"""Documents of agents: in which of our roles our executor was started there. Written once an agent, as a rule."""

from __future__ import annotations

from collections.abc import Container, Mapping

from libs.common.store.base import Collection, Fence, Write
from libs.common.store.paging import documents
from services.scheduler.model import AgentId
from services.scheduler.writing import delete_all, replace_all

_PAGE = 2000
KEPT_S = 30 * 86_400.0
"""So long after its first launch an agent is known without anything of ours on it; then it is taken for gone.

An executor that is still there says its role when a launch in another one is refused (`roles.learn`).
"""


class AgentStore:
    """Every write carries the leader's fence."""

    def __init__(self, collection: Collection, fence: Fence) -> None:
        self.collection = collection
        self._fence = fence
        self._versions: dict[AgentId, int] = {}

    async def load(self, inhabited: Container[str], now: float) -> dict[AgentId, str]:
        """The roles of all agents. Those on which nothing is, nor was for long, are forgotten."""
        docs = [doc async for doc in documents(self.collection, (), _PAGE)]
        old = [
            doc
            for doc in docs
            if doc.id not in inhabited
            and (not doc.body["role"] or doc.body["since"] < now - KEPT_S)
        ]
        await delete_all(self.collection, old, self._fence)
        gone = {doc.id for doc in old}
        left = {AgentId(doc.id): doc for doc in docs if doc.id not in gone}
        self._versions = {agent: doc.version for agent, doc in left.items()}
        return {agent: doc.body["role"] for agent, doc in left.items() if doc.body["role"]}

    async def save(self, roles: Mapping[AgentId, str], now: float) -> None:
        """These are in such a role from now on; "" is none. Raises Fenced, Unavailable; may be repeated."""
        writes = [
            Write(agent, self._versions.get(agent, 0), {"role": role, "since": now})
            for agent, role in roles.items()
        ]
        await replace_all(self.collection, writes, self._fence)
        self._versions.update((AgentId(each.id), each.version + 1) for each in writes)
