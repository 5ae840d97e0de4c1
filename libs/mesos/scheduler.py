"""`SchedulerClient`: the v1 scheduler API of the leading master."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from libs.common.clock import Clock
from libs.mesos import calls, events
from libs.mesos.errors import NotConnected
from libs.mesos.http import basic_auth
from libs.mesos.messages import Call, Filters, FrameworkInfo, Operation, TaskStatus
from libs.mesos.ports import Credentials, Transport
from libs.mesos.stream import EventStream, Link, base_url, post
from libs.mesos.subscription import Lost, Options, Subscription

PATH = "/api/v1/scheduler"


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """Bounds of a scheduler's subscription and calls; times in seconds."""

    subscription: Options = field(default_factory=Options)
    call_timeout_s: float = 10.0


class SchedulerClient:
    """One framework's subscription and its calls.

    `masters` are base URLs or `host:port`; the leader is found by redirects. The framework id is
    taken from the first SUBSCRIBED and used for every later subscription; give `framework["id"]`
    to fail over from an earlier process. One consumer of `events` at a time.
    """

    def __init__(
        self,
        transport: Transport,
        masters: Sequence[str],
        framework: FrameworkInfo,
        *,
        clock: Clock,
        rng: random.Random,
        credentials: Credentials | None = None,
        suppressed_roles: Sequence[str] = (),
        options: SchedulerOptions | None = None,
    ) -> None:
        self._transport = transport
        self._masters = [base_url(master) for master in masters]
        self._framework = framework
        self._clock = clock
        self._rng = rng
        self._auth = basic_auth(credentials)
        self._suppressed_roles = tuple(suppressed_roles)
        self._options = options or SchedulerOptions()
        self._stream: EventStream | None = None

    @property
    def framework_id(self) -> str | None:
        """None before the first subscription."""
        return self._framework["id"]["value"] if "id" in self._framework else None

    @property
    def link(self) -> Link | None:
        """The live subscription, if any."""
        return self._stream.link if self._stream else None

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[events.SchedulerEvent]]:
        """Typed events, re-subscribing inside; leaving the block closes the stream.

        `Disconnected` stands where it broke. After `Error` the iterator ends: what to do about
        a lost framework is the caller's decision. Raises `BadCall`, `AccessDenied` when the
        master refuses the SUBSCRIBE for good.
        """
        stream = EventStream(
            Subscription(self._masters, self._options.subscription, self._rng),
            self._transport,
            self._clock,
            path=PATH,
            headers=self._auth,
            subscribe_body=lambda: calls.subscribe(self._framework, self._suppressed_roles),
            connect_timeout_s=self._options.subscription.connect_timeout_s,
        )
        self._stream = stream
        try:
            yield self._events(stream)
        finally:
            self._stream = None
            await stream.aclose()

    async def _events(self, stream: EventStream) -> AsyncIterator[events.SchedulerEvent]:
        async for item in stream:
            if isinstance(item, Lost):
                yield events.Disconnected(item.reason, item.was_subscribed, item.retry_in_s)
                continue
            event = events.scheduler_event(item)
            if isinstance(event, events.Subscribed):
                self._framework = {**self._framework, "id": calls.value(event.framework_id)}
            yield event

    def resubscribe(self, reason: str) -> None:
        """Cut the present stream; a new subscription follows."""
        if self._stream is not None:
            self._stream.drop(reason)

    async def call(self, call: Call) -> None:
        """Send `call` on the present subscription; success means accepted, not carried out.

        Raises `NotConnected` (nothing sent), `NotSubscribed`, `BadCall`, `NotLeader`,
        `Unavailable`, `CallTimeout` or `TransportError` (it may have been carried out).
        """
        link = self.link
        if link is None or self.framework_id is None:
            raise NotConnected(f"{call['type']}: not subscribed")
        headers = dict(self._auth)
        if link.stream_id is not None:
            headers["Mesos-Stream-Id"] = link.stream_id
        body: Mapping[str, Any] = {**call, "framework_id": calls.value(self.framework_id)}
        await post(self._transport, link.url + PATH, headers, body, self._options.call_timeout_s)

    async def accept(
        self,
        offer_ids: Iterable[str],
        operations: Sequence[Operation],
        filters: Filters | None = None,
    ) -> None:
        """ACCEPT; what is wrong with it is told by events."""
        await self.call(calls.accept(offer_ids, operations, filters))

    async def decline(self, offer_ids: Iterable[str], filters: Filters | None = None) -> None:
        """DECLINE."""
        await self.call(calls.decline(offer_ids, filters))

    async def revive(self, roles: Sequence[str] = ()) -> None:
        """REVIVE."""
        await self.call(calls.revive(roles))

    async def suppress(self, roles: Sequence[str] = ()) -> None:
        """SUPPRESS."""
        await self.call(calls.suppress(roles))

    async def kill(
        self, task_id: str, agent_id: str | None = None, grace_s: float | None = None
    ) -> None:
        """KILL."""
        await self.call(calls.kill(task_id, agent_id, grace_s))

    async def acknowledge(self, status: TaskStatus) -> None:
        """ACKNOWLEDGE, or nothing when the status needs none."""
        if (call := calls.acknowledge(status)) is not None:
            await self.call(call)

    async def reconcile(self, tasks: Iterable[tuple[str, str | None]] = ()) -> None:
        """RECONCILE (task id, agent id) pairs, or everything."""
        await self.call(calls.reconcile(tasks))

    async def message(self, agent_id: str, executor_id: str, data: bytes) -> None:
        """MESSAGE to an executor."""
        await self.call(calls.message(agent_id, executor_id, data))

    async def shutdown(self, executor_id: str, agent_id: str) -> None:
        """SHUTDOWN an executor."""
        await self.call(calls.shutdown(executor_id, agent_id))

    async def teardown(self) -> None:
        """TEARDOWN the framework for good."""
        await self.call(calls.teardown())

    async def update_framework(
        self, framework: FrameworkInfo, suppressed_roles: Sequence[str] = ()
    ) -> None:
        """UPDATE_FRAMEWORK; later subscriptions carry the new info too."""
        framework_id = self._framework.get("id")
        wanted: FrameworkInfo = {**framework, "id": framework_id} if framework_id else framework
        await self.call(calls.update_framework(wanted, suppressed_roles))
        self._framework = wanted
        self._suppressed_roles = tuple(suppressed_roles)
