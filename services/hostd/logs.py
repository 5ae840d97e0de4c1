"""Docker's log stream as JSON lines, without I/O.

Without a terminal the engine sends frames (stream number, three zero bytes, length in network order, payload) that know
nothing of lines; with one it sends the bytes as they are. Each line begins with its time, as asked for.
Format: Docker Engine API, ContainerAttach, "Stream format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import orjson

STREAMS = {0: "stdin", 1: "stdout", 2: "stderr"}
MAX_LINE_BYTES = 256 * 1024
_HEADER = struct.Struct("!BxxxI")


class LogReader:
    """Takes chunks of the engine's answer, gives lines `{"time", "stream", "line"}` as JSON with a newline."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal
        self._buffer = bytearray()
        self._partial: dict[int, bytearray] = {}

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
            yield _line(stream, bytes(partial[:at]))
            del partial[: at + (partial[at : at + 1] == b"\n")]


def _line(stream: int, text: bytes) -> bytes:
    time, _, line = text.decode(errors="replace").rstrip("\r").partition(" ")
    content = {"time": time, "stream": STREAMS.get(stream, "stdout"), "line": line}
    return orjson.dumps(content) + b"\n"
