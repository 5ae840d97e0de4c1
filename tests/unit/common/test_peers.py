"""The client that calls peers by name: what it carries over a unix socket, and what it says of a peer that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import TimedOut, Unavailable
from libs.common.http import WAITING, Dispatcher, Front, Kind, Response, reply
from libs.common.peers import PeerClient
from libs.common.serve import serve
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
    verify = TokenVerifier(SECRET, clock)
    assert [(await verify(came, {})).name for came in peer.came] == ["host-1"] * 2


async def test_without_a_signer_no_token_is_sent(tmp_path: Path) -> None:
    async with on_socket(tmp_path, None) as (peer, client):
        answer = await client.call("peer", "PUT", "/a%2Fb", body=b"{}", headers={"x-mine": "1"})
        assert answer.status == 201
        assert answer.json() == {"method": "PUT", "target": "/a%2Fb", "body": "{}"}
        await client.open("peer", "/")
    assert len(peer.came) == 2 and not any("authorization" in came for came in peer.came)
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


# -- replicas -----------------------------------------------------------------------------------------


@asynccontextmanager
async def replicas(
    tmp_path: Path, *dispatchers: Dispatcher, gone: tuple[int, ...] = ()
) -> AsyncIterator[PeerClient]:
    """A client of a service with these replicas; nobody listens where the numbers in `gone` say."""
    urls = [f"unix:{tmp_path}/{n}.sock" for n in range(len(dispatchers))]
    async with AsyncExitStack() as stack:
        for n, dispatcher in enumerate(dispatchers):
            if n not in gone:
                await stack.enter_async_context(serve(dispatcher, urls[n]))
        client = PeerClient(None, {"peer": ", ".join(urls)})
        stack.push_async_callback(client.close)
        yield client
        for each in dispatchers:
            if isinstance(each, Peer):
                each.end.set()


async def test_the_next_replica_is_asked_when_one_is_gone_and_kept(tmp_path: Path) -> None:
    first, second = Peer(), Peer()
    async with replicas(tmp_path, first, second, gone=(0,)) as client:
        assert (await client.call("peer", "POST", "/")).status == 201
        assert (await client.call("peer", "POST", "/")).status == 201
    assert (len(first.came), len(second.came)) == (0, 2)


async def test_a_replica_that_waits_sends_callers_on(tmp_path: Path) -> None:
    front, leader = Front("peer"), Peer()
    async with replicas(tmp_path, front, leader) as client:
        assert (await client.call("peer", "POST", "/v1/x")).status == 201
        front.app, leader.end = Peer(), asyncio.Event()
    async with replicas(tmp_path, Front("peer"), Front("peer")) as client:
        answer = await client.call("peer", "GET", "/v1/x")
        assert answer.status == 503
        assert "waits here" in answer.json()["detail"]


async def test_a_silent_replica_is_passed_over_only_when_asking_twice_does_no_harm(
    tmp_path: Path,
) -> None:
    silent, good = Peer(), Peer()
    async with replicas(tmp_path, silent, good) as client:
        with pytest.raises(TimedOut):
            await client.call("peer", "POST", "/slow", timeout_s=0.3)
        with pytest.raises(TimedOut):
            await client.call("peer", "PUT", "/slow", headers={"If-Match": '"1"'}, timeout_s=0.3)
        good.end.set()
        assert (await client.call("peer", "GET", "/slow", timeout_s=1.0)).status == 201
    assert (len(silent.came), len(good.came)) == (3, 1)


async def test_a_front_is_alive_before_its_service_is_ready() -> None:
    front = Front("scheduler")
    assert (await front.dispatch("GET", "/healthz", {})).status == 200
    assert (await front.dispatch("GET", "/readyz", {})).status == 503
    refused = await front.dispatch("GET", "/v1/status", {})
    assert (refused.status, refused.headers[WAITING]) == (503, "1")
    front.app = Peer()
    assert (await front.dispatch("GET", "/v1/status", {})).status == 201
