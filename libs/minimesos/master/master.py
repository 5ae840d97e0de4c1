"""The master as a state machine: `handle(now, input)` gives effects, `next_deadline()` the time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from libs.common.clock import Ids
from libs.minimesos.config import MasterConfig
from libs.minimesos.effects import (
    Effect,
    HttpRequest,
    Input,
    LinkDown,
    LinkMessage,
    LinkSend,
    Message,
    StreamClosed,
)
from libs.minimesos.errors import CallError
from libs.minimesos.host import Host
from libs.minimesos.http import error_response
from libs.minimesos.master import agents, frameworks, operations, operator, reconcile, tasks
from libs.minimesos.master.core import Core
from libs.minimesos.master.drain import check_drained
from libs.minimesos.master.endpoints import handle_http
from libs.minimesos.master.maintenance import is_down
from libs.minimesos.master.offers import make_offers, rescind
from libs.minimesos.master.registry import load


class Master:
    """One leading master. `saved` are the registry entries of its predecessor on this disk."""

    def __init__(
        self,
        config: MasterConfig,
        ids: Ids,
        host: Host,
        now: float,
        saved: Mapping[str, bytes] | None = None,
    ) -> None:
        entries = {} if config.registry == "in_memory" or saved is None else saved
        core = Core(config, ids, host, now, load(entries))
        self.core = core
        core.timers.set(("batch",), now + config.allocation_interval_s)
        for agent_id in core.registry.recovered:
            deadline = now + config.agent_reregister_timeout_s
            core.timers.set(("reregister", agent_id), deadline)

    def handle(self, now: float, event: Input) -> list[Effect]:
        """Take one input; the effects must be performed in order, disk first."""
        core = self.core
        core.now = max(now, core.now)
        for key in core.timers.due(core.now):
            self._fire(key)
        if isinstance(event, HttpRequest):
            self._http(event)
        elif isinstance(event, StreamClosed):
            self._stream_closed(event.stream)
        elif isinstance(event, LinkMessage):
            self._message(event.link, event.message)
        elif isinstance(event, LinkDown):
            agents.disconnected(core, event.link)
        if core.draining:
            check_drained(core)
        if core.allocation_wanted:
            core.allocation_wanted = False
            make_offers(core)
        out, core.out = core.out, []
        return out

    def next_deadline(self) -> float | None:
        """When to call `handle` with a Tick at the latest."""
        return self.core.timers.next_deadline()

    # ---- inputs
    def _http(self, request: HttpRequest) -> None:
        mark = len(self.core.out)
        try:
            handle_http(self.core, request)
        except CallError as error:
            del self.core.out[mark:]
            self.core.out.append(error_response(request.conn, error))

    def _stream_closed(self, stream: str) -> None:
        core = self.core
        if stream in core.operator_streams:
            del core.operator_streams[stream]
            core.timers.cancel(("operator", stream))
            return
        frameworks.disconnected(core, stream)

    def _message(self, link: str, message: Message) -> None:
        core = self.core
        kind = message["type"]
        if kind in ("REGISTER", "REREGISTER"):
            self._registration(link, kind, message)
            return
        agent = core.state.agents.get(core.state.links.get(link, ""))
        if agent is None:
            core.counters["dropped_messages"] += 1
            return
        if kind == "UPDATE":
            tasks.on_update(core, agent, message)
        elif kind == "PONG":
            agents.on_pong(agent)
        elif kind == "EXITED":
            tasks.on_exited(core, agent, message)
        elif kind == "MESSAGE":
            reconcile.message_to_framework(core, agent, message)
        elif kind == "OPERATION_STATUS":
            operations.on_status(core, agent, message)
        elif kind == "UNREGISTER":
            agents.unregister(core, agent)
        else:
            core.counters["dropped_messages"] += 1

    def _registration(self, link: str, kind: str, message: Message) -> None:
        info = message["agent_info"]
        if is_down(self.core, info["hostname"], message["ip"]):
            text = "Machine is DOWN"
            self.core.out.append(LinkSend(link, {"type": "SHUTDOWN", "message": text}))
        elif kind == "REGISTER":
            agents.register(self.core, link, message)
        else:
            agents.reregister(self.core, link, message)

    # ---- time
    def _fire(self, key: Hashable) -> None:
        core = self.core
        assert isinstance(key, tuple)
        kind = key[0]
        if kind == "batch":
            core.timers.set(key, core.now + core.config.allocation_interval_s)
            make_offers(core)
        elif kind == "heartbeat":
            self._heartbeat(key[1])
        elif kind == "operator":
            operator.heartbeat(core, key[1])
        elif kind == "ping":
            agents.on_ping_timeout(core, key[1])
        elif kind == "offer":
            offer = core.state.offers.get(key[1])
            if offer is not None:
                rescind(core, offer)
        elif kind == "failover":
            framework = core.state.frameworks.get(key[1])
            if framework is not None and not framework.connected:
                frameworks.remove(core, framework)
        elif kind == "reregister":
            agents.on_reregister_timeout(core, key[1])

    def _heartbeat(self, stream: str) -> None:
        core = self.core
        framework = core.state.frameworks.get(core.state.streams.get(stream, ""))
        if framework is not None and framework.stream == stream:
            core.bare_event(framework, "HEARTBEAT")
            deadline = core.now + core.config.heartbeat_interval_s
            core.timers.set(("heartbeat", stream), deadline)
