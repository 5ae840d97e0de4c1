"""`ExecutorClient`: the v1 executor API of the agent that started us.

What the scheduler has not acknowledged goes with every new SUBSCRIBE, so nothing is lost when the
agent or the worker behind a supervisor restarts. A worker that takes over from another hands the
tasks and updates it knows as unacknowledged to the constructor.
"""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from libs.common.backoff import Backoff
from libs.common.clock import Clock, Ids
from libs.mesos import calls, events
from libs.mesos.environment import ExecutorEnvironment
from libs.mesos.errors import (
    BadCall,
    GaveUp,
    NotConnected,
    NotSubscribed,
    TransportError,
    Unavailable,
)
from libs.mesos.messages import Call, TaskInfo, TaskStatus, UpdateCall
from libs.mesos.ports import Transport
from libs.mesos.stream import EventStream, base_url, post
from libs.mesos.subscription import Lost, Options, Subscription

PATH = "/api/v1/executor"


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """Bounds of an executor's calls; times in seconds."""

    call_timeout_s: float = 10.0
    connect_timeout_s: float = 10.0
    subscribe_timeout_s: float = 15.0
    backoff_min_s: float = 0.1
    update_attempts: int = 3


class Unacknowledged:
    """Tasks and updates which no ACKNOWLEDGED has covered, in order."""

    def __init__(self, tasks: Iterable[TaskInfo] = (), updates: Iterable[UpdateCall] = ()) -> None:
        self._tasks = {task["task_id"]["value"]: task for task in tasks}
        self._updates = {update["status"]["uuid"]: update for update in updates}

    @property
    def tasks(self) -> list[TaskInfo]:
        """Launched here, not one update acknowledged."""
        return list(self._tasks.values())

    @property
    def updates(self) -> list[UpdateCall]:
        """In the order they were made."""
        return list(self._updates.values())

    def launched(self, task: TaskInfo) -> None:
        """A LAUNCH came."""
        self._tasks[task["task_id"]["value"]] = task

    def updated(self, status: TaskStatus) -> None:
        """An update is about to be sent."""
        self._updates[status["uuid"]] = {"status": status}

    def forget(self, status: TaskStatus) -> None:
        """The agent will never take this update."""
        self._updates.pop(status["uuid"], None)

    def acknowledged(self, task_id: str, uuid: str) -> None:
        """An ACKNOWLEDGED came."""
        self._updates.pop(uuid, None)
        self._tasks.pop(task_id, None)


