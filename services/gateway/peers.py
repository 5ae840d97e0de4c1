"""The other services, asked on behalf of the gateway's caller, each within a time-out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

from libs.common.actor import Actor
from libs.common.bounded import read_to_end
from libs.common.clock import Clock
from libs.common.errors import NotFound, TimedOut, Unauthenticated, Unavailable
from libs.common.http import Kind, Response, ServiceClient, StreamClient, call_json, raise_problem
from libs.common.keys import Secret
from libs.common.tokens import TokenSigner, party_keys
from libs.common.waiting import TaskGroup
from services.gateway.core import Part

S = TypeVar("S")
T = TypeVar("T")
MAX_WHOLE = 16_000_000
"""Bytes of a host's answer that is taken as a whole."""

SIGNERS = 10_000
DEPLOYER, SCHEDULER, IPAM, MONITOR = "deployer", "scheduler", "ipam", "monitor"


GenerationOf = Callable[[str], Awaitable[int]]
"""The generation of a host's key; see hosts.py."""


async def never_removed(_host: str) -> int:
    """The generation of a host that was never removed."""
    return 0


class HostTokens:
    """Tokens for calls to hosts, each signed with that host's own key.

    Never the gateway's own: a broken host, or an agent with a forged address, would get a token that opens the
    control plane. Signed so, it says to the host what only the control plane can say, and nothing to anybody else.
    """

    def __init__(
        self, cluster_secret: Secret, clock: Clock, generation_of: GenerationOf = never_removed
    ) -> None:
        self._secret = cluster_secret
        self._clock = clock
        self._generation_of = generation_of
        self._signers: dict[tuple[str, int], TokenSigner] = {}

    async def headers(self, host: str) -> dict[str, str]:
        """The Authorization header for `host`. Raises Unavailable."""
        generation = await self._generation_of(host)
        signer = self._signers.get((host, generation))
        if signer is None:
            if len(self._signers) >= SIGNERS:
                self._signers.clear()
            key = party_keys(self._secret, Kind.HOST, host, generation)
            signer = TokenSigner(Kind.HOST, host, key, self._clock)
            self._signers[host, generation] = signer
        return signer.headers()


@dataclass(frozen=True)
class Peers:
    """Calls in the name of an actor."""

    client: ServiceClient
    timeout_s: float
    host_tokens: HostTokens

    async def ask(
        self,
        actor: Actor,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        request_id: str = "",
        timeout_s: float = 0.0,
    ) -> Response:
        """The peer's answer to a change, by default within the usual time. Raises what its problem stands for."""
        sent = {**actor.headers(), "x-request-id": request_id, **(headers or {})}
        response = await self.client.call(
            service, method, path, body=body, headers=sent, timeout_s=timeout_s or self.timeout_s
        )
        raise_problem(service, response)
        return response

    async def get(
        self, actor: Actor, service: str, path: str, query: Mapping[str, str | int] | None = None
    ) -> Any:
        """The peer's decoded answer. Raises what its problem stands for."""
        target = with_query(path, query)
        return await call_json(
            self.client, service, "GET", target, headers=actor.headers(), timeout_s=self.timeout_s
        )

    async def part(
        self, actor: Actor, service: str, path: str, query: Mapping[str, str | int] | None = None
    ) -> Part:
        """The same as a part of a composed answer: a peer that is away leaves it empty."""
        try:
            return Part(service, await self.get(actor, service, path, query))
        except Unavailable:
            return Part(service, away=True)

    async def parts(
        self, actor: Actor, one: tuple[str, str], other: tuple[str, str]
    ) -> tuple[Part, Part]:
        """Two parts at once, each of (service, path); what is not found is empty."""
        return await pair(self._quiet(actor, *one), self._quiet(actor, *other))

    async def _quiet(self, actor: Actor, service: str, path: str) -> Part:
        try:
            return await self.part(actor, service, path)
        except NotFound:
            return Part(service)

    async def open(self, actor: Actor, host: str, url: str, path: str) -> Response:
        """An answer that streams, of hostd on `host`. Raises what its problem stands for, Unavailable."""
        if not isinstance(self.client, StreamClient):
            raise Unavailable("this runtime carries no streams")
        headers = {**actor.headers(), **(await self.host_tokens.headers(host))}
        response = await self.client.open(url, path, headers=headers, timeout_s=self.timeout_s)
        if response.status >= 400:
            response = await whole(response, self.timeout_s)
        try:
            raise_problem(f"hostd on {host}", response)
        except Unauthenticated as error:  # not the asker's fault
            why = f"hostd on {host} does not know the gateway's token ({error}): was it removed?"
            raise Unavailable(why) from None
        return response


async def whole(response: Response, timeout_s: float) -> Response:
    """The same with its stream, if it has one, read to the end. Raises TimedOut, and Unavailable over MAX_WHOLE."""
    if response.stream is None:
        return response
    try:
        async with asyncio.timeout(timeout_s):
            body = await read_to_end(response.stream, MAX_WHOLE, "an answer of a host is")
    except TimeoutError:
        raise TimedOut(f"an answer of a host was not complete within {timeout_s:g} s") from None
    finally:
        close = getattr(response.stream, "aclose", None)
        if close is not None:
            await close()
    return Response(response.status, body, response.headers, response.content_type)


async def pair(one: Coroutine[Any, Any, S], other: Coroutine[Any, Any, T]) -> tuple[S, T]:
    """The results of both, run at the same time. Raises the first one's own error, not a group of them."""
    try:
        async with TaskGroup() as group:
            first, second = group.create_task(one), group.create_task(other)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return first.result(), second.result()


def with_query(path: str, query: Mapping[str, str | int] | None) -> str:
    """The path with those query parameters that have a value."""
    kept = {name: value for name, value in (query or {}).items() if value != ""}
    return f"{path}?{urlencode(kept)}" if kept else path
