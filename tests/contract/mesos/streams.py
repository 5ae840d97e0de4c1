"""Live event streams of a replay: every record as it arrives, until somebody takes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from libs.mesos.recordio import Decoder
from tests.contract.mesos.wire import Answer, Connection

Event = dict[str, Any]


def key(event: Event) -> str:
    """What kind of event about whom: events of one key keep their order, others may interleave."""
    kind = str(event.get("type"))
    body = event.get(kind.lower(), {})
    if kind in ("UPDATE", "TASK_UPDATED"):
        return f"{kind} {body['status']['task_id']['value']}"
    if kind in ("TASK_ADDED", "LAUNCH"):
        return f"{kind} {body['task']['task_id']['value']}"
    if kind in ("ACKNOWLEDGED", "KILL"):
        return f"{kind} {body['task_id']['value']}"
    if kind in ("FRAMEWORK_ADDED", "FRAMEWORK_UPDATED"):
        return f"{kind} {body['framework']['framework_info']['name']}"
    if kind == "FRAMEWORK_REMOVED":
        return f"{kind} {body['framework_info']['name']}"
    if kind == "FAILURE":
        return f"{kind} {body.get('executor_id', {}).get('value', 'agent')}"
    return kind


@dataclass(slots=True)
class Arrival:
    """One live event."""

    key: str
    event: Event
    at_s: float
    taken: bool = False


@dataclass(slots=True)
class Stream:
    """One live stream: its head, its events and its end."""

    id: str
    connection: Connection
    answer: Answer | None = None
    arrivals: list[Arrival] = field(default_factory=list)
    ended: str | None = None
    problems: list[str] = field(default_factory=list)
    closed_here: bool = False

    async def read(self, on_event: Callable[[Stream, Event], None], wake: asyncio.Event) -> None:
        """Read to the end. Records must be whole chunks of compact JSON."""
        try:
            self.answer = await self.connection.head()
            wake.set()
            if " 200 " not in self.answer.status:
                await self._refusal()
            else:
                await self._events(on_event, wake)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.ended = f"cut: {error!r}"
        finally:
            self.ended = self.ended or self.connection.ended or "cut"
            wake.set()

    async def _refusal(self) -> None:
        assert self.answer is not None
        length = int(self.answer.header("Content-Length") or 0)
        self.answer.body = await self.connection.reader.readexactly(length)
        self.ended = "refused"

    async def _events(self, on_event: Callable[[Stream, Event], None], wake: asyncio.Event) -> None:
        decoder = Decoder()
        loop = asyncio.get_running_loop()
        async for chunk in self.connection.chunks():
            records = decoder.feed(chunk)
            if len(records) != 1:
                self.problems.append(f"{len(records)} records in one HTTP chunk")
            for record in records:
                event = json.loads(record)
                compact = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
                if len(compact.encode()) < len(record) and b": " in record[:40]:
                    self.problems.append("a record is not compact JSON")
                self.arrivals.append(Arrival(key(event), event, loop.time()))
                on_event(self, event)
            wake.set()
            await asyncio.sleep(0)  # what is read at once may be two states: who waits sees each

    def waiting(self, wanted: str) -> Iterator[Arrival]:
        """Arrivals of that key nobody took yet."""
        return (a for a in self.arrivals if a.key == wanted and not a.taken)

    def close(self) -> None:
        """Close it from this side."""
        self.closed_here = True
        self.connection.close()
