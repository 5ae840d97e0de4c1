"""Outbox events as JSON lines. Bytes are carried as Latin-1 text, which holds any byte and leaves ASCII readable."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from libs.common.store.base import OutboxEvent


def pack_events(events: Sequence[OutboxEvent]) -> str | None:
    """One line an event; None for no events."""
    return "\n".join(map(pack_event, events)) or None


def pack_event(event: OutboxEvent) -> str:
    """The event as a line."""
    headers = [(name, value.decode("latin-1")) for name, value in event.headers]
    value = event.value.decode("latin-1")
    return orjson.dumps((event.id, event.topic, event.key, value, headers)).decode()


def unpack_events(lines: str | None) -> tuple[OutboxEvent, ...]:
    """The events of `pack_events`."""
    return tuple(map(unpack_event, lines.split("\n"))) if lines else ()


def unpack_event(line: str) -> OutboxEvent:
    """The event of a line."""
    event_id, topic, key, value, headers = orjson.loads(line)
    packed = tuple([(name, each.encode("latin-1")) for name, each in headers])
    return OutboxEvent(event_id, topic, key, value.encode("latin-1"), packed)
