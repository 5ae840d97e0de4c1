"""RecordIO framing of Mesos' event streams, sans I/O.

A record is its length in bytes as ASCII decimal digits, a newline, then that many bytes.
HTTP chunk borders mean nothing: a record may span chunks, a chunk may hold several records.
"""

from __future__ import annotations

from libs.mesos.errors import RecordError

MAX_RECORD_BYTES = 64 * 1024 * 1024
_MAX_LENGTH_DIGITS = 20


def encode(record: bytes) -> bytes:
    """One framed record."""
    return b"%d\n%s" % (len(record), record)


class Decoder:
    """Feeds on byte chunks of any size, yields whole records.

    Raises `RecordError` on a length that is no plain decimal number or is above
    `max_record_bytes`; the decoder is useless afterwards, the stream has to be reopened.
    """

    def __init__(self, max_record_bytes: int = MAX_RECORD_BYTES) -> None:
        self._max_record_bytes = max_record_bytes
        self._buffer = bytearray()
        self._wanted: int | None = None

    def feed(self, chunk: bytes) -> list[bytes]:
        """The records completed by `chunk`, in order."""
        self._buffer += chunk
        records: list[bytes] = []
        start = 0
        while True:
            if self._wanted is None:
                end = self._buffer.find(b"\n", start, start + _MAX_LENGTH_DIGITS + 1)
                if end < 0:
                    self._check_digits(start)
                    break
                self._wanted = self._length(bytes(self._buffer[start:end]))
                start = end + 1
            if len(self._buffer) - start < self._wanted:
                break
            records.append(bytes(self._buffer[start : start + self._wanted]))
            start += self._wanted
            self._wanted = None
        del self._buffer[:start]
        return records

    def end(self) -> None:
        """The stream ended. Raises `RecordError` if it ended within a record."""
        if self._buffer or self._wanted is not None:
            raise RecordError(f"stream ended within a record ({len(self._buffer)} bytes pending)")

    def _check_digits(self, start: int) -> None:
        pending = bytes(self._buffer[start:])
        if len(pending) > _MAX_LENGTH_DIGITS or (pending and not pending.isdigit()):
            raise RecordError(f"bad record length {pending[:_MAX_LENGTH_DIGITS]!r}")

    def _length(self, digits: bytes) -> int:
        if not digits.isdigit():
            raise RecordError(f"bad record length {digits!r}")
        length = int(digits)
        if length > self._max_record_bytes:
            raise RecordError(f"record of {length} bytes, at most {self._max_record_bytes}")
        return length
