"""HTTP/1.1 answers read from bytes, and requests written as such, sans I/O (RFC 9112)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import SplitResult

from libs.mesos.errors import ProtocolError
from libs.mesos.ports import Request, Response

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024


def written(request: Request, url: SplitResult, bodies: Iterable[bytes]) -> bytes:
    """The request with each of the bodies, one behind the other; `url` is the request's."""
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    lines = [f"{request.method} {target} HTTP/1.1", f"Host: {url.netloc}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join(lines).encode("latin-1")
    return b"".join(
        b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body) for body in bodies
    )


class Answers:
    """Reads the answers of one connection, one after the other: `feed(b"")` is the way to the next one.

    `goes_on` says of the last answer whether the connection may be used again. Raises ProtocolError for what is no
    HTTP answer, or larger than the bounds; the connection is useless then.
    """

    def __init__(self) -> None:
        self.goes_on = True
        self._buffer = bytearray()
        self._head: tuple[int, Mapping[str, str]] | None = None

    def feed(self, data: bytes) -> Response | None:
        """The answer that these bytes complete, if they do."""
        self._buffer += data
        while self._head is None or 100 <= self._head[0] < 200:  # interim answers are passed over
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > MAX_HEAD_BYTES:
                    raise ProtocolError("the head of an answer is too long")
                return None
            self._head = _head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
        body = self._body(self._head[0], self._head[1])
        if body is None:
            if len(self._buffer) > MAX_BODY_BYTES:
                raise ProtocolError("an answer is too long")
            return None
        return self._answer(body)

    def end(self) -> Response | None:
        """The connection has ended: an answer whose end is that, if there is one. Raises ProtocolError half-way."""
        if self._head is not None and _until_the_end(*self._head):
            return self._answer(bytes(self._buffer))
        raise ProtocolError("the connection ended without an answer")

    def _answer(self, body: bytes) -> Response:
        assert self._head is not None
        status, headers = self._head
        self._head = None
        closes = headers.get("connection", "").lower() == "close"
        self.goes_on = not closes and not _until_the_end(status, headers)
        return Response(status, headers, body)

    def _body(self, status: int, headers: Mapping[str, str]) -> bytes | None:
        """The whole body, taken out of the buffer; None while there is more to come."""
        if status in (204, 304):
            return b""
        if _chunked(headers):
            return self._chunks()
        if "content-length" not in headers:
            return None
        length = _number(headers["content-length"], 10)
        if length > MAX_BODY_BYTES:
            raise ProtocolError(f"an answer of {length} bytes")
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _chunks(self) -> bytes | None:
        body, at = bytearray(), 0
        while True:
            line_end = self._buffer.find(b"\r\n", at)
            if line_end < 0:
                return None
            size = _number(self._buffer[at:line_end].split(b";")[0].decode("latin-1"), 16)
            start = line_end + 2
            if len(self._buffer) < start + size + 2:
                return None
            if size == 0:
                return self._trailers(start, body)
            body += self._buffer[start : start + size]
            at = start + size + 2

    def _trailers(self, at: int, body: bytearray) -> bytes | None:
        """What follows the last chunk is passed over: lines up to an empty one."""
        while True:
            end = self._buffer.find(b"\r\n", at)
            if end < 0:
                return None
            if end == at:
                del self._buffer[: end + 2]
                return bytes(body)
            at = end + 2


def _chunked(headers: Mapping[str, str]) -> bool:
    return headers.get("transfer-encoding", "").lower().endswith("chunked")


def _until_the_end(status: int, headers: Mapping[str, str]) -> bool:
    """Does the body go on until the connection ends."""
    told = status in (204, 304) or "content-length" in headers or _chunked(headers)
    return not told


def _number(text: str, base: int) -> int:
    text = text.strip()
    if not text.isalnum():
        raise ProtocolError(f"not a length: {text!r}")
    try:
        return int(text, base)
    except ValueError:
        raise ProtocolError(f"not a length: {text!r}") from None


@lru_cache(maxsize=64)  # within a second, most answers begin alike
def _head(raw: bytes) -> tuple[int, Mapping[str, str]]:
    line, *lines = raw.decode("latin-1").split("\r\n")
    parts = line.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise ProtocolError(f"not an HTTP answer: {line[:80]!r}")
    headers = {}
    for each in lines:
        name, colon, value = each.partition(":")
        if not colon:
            raise ProtocolError(f"not a header: {each[:80]!r}")
        headers[name.lower()] = value.strip()
    if parts[0] == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return int(parts[1]), headers
