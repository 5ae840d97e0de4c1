"""The client that calls peers by name: what it carries over a unix socket, and what it says of a peer that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import TimedOut, Unavailable
from libs.common.http import Kind, Response, reply
from libs.common.serve import PeerClient, serve
from libs.common.tokens import TokenSigner, TokenVerifier, derive_key

SECRET = b"s" * 32


class Peer:
    """Answers everything, and keeps the headers that came; holds /slow back until the end."""

    def __init__(self) -> None:
        self.came: list[dict[str, str]] = []
        self.end = asyncio.Event()

    async def dispatch(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        self.came.append({name.lower(): value for name, value in headers.items()})
        if target == "/slow":
            await self.end.wait()
        return reply({"method": method, "target": target, "body": body.decode()}, 201)


@asynccontextmanager
async def on_socket(
    tmp_path: Path, signer: TokenSigner | None
) -> AsyncIterator[tuple[Peer, PeerClient]]:
    peer = Peer()
    async with serve(peer, f"unix:{tmp_path}/peer.sock") as url:
        client = PeerClient(signer, {"peer": url})
        try:
            yield peer, client
        finally:
            peer.end.set()
            await client.close()


async def test_a_signer_signs_every_call(tmp_path: Path) -> None:
    clock = SystemClock()
    key = derive_key(SECRET, Kind.HOST, "host-1")
    async with on_socket(tmp_path, TokenSigner(Kind.HOST, "host-1", key, clock)) as (peer, client):
        await client.call("peer", "GET", "/")
        await client.open("peer", "/")
        assert b"".join([chunk async for chunk in client.stream("peer", "/")])
    verify = TokenVerifier(SECRET, clock)
    assert [(await verify(came, {})).name for came in peer.came] == ["host-1"] * 3


async def test_without_a_signer_no_token_is_sent(tmp_path: Path) -> None:
    async with on_socket(tmp_path, None) as (peer, client):
        answer = await client.call("peer", "PUT", "/a%2Fb", body=b"{}", headers={"x-mine": "1"})
        assert answer.status == 201
        assert answer.json() == {"method": "PUT", "target": "/a%2Fb", "body": "{}"}
        await client.open("peer", "/")
        assert [chunk async for chunk in client.stream("peer", "/")]
    assert len(peer.came) == 3 and not any("authorization" in came for came in peer.came)
    assert peer.came[0]["x-mine"] == "1"


async def test_a_silent_peer_is_given_up(tmp_path: Path) -> None:
    async with on_socket(tmp_path, None) as (_, client):
        with pytest.raises(TimedOut, match="peer did not answer GET"):
            await client.call("peer", "GET", "/slow", timeout_s=0.05)


async def test_a_peer_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    client = PeerClient(None, {"peer": f"unix:{tmp_path}/nobody.sock"})
    try:
        with pytest.raises(Unavailable, match="peer can't be reached"):
            await client.call("peer", "GET", "/")
        with pytest.raises(Unavailable, match="no address is configured for other"):
            await client.call("other", "GET", "/")
    finally:
        await client.close()
