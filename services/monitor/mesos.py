"""The operator API as the monitor needs it: a wake-up when something happens to agents, and who they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import aiohttp

from libs.common.errors import Unavailable
from libs.common.runtime import Runtime
from libs.mesos import errors
from libs.mesos.attributes import as_texts
from libs.mesos.credentials import open_credentials
from libs.mesos.events import Disconnected
from libs.mesos.http import AiohttpTransport
from libs.mesos.operator import OperatorClient
from services.monitor.model import MonitorConfig, Node, NodeState

AGENT_EVENTS = frozenset({"SUBSCRIBED", "AGENT_ADDED", "AGENT_REMOVED"})


class Operator(Protocol):
    """A master's operator face."""

    async def nodes(self) -> Sequence[Node]:
        """All agents that the master has. Raises Unavailable."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yields when agents may have changed; ends never, survives the master's loss."""
        ...


OpenOperator = Callable[[Runtime, MonitorConfig], AbstractAsyncContextManager[Operator]]


class HttpOperator:
    """The operator's face on libs/mesos."""

    def __init__(self, client: OperatorClient) -> None:
        self._client = client

    async def nodes(self) -> Sequence[Node]:
        """See Operator."""
        try:
            answer = await self._client.get_agents()
        except errors.MesosError as error:
            raise Unavailable(f"Mesos: {error}") from error
        # After its restart a master waits for the agents it remembers; until it gives up, they are not lost.
        awaited = [{"agent_info": info} for info in answer.get("recovered_agents", [])]
        return [parse_agent(each) for each in (*answer.get("agents", []), *awaited)]

    async def changes(self) -> AsyncIterator[None]:
        """See Operator."""
        async with self._client.subscribe() as events:
            async for event in events:
                if isinstance(event, Disconnected) or event.type in AGENT_EVENTS:
                    yield


def parse_agent(agent: Mapping[str, Any]) -> Node:
    """A node from an entry of GET_AGENTS."""
    info = agent["agent_info"]
    total = _sums(agent.get("total_resources", info.get("resources", [])))
    used = _sums(agent.get("allocated_resources", []))
    return Node(
        id=info["id"]["value"],
        hostname=info["hostname"],
        state=NodeState.UP if agent.get("active", True) else NodeState.LOST,
        attributes=as_texts(info.get("attributes", [])),
        cpus=total["cpus"],
        mem_mib=total["mem"],
        disk_mib=total["disk"],
        used_cpus=used["cpus"],
        used_mem_mib=used["mem"],
    )


def _sums(resources: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    sums = {"cpus": 0.0, "mem": 0.0, "disk": 0.0}
    for each in resources:
        if each["name"] in sums:
            sums[each["name"]] += each["scalar"]["value"]
    return sums


@asynccontextmanager
async def open_http_operator(rt: Runtime, config: MonitorConfig) -> AsyncIterator[Operator]:
    """The operator's face on real sockets."""
    credentials = open_credentials("monitor", config.principal, config.credential_file)
    async with aiohttp.ClientSession() as session:
        yield HttpOperator(
            OperatorClient(
                AiohttpTransport(session),
                list(config.masters),
                clock=rt.clock,
                rng=rt.rng,
                credentials=credentials,
            )
        )
