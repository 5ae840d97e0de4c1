"""A MongoDB server's door and nothing behind it: it demands a user, knows none, and remembers who knocked.

As much of the wire protocol as the driver's handshake takes: OP_QUERY answered by OP_REPLY, OP_MSG by OP_MSG
(github.com/mongodb/specifications, message/OP_MSG.md). What a real server says: code 18 for a wrong password, 13 for a
command without a user.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import bson

_HEADER = struct.Struct("<iiii")
_REPLY, _QUERY, _MSG = 1, 2004, 2013
_HELLO = {
    "ok": 1.0,
    "ismaster": True,
    "helloOk": True,
    "minWireVersion": 0,
    "maxWireVersion": 8,
    "maxBsonObjectSize": 16_777_216,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
}


@dataclass
class MongoGuard:
    """The door. `users` are those who tried, each with the database that was to know them."""

    port: int = 0
    users: list[tuple[str, str]] = field(default_factory=list)
    heard: bytes = b""

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to a command."""
        name = next(iter(command))
        if name.lower() in ("ismaster", "hello"):
            mechanisms = {"saslSupportedMechs": ["SCRAM-SHA-256"]}
            return {**_HELLO, **(mechanisms if "saslSupportedMechs" in command else {})}
        if name == "saslStart":
            user = bytes(command["payload"]).decode().partition("n=")[2].partition(",")[0]
            self.users.append((user, command["$db"]))
            return _error(18, "AuthenticationFailed", "Authentication failed.")
        return _error(13, "Unauthorized", f"command {name} requires authentication")

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readexactly(_HEADER.size)
                length, request, _, code = _HEADER.unpack(head)
                body = await reader.readexactly(length - _HEADER.size)
                self.heard += body
                writer.write(self._reply(request, code, body))
                await writer.drain()
        writer.close()

    def _reply(self, request: int, code: int, body: bytes) -> bytes:
        if code == _QUERY:
            after_name = body.index(b"\0", 4) + 1 + 8
            told = bson.encode(self.answer(_first(body[after_name:])))
            content = struct.pack("<iqii", 8, 0, 0, 1) + told
            return _HEADER.pack(_HEADER.size + len(content), 1, request, _REPLY) + content
        told = bson.encode(self.answer(_first(body[5:])))
        content = struct.pack("<iB", 0, 0) + told
        return _HEADER.pack(_HEADER.size + len(content), 1, request, _MSG) + content


def _first(text: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<i", text)
    decoded: dict[str, Any] = bson.decode(text[:length])
    return decoded


def _error(code: int, name: str, text: str) -> dict[str, Any]:
    return {"ok": 0.0, "code": code, "codeName": name, "errmsg": text}


@asynccontextmanager
async def mongo_guard() -> AsyncIterator[MongoGuard]:
    """The door, on a port of loopback."""
    guard = MongoGuard()
    server = await asyncio.start_server(guard.talk, "127.0.0.1", 0)
    guard.port = server.sockets[0].getsockname()[1]
    async with server:
        yield guard
