"""Many small reads as one: what is asked for in one turn of the event loop is fetched together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from libs.common.errors import Unavailable

T = TypeVar("T")


class Gathering(Generic[T]):
    """Values by key, read by `fetch`, which leaves out keys that there is nothing of."""

    def __init__(self, fetch: Callable[[Sequence[str]], Awaitable[Mapping[str, T]]]) -> None:
        self._fetch = fetch
        self._asked: dict[str, list[asyncio.Future[T | None]]] = {}

    async def get(self, key: str) -> T | None:
        """The value of a key, as it is after this call. Raises what `fetch` does."""
        first = not self._asked
        mine: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(key, []).append(mine)
        if first:
            await self._answer()
        return await mine

    async def _answer(self) -> None:
        """The first one who asks fetches for all who come before its turn is over."""
        asked: dict[str, list[asyncio.Future[T | None]]] = {}
        try:
            try:
                await asyncio.sleep(0)
            finally:
                asked, self._asked = self._asked, {}
            found = await self._fetch(list(asked))
        except BaseException as error:
            others = error if isinstance(error, Exception) else Unavailable("the read was given up")
            for each in _open(asked):
                each.set_exception(others)
                each.exception()  # the first one's own: nobody may come for it
            raise
        for key, futures in asked.items():
            for each in futures:
                if not each.done():
                    each.set_result(found.get(key))


def _open(
    asked: Mapping[str, Sequence[asyncio.Future[T | None]]],
) -> list[asyncio.Future[T | None]]:
    return [each for futures in asked.values() for each in futures if not each.done()]
