"""`SchedulerClient`: the v1 scheduler API of the leading master, on asyncio."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from libs.common.clock import Clock
from libs.mesos import calls, events
from libs.mesos.credentials import CredentialFile, Login
from libs.mesos.framework import PATH, FrameworkClient, Permit, SchedulerOptions, always
from libs.mesos.messages import Call, FrameworkInfo, TaskStatus
from libs.mesos.ports import Credentials, Pipeline
from libs.mesos.stream import EventStream, Link, base_url, post, post_all
from libs.mesos.subscription import Lost, Subscription


class SchedulerClient(FrameworkClient):
    """The client over a `Pipeline`; `masters` are base URLs or `host:port`."""

    def __init__(
        self,
        transport: Pipeline,
        masters: Sequence[str],
        framework: FrameworkInfo,
        *,
        clock: Clock,
        rng: random.Random,
        credentials: Credentials | CredentialFile | None = None,
        suppressed_roles: Sequence[str] = (),
        options: SchedulerOptions | None = None,
    ) -> None:
        super().__init__(framework, suppressed_roles)
        self._transport = transport
        self._masters = [base_url(master) for master in masters]
        self._clock = clock
        self._rng = rng
        self._login = Login(credentials)
        self._options = options or SchedulerOptions()
        self._stream: EventStream | None = None

    @property
    def link(self) -> Link | None:
        """The live subscription, if any."""
        return self._stream.link if self._stream else None

    @asynccontextmanager
    async def subscribe(
        self, permit: Permit = always
    ) -> AsyncIterator[AsyncIterator[events.SchedulerEvent]]:
        """See `FrameworkClient.subscribe`. Raises what a master refuses the SUBSCRIBE with for good.

        A 401 to credentials of a file is tried again: the file may be replaced.
        """
        self._permit = permit
        stream = EventStream(
            Subscription(self._masters, self._options.subscription, self._rng),
            self._transport,
            self._clock,
            path=PATH,
            headers={},
            subscribe_body=self._subscribe_call,
            connect_timeout_s=self._options.subscription.connect_timeout_s,
            login=self._login,
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
            self._learn(event)
            yield event

    def resubscribe(self, reason: str) -> None:
        """Cut the present stream; a new subscription follows."""
        if self._stream is not None:
            self._stream.drop(reason)

    async def call(self, call: Call) -> None:
        """See `FrameworkClient.call`."""
        link, body = self._addressed(call, self.link)
        await post(
            self._transport,
            link.url + PATH,
            _headers(link),
            body,
            self._options.call_timeout_s,
            self._login,
        )

    async def acknowledge_all(self, statuses: Iterable[TaskStatus]) -> None:
        """See `FrameworkClient.acknowledge_all`."""
        found = [call for each in statuses if (call := calls.acknowledge(each)) is not None]
        known = self.link
        addressed = [self._addressed(call, known) for call in found]
        if addressed:
            link, bodies = addressed[0][0], [body for _, body in addressed]
            await post_all(
                self._transport,
                link.url + PATH,
                _headers(link),
                bodies,
                self._options.call_timeout_s,
                self._login,
            )


def _headers(link: Link) -> dict[str, str]:
    return {} if link.stream_id is None else {"Mesos-Stream-Id": link.stream_id}
