"""Outbox events as JSON lines. Bytes are carried as Latin-1 text, which holds any byte and leaves ASCII readable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from libs.common.store.base import OutboxEvent


def pack_events(events: Sequence[OutboxEvent]) -> str | None:
    """One line an event; None for no events."""
    return "\n".join(_pack(event) for event in events) or None


def _pack(event: OutboxEvent) -> str:
    headers = [(name, value.decode("latin-1")) for name, value in event.headers]
    value = event.value.decode("latin-1")
    return orjson.dumps((event.id, event.topic, event.key, value, headers)).decode()


def unpack_events(lines: str | None) -> tuple[OutboxEvent, ...]:
    """The events of `pack_events`."""
    return tuple(map(_unpack, lines.split("\n"))) if lines else ()


def _unpack(line: str) -> OutboxEvent:
    event_id, topic, key, value, headers = orjson.loads(line)
    packed = tuple([(name, each.encode("latin-1")) for name, each in headers])
    return OutboxEvent(event_id, topic, key, value.encode("latin-1"), packed)


def without_events(lines: str, event_ids: Iterable[str]) -> str | None:
    """The lines of all events but those; each begins with its event's id."""
    gone = tuple(f"[{orjson.dumps(each).decode()}," for each in event_ids)
    return "\n".join(line for line in lines.split("\n") if not line.startswith(gone)) or None
