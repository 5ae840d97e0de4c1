"""The scheduler and operator clients over real HTTP on loopback, against peers that misbehave as told."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from libs.common.clock import SystemClock
from libs.common.errors import Fenced
from libs.mesos import calls, events
from libs.mesos.errors import (
    AccessDenied,
    BadCall,
    CallTimeout,
    NotConnected,
    NotSubscribed,
    TransportError,
    Unavailable,
)
from libs.mesos.framework import FrameworkClient, SchedulerOptions
from libs.mesos.http import AiohttpTransport
from libs.mesos.messages import FrameworkInfo
from libs.mesos.operator import OperatorClient
from libs.mesos.ports import Credentials
from libs.mesos.subscription import Options
from tests.frameworks import KINDS, make_client
from tests.unit.mesos.server import peer, stream, subscribed

FRAMEWORK: FrameworkInfo = {"user": "root", "name": "unit", "failover_timeout": 60.0}
Make = Callable[..., FrameworkClient]
FAST = Options(backoff_min_s=0.01, backoff_max_s=0.02, connect_timeout_s=2.0)


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    """Over a session of its own."""
    async with aiohttp.ClientSession() as session:
        yield AiohttpTransport(session)


@pytest_asyncio.fixture(params=KINDS)
async def scheduler(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes a scheduler's client, of one kind and then of the other."""
    async with aiohttp.ClientSession() as session:

        def make(*urls: str, **more: Any) -> FrameworkClient:
            options = SchedulerOptions(more.pop("subscription", FAST), call_timeout_s=0.5)
            return make_client(request.param, session, urls, FRAMEWORK, options=options, **more)

        yield make


async def _until(client: FrameworkClient, kind: type, limit: int = 50) -> list[Any]:
    """Events of one subscription up to the first of that kind."""
    found: list[Any] = []
    async with asyncio.timeout(60), client.subscribe() as stream_:
        async for event in stream_:
            found.append(event)
            if isinstance(event, kind) or len(found) >= limit:
                break
    return found


async def test_events_calls_and_the_stream_id(scheduler: Make) -> None:
    """Typed events come in order; a call carries framework id, stream id and credentials."""

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await stream(request, [subscribed(), {"type": "HEARTBEAT"}], hold_s=1)
        return web.Response(status=202)

    async with peer(handler) as master:
        client = scheduler(master.url, credentials=Credentials("pr", "se"))
        with pytest.raises(NotConnected):
            await client.revive()
        async with client.subscribe() as stream_:
            assert isinstance(await anext(stream_), events.Subscribed)
            assert await anext(stream_) == events.Heartbeat()
            assert client.framework_id == "m-0001"
            await client.decline(["o1"], {"refuse_seconds": 5.0})
        path, headers, body = master.calls[-1]
        assert path == "/api/v1/scheduler"
        assert headers["Mesos-Stream-Id"] == "s1"
        assert headers["Authorization"] == "Basic " + base64.b64encode(b"pr:se").decode()
        assert body == {
            "type": "DECLINE",
            "framework_id": {"value": "m-0001"},
            "decline": {"offer_ids": [{"value": "o1"}], "filters": {"refuse_seconds": 5.0}},
        }
        with pytest.raises(NotConnected):
            await client.revive()
        assert master.types() == ["SUBSCRIBE", "DECLINE"]
    assert "se" not in repr(Credentials("pr", "se")).replace("secret", "")


async def test_what_is_given_is_what_is_sent(scheduler: Make) -> None:
    """No capability is added to the framework's own, suppressed roles are told, agents are named."""

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await stream(request, [subscribed()], hold_s=1)
        return web.Response(status=202)

    async with peer(handler) as master:
        client = scheduler(master.url, suppressed_roles=["a"])
        async with asyncio.timeout(60), client.subscribe() as stream_:
            await anext(stream_)
            await client.kill("t1", "s1", grace_s=2.0)
            await client.reconcile([("t1", "s1"), ("t2", None)])
            await client.accept(["o1"], [])
    own = {"framework_id": calls.value("m-0001")}
    assert [body for _, _, body in master.calls] == [
        calls.subscribe(FRAMEWORK, ["a"]),
        {**calls.kill("t1", "s1", 2.0), **own},
        {**calls.reconcile([("t1", "s1"), ("t2", None)]), **own},
        {**calls.accept(["o1"], []), **own},
    ]


