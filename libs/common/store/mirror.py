"""What a query's documents say, kept by who reads them again and again: only what has changed is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from libs.common.store.base import Collection, Doc, Query, Where


class Versioned(Protocol):
    """What is made of a document, and knows of which version."""

    @property
    def version(self) -> int: ...


T = TypeVar("T", bound=Versioned)

LISTED = 20_000
"""Versions in one round trip."""
READ = 2000
"""Documents in one."""


class Mirror(Generic[T]):
    """The documents that meet `where`, each as `made` makes it. A document whose version is the same is the same.

    That is so of all that services write, and of what a restore puts there, whose versions are higher than any before.
    """

    def __init__(self, made: Callable[[Doc], T], where: Sequence[Where] = ()) -> None:
        self._made = made
        self._where = tuple(where)
        self._known: dict[str, T] = {}

    def __len__(self) -> int:
        return len(self._known)

    def values(self) -> list[T]:
        """What is known, by id."""
        return [self._known[each] for each in sorted(self._known)]

    def forget(self) -> None:
        """Know nothing."""
        self._known = {}

    async def refresh(self, collection: Collection) -> int:
        """List the versions, read what is not known in them; how many. Raises Unavailable, and what `made` raises.

        Exact when nobody writes meanwhile. Whatever ends it early, what was read by then is kept, and the next time
        goes on from there.
        """
        stored = await self._versions(collection)
        known = self._known
        for gone in known.keys() - stored.keys():
            del known[gone]
        fresh = [
            each
            for each, version in stored.items()
            if each not in known or known[each].version != version
        ]
        for at in range(0, len(fresh), READ):
            page = fresh[at : at + READ]
            found = await collection.get_many(page)
            for each in page:
                doc = found.get(each)
                if doc is not None:
                    known[each] = self._made(doc)
                else:
                    known.pop(each, None)
        return len(fresh)

    async def _versions(self, collection: Collection) -> dict[str, int]:
        stored: dict[str, int] = {}
        after, more = "", True
        while more:
            page = await collection.versions(Query(self._where, after=after, limit=LISTED))
            stored.update(page.of)
            after, more = next(reversed(page.of), ""), page.more and bool(page.of)
        return stored
