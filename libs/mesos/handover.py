"""Items from a thread to the event loop, a bounded number at a time."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """One thread puts, one coroutine gets. Made on the loop; `put` and `put_last` are the thread's.

    The thread waits while `room` items are on the way: so does, by TCP, whoever sends to it.
    """

    def __init__(self, room: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(room)
        self._items: deque[T] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self.ended = asyncio.Event()
        """The thread has put its last item, be it closed or not."""

    def put(self, item: T) -> None:
        """Hand an item over, waiting for room; dropped once closed."""
        self._room.acquire()
        if not self._closed:
            self._items.append(item)
            self._wake(self._arrived)

    def put_last(self, item: T) -> None:
        """The same without waiting: nothing follows."""
        if not self._closed:
            self._items.append(item)
            self._wake(self._arrived)
        self._wake(self.ended)

    async def get(self) -> T:
        """The next item, waiting for it."""
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        item = self._items.popleft()
        self._room.release()
        return item

    def close(self) -> None:
        """No more items are wanted; the thread waits no more."""
        self._closed = True
        self._room.release()

    def _wake(self, event: asyncio.Event) -> None:
        # A loop that has ended waits for nothing.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(event.set)
