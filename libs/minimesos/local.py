"""A whole cluster in one thread, without sockets, processes or asyncio: for the simulation.

Requests and events are bytes, exactly those that would go over HTTP (RecordIO framing left out).
Time is an argument. Every master and agent has a disk of its own that survives `crash_*`.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl

from libs.common.clock import Ids
from libs.minimesos.agent.agent import Agent
from libs.minimesos.agent.model import ExecutorState
from libs.minimesos.agent.views import used
from libs.minimesos.config import AgentConfig, MasterConfig
from libs.minimesos.effects import (
    CloseStream,
    Delete,
    Effect,
    ExecutorExited,
    ExecutorLaunched,
    HttpRequest,
    Input,
    Kill,
    Launch,
    LinkClose,
    LinkDown,
    LinkMessage,
    LinkSend,
    LinkUp,
    OpenStream,
    Put,
    RecoveredAlive,
    Respond,
    Send,
    Stop,
    StreamClosed,
    Tick,
    Unregister,
    WatchRecovered,
)
from libs.minimesos.host import StillHost
from libs.minimesos.keyspace import KeySpace
from libs.minimesos.master.master import Master
from libs.minimesos.resources import NOTHING, Resources

SIGKILL = 9


class Sink(Protocol):
    """Where the events of one streaming response go."""

    def record(self, data: bytes) -> None:
        """One event as JSON, without RecordIO framing."""
        ...

    def closed(self) -> None:
        """The server ended the stream."""
        ...


class Response(NamedTuple):
    """An HTTP answer; `stream` names the stream of a 200 that goes on. Header names as sent."""

    status: int
    headers: dict[str, str]
    body: bytes
    stream: str | None


class ExecutorLaunch(NamedTuple):
    """What the agent wants started; `command` is a CommandInfo, `task` set for command tasks."""

    agent: int
    container_id: str
    command: dict[str, object]
    environment: dict[str, str]
    sandbox: str
    user: str
    builtin: bool
    task: bytes


UNAVAILABLE = Response(0, {}, b"connection refused", None)


@dataclass(slots=True)
class _Node:
    """A master or an agent: its core (None while down), disk and open streams."""

    core: Master | Agent | None = None
    disk: KeySpace = field(default_factory=KeySpace)
    sinks: dict[str, Sink] = field(default_factory=dict)
    waiting: dict[str, Sink | None] = field(default_factory=dict)
    answers: dict[str, Response] = field(default_factory=dict)
    containers: dict[str, int] = field(default_factory=dict)
    link: str | None = None
    partitioned: bool = False
    deadline: float | None = None


class LocalCluster:
    """One master and some agents. Methods take `now` (unix seconds) and never block."""

    def __init__(
        self,
        ids: Ids,
        now: float,
        master: MasterConfig,
        agents: Sequence[AgentConfig],
        launch: Callable[[ExecutorLaunch], int] | None = None,
        kill: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self._ids = ids
        self._launch = launch
        self._kill = kill
        self._master_config = master
        self._agent_configs = [
            config if launch is not None else replace(config, virtual=True) for config in agents
        ]
        self._master = _Node()
        self._agents = [_Node() for _ in agents]
        self._queue: deque[tuple[_Node, Input]] = deque()
        self._deadlines: list[tuple[float, int, _Node]] = []
        self._by_link: dict[str, _Node] = {}
        self._pumping = False
        self._now = now
        self._next = 0
        self.start_master(now)
        for index in range(len(agents)):
            self.start_agent(index, now)

    # ---- requests
    def master(
        self,
        now: float,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        sink: Sink | None = None,
    ) -> Response:
        """A request to the master; a SUBSCRIBE's events go to `sink`. Status 0: it is down."""
        return self._request(self._master, now, method, target, body, headers, sink)

    def agent(
        self,
        index: int,
        now: float,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        sink: Sink | None = None,
    ) -> Response:
        """A request to an agent."""
        return self._request(self._agents[index], now, method, target, body, headers, sink)

    def _request(
        self,
        node: _Node,
        now: float,
        method: str,
        target: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        sink: Sink | None,
    ) -> Response:
        if node.core is None:
            return UNAVAILABLE
        self._next += 1
        conn = str(self._next)
        path, _, query = target.partition("?")
        given = {"content-type": "application/json", "accept": "application/json"}
        given.update({k.lower(): v for k, v in (headers or {}).items()})
        request = HttpRequest(conn, method, path, dict(parse_qsl(query)), given, body)
        node.waiting[conn] = sink
        self._put(node, request, now)
        # A call from inside a sink waits its turn, so the answer is not there yet.
        return node.answers.pop(conn, Response(202, {}, b"", None))

    def disconnect(self, stream: str, now: float) -> None:
        """The client of `stream` closes it; unknown streams are fine."""
        for node in (self._master, *self._agents):
            if node.sinks.pop(stream, None) is not None:
                self._put(node, StreamClosed(stream), now)

    def exited(self, index: int, pid: int, status: int | None, now: float) -> None:
        """The process that `launch` started has ended with a wait status."""
        node = self._agents[index]
        for container_id, known in list(node.containers.items()):
            if known == pid:
                del node.containers[container_id]
                if node.core is not None:
                    self._put(node, ExecutorExited(container_id, status), now)

    # ---- time
    def next_deadline(self) -> float | None:
        """When `tick` must be called at the latest."""
        while self._deadlines:
            deadline, _, node = self._deadlines[0]
            if node.deadline == deadline and node.core is not None:
                return deadline
            heapq.heappop(self._deadlines)
        return None

    def tick(self, now: float) -> None:
        """Let due timers fire."""
        while True:
            deadline = self.next_deadline()
            if deadline is None or deadline > now:
                return
            node = heapq.heappop(self._deadlines)[2]
            node.deadline = None
            self._put(node, Tick(), now)

    def _arm(self, node: _Node) -> None:
        deadline = node.core.next_deadline() if node.core is not None else None
        if deadline is not None and deadline != node.deadline:
            self._next += 1
            heapq.heappush(self._deadlines, (deadline, self._next, node))
        node.deadline = deadline

    # ---- faults
    def crash_master(self, now: float) -> None:
        """kill -9 of the master: streams break, agents notice."""
        self._crash(self._master)
        for node in self._agents:
            self._cut(node, now)

    def start_master(self, now: float) -> None:
        """Start the master from its disk; agents that can reach it connect."""
        config = self._master_config
        disk = dict(self._master.disk.values)
        self._master.core = Master(config, self._ids, StillHost(), now, disk)
        self._arm(self._master)
        for node in self._agents:
            self._connect(node, now)

    def crash_agent(self, index: int, now: float) -> None:
        """kill -9 of an agent; its executors live on."""
        node = self._agents[index]
        self._crash(node)
        self._cut(node, now)

    def start_agent(self, index: int, now: float) -> None:
        """Start an agent from its disk."""
        node = self._agents[index]
        saved = dict(node.disk.values)
        node.core = Agent(self._agent_configs[index], self._ids, StillHost(), now, saved)
        self._put(node, Tick(), now)
        self._connect(node, now)

    def unregister_agent(self, index: int, now: float) -> None:
        """SIGUSR1 to an agent."""
        self._put(self._agents[index], Unregister(), now)

    def waits_for_acknowledgements(self, index: int) -> bool:
        """Has an agent an executor that has ended, and of whose last updates some are not acknowledged yet?"""
        agent = self._agents[index].core
        return isinstance(agent, Agent) and any(
            executor.state is ExecutorState.TERMINATED
            for framework in agent.core.frameworks.values()
            for executor in framework.executors.values()
        )

    def free(self, index: int) -> Resources:
        """What no executor and no task holds on an agent, by its own books; nothing of one that is down."""
        agent = self._agents[index].core
        if not isinstance(agent, Agent):
            return NOTHING
        return agent.core.total - used(agent.core).unallocated()

    def tasks(self, index: int) -> set[str]:
        """The ids of an agent's tasks that have not ended; none of one that is down."""
        agent = self._agents[index].core
        if not isinstance(agent, Agent):
            return set()
        return {task.task_id for each in agent.core.executors() for task in each.active_tasks()}

    def partition(self, index: int, cut: bool, now: float) -> None:
        """Break or mend the connection between an agent and the master."""
        node = self._agents[index]
        node.partitioned = cut
        if cut:
            self._cut(node, now)
        else:
            self._connect(node, now)

    def hang_agent(self, index: int, hung: bool, now: float) -> None:
        """Messages between master and agent vanish although the connection stays (SIGSTOP)."""
        node = self._agents[index]
        node.partitioned = hung
        if not hung:
            self._connect(node, now)

    def _crash(self, node: _Node) -> None:
        node.core = None
        node.deadline = None
        sinks, node.sinks = list(node.sinks.values()), {}
        for sink in sinks:
            sink.closed()

    def _cut(self, node: _Node, now: float) -> None:
        link, node.link = node.link, None
        if link is None:
            return
        del self._by_link[link]
        if self._master.core is not None:
            self._put(self._master, LinkDown(link), now)
        if node.core is not None:
            self._put(node, LinkDown(link), now)

    def _connect(self, node: _Node, now: float) -> None:
        usable = node.core is not None and self._master.core is not None
        if not usable or node.partitioned or node.link is not None:
            return
        self._next += 1
        node.link = f"link-{self._next}"
        self._by_link[node.link] = node
        self._put(node, LinkUp(node.link), now)

    # ---- the pump
    def _put(self, node: _Node, event: Input, now: float) -> None:
        self._now = max(now, self._now)
        self._queue.append((node, event))
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._queue:
                target, item = self._queue.popleft()
                if target.core is not None:
                    effects = target.core.handle(self._now, item)
                    self._arm(target)
                    self._perform(target, effects)
        finally:
            self._pumping = False

    def _perform(self, node: _Node, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Put):
                node.disk.put(effect.key, effect.value)
            elif isinstance(effect, Delete):
                node.disk.delete(effect.key)
        for effect in effects:
            self._perform_one(node, effect)

    def _perform_one(self, node: _Node, effect: Effect) -> None:
        if isinstance(effect, Send):
            sink = node.sinks.get(effect.stream)
            if sink is not None:
                sink.record(effect.data)
        elif isinstance(effect, Respond):
            node.waiting.pop(effect.conn, None)
            answer = Response(effect.status, effect.headers, effect.body, None)
            node.answers[effect.conn] = answer
        elif isinstance(effect, OpenStream):
            sink = node.waiting.pop(effect.conn, None)
            if sink is not None:
                node.sinks[effect.stream] = sink
            node.answers[effect.conn] = Response(200, effect.headers, b"", effect.stream)
        elif isinstance(effect, CloseStream):
            sink = node.sinks.pop(effect.stream, None)
            if sink is not None:
                sink.closed()
        elif isinstance(effect, LinkSend):
            self._carry(node, effect)
        elif isinstance(effect, LinkClose | Stop):
            self._leave(node, effect)
        elif isinstance(effect, Launch | Kill | WatchRecovered):
            self._process(node, effect)

    def _carry(self, node: _Node, effect: LinkSend) -> None:
        if node is self._master:
            other = self._by_link.get(effect.link)
            if other is not None and not other.partitioned:
                self._queue.append((other, LinkMessage(effect.link, effect.message)))
        elif node.link == effect.link and not node.partitioned:
            self._queue.append((self._master, LinkMessage(effect.link, effect.message)))

    def _leave(self, node: _Node, effect: LinkClose | Stop) -> None:
        if isinstance(effect, Stop):
            self._crash(node)
            self._cut(node, self._now)
            return
        other = self._by_link.get(effect.link)
        if other is not None:
            self._cut(other, self._now)

    def _process(self, node: _Node, effect: Launch | Kill | WatchRecovered) -> None:
        index = self._agents.index(node)
        if isinstance(effect, WatchRecovered):
            alive = frozenset(c for c, pid, _ in effect.containers if c in node.containers)
            self._queue.append((node, RecoveredAlive(alive)))
        elif isinstance(effect, Launch) and self._launch is not None:
            request = ExecutorLaunch(
                index,
                effect.container_id,
                effect.command,
                effect.environment,
                effect.sandbox,
                effect.user,
                effect.builtin,
                effect.task,
            )
            pid = self._launch(request)
            node.containers[effect.container_id] = pid
            self._queue.append((node, ExecutorLaunched(effect.container_id, pid, 0)))
        elif isinstance(effect, Kill) and self._kill is not None:
            self._kill(index, effect.pid, SIGKILL)
