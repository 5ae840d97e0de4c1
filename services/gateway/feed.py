"""Events as a stream (SSE): read from the log, filtered by who looks, resumable at any replica.

The reader of the log and the writer to the client are joined by a small queue: a slow client slows its own reader
down and nobody else; nothing grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from libs.client.model import EventView
from libs.common.actor import Actor
from libs.common.bus.base import Bus, Delivered, TopicPartition
from libs.common.errors import GantryError, Poison, Refused, TooMany, Unavailable
from libs.common.events import EVENT_TYPES
from services.gateway.core import about, may_see
from services.gateway.offsets import encode

BUFFER = 64
RETRY_MS = 2000


class StillAllowed(Protocol):
    """Asked at each heartbeat. Raises Refused when the reader's key is no longer good."""

    async def __call__(self) -> object:
        """Who it is."""
        ...


@dataclass
class Slots:
    """How many streams are open: in all, and by key."""

    most: int
    most_per_key: int
    open: dict[str, int] = field(default_factory=dict)

    def take(self, name: str) -> Callable[[], None]:
        """Take a slot; call what is returned to give it back (once). Raises TooMany."""
        mine = self.open.get(name, 0)
        if mine >= self.most_per_key or sum(self.open.values()) >= self.most:
            raise TooMany("too many open streams", 10.0)
        self.open[name] = mine + 1

        def give_back() -> None:
            left = self.open.get(name, 1) - 1
            if left:
                self.open[name] = left
            else:
                self.open.pop(name, None)

        return give_back


@dataclass(frozen=True)
class Wanted:
    """What a reader asked for."""

    actor: Actor
    topics: tuple[str, ...]
    subject: str = ""


Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]
"""Starts a task that the service's task group owns."""


class Leave:
    """Whether who was let in may still be told something: asked once in `every_s`."""

    def __init__(
        self, still_allowed: StillAllowed, monotonic: Callable[[], float], every_s: float
    ) -> None:
        self._still_allowed = still_allowed
        self._monotonic = monotonic
        self._asked_at = monotonic()
        self.every_s = every_s

    async def holds(self) -> bool:
        """Not if the key was revoked meanwhile, or has run out."""
        now = self._monotonic()
        if now - self._asked_at < self.every_s:
            return True
        self._asked_at = now
        try:
            await self._still_allowed()
        except Refused:
            return False
        except Unavailable:
            pass  # the store is away, which says nothing about the key
        return True


class EventStream:
    """The body of one `GET /v1/events`. A class, so that its slot is freed even if nobody ever reads."""

    def __init__(
        self,
        bus: Bus,
        wanted: Wanted,
        start: Mapping[TopicPartition, int],
        *,
        leave: Leave,
        spawn: Spawn,
        closed: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._wanted = wanted
        self._place = dict(start)
        self._leave = leave
        self._spawn = spawn
        self._closed: Callable[[], None] | None = closed
        self._queue: asyncio.Queue[Delivered | None] = asyncio.Queue(BUFFER)
        self._reader: asyncio.Task[None] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._closed is None:
            raise StopAsyncIteration
        if self._reader is None:
            self._reader = self._spawn(self._read(dict(self._place)))
            return f"retry: {RETRY_MS}\nid: {encode(self._place)}\n\n".encode()
        try:
            async with asyncio.timeout(self._leave.every_s):
                chunk = await self._next()
        except TimeoutError:
            # An id without data moves the client's place past events that it was not shown.
            chunk = f": still here\nid: {encode(self._place)}\n\n".encode()
        if not chunk or not await self._leave.holds():
            await self.aclose()
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """End the stream: stop its reader, free its slot."""
        if self._closed is not None:
            self._closed()
            self._closed = None
        if self._reader is not None:
            self._reader.cancel()

    async def _next(self) -> bytes:
        """The next event that is for this reader; empty at the end."""
        while True:
            each = await self._queue.get()
            if each is None:
                return b""
            self._place[each.place] = each.offset + 1
            chunk = self._show(each)
            if chunk:
                return chunk

    def _show(self, each: Delivered) -> bytes:
        try:
            event, envelope = EVENT_TYPES.open(each.record)
        except Poison:
            return b""
        if not may_see(self._wanted.actor, event) or not about(event, self._wanted.subject):
            return b""
        view = EventView(
            id=envelope.id,
            topic=each.record.topic,
            subject=envelope.subject,
            time=envelope.time,
            sequence=envelope.sequence,
            source=envelope.source,
            data=event.model_dump(mode="json"),
        )
        text = view.model_dump_json(exclude={"cursor"})
        return f"id: {encode(self._place)}\nevent: {view.topic}\ndata: {text}\n\n".encode()

    async def _read(self, start: dict[TopicPartition, int]) -> None:
        log = self._bus.read(self._wanted.topics, start)
        try:
            async for each in log:
                await self._queue.put(each)
        except GantryError:
            pass  # the stream ends, and the client comes back with its place
        finally:
            close = getattr(log, "aclose", None)
            if close is not None:
                await close()
        await self._queue.put(None)
