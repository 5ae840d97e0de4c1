"""Many writes of a leader in one round trip, each of which may be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import orjson

from libs.common.errors import Fenced
from libs.common.store.base import Collection, Doc, Fence, Outcome, Write

DELETES = 16  # at the same time: the store has none for many documents


async def replace_all(collection: Collection, writes: Sequence[Write], fence: Fence) -> None:
    """Do all of them, or find them done. Raises Fenced when somebody else has written, Unavailable."""
    if not writes:
        return
    results = await collection.replace_many(writes, fence)
    doubtful: list[Write] = []
    for write, result in zip(writes, results, strict=True):
        if result.outcome is Outcome.CONFLICT:
            doubtful.append(write)
        elif not result.ok:
            raise Fenced(f"document {write.id}: {result.outcome.value}")
    if doubtful:
        stored = await collection.get_many([write.id for write in doubtful])
        for write in doubtful:
            if not is_same(write, stored.get(write.id)):
                raise Fenced(f"document {write.id} was written by somebody else")


def is_same(write: Write, stored: Doc | None) -> bool:
    """Is what is stored this very write, done by an attempt whose answer was lost."""
    return (
        stored is not None
        and stored.version == write.version + 1
        and orjson.dumps(stored.body, option=orjson.OPT_SORT_KEYS)
        == orjson.dumps(write.body, option=orjson.OPT_SORT_KEYS)
    )


async def delete_all(collection: Collection, docs: Sequence[Doc], fence: Fence) -> int:
    """Delete those that are still as they were read; how many. Raises Unavailable."""
    gone = 0
    rest: Iterator[Doc] = iter(docs)

    async def work() -> None:
        nonlocal gone
        for doc in rest:
            gone += (await collection.delete(doc.id, doc.version, fence)).ok

    await asyncio.gather(*(work() for _ in range(min(DELETES, len(docs)))))
    return gone
