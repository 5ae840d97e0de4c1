"""`PymesosClient`: the v1 scheduler API of the leading master, through pymesos.

The life of the subscription is `Subscription`'s, as in the client on asyncio: it says which master is tried when, when
one is silent for too long, and how long the pauses are. Each attempt is a `PymesosThread` of its own. One thing
differs: a master that refuses the SUBSCRIBE for good is asked again, ever more slowly, as one that is away. (The
other does so at a 401 to credentials of a file.)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from libs.common.clock import Clock
from libs.mesos import events
from libs.mesos.credentials import UNAUTHENTICATED, CredentialFile, Login
from libs.mesos.errors import AccessDenied, CallTimeout, MesosError, NotLeader
from libs.mesos.framework import FrameworkClient, Permit, SchedulerOptions, always
from libs.mesos.handover import Handover
from libs.mesos.messages import Call, FrameworkInfo
from libs.mesos.ports import Credentials
from libs.mesos.pymesos_thread import NoStream, PymesosThread
from libs.mesos.stream import base_url
from libs.mesos.subscription import Close, Connect, Fail, Lost, Output, Phase, Subscription

ROOM = 1000
"""Events that may wait between pymesos' thread and the event loop."""
STOP_S = 2.0
"""How long a thread may take to end before it is left to itself; it is a daemon, and nobody hears it any more."""

_KINDS: dict[type, str] = {events.Error: "ERROR", events.Subscribed: "SUBSCRIBED"}
"""What `Subscription` tells apart."""
_Heard = events.SchedulerEvent | MesosError


@dataclass(frozen=True, slots=True)
class _Line:
    """One connection: what comes from it, and the one thread that its calls go through, as pymesos has them."""

    thread: PymesosThread
    heard: Handover[_Heard]
    calls: ThreadPoolExecutor


class PymesosClient(FrameworkClient):
    """The client over pymesos; `masters` are `host:port` or base URLs.

    Raises ValueError for one that pymesos can't reach.
    """

    def __init__(
        self,
        masters: Sequence[str],
        framework: FrameworkInfo,
        *,
        clock: Clock,
        rng: random.Random,
        credentials: Credentials | CredentialFile | None = None,
        suppressed_roles: Sequence[str] = (),
        options: SchedulerOptions | None = None,
        room: int = ROOM,
    ) -> None:
        super().__init__(framework, suppressed_roles)
        self._masters = [base_url(master) for master in masters]
        for url in self._masters:
            _address(url)
        self._clock = clock
        self._rng = rng
        self._login = Login(credentials)
        self._options = options or SchedulerOptions()
        self._room = room
        self._line: _Line | None = None
        self._subscribed = False

    @asynccontextmanager
    async def subscribe(
        self, permit: Permit = always
    ) -> AsyncIterator[AsyncIterator[events.SchedulerEvent]]:
        """See `FrameworkClient.subscribe`."""
        self._permit = permit
        try:
            yield self._events()
        finally:
            await self._hang_up()

    async def _events(self) -> AsyncIterator[events.SchedulerEvent]:
        machine = Subscription(self._masters, self._options.subscription, self._rng)
        outputs: Sequence[Output] = machine.start(self._clock.monotonic())
        while True:
            if (lost := await self._apply(outputs)) is not None:
                yield events.Disconnected(lost.reason, lost.was_subscribed, lost.retry_in_s)
            if machine.phase is Phase.ENDED:
                return
            heard, outputs = await self._advance(machine)
            if heard is None:
                continue
            self._learn(heard)
            self._subscribed = machine.phase is Phase.SUBSCRIBED
            yield heard

    async def _apply(self, outputs: Iterable[Output]) -> Lost | None:
        lost = None
        for output in outputs:
            match output:
                case Connect(url):
                    self._line = self._dial(url)
                case Close():
                    await self._hang_up()
                case Lost():
                    lost = output
                case Fail(error):
                    raise error
        return lost

    async def _advance(
        self, machine: Subscription
    ) -> tuple[events.SchedulerEvent | None, Sequence[Output]]:
        """What the machine's phase waits for: an event, time, or the thread's end; and what is to be done then."""
        if machine.phase is Phase.WAITING:
            deadline = machine.deadline or 0.0
            await self._clock.sleep(max(0.0, deadline - self._clock.monotonic()))
            return None, machine.tick(self._clock.monotonic())
        assert self._line is not None, "a machine that does not wait has connected"
        now = self._clock.monotonic()
        machine.resumed(now)
        wait_s = None if machine.deadline is None else max(0.0, machine.deadline - now)
        try:
            async with asyncio.timeout(wait_s):
                heard = await self._line.heard.get()
        except TimeoutError:
            return None, machine.tick(self._clock.monotonic())
        now = self._clock.monotonic()
        match heard:
            case NotLeader():
                return None, machine.refused(now, heard)
            case MesosError():
                if isinstance(heard, NoStream):  # a 401 looks like anything else
                    self._login.is_other_than(self._line.thread.headers)
                return None, machine.closed(now, str(heard))
        machine.opened(now)
        interval = heard.heartbeat_interval_s if isinstance(heard, events.Subscribed) else None
        return heard, machine.record(now, _KINDS.get(type(heard), ""), interval)

    def _dial(self, url: str) -> _Line:
        heard = Handover[_Heard](self._room)
        thread = PymesosThread(
            _address(url),
            self._subscribe_call(),
            self._login.headers,
            call_timeout_s=self._options.call_timeout_s,
            monotonic=self._clock.monotonic,
            hear=heard.put,
            ended=heard.put_last,
        )
        thread.open()
        return _Line(thread, heard, ThreadPoolExecutor(1, "pymesos-calls"))

    async def _hang_up(self) -> None:
        self._subscribed = False
        line, self._line = self._line, None
        if line is None:
            return
        line.thread.halt()
        line.heard.close()
        line.calls.shutdown(wait=False)  # what waits there fails at once
        try:
            async with asyncio.timeout(STOP_S):
                await line.heard.ended.wait()
        except TimeoutError:
            pass

    async def call(self, call: Call) -> None:
        """See `FrameworkClient.call`; calls go one after the other."""
        line, body = self._addressed(call, self._line if self._subscribed else None)
        used = line.thread.headers
        try:
            await self._sent(line, body)
        except AccessDenied as error:
            if error.status != UNAUTHENTICATED or not self._login.is_other_than(used):
                raise
            line.thread.headers = self._login.headers
            await self._sent(line, body)

    async def _sent(self, line: _Line, body: Mapping[str, Any]) -> None:
        timeout_s = self._options.call_timeout_s
        work = line.calls.submit(line.thread.call, body, self._clock.monotonic() + timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wrap_future(work)
        except TimeoutError as error:
            # One that has not begun never will; one that has holds up all the others.
            if not work.cancel() and not work.done():
                line.thread.cut()
            raise CallTimeout(f"no answer within {timeout_s} s") from error


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or ":" in parts.hostname:
        raise ValueError(
            f"pymesos speaks plain HTTP to IPv4 addresses and names only, not to {url}"
        )
    return f"{parts.hostname}:{parts.port or 80}"
