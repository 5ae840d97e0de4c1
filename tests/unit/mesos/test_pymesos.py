"""pymesos' faults, each provoked and contained. What both clients do alike is in `test_clients.py`."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web

from libs.common.clock import SystemClock, system_rng
from libs.mesos import events
from libs.mesos.errors import CallTimeout, NotConnected, TransportError
from libs.mesos.framework import SchedulerOptions
from libs.mesos.ports import Credentials
from libs.mesos.pymesos_client import STOP_S, PymesosClient
from libs.mesos.pymesos_thread import IDLE_S
from libs.mesos.recordio import encode
from libs.mesos.stream import json_body
from libs.mesos.subscription import Options
from tests.contract.mesos.cluster import ROOT
from tests.unit.mesos.server import peer, stream, subscribed
from tests.unit.mesos.test_clients import FRAMEWORK

FAST = Options(backoff_min_s=0.02, backoff_max_s=10.0, connect_timeout_s=2.0)


class Ahead(SystemClock):
    """A clock that can be set forward."""

    by_s = 0.0

    def monotonic(self) -> float:
        """See Clock."""
        return super().monotonic() + self.by_s


def _client(*urls: str, call_timeout_s: float = 0.5, **more: Any) -> PymesosClient:
    options = SchedulerOptions(more.pop("subscription", FAST), call_timeout_s)
    clock = more.pop("clock", None) or SystemClock()
    return PymesosClient(urls, FRAMEWORK, clock=clock, rng=system_rng(), options=options, **more)


async def _disconnections(client: PymesosClient, count: int) -> list[events.Disconnected]:
    found: list[events.Disconnected] = []
    async with asyncio.timeout(60), client.subscribe() as stream_:
        async for event in stream_:
            if isinstance(event, events.Disconnected):
                found.append(event)
            if len(found) == count:
                break
    return found


async def _hold(request: web.Request, _body: Any) -> web.StreamResponse:
    return await stream(request, [subscribed()], hold_s=5)


@pytest.mark.parametrize("text", ["no", ""])
async def test_a_refused_subscribe_is_repeated_ever_more_slowly(text: str) -> None:
    """It kills pymesos' thread, which would end the process by a SIGINT."""

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        return web.Response(status=401, text=text)

    before = signal.getsignal(signal.SIGINT)
    async with peer(handler) as master:
        found = await _disconnections(_client(master.url), 4)
    assert len(master.calls) == 4
    pauses = [each.retry_in_s for each in found]
    assert pauses[3] > 2 * pauses[0] and pauses[3] >= 0.08
    assert signal.getsignal(signal.SIGINT) is before


async def test_an_event_that_can_not_be_read_ends_the_subscription_only() -> None:
    """An exception in a callback kills pymesos' thread; here it is said and the next one takes over."""
    spoilt = {"type": "RESCIND", "rescind": {}}

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        return await stream(request, [subscribed(), spoilt], hold_s=5)

    async with peer(handler) as master:
        found = await _disconnections(_client(master.url), 2)
        assert master.types() == ["SUBSCRIBE", "SUBSCRIBE"]
    assert "RESCIND" in found[0].reason and found[0].was_subscribed


async def _stuck_calls(client: PymesosClient, count: int) -> list[BaseException | None]:
    async def revive() -> BaseException | None:
        try:
            await client.revive()
        except (CallTimeout, TransportError, NotConnected) as error:
            return error
        return None

    return list(await asyncio.gather(*(revive() for _ in range(count))))


async def test_one_stuck_call_does_not_hold_up_all_others_for_ever() -> None:
    """pymesos' calls share a lock and, by default, wait for a day."""
    frozen = asyncio.Event()

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await _hold(request, body)
        if not frozen.is_set():
            frozen.set()
            await asyncio.sleep(5)
        return web.Response(status=202)

    async with peer(handler) as master:
        client = _client(master.url)
        async with asyncio.timeout(60), client.subscribe() as stream_:
            await anext(stream_)
            failed = await _stuck_calls(client, 5)
            # Or its thread was the first to see that it is too late.
            assert all(isinstance(each, CallTimeout | NotConnected) for each in failed)
            assert CallTimeout in map(type, failed)
            await client.suppress()
        # The four that waited behind it were never sent.
        assert master.types() == ["SUBSCRIBE", "REVIVE", "SUPPRESS"]


