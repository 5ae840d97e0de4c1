"""Docker's log stream as JSON lines, without I/O.

Without a terminal the engine sends frames (stream number, three zero bytes, length in network order, payload) that know
nothing of lines; with one it sends the bytes as they are. Each line begins with its time, as asked for.
Format: Docker Engine API, ContainerAttach, "Stream format".

A follower is told the whole newest file again when the engine has rotated the log (20.10 does so with both of its
drivers): lines are told once, by their times, which are a stream's own and in nanoseconds. Now and then a rotation
makes it lose its place: then it says so, in a stream of its own (with a terminal, in a line without a time), and ends.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime

import orjson

STREAMS = {0: "stdin", 1: "stdout", 2: "stderr"}
ENGINE = 3
"""The stream in which the engine speaks for itself: no line of the container's."""
_LOST = b"Error grabbing logs: "
MAX_LINE_BYTES = 256 * 1024
REMEMBERED = 131_072  # lines of a stream, 8 bytes each
_HEADER = struct.Struct("!BxxxI")


class LogReader:
    """Takes chunks of the engine's answer, gives lines `{"time", "stream", "line"}` as JSON with a newline."""

    def __init__(self, *, terminal: bool, following: bool = False) -> None:
        self._terminal = terminal
        self._following = following
        self._buffer = bytearray()
        self._partial: dict[int, bytearray] = {}
        self._told: dict[int, Told] = {}
        self.newest = 0
        """The time of the newest line, Unix nanoseconds."""
        self.lost = ""
        """Why the engine has lost its place; "" as long as it has not."""

    def resume(self) -> None:
        """Another answer follows, which may begin with lines that were told already."""
        self._buffer.clear()
        self._partial.clear()
        self.lost = ""

    def feed(self, data: bytes) -> list[bytes]:
        """Lines that are complete with `data`."""
        if self._terminal:
            return list(self._lines(1, data))
        self._buffer += data
        found: list[bytes] = []
        while len(self._buffer) >= _HEADER.size:
            stream, size = _HEADER.unpack_from(self._buffer)
            if len(self._buffer) < _HEADER.size + size:
                break
            found += self._lines(stream, bytes(self._buffer[_HEADER.size : _HEADER.size + size]))
            del self._buffer[: _HEADER.size + size]
        return found

    def end(self) -> list[bytes]:
        """What is left when the stream ended in the middle of a line."""
        left = [
            _line(stream, bytes(text)) for stream, text in sorted(self._partial.items()) if text
        ]
        self._partial.clear()
        return left

    def _lines(self, stream: int, data: bytes) -> Iterator[bytes]:
        partial = self._partial.setdefault(stream, bytearray())
        partial += data
        while (at := partial.find(b"\n")) >= 0 or len(partial) > MAX_LINE_BYTES:
            at = at if at >= 0 else MAX_LINE_BYTES
            text = bytes(partial[:at])
            if stream == ENGINE or (self._terminal and text.startswith(_LOST)):
                self.lost = text.removeprefix(_LOST).decode(errors="replace").strip()
            elif not self._following or self._is_new(stream, text):
                yield _line(stream, text)
            del partial[: at + (partial[at : at + 1] == b"\n")]

    def _is_new(self, stream: int, text: bytes) -> bool:
        time_ns = nanoseconds(text.partition(b" ")[0])
        if time_ns is None:
            return True
        self.newest = max(self.newest, time_ns)
        return self._told.setdefault(stream, Told()).is_new(time_ns)


class Told:
    """The times of a stream's last lines. A clock that was put back brings new ones before old ones."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._times = array("q")
        self._forgot = False

    def is_new(self, time_ns: int) -> bool:
        """Is this the first line of that time; from now on it is not. What is older than all we remember is not."""
        times = self._times
        at = len(times) if not times or time_ns > times[-1] else bisect_left(times, time_ns)
        if at < len(times) and times[at] == time_ns:
            return False
        if at == 0 and self._forgot:
            return False
        times.insert(at, time_ns)
        if len(times) >= 2 * self._remembered:
            del times[: self._remembered]
            self._forgot = True
        return True


def nanoseconds(text: bytes) -> int | None:
    """Unix nanoseconds of a time as the engine writes it, such as 2026-01-31T09:00:00.123456789Z."""
    seconds, _, fraction = text.decode(errors="replace").removesuffix("Z").partition(".")
    try:
        whole = int(datetime.fromisoformat(f"{seconds}+00:00").timestamp())
        return whole * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    except ValueError:
        return None


def _line(stream: int, text: bytes) -> bytes:
    time, _, line = text.decode(errors="replace").rstrip("\r").partition(" ")
    content = {"time": time, "stream": STREAMS.get(stream, "stdout"), "line": line}
    return orjson.dumps(content) + b"\n"
