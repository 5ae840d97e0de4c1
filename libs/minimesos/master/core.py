"""What all parts of the master share: its state, its books, and the effects being gathered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from libs.common.clock import Ids
from libs.minimesos.config import MasterConfig
from libs.minimesos.effects import Delete, Effect, LinkSend, Message, Put, Send
from libs.minimesos.host import Host
from libs.minimesos.master.allocator import Allocator
from libs.minimesos.master.model import Agent, Framework, State, dumps
from libs.minimesos.master.registry import Registry
from libs.minimesos.schema import Json
from libs.minimesos.timers import Timers


class Core:
    """Shared context of one `handle` after another; holds no logic beyond sending and saving."""

    def __init__(
        self, config: MasterConfig, ids: Ids, host: Host, now: float, registry: Registry
    ) -> None:
        self.config = config
        self.ids = ids
        self.host = host
        self.now = now
        self.registry = registry
        self.state = State(config, ids.uuid(), now)
        self.allocator = Allocator(
            config.min_allocatable_resources,
            config.filter_gpu_resources,
            config.allocation_interval_s,
        )
        self.allocator.weights = dict(registry.weights)
        self.timers = Timers()
        self.out: list[Effect] = []
        self.counters: Counter[str] = Counter()
        self.allocation_wanted = False
        self.operator_streams: dict[str, None] = {}
        self.draining: dict[str, None] = {}

    # ---- to frameworks
    def event(self, framework: Framework, kind: str, body: object) -> None:
        """Send event `kind` with `body` (a message) to a framework, if it is there."""
        self.event_bytes(framework, kind, dumps(body))

    def event_bytes(self, framework: Framework, kind: str, body: bytes) -> None:
        """Like `event`, with the submessage already serialised; it is named after the event."""
        if framework.stream is None:
            return
        name = kind.lower()
        framework.counters[f"events/{name}"] += 1
        data = b'{"type":"%b","%b":%b}' % (kind.encode(), name.encode(), body)
        self.out.append(Send(framework.stream, data))

    def bare_event(self, framework: Framework, kind: str) -> None:
        """An event without a submessage (HEARTBEAT)."""
        if framework.stream is not None:
            framework.counters[f"events/{kind.lower()}"] += 1
            self.out.append(Send(framework.stream, b'{"type":"%b"}' % kind.encode()))

    # ---- to operators
    def operator_event(self, kind: str, make: Callable[[], object]) -> None:
        """Send event `kind` to all operator streams; `make` is called only if there is one."""
        if self.operator_streams:
            self.operator_bytes(kind, dumps(make()))

    def operator_bytes(self, kind: str, body: bytes) -> None:
        """Like `operator_event` with a serialised submessage."""
        if not self.operator_streams:
            return
        data = b'{"type":"%b","%b":%b}' % (kind.encode(), kind.lower().encode(), body)
        for stream in self.operator_streams:
            self.out.append(Send(stream, data))

    # ---- to agents
    def to_agent(self, agent: Agent, message: Message) -> bool:
        """Send `message` to an agent; False when it is disconnected."""
        if agent.link is None:
            return False
        self.out.append(LinkSend(agent.link, message))
        return True

    # ---- to the disk
    def save(self, key: str, value: Json) -> None:
        """Keep a registry entry, unless the registry is in memory only."""
        if self.config.registry != "in_memory":
            self.out.append(Put(key, dumps(value)))

    def forget(self, key: str) -> None:
        """Drop a registry entry."""
        if self.config.registry != "in_memory":
            self.out.append(Delete(key))

    # ---- ids
    def next_offer_id(self) -> str:
        """`<master>-O<n>`, shared by offers and inverse offers."""
        number = self.state.next_offer
        self.state.next_offer += 1
        return f"{self.state.id}-O{number}"
