"""All documents of a query, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from libs.common.store.base import Collection, Doc, Query, Where


async def documents(
    collection: Collection, where: Sequence[Where] = (), limit: int = 1000
) -> AsyncIterator[Doc]:
    """By id, `limit` a round trip. Raises Unavailable."""
    after = ""
    while True:
        page = await collection.find(Query(tuple(where), after=after, limit=limit))
        for doc in page.docs:
            yield doc
        if not page.more or not page.docs:
            return
        after = page.docs[-1].id
