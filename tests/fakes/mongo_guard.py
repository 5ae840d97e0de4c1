"""A MongoDB server's door: it demands a user, remembers who knocked, and leads those that it knows to a server behind.

As much of the wire protocol as the driver's handshake takes: OP_QUERY answered by OP_REPLY, OP_MSG by OP_MSG
(github.com/mongodb/specifications, message/OP_MSG.md). Passwords are proved by SCRAM-SHA-256 (RFC 5802 and 7677); then
all messages go on to the server as they are. What a real server says: code 18 for a wrong password, 13 for a command
without a user.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import struct
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping
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
_ROUNDS = 4096


@dataclass
class MongoGuard:
    """The door. `users` are those who tried, each with the database that was to know them.

    `known`: the passwords of users, each with its database. `behind`: the port of the server that they are led to.
    While `gate` is not set, answers of that server are held back, and `held` is set when one is; another gate put in
    its place is for later answers. `cut` ends all connections.
    """

    known: Mapping[tuple[str, str], str] = field(default_factory=dict)
    behind: int = 0
    port: int = 0
    users: list[tuple[str, str]] = field(default_factory=list)
    heard: bytes = b""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.gate.set()

    def cut(self) -> None:
        """As a server does that is restarted."""
        for each in self._writers:
            each.transport.abort()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        visitor = _Visitor(self)
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not visitor.is_known:
                head, body = await _message(reader)
                self.heard += body
                writer.write(visitor.reply(head, body))
                await writer.drain()
            await self._lead_on(reader, writer)
        self._writers.discard(writer)
        writer.close()

    async def _lead_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, inner_writer = await asyncio.open_connection("127.0.0.1", self.behind)
        try:
            while True:  # the driver waits for each answer before it asks again
                inner_writer.write(b"".join(await _message(reader)))
                answer = b"".join(await _message(inner))
                gate = self.gate
                if not gate.is_set():
                    self.held.set()
                    await gate.wait()
                writer.write(answer)
                await writer.drain()
        finally:
            inner_writer.close()


class _Visitor:
    """Who is at the other end of a connection, and how far it has proved that."""

    def __init__(self, guard: MongoGuard) -> None:
        self.is_known = False
        self._guard = guard
        self._password = ""
        self._said: tuple[str, str] = (
            "",
            "",
        )  # the first messages of client and server, which the proof is about
        self._nonce = ""
        self._salt = secrets.token_bytes(16)

    def reply(self, head: bytes, body: bytes) -> bytes:
        """The answer to a message, as bytes."""
        _, request, _, code = _HEADER.unpack(head)
        if code == _QUERY:
            after_name = body.index(b"\0", 4) + 1 + 8
            told = bson.encode(self._answer(_first(body[after_name:])))
            content = struct.pack("<iqii", 8, 0, 0, 1) + told
            return _HEADER.pack(_HEADER.size + len(content), 1, request, _REPLY) + content
        told = bson.encode(self._answer(_first(body[5:])))
        content = struct.pack("<iB", 0, 0) + told
        return _HEADER.pack(_HEADER.size + len(content), 1, request, _MSG) + content

    def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(command))
        if name.lower() in ("ismaster", "hello"):
            mechanisms = {"saslSupportedMechs": ["SCRAM-SHA-256"]}
            return {**_HELLO, **(mechanisms if "saslSupportedMechs" in command else {})}
        if name == "saslStart":
            return self._start(bytes(command["payload"]).decode(), command["$db"])
        if name == "saslContinue" and self._password:
            return self._check(bytes(command["payload"]).decode())
        return _error(13, "Unauthorized", f"command {name} requires authentication")

    def _start(self, text: str, database: str) -> dict[str, Any]:
        bare = text.removeprefix("n,,")
        user, nonce = _fields(bare)["n"], _fields(bare)["r"]
        self._guard.users.append((user, database))
        self._password = self._guard.known.get((user, database), "")
        if not self._password:
            return _WRONG
        self._nonce = nonce + secrets.token_urlsafe(18)
        first = f"r={self._nonce},s={b64encode(self._salt).decode()},i={_ROUNDS}"
        self._said = (bare, first)
        return _step(first, done=False)

    def _check(self, text: str) -> dict[str, Any]:
        without, _, proof = text.rpartition(",p=")
        about = ",".join((*self._said, without)).encode()
        salted = hashlib.pbkdf2_hmac("sha256", self._password.encode(), self._salt, _ROUNDS)
        stored = hashlib.sha256(_mac(salted, b"Client Key")).digest()
        mask = _mac(stored, about)
        shown = bytes(a ^ b for a, b in zip(b64decode(proof), mask, strict=True))
        right = hashlib.sha256(shown).digest() == stored
        if not right or _fields(without)["r"] != self._nonce:
            return _WRONG
        self.is_known = True
        ours = _mac(_mac(salted, b"Server Key"), about)
        return _step(f"v={b64encode(ours).decode()}", done=True)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(_HEADER.size)
    return head, await reader.readexactly(_HEADER.unpack(head)[0] - _HEADER.size)


def _first(text: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<i", text)
    decoded: dict[str, Any] = bson.decode(text[:length])
    return decoded


def _fields(text: str) -> dict[str, str]:
    pairs = (each.partition("=") for each in text.split(","))
    return {name: value for name, _, value in pairs}


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()


def _step(text: str, *, done: bool) -> dict[str, Any]:
    return {"ok": 1.0, "conversationId": 1, "done": done, "payload": text.encode()}


def _error(code: int, name: str, text: str) -> dict[str, Any]:
    return {"ok": 0.0, "code": code, "codeName": name, "errmsg": text}


_WRONG = _error(18, "AuthenticationFailed", "Authentication failed.")


@asynccontextmanager
async def mongo_guard(
    known: Mapping[tuple[str, str], str] | None = None, behind: int = 0
) -> AsyncIterator[MongoGuard]:
    """The door, on a port of loopback."""
    guard = MongoGuard(known or {}, behind)
    server = await asyncio.start_server(guard.talk, "127.0.0.1", 0)
    guard.port = server.sockets[0].getsockname()[1]
    async with server:
        yield guard
