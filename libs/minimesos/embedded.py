"""A cluster in the caller's event loop: real sockets, real disks, real executor processes.

    async with embedded(EmbeddedConfig(work_dir=…), clock=clock, ids=ids) as cluster:
        cluster.master_url, cluster.agent_urls

Leaving stops serving; executors live on and find the next incarnation by themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from libs.common.clock import Clock, Ids
from libs.minimesos.config import AgentConfig, MasterConfig
from libs.minimesos.effects import LinkMessage
from libs.minimesos.nodes import AgentNode, MasterNode, task_group

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EmbeddedConfig:
    """`work_dir` None keeps nothing. Ports 0 are free ones, chosen at start."""

    work_dir: Path | None
    master: MasterConfig = field(default_factory=MasterConfig)
    agents: tuple[AgentConfig, ...] = (AgentConfig(),)


@dataclass(frozen=True, slots=True)
class EmbeddedCluster:
    """Where the cluster listens, e.g. `http://127.0.0.1:5050`."""

    master_url: str
    agent_urls: tuple[str, ...]


@asynccontextmanager
async def embedded(
    config: EmbeddedConfig, *, clock: Clock, ids: Ids
) -> AsyncIterator[EmbeddedCluster]:
    """Master and agents in this process. Raises StorageError, ConfigError, OSError at start."""
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(task_group())
        directory = None if config.work_dir is None else config.work_dir / "master"
        master = await stack.enter_async_context(
            MasterNode.open(config.master, directory, clock, ids, tasks)
        )
        urls: list[str] = []
        for index, wanted in enumerate(config.agents):
            root = None if config.work_dir is None else config.work_dir / f"agent-{index}"
            given = replace(wanted, master=f"{master.config.ip}:{master.config.port}")
            agent = await stack.enter_async_context(AgentNode.open(given, root, clock, ids, tasks))
            connect(master, agent)
            urls.append(agent.url)
        yield EmbeddedCluster(master.url, tuple(urls))


def _again(master: MasterNode, agent: AgentNode, link: str) -> None:
    """The master closed the link of an agent it gave up: the agent comes back, unless it left."""
    agent.link_down(link)
    if not agent.stopped.is_set():
        connect(master, agent)


def connect(master: MasterNode, agent: AgentNode) -> None:
    """Join an agent to a master in the same process: messages are handed over as objects."""
    link = f"local-{agent.config.port}"
    loop = asyncio.get_running_loop()
    master.attach(
        link,
        send=lambda m: loop.call_soon(agent.node.feed, LinkMessage(link, m)),
        close=lambda: loop.call_soon(_again, master, agent, link),
    )
    agent.attach(
        link,
        send=lambda m: loop.call_soon(master.node.feed, LinkMessage(link, m)),
        close=lambda: loop.call_soon(master.detach, link),
    )
