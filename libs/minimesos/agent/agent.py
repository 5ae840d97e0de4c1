"""The agent as a state machine: `handle(now, input)` gives effects, `next_deadline()` the time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from libs.common.clock import Ids
from libs.minimesos.agent import (
    draining,
    executors,
    launch,
    recover,
    registration,
    updates,
    virtual,
)
from libs.minimesos.agent.core import Core
from libs.minimesos.agent.endpoints import handle_http
from libs.minimesos.config import AgentConfig
from libs.minimesos.effects import (
    Effect,
    ExecutorExited,
    ExecutorLaunched,
    HttpRequest,
    Input,
    LaunchFailed,
    LinkDown,
    LinkMessage,
    LinkSend,
    LinkUp,
    Message,
    RecoveredAlive,
    StreamClosed,
    Unregister,
)
from libs.minimesos.errors import CallError
from libs.minimesos.host import Host
from libs.minimesos.http import error_response
from libs.minimesos.resources_read import parse_resources


class Agent:
    """One agent. `saved` is its checkpoint; the first `handle` then asks for live containers."""

    def __init__(
        self,
        config: AgentConfig,
        ids: Ids,
        host: Host,
        now: float,
        saved: Mapping[str, bytes] | None = None,
    ) -> None:
        self.core = Core(config, ids, host, now)
        if saved:
            recover.recover(self.core, saved)

    def handle(self, now: float, event: Input) -> list[Effect]:
        """Take one input; the effects must be performed in order, disk first."""
        core = self.core
        core.now = max(now, core.now)
        for key in core.timers.due(core.now):
            self._fire(key)
        if isinstance(event, HttpRequest):
            self._http(event)
        elif isinstance(event, LinkMessage):
            if event.link == core.link:
                self._message(event.message)
        elif isinstance(event, StreamClosed):
            executors.stream_closed(core, event.stream)
        elif isinstance(event, LinkUp):
            core.link = event.link
            core.registered = False
        elif isinstance(event, LinkDown):
            if core.link == event.link:
                core.link = None
                core.registered = False
        else:
            self._process(event)
        if core.recovering:
            recover.check_done(core)
        if core.link is not None and not core.registered and not core.recovering:
            self._introduce_once()
        out, core.out = core.out, []
        return out

    def next_deadline(self) -> float | None:
        """When to call `handle` with a Tick at the latest."""
        return self.core.timers.next_deadline()

    _introduced: str | None = None

    def _introduce_once(self) -> None:
        if self._introduced != self.core.link:
            self._introduced = self.core.link
            registration.introduce(self.core)

    # ---- inputs
    def _http(self, request: HttpRequest) -> None:
        mark = len(self.core.out)
        try:
            handle_http(self.core, request)
        except CallError as error:
            del self.core.out[mark:]
            self.core.out.append(error_response(request.conn, error))

    def _process(self, event: Input) -> None:
        core = self.core
        if isinstance(event, ExecutorLaunched):
            launch.launched(core, event.container_id, event.pid, event.start_ticks)
        elif isinstance(event, ExecutorExited):
            executors.ended(core, event.container_id, event.status)
        elif isinstance(event, LaunchFailed):
            launch.launch_failed(core, event.container_id, event.stage, event.text)
        elif isinstance(event, RecoveredAlive):
            recover.alive(core, event.alive)
        elif isinstance(event, Unregister):
            registration.unregister(core)

    def _message(self, message: Message) -> None:
        core = self.core
        kind = message["type"]
        if kind in ("REGISTERED", "REREGISTERED"):
            registration.registered(core, message)
        elif kind == "PING":
            # Also before the registration is confirmed: the first ping comes with it.
            core.out.append(LinkSend(core.link or "", {"type": "PONG"}))
        elif kind in ("RUN", "RUN_GROUP"):
            launch.run(core, message)
        elif kind == "ACK":
            done = updates.acknowledge(core, message)
            if done is not None:
                executors.settle(core, *done)
        elif kind == "KILL":
            executors.kill_task(core, message)
        elif kind == "SHUTDOWN_FRAMEWORK":
            executors.shutdown_framework(core, message["framework_id"])
        elif kind == "SHUTDOWN_EXECUTOR":
            self._shutdown_executor(message)
        elif kind == "UPDATE_FRAMEWORK":
            registration.update_framework(core, message["framework_info"])
        elif kind == "MESSAGE":
            self._message_to_executor(message)
        else:
            self._administer(kind, message)

    def _administer(self, kind: str, message: Message) -> None:
        core = self.core
        if kind == "DRAIN":
            draining.drain(core, message["config"])
        elif kind == "SHUTDOWN":
            registration.stop(core, message["message"])
        elif kind == "APPLY_OPERATION":
            registration.apply_operation(core, message, parse_resources(message["total"]))
        elif kind == "OPERATION_ACK":
            core.operations.pop(message["uuid"], None)
            core.timers.cancel(("operation", message["uuid"]))

    def _shutdown_executor(self, message: Message) -> None:
        framework = self.core.frameworks.get(message["framework_id"])
        executor = framework.executors.get(message["executor_id"]) if framework else None
        if executor is not None:
            executors.shutdown(self.core, executor)

    def _message_to_executor(self, message: Message) -> None:
        core = self.core
        framework = core.frameworks.get(message["framework_id"])
        executor = framework.executors.get(message["executor_id"]) if framework else None
        sent = executor is not None and core.to_executor(
            executor, "MESSAGE", {"data": message["data"]}
        )
        core.counters["valid_framework_messages" if sent else "invalid_framework_messages"] += 1

    # ---- time
    def _fire(self, key: Hashable) -> None:
        core = self.core
        assert isinstance(key, tuple)
        kind = key[0]
        if kind == "update":
            updates.on_retry(core, key[1], key[2], key[3])
        elif kind == "virtual":
            virtual.finish(core, key[1], key[2], key[3])
        elif kind == "register":
            executors.on_register_timeout(core, key[1])
        elif kind == "shutdown":
            executor = core.by_container.get(key[1])
            if executor is not None:
                executors.kill(core, executor)
        elif kind == "recovery":
            recover.on_timeout(core)
        elif kind == "operation":
            registration.on_operation_retry(core, key[1])
        elif kind == "executor-heartbeat":
            executor = core.by_stream.get(key[1])
            if executor is not None:
                core.to_executor(executor, "HEARTBEAT")
                core.timers.set(key, core.now + executors.HEARTBEAT_S)
