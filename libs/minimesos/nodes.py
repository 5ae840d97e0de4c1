"""A running master and a running agent: core, disk, HTTP face, processes and links together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from libs.common.clock import Clock, Ids
from libs.common.errors import Unavailable
from libs.common.waiting import TaskGroup
from libs.minimesos import gc, processes
from libs.minimesos.agent.agent import Agent
from libs.minimesos.config import AgentConfig, MasterConfig
from libs.minimesos.effects import (
    Effect,
    LinkClose,
    LinkDown,
    LinkSend,
    LinkUp,
    Message,
    Put,
    Stop,
    Tick,
    Unregister,
)
from libs.minimesos.face import Face, free_port, serve
from libs.minimesos.host import LinuxHost
from libs.minimesos.journal import Journal, NoJournal
from libs.minimesos.launcher import Launcher
from libs.minimesos.master.master import Master
from libs.minimesos.node import Node

log = logging.getLogger(__name__)
_BOOT_KEY = "boot_id"


class Link(NamedTuple):
    """The other end of a connection between master and agent."""

    send: Callable[[Message], object]
    close: Callable[[], object]


def open_journal(directory: Path | None) -> Journal | NoJournal:
    """The journal in `directory`; None keeps nothing."""
    return NoJournal() if directory is None else Journal(directory)


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """A TaskGroup whose only error comes out as it is: callers catch errors, not groups."""
    try:
        async with TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


@contextmanager
def _running(node: Node, tasks: TaskGroup, name: str) -> Iterator[None]:
    task = tasks.create_task(node.run(), name=name)
    try:
        yield
    finally:
        node.stop()
        task.cancel()


class MasterNode:
    """A master that listens."""

    def __init__(self, config: MasterConfig, journal: Journal | NoJournal, clock: Clock, ids: Ids):
        self.config = config
        self.links: dict[str, Link] = {}
        machine = Master(config, ids, LinuxHost(), clock.now(), journal.saved)
        self.machine = machine
        journal.saved.clear()
        self.node = Node(machine, journal, clock, self._perform)
        self.face = Face(self.node.feed, self.node.room)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        config: MasterConfig,
        directory: Path | None,
        clock: Clock,
        ids: Ids,
        tasks: TaskGroup,
        routes: Callable[[MasterNode], list[web.RouteDef]] = lambda master: [],
    ) -> AsyncIterator[MasterNode]:
        """Start; leaving stops it."""
        journal = open_journal(directory)
        try:
            with free_port(config.ip, config.port) as sock:
                port, work_dir = sock.getsockname()[1], str(directory or "")
                given = replace(config, port=port, work_dir=work_dir)
                self = cls(given, journal, clock, ids)
                with _running(self.node, tasks, "minimesos-master"):
                    async with serve(self.face, sock, routes(self), clock):
                        log.info("master %s listens on %s", self.machine.core.state.id, self.url)
                        yield self
        finally:
            journal.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.config.ip}:{self.config.port}"

    def attach(
        self, link: str, send: Callable[[Message], object], close: Callable[[], object]
    ) -> None:
        """An agent's connection begins."""
        self.links[link] = Link(send, close)

    def detach(self, link: str) -> None:
        """An agent's connection is over."""
        if self.links.pop(link, None) is not None:
            self.node.feed(LinkDown(link))

    def _perform(self, effect: Effect) -> None:
        if self.face.perform(effect):
            return
        if isinstance(effect, LinkSend):
            link = self.links.get(effect.link)
            if link is not None:
                link.send(effect.message)
        elif isinstance(effect, LinkClose):
            link = self.links.get(effect.link)
            if link is not None:
                link.close()
                self.detach(effect.link)


class AgentNode:
    """An agent that listens and runs executors."""

    def __init__(self, config: AgentConfig, journal: Journal | NoJournal, clock: Clock, ids: Ids):
        self.config = config
        self.link: tuple[str, Link] | None = None
        self.stopped = asyncio.Event()
        self.stop_reason = ""
        boot = processes.boot_id()
        same_boot = journal.saved.pop(_BOOT_KEY, boot.encode()) == boot.encode()
        self.machine = Agent(config, ids, LinuxHost(), clock.now(), journal.saved)
        journal.saved.clear()
        self.node = Node(self.machine, journal, clock, self._perform)
        self.launcher = Launcher(self.node.feed, same_boot)
        self.face = Face(self.node.feed, self.node.room)
        journal.commit([Put(_BOOT_KEY, boot.encode())])

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        config: AgentConfig,
        directory: Path | None,
        clock: Clock,
        ids: Ids,
        tasks: TaskGroup,
    ) -> AsyncIterator[AgentNode]:
        """Start; leaving stops it, its executors live on."""
        journal = open_journal(None if directory is None else directory / "meta")
        try:
            with free_port(config.ip, config.port) as sock:
                work_dir = config.work_dir or str(directory or "")
                given = replace(config, port=sock.getsockname()[1], work_dir=work_dir)
                self = cls(given, journal, clock, ids)
                with _running(self.node, tasks, "minimesos-agent"):
                    async with serve(self.face, sock, [], clock):
                        self.node.feed(Tick())
                        log.info("agent listens on %s", self.url)
                        collecting = tasks.create_task(self._collect(clock), name="minimesos-gc")
                        try:
                            yield self
                        finally:
                            collecting.cancel()
                            self.launcher.close()
        finally:
            journal.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.config.ip}:{self.config.port}"

    def attach(
        self, link: str, send: Callable[[Message], object], close: Callable[[], object]
    ) -> None:
        """The connection to the master begins."""
        self.link = (link, Link(send, close))
        self.node.feed(LinkUp(link))

    def link_down(self, link: str) -> None:
        """The connection to the master is over."""
        if self.link is not None and self.link[0] == link:
            self.link = None
            self.node.feed(LinkDown(link))

    async def _collect(self, clock: Clock) -> None:
        """Remove old sandboxes again and again; without a directory there are none."""
        config = self.config
        while config.work_dir:
            root = Path(config.work_dir)
            await clock.sleep(config.disk_watch_interval_s)
            found = await asyncio.to_thread(gc.sandboxes, root)
            # Asked after the list was made: what is in it and not alive now will never be.
            executors = self.machine.core.by_container.values()
            live = frozenset(each.container_id for each in executors if each.alive)
            try:
                usage = await asyncio.to_thread(gc.usage_of, root)
            except Unavailable as error:
                log.warning("sandboxes are kept: %s", error)
                continue
            age_s = gc.allowed_age_s(config.gc_delay_s, config.gc_disk_headroom, usage)
            gone = await asyncio.to_thread(gc.collect, found, live, clock.now() - age_s)
            if gone:
                log.info(
                    "%d old sandboxes removed, the disk is %.0f %% full", len(gone), 100 * usage
                )

    def unregister(self) -> None:
        """Leave the cluster for good."""
        self.node.feed(Unregister())

    def _perform(self, effect: Effect) -> None:
        if self.face.perform(effect) or self.launcher.perform(effect):
            return
        if isinstance(effect, LinkSend):
            if self.link is not None and self.link[0] == effect.link:
                self.link[1].send(effect.message)
        elif isinstance(effect, Stop):
            log.warning("agent stops: %s", effect.reason)
            self.stop_reason = effect.reason
            if self.link is not None:
                self.link[1].close()
            self.stopped.set()
