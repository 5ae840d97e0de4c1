"""What this package takes from outside: bytes on a wire.

Time and ids come as `Clock` and `Ids` of libs.common.clock, randomness as a `random.Random`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from libs.mesos.errors import MesosError


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; header names are as sent."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        """The body as text, undecodable bytes replaced."""
        return self.body.decode("utf-8", "replace")


class ByteStream(Protocol):
    """The answer to a request whose body goes on for long."""

    @property
    def status(self) -> int:
        """HTTP status code."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Header names in lower case."""

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises `TransportError` when cut."""

    def close(self) -> None:
        """Cut the connection; a `read` under way ends or raises `TransportError`."""


class Transport(Protocol):
    """HTTP as this package needs it. Redirects are never followed here."""

    async def request(self, request: Request, *, timeout_s: float) -> Response:
        """The whole answer. Raises `TransportError`, `CallTimeout`."""

    def stream(
        self, request: Request, *, timeout_s: float
    ) -> AbstractAsyncContextManager[ByteStream]:
        """Open a stream: `timeout_s` bounds the wait for the headers, not the body."""


class Pipeline(Transport, Protocol):
    """A transport for many calls at once."""

    async def request_all(
        self, request: Request, bodies: Sequence[bytes], *, timeout_s: float
    ) -> list[Response | MesosError]:
        """The request with each of the bodies; what each comes to, in their order."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """HTTP basic authentication; the secret never shows in a repr."""

    principal: str
    secret: str = field(repr=False)
