"""Routes whose answers go on: events (SSE) and logs (lines of JSON)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from libs.client.model import EventView
from libs.common.actor import Actor
from libs.common.bus.base import TopicPartition
from libs.common.events import TOPICS
from libs.common.http import Request, Response, Route
from libs.common.serve import segment
from services.gateway.auth import key_id_of
from services.gateway.core import choose_topics
from services.gateway.feed import EventStream, Leave, Wanted
from services.gateway.model import KeyId
from services.gateway.offsets import decode
from services.gateway.parts import Gateway, actor_of, flag, reading, whole
from services.gateway.peers import with_query
from services.gateway.views import Container, find_container

TOPIC_NAMES = tuple(topic.name for topic in TOPICS)
SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
NOT_STORED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def stream_routes(gateway: Gateway) -> tuple[Route, ...]:
    """All of them, guarded."""

    async def events(request: Request) -> Response:
        wanted = Wanted(
            actor_of(request),
            choose_topics(request.query.get("topics", ""), TOPIC_NAMES),
            request.query.get("subject", ""),
        )
        last_id = request.headers.get("last-event-id", "")
        return await open_events(gateway, wanted, key_id_of(request.principal), last_id)

    async def logs(request: Request) -> Response:
        tail, since = whole(request, "tail"), whole(request, "since")
        follow = flag(request, "follow")
        return await open_logs(
            gateway,
            actor_of(request),
            key_id_of(request.principal),
            request.params["instance"],
            {"follow": int(follow), "tail": tail, "since": since or ""},
        )

    chosen = {
        "topics": "comma-separated; `deploy.*` takes all that begin so",
        "subject": "about this app or instance only",
    }
    resumed = {"Last-Event-ID": "resume after this event"}
    part = {
        "follow": "go on as more is written",
        "tail": "at most so many of the last lines",
        "since": "not before this time, Unix seconds",
    }
    text, path = "What happens, as it happens", "/v1/instances/{instance}/logs"
    return (
        reading(
            gateway, "/v1/events", events, text, EventView,
            query=chosen, headers=resumed, produces=SSE,
        ),
        reading(
            gateway, path, logs, "What an instance writes", None, query=part, produces=NDJSON
        ),
    )  # fmt: skip


async def open_events(gateway: Gateway, wanted: Wanted, key_id: KeyId, last_id: str) -> Response:
    """The events that `wanted` asks for, from now on or after the event called `last_id`.

    Raises InvalidInput for an id that is none, TooMany when too many streams are open.
    """
    start = await _start(gateway, wanted.topics, last_id)
    stream = EventStream(
        gateway.bus,
        wanted,
        start,
        leave=_leave(gateway, key_id),
        spawn=gateway.spawn,
        closed=gateway.slots.take(key_id),
    )
    return Response(200, headers=NOT_STORED, content_type=SSE, stream=stream)


def _leave(gateway: Gateway, key_id: KeyId) -> Leave:
    return Leave(
        lambda: gateway.gate.holder_by_id(key_id),
        gateway.clock.monotonic,
        gateway.config.heartbeat_s,
    )


async def _start(
    gateway: Gateway, topics: tuple[str, ...], last_id: str
) -> Mapping[TopicPartition, int]:
    ends = await gateway.bus.end_offsets(topics)
    if not last_id:
        return ends
    asked = decode(last_id, topics)
    # A place beyond the end is from another log (one that was lost, say): go on from now.
    return {place: min(asked.get(place, end), end) for place, end in ends.items()}


async def open_logs(
    gateway: Gateway, actor: Actor, key_id: KeyId, instance: str, query: Mapping[str, str | int]
) -> Response:
    """The log of an instance, from hostd of its host. Raises NotFound, Conflict, Unavailable, TooMany."""
    container = await find_container(gateway, actor, instance)
    path = with_query(f"/v1/containers/{segment(container.name)}/logs", query)
    return await open_lines(gateway, actor, key_id, container, path)


async def open_lines(
    gateway: Gateway, actor: Actor, key_id: KeyId, container: Container, path: str
) -> Response:
    """Lines as hostd of the container's host tells them. Raises NotFound, Unavailable, TooMany."""
    free = gateway.slots.take(f"logs:{actor.name}")
    try:
        answer = await gateway.peers.open(actor, container.host, container.url, path)
    except BaseException:
        free()
        raise
    if answer.stream is None:
        free()
        return Response(200, answer.body, NOT_STORED, NDJSON)
    return Response(
        200, b"", NOT_STORED, NDJSON, Lines(answer.stream, _leave(gateway, key_id), free)
    )


class Lines:
    """A log as it comes, while that is allowed. Gives its slot back at its end, however it ends."""

    def __init__(
        self, chunks: AsyncIterator[bytes], leave: Leave, free: Callable[[], None]
    ) -> None:
        self._chunks = chunks
        self._leave = leave
        self._free: Callable[[], None] | None = free

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._chunks)
            allowed = await self._leave.holds()
        except BaseException:
            self._release()
            raise
        if not allowed:
            await self.aclose()
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """End it."""
        self._release()
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()

    def _release(self) -> None:
        if self._free is not None:
            self._free()
            self._free = None
