"""Server-sent events, read without I/O: bytes in, messages out (WHATWG HTML, 9.2.6 "Interpreting an event stream")."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

from libs.common.errors import Unavailable

MAX_LINE_CHARS = 2_000_000


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `id` is the place to resume after; a message without data only moves that place."""

    event: str
    data: str
    id: str


class Parser:
    """Feed it chunks as they come; it keeps what is not complete yet."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_s: float | None = None
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._rest = ""
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """The messages that `chunk` completes. Raises Unavailable for a line without end."""
        text = self._decode(chunk)
        if self._after_cr and text:
            text = text.removeprefix("\n")
            self._after_cr = False
        self._after_cr = self._after_cr or text.endswith("\r")
        lines = (self._rest + text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_CHARS:
            raise Unavailable("the event stream sent a line without end")
        for line in lines:
            message = self._line(line)
            if message is not None:
                yield message

    def _line(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self.last_id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry_s = int(value) / 1000
        return None

    def _dispatch(self) -> Message | None:
        message = Message(self._event or "message", "\n".join(self._data), self.last_id)
        had_data = bool(self._data)
        self._event, self._data = "", []
        return message if had_data else None