async def test_each_subscribe_is_asked_for(scheduler: Make) -> None:
    """Also those after the first; what forbids it comes out, and nothing was sent."""
    asked = 0

    def permit() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise Fenced("another leads")

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        return await stream(request, [subscribed()])

    async with peer(handler) as master, asyncio.timeout(60):
        async with scheduler(master.url).subscribe(permit) as stream_:
            for kind in [events.Subscribed, events.Disconnected] * 2:
                assert isinstance(await anext(stream_), kind)
            with pytest.raises(Fenced):
                await anext(stream_)
        assert master.types() == ["SUBSCRIBE"] * 2


async def test_a_master_that_takes_the_connection_only_is_left(scheduler: Make) -> None:
    """A half-open connection: no byte ever comes. The other master is asked, and leaving takes no long time."""
    quiet = asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await quiet.wait()
        writer.close()

    async def lively(request: web.Request, body: Any) -> web.StreamResponse:
        return await stream(request, [subscribed()], hold_s=1)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, peer(lively) as second:
        brief = replace(FAST, connect_timeout_s=0.3)
        client = scheduler(f"{host}:{port}", second.url, subscription=brief)
        found = await _until(client, events.Subscribed)
        quiet.set()
    assert [type(event) for event in found] == [events.Disconnected, events.Subscribed]
    assert not found[0].was_subscribed


async def test_a_cut_stream_is_subscribed_again_with_the_id(scheduler: Make) -> None:
    """Both places of the second SUBSCRIBE carry the framework id."""

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        return await stream(request, [subscribed()])

    async with peer(handler) as master:
        client = scheduler(master.url)
        found: list[Any] = []
        async with asyncio.timeout(60), client.subscribe() as stream_:
            async for event in stream_:
                found.append(event)
                if len(found) == 3:
                    break
    assert [type(event) for event in found] == [
        events.Subscribed,
        events.Disconnected,
        events.Subscribed,
    ]
    assert found[1].was_subscribed and 0 < found[1].retry_in_s <= 0.02
    first, second = (body for _, _, body in master.calls[:2])
    assert "framework_id" not in first
    assert second["framework_id"] == second["subscribe"]["framework_info"]["id"]


async def test_a_silent_master_is_left(scheduler: Make) -> None:
    """No record for five heartbeats although TCP is fine: the other master is asked."""

    async def silent(request: web.Request, body: Any) -> web.StreamResponse:
        return await stream(request, [subscribed(0.05)], hold_s=10)

    async def lively(request: web.Request, body: Any) -> web.StreamResponse:
        return await stream(request, [subscribed(), {"type": "HEARTBEAT"}], hold_s=10)

    async with peer(silent) as first, peer(lively) as second:
        found = await _until(scheduler(first.url, second.url), events.Heartbeat)
    assert "silence" in found[1].reason
    assert isinstance(found[2], events.Subscribed)


