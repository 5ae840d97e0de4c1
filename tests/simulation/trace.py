"""What happened, in order: a running hash of all of it, and the last lines for people."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any

KEPT_LINES = 400


class Trace:
    """Lines of `time who what`. Two runs of one seed have the same `digest`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._hash = hashlib.blake2b(digest_size=16)
        self.last: deque[str] = deque(maxlen=KEPT_LINES)
        self.lines = 0

    def add(self, who: str, what: str) -> None:
        """One thing that happened."""
        line = f"{self._now():10.4f} {who} {what}"
        self._hash.update(line.encode())
        self.last.append(line)
        self.lines += 1

    @property
    def digest(self) -> str:
        """The hash of all lines so far."""
        return self._hash.hexdigest()


class SimLog:
    """A service's log: into the trace. What a service calls an exception is told to `on_bug`."""

    def __init__(self, trace: Trace, who: str, on_bug: Callable[[str], None]) -> None:
        self._trace = trace
        self._who = who
        self._on_bug = on_bug

    def debug(self, event: str, **values: Any) -> None:
        """Not kept."""

    def info(self, event: str, **values: Any) -> None:
        """Into the trace."""
        self._add("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Into the trace."""
        self._add("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        """Into the trace; an error with a traceback that is no GantryError is a bug."""
        self._add("error", event, values)
        if values.get("exc_info") is not None or event == "poison":
            self._on_bug(f"{self._who}: {event} {_told(values)}")

    def exception(self, event: str, **values: Any) -> None:
        """Only bugs are logged so."""
        self._add("exception", event, values)
        self._on_bug(f"{self._who}: {event} {_told(values)}")

    def _add(self, level: str, event: str, values: dict[str, Any]) -> None:
        self._trace.add(self._who, f"{level}: {event} {_told(values)}")


def _told(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value!r:.300}" for name, value in values.items())
