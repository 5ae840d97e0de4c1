"""A raw HTTP/1.1 client: sends exactly the headers it is told to, keeps what an HTTP library hides.

Status lines verbatim, header names in their own case, chunk borders, and whether a body ended
properly. Only what the recordings need: bodies by length, by chunks, or until the connection ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

Headers = list[tuple[str, str]]


@dataclass(slots=True)
class Answer:
    """Status line and headers as they came; `body` once it is complete."""

    status: str
    headers: Headers
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first value under `name`, whatever its case."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)


@dataclass(slots=True)
class Connection:
    """One TCP connection; requests one after another."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ended: str | None = field(default=None)

    @classmethod
    async def open(cls, host: str, port: int, timeout_s: float = 5.0) -> Connection:
        """Connect within `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, limit=16 * 1024 * 1024)
        return cls(reader, writer)

    async def send(self, line: str, headers: Sequence[tuple[str, str]], body: bytes | None) -> None:
        """Send a request; Content-Length is added whenever there is a body, empty or not."""
        lines = [line, *(f"{name}: {value}" for name, value in headers)]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        await self.send_raw(("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b""))

    async def send_raw(self, data: bytes) -> None:
        """Send these very bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Answer:
        """Status line and headers of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head[:-4].split("\r\n")
        pairs = [line.partition(":") for line in lines]
        return Answer(status, [(name, value.strip()) for name, _, value in pairs])

    async def answer(self, *, has_body: bool = True) -> Answer:
        """The next answer with its whole body."""
        answer = await self.head()
        if not has_body:
            return answer
        if (answer.header("Transfer-Encoding") or "").lower() == "chunked":
            answer.body = b"".join([chunk async for chunk in self.chunks()])
        else:
            answer.body = await self.reader.readexactly(int(answer.header("Content-Length") or 0))
        return answer

    async def chunks(self) -> AsyncIterator[bytes]:
        """Chunks until the body ends; `ended` then says how: "final chunk" or "cut"."""
        try:
            while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
                yield (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readuntil(b"\r\n")
            self.ended = "final chunk"
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended = "cut"

    def close(self) -> None:
        """Close at once."""
        self.writer.close()