async def test_stopping_breaks_what_is_under_way() -> None:
    """Leaving ends a stuck call at once, fails those behind it, and tears nothing down."""
    arrived = asyncio.Event()

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await _hold(request, body)
        arrived.set()
        await asyncio.sleep(5)
        return web.Response(status=202)

    async with peer(handler) as master, asyncio.timeout(60), asyncio.TaskGroup() as group:
        client = _client(master.url, call_timeout_s=60.0)
        async with client.subscribe() as stream_:
            await anext(stream_)
            calls = group.create_task(_stuck_calls(client, 2))
            await arrived.wait()
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < STOP_S
        first, second = await calls
        assert isinstance(first, TransportError) and isinstance(second, NotConnected)
        assert master.types() == ["SUBSCRIBE", "REVIVE"]


async def test_a_slow_consumer_slows_the_master_down() -> None:
    """No more than `room` events wait in memory, none is lost, and the pause is not taken for the master's silence."""
    count, sent = 4000, 0
    rescind = {"type": "RESCIND", "rescind": {"offer_id": {"value": "o" * 4000}}}
    hundred = encode(json_body(rescind)) * 100

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        nonlocal sent
        response = await stream(request, [subscribed(0.1)])
        for _ in range(count // 100):
            await response.write(hundred)
            sent += 100
        await asyncio.sleep(5)
        return response

    async with peer(handler) as master:
        client = _client(master.url, room=10)
        async with asyncio.timeout(20), client.subscribe() as stream_:
            await anext(stream_)
            before = -1
            while sent > before:  # until it stands still
                before = sent
                await asyncio.sleep(0.3)
            assert sent < count
            await asyncio.sleep(0.5)  # longer than five heartbeats
            for _ in range(count):
                assert isinstance(await anext(stream_), events.Rescind)


async def _revive_once(client: PymesosClient) -> None:
    async with asyncio.timeout(60), client.subscribe() as stream_:
        await anext(stream_)
        await client.revive()


async def test_credentials_stay_with_their_client() -> None:
    """pymesos keeps the headers of calls in one dict for all drivers of a process."""

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await _hold(request, body)
        return web.Response(status=202)

    async with peer(handler) as first, peer(handler) as second:
        await _revive_once(_client(first.url, credentials=Credentials("pr", "sé")))
        await _revive_once(_client(second.url))
    assert all("Authorization" in headers for _, headers, _ in first.calls)
    assert not any("Authorization" in headers for _, headers, _ in second.calls)


async def test_a_connection_that_has_been_idle_for_long_is_not_used() -> None:
    """The master may have closed it just now, and a call on it would be lost."""
    ports: list[int] = []

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await _hold(request, body)
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        return web.Response(status=202)

    async with peer(handler) as master:
        clock = Ahead()
        client = _client(master.url, clock=clock)
        async with asyncio.timeout(60), client.subscribe() as stream_:
            await anext(stream_)
            await client.revive()
            await client.revive()
            clock.by_s = IDLE_S + 1
            await client.revive()
    assert ports[0] == ports[1] != ports[2]


@contextmanager
def _many_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 500)), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    try:
        yield
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_descriptors_beyond_those_of_select() -> None:
    """pymesos' thread dies of select(2) in a process that has more than a thousand files open."""
    with _many_files(1100):
        async with peer(_hold) as master:
            client = _client(master.url)
            async with asyncio.timeout(60), client.subscribe() as stream_:
                assert isinstance(await anext(stream_), events.Subscribed)


async def test_nobody_listens() -> None:
    """A refused connection is said, and tried again by our own back-off."""
    found = await _disconnections(_client("127.0.0.1:1", subscription=FAST), 3)
    assert {each.reason for each in found} == {"could not connect"}


IMPORTING = """
import asyncio, os, signal, sys
import uvloop
import services.scheduler.service

async def main():
    assert "pymesos" not in sys.modules  # it is not imported before it is wanted
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    import libs.mesos.pymesos_client
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(stop.wait(), 5)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


async def test_a_service_still_stops_by_sigint() -> None:
    """Importing pymesos takes SIGINT over; imported here, it does not."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", IMPORTING), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, said.decode()


def test_what_it_can_not_reach_is_refused_at_once() -> None:
    """TLS and IPv6."""
    for url in ("https://master:5050", "http://[::1]:5050"):
        with pytest.raises(ValueError, match="plain HTTP"):
            _client(url)