async def test_redirects_lead_to_the_leader(scheduler: Make) -> None:
    """The Location has no scheme, as Mesos sends it; calls go to the leader too."""

    async def lead(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await stream(request, [subscribed()], hold_s=1)
        return web.Response(status=202)

    async with peer(lead) as leader:

        async def follow(request: web.Request, body: Any) -> web.StreamResponse:
            where = leader.url.removeprefix("http:") + request.path
            return web.Response(status=307, headers={"Location": where})

        async with peer(follow) as follower:
            client = scheduler(follower.url)
            async with asyncio.timeout(60), client.subscribe() as stream_:
                assert isinstance(await anext(stream_), events.Subscribed)
                await client.revive()
        assert follower.types() == ["SUBSCRIBE"]
        assert leader.types() == ["SUBSCRIBE", "REVIVE"]


@pytest.mark.parametrize("before", [[], [subscribed()]])
async def test_an_error_event_ends_the_iteration(scheduler: Make, before: list[Any]) -> None:
    """No second SUBSCRIBE follows."""
    error = {"type": "ERROR", "error": {"message": "Framework failed over"}}

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        return await stream(request, [*before, error], hold_s=0.2)

    async with peer(handler) as master:
        client = scheduler(master.url)
        async with asyncio.timeout(60), client.subscribe() as stream_:
            found = [event async for event in stream_]
    assert found[-1] == events.Error("Framework failed over")
    assert master.types() == ["SUBSCRIBE"]


@pytest.mark.parametrize("scheduler", ["libs"], indirect=True)  # pymesos': test_pymesos.py
@pytest.mark.parametrize(("status", "error"), [(400, BadCall), (401, AccessDenied)])
async def test_a_refused_subscribe_raises(
    scheduler: Make, status: int, error: type[Exception]
) -> None:
    """What repeating cannot cure is the caller's to know."""

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        return web.Response(status=status, text="no")

    async with peer(handler) as master:
        with pytest.raises(error):
            await _until(scheduler(master.url), events.Subscribed)


async def test_broken_records_lead_to_a_new_subscription(scheduler: Make) -> None:
    """Neither bad framing nor bad JSON kills the client."""
    attempts = 0

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            return await stream(request, [subscribed()], hold_s=1)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x\n" if attempts == 1 else b"3\nabc")
        return response

    async with peer(handler) as master:
        found = await _until(scheduler(master.url), events.Subscribed)
    assert [type(event).__name__ for event in found] == ["Disconnected"] * 2 + ["Subscribed"]


async def test_calls_time_out_and_tell_refusals_apart(scheduler: Make) -> None:
    """Each way to fail has its error."""
    answers = {"REVIVE": (403, "Framework is not subscribed"), "SUPPRESS": (503, "No leader")}

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await stream(request, [subscribed()], hold_s=3)
        if body["type"] == "TEARDOWN":
            await asyncio.sleep(2)
        status, text = answers.get(body["type"], (400, "bad"))
        return web.Response(status=status, text=text)

    async with peer(handler) as master:
        client = scheduler(master.url)
        async with asyncio.timeout(60), client.subscribe() as stream_:
            await anext(stream_)
            for call, error in (
                (client.revive(), NotSubscribed),
                (client.suppress(), Unavailable),
                (client.reconcile(), BadCall),
                (client.teardown(), CallTimeout),
            ):
                with pytest.raises(error):
                    await call


async def test_the_operator_client_finds_the_leader(transport: AiohttpTransport) -> None:
    """A dead master and a follower first; later calls go to the leader directly."""

    async def lead(request: web.Request, body: Any) -> web.StreamResponse:
        if request.path == "/master/redirect":
            return web.Response(status=307, headers={"Location": leader.url.removeprefix("http:")})
        if request.path == "/metrics/snapshot":
            return web.json_response({"master/elected": 1.0})
        return web.json_response({"type": "GET_HEALTH", "get_health": {"healthy": True}})

    async with peer(lead) as leader:

        async def follow(request: web.Request, body: Any) -> web.StreamResponse:
            where = leader.url.removeprefix("http:") + request.path
            return web.Response(status=307, headers={"Location": where})

        async with peer(follow) as follower:
            peers = ["127.0.0.1:1", follower.url]
            client = OperatorClient(
                transport, peers, clock=SystemClock(), rng=random.Random(1), call_timeout_s=1.0
            )
            assert await client.get_health()
            assert await client.get_health()
            assert len(follower.calls) == 1
            assert await client.metrics_snapshot() == {"master/elected": 1.0}
            assert await client.leader() == leader.url


async def test_nobody_there_is_a_transport_error(transport: AiohttpTransport) -> None:
    """And no 200 of an imagination."""
    client = OperatorClient(
        transport, ["127.0.0.1:1"], clock=SystemClock(), rng=random.Random(1), call_timeout_s=1.0
    )
    with pytest.raises(TransportError):
        await client.get_state()
