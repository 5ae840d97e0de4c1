"""Direct delivery: events that must not wait for the bus are handed over HTTP to the service that reads them, besides.

A person has broken the glass: the events that come of it bear `gantry-direct` (events/base.py), and each writer hands
its own to their reader's inbox, which handles them as if they had been consumed. Nothing is kept for it: they lie in
the outbox, too, and their copies on the bus come later and are dropped, as all that is older than what was seen. What
is not handed over in GIVE_UP_S, or lost in a crash, the sweeps of those who wait for it ask for again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from libs.common.backoff import Backoff
from libs.common.bus.base import Record
from libs.common.clock import Clock
from libs.common.consume import Subscription, side_by_side
from libs.common.errors import Fenced, Forbidden, GantryError, InvalidInput, Poison, Unavailable
from libs.common.events import model as ev
from libs.common.events.base import DIRECT, to_record
from libs.common.http import Access, Request, Response, Route, ServiceClient, raise_problem, reply
from libs.common.proofs import service_of
from libs.common.store.base import OutboxEvent
from libs.common.telemetry import Log

INBOX = "/v1/inbox"
CALL_S = 10.0
GIVE_UP_S = 60.0
QUEUE = 20_000
PARCEL_RECORDS = 200
PARCEL_BYTES = 400_000  # JSON in JSON may take twice as much, and a body has a bound


@dataclass(frozen=True, slots=True)
class Way:
    """Who writes a topic, and which service has an inbox for it."""

    writer: str
    reader: str


_TOLD = (
    *(ev.OfferAccepted, ev.PlacementDelayed, ev.ContainerStarted, ev.ContainerHealthy),
    *(ev.ContainerUnhealthy, ev.ContainerExited, ev.ContainerLost, ev.InstanceMoveRequested),
)
WAYS: Mapping[str, Way] = {
    ev.DeployRequested.TOPIC: Way("gateway", "deployer"),
    ev.InstanceRequested.TOPIC: Way("deployer", "scheduler"),
    ev.InstanceStopRequested.TOPIC: Way("deployer", "scheduler"),
    **{each.TOPIC: Way("scheduler", "deployer") for each in _TOLD},
}
"""The topics that can go directly; nothing else is handed over, and nobody else's is taken."""


class HandedRecord(BaseModel):
    """A record as it would be on the bus; its value is JSON, as text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    key: str
    value: str
    headers: dict[str, str]

    @classmethod
    def of(cls, record: Record) -> HandedRecord:
        """The record, as text."""
        headers = {name: value.decode() for name, value in record.headers}
        return cls(topic=record.topic, key=record.key, value=record.value.decode(), headers=headers)

    def record(self) -> Record:
        """The record again, byte by byte."""
        headers = tuple((name, value.encode()) for name, value in self.headers.items())
        return Record(self.topic, self.key, self.value.encode(), headers)


class Parcel(BaseModel):
    """What is handed over at a time; those of one key are handled in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    records: tuple[HandedRecord, ...] = Field(min_length=1, max_length=PARCEL_RECORDS)


class Courier:
    """Hands events of one service to their readers."""

    def __init__(
        self,
        peers: ServiceClient,
        sign: Callable[[Record], Record],
        *,
        clock: Clock,
        rng: random.Random,
        log: Log,
    ) -> None:
        self._peers = peers
        self._sign = sign
        self._clock = clock
        self._rng = rng
        self._log = log
        self._queue: asyncio.Queue[OutboxEvent] = asyncio.Queue(QUEUE)

    async def deliver(self, events: Sequence[OutboxEvent]) -> None:
        """Hand over now, whatever their headers say; returns when their readers have handled them.

        Events that no service has an inbox for are left to the bus. Raises Unavailable, or what a reader refuses with.
        """
        by_reader: dict[str, list[HandedRecord]] = {}
        for event in events:
            way = WAYS.get(event.topic)
            if way is not None:
                record = HandedRecord.of(self._sign(to_record(event)))
                by_reader.setdefault(way.reader, []).append(record)
        for reader, records in by_reader.items():
            parcel = reply(Parcel(records=tuple(records))).body
            answer = await self._peers.call(reader, "PUT", INBOX, body=parcel, timeout_s=CALL_S)
            raise_problem(reader, answer)

    def post(self, events: Sequence[OutboxEvent]) -> None:
        """Hand over soon what bears the header; what the queue has no room for is left to the bus."""
        for event in events:
            if event.topic not in WAYS or DIRECT not in dict(event.headers):
                continue
            try:
                self._queue.put_nowait(event)
            except asyncio.QueueFull:
                self._log.error("not handed over: too many wait", topic=event.topic, key=event.key)
                return

    async def run(self) -> None:
        """Hand over what was posted, in order, until cancelled."""
        held: list[OutboxEvent] = []
        while True:
            held = held or [await self._queue.get()]
            size = len(held[0].value)
            events = [held.pop()]
            while len(events) < PARCEL_RECORDS and not self._queue.empty():
                event = self._queue.get_nowait()
                size += len(event.value)
                if size > PARCEL_BYTES:
                    held.append(event)
                    break
                events.append(event)
            await self._deliver_patiently(events)

    async def _deliver_patiently(self, events: Sequence[OutboxEvent]) -> None:
        backoff = Backoff(0.1, 2.0)
        began = self._clock.monotonic()
        failures = 0
        while True:
            try:
                await self.deliver(events)
                return
            except Unavailable as error:
                failures += 1
                late = self._clock.monotonic() - began > GIVE_UP_S
                say = self._log.error if late else self._log.warning
                say("not handed over", events=len(events), gives_up=late, error=str(error))
                if late:
                    return
            except GantryError as error:
                self._log.error("refused what was handed over", error=str(error))
                return
            await self._clock.sleep(backoff.delay_s(failures, self._rng))


def inbox(service: str, subscriptions: Sequence[Subscription]) -> Route:
    """Where other services hand `service` events that its subscriptions have handlers for."""
    readers = {topic: each for each in subscriptions for topic in each.topics}

    async def take(request: Request) -> Response:
        writer = request.principal.name
        by_key: dict[tuple[str, str], list[Record]] = {}
        for each in request.parse(Parcel).records:
            _check(each, writer, service)
            by_key.setdefault((each.topic, each.key), []).append(each.record())

        async def handle(record: Record) -> None:
            await readers[record.topic].handle(record)

        failures = await side_by_side(by_key.values(), handle, (Exception,))
        if failures:
            raise _told(failures[0])
        return Response(204)

    text = "Take events that must not wait for the bus"
    return Route("PUT", INBOX, take, Access.SERVICE, text, request=Parcel, status=204)


def _check(handed: HandedRecord, writer: str, reader: str) -> None:
    """Raises Forbidden unless `writer` writes such events, this one is its own, and they are for `reader`."""
    if WAYS.get(handed.topic) != Way(writer, reader):
        raise Forbidden(f"{writer} may not hand {handed.topic[:100]!r} to {reader}")
    source = handed.headers.get("ce_source", "")
    if service_of(source) != writer:
        raise Forbidden(f"{writer} may not hand over what {source[:100]!r} wrote")


def _told(error: Exception) -> Exception:
    """The error as the writer is told of it: what can't be read is its fault, all else is worth another try."""
    match error:
        case Poison():
            return InvalidInput.of("records", str(error))
        case Fenced() | TimeoutError():
            return Unavailable(f"not handled: {error}")
        case _:
            return error
