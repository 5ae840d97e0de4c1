"""Wakes those who wait for news of some topics, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Bell:
    """Listeners by topic; deterministic, as they are rung in the order they came."""

    def __init__(self) -> None:
        self._listeners: dict[int, tuple[frozenset[str], asyncio.Event]] = {}
        self._serial = 0

    def ring(self, topics: Iterable[str] | None = None) -> None:
        """There is news of these topics, or perhaps of all."""
        news = None if topics is None else frozenset(topics)
        for wanted, event in self._listeners.values():
            if news is None or not wanted.isdisjoint(news):
                event.set()

    @contextmanager
    def listen(self, topics: Iterable[str]) -> Iterator[asyncio.Event]:
        """An event that is set when there may be news; the listener clears it before it looks."""
        self._serial += 1
        key, event = self._serial, asyncio.Event()
        self._listeners[key] = (frozenset(topics), event)
        try:
            yield event
        finally:
            del self._listeners[key]
