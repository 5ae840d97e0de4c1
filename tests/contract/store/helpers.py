"""Short ways to write and look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libs.common.store.base import Collection, Doc, Fence, OutboxEvent, Outcome, Write


def event(n: int | str, key: str = "k") -> OutboxEvent:
    """An event with bytes that only bytes can hold."""
    return OutboxEvent(
        f"e{n}", "thing.changed", key, f"{n}\x00\xff".encode(), (("ce_id", b"\xfe"),)
    )


def named(name: str, **body: Any) -> dict[str, Any]:
    """A body that takes part in the unique index."""
    return {"place": {"zone": "z"}, "name": name, **body}


async def put(
    things: Collection,
    doc_id: str,
    version: int,
    body: Mapping[str, Any],
    *events: OutboxEvent,
    fence: Fence | None = None,
) -> Outcome:
    """One write."""
    (result,) = await things.replace_many([Write(doc_id, version, body, events)], fence)
    return result.outcome


async def load(things: Collection, doc_id: str) -> Doc:
    """A document that must be there."""
    doc = await things.get(doc_id)
    assert doc is not None
    return doc