class ExecutorClient:
    """One executor's subscription, its updates and messages."""

    def __init__(
        self,
        transport: Transport,
        environment: ExecutorEnvironment,
        *,
        clock: Clock,
        rng: random.Random,
        ids: Ids,
        tasks: Iterable[TaskInfo] = (),
        updates: Iterable[UpdateCall] = (),
        options: ExecutorOptions | None = None,
    ) -> None:
        self._transport = transport
        self._environment = environment
        self._clock = clock
        self._rng = rng
        self._ids = ids
        self._options = options or ExecutorOptions()
        self._stream: EventStream | None = None
        self.unacknowledged = Unacknowledged(tasks, updates)
        self._address: dict[str, Any] = {
            "framework_id": calls.value(environment.framework_id),
            "executor_id": calls.value(environment.executor_id),
        }
        token = environment.token
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    @property
    def connected(self) -> bool:
        """Whether the agent has us subscribed."""
        return self._stream is not None and self._stream.link is not None

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[events.ExecutorEvent]]:
        """Typed events, re-subscribing inside; leaving the block closes the stream.

        When the recovery time-out passes without the agent (at once without checkpointing, once
        subscribed) the last event is `Shutdown` with a reason.
        """
        stream = EventStream(
            Subscription([base_url(self._environment.agent_url)], self._bounds(), self._rng),
            self._transport,
            self._clock,
            path=PATH,
            headers=self._headers,
            subscribe_body=self._subscribe_body,
            connect_timeout_s=self._options.connect_timeout_s,
        )
        self._stream = stream
        try:
            yield self._events(stream)
        finally:
            self._stream = None
            await stream.aclose()

    def _bounds(self) -> Options:
        return Options(
            # An agent sends heartbeats rarely (30 min) if at all: TCP has to tell its death.
            heartbeat_s=None,
            connect_timeout_s=self._options.connect_timeout_s,
            subscribe_timeout_s=self._options.subscribe_timeout_s,
            backoff_min_s=self._options.backoff_min_s,
            backoff_max_s=self._environment.subscription_backoff_max_s,
            give_up_s=self._environment.recovery_timeout_s,
        )

    def _subscribe_body(self) -> Call:
        unacknowledged = self.unacknowledged
        call = calls.executor_subscribe(unacknowledged.tasks, unacknowledged.updates)
        return {**call, **self._address}  # type: ignore[typeddict-item]

    async def _events(self, stream: EventStream) -> AsyncIterator[events.ExecutorEvent]:
        try:
            async for item in stream:
                if isinstance(item, Lost):
                    yield events.Disconnected(item.reason, item.was_subscribed, item.retry_in_s)
                    if item.was_subscribed and not self._environment.checkpoint:
                        yield events.Shutdown("agent lost, and the framework does not checkpoint")
                        return
                    continue
                event = events.executor_event(item)
                self._remember(event)
                yield event
        except GaveUp as error:
            yield events.Shutdown(f"recovery time-out: {error}")

    def _remember(self, event: events.ExecutorEvent) -> None:
        match event:
            case events.Launch(task):
                self.unacknowledged.launched(task)
            case events.LaunchGroup(tasks):
                for task in tasks:
                    self.unacknowledged.launched(task)
            case events.Acknowledged(task_id, uuid):
                self.unacknowledged.acknowledged(task_id, uuid)

    def make_status(self, task_id: str, state: str, **fields: Any) -> TaskStatus:
        """A complete status: source, executor id, time stamp and a new uuid put in.

        `fields` are further fields of TaskStatus, e.g. `message`, `reason`, `healthy`, `data`.
        """
        status: TaskStatus = {
            "task_id": calls.value(task_id),
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "executor_id": calls.value(self._environment.executor_id),
            "timestamp": self._clock.now(),
            "uuid": b64encode(UUID(self._ids.uuid()).bytes).decode(),
        }
        status.update(fields)  # type: ignore[typeddict-item]
        return status

    async def update(self, status: TaskStatus) -> bool:
        """Report a state. True when the agent took it; false: it goes with the next SUBSCRIBE.

        Kept until it is acknowledged. Raises `BadCall` when the agent finds it invalid; such an
        update is forgotten.
        """
        self.unacknowledged.updated(status)
        options = self._bounds()
        pause = Backoff(options.backoff_min_s, options.backoff_max_s)
        for attempt in range(1, self._options.update_attempts + 1):
            if not self.connected:
                return False
            try:
                await self._call(calls.executor_update(status))
            except (TransportError, Unavailable):
                await self._clock.sleep(pause.delay_s(attempt, self._rng))
            except (NotConnected, NotSubscribed):
                break
            except BadCall:
                self.unacknowledged.forget(status)
                raise
            else:
                return True
        # The stream may look alive while calls fail: a new SUBSCRIBE carries the update.
        if self._stream is not None:
            self._stream.drop("an update could not be delivered")
        return False

    async def message(self, data: bytes) -> None:
        """MESSAGE to the scheduler; raises like `SchedulerClient.call`."""
        await self._call(calls.executor_message(data))

    async def heartbeat(self) -> bool:
        """HEARTBEAT to the agent; whether it took it. If not, the stream is cut and opened again.

        An agent hardly ever speaks first, so a half-open connection shows in no other way; the
        caller decides how often to ask.
        """
        try:
            await self._call({"type": "HEARTBEAT"})
        except NotConnected:
            return False
        except (TransportError, Unavailable, NotSubscribed) as error:
            if self._stream is not None:
                self._stream.drop(f"heartbeat: {error}")
            return False
        return True

    async def _call(self, call: Call) -> None:
        link = self._stream.link if self._stream else None
        if link is None:
            raise NotConnected(f"{call['type']}: not subscribed")
        body = {**call, **self._address}
        url, timeout_s = link.url + PATH, self._options.call_timeout_s
        await post(self._transport, url, self._headers, body, timeout_s)
