"""The executor client over real HTTP on loopback, and the environment an agent gives it."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from libs.common.clock import RngIds, SystemClock
from libs.mesos import events
from libs.mesos.environment import ExecutorEnvironment, duration_s
from libs.mesos.errors import BadCall, EnvironmentInvalid
from libs.mesos.executor import ExecutorClient, ExecutorOptions
from libs.mesos.http import AiohttpTransport
from tests.unit.mesos.server import peer, stream


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    """Over a session of its own."""
    async with aiohttp.ClientSession() as session:
        yield AiohttpTransport(session)


def test_durations() -> None:
    """Mesos' own notation."""
    assert [duration_s(text) for text in ("15mins", "2secs", "500ms", "1.5hrs", "1days")] == [
        900.0,
        2.0,
        0.5,
        5400.0,
        86400.0,
    ]
    for text in ("", "5", "5 secs", "secs", "5sec", "-5secs"):
        with pytest.raises(ValueError, match="duration"):
            duration_s(text)


ENV = {
    "MESOS_AGENT_ENDPOINT": "127.0.0.1:5051",
    "MESOS_FRAMEWORK_ID": "f",
    "MESOS_EXECUTOR_ID": "e",
    "MESOS_SLAVE_ID": "a",
    "MESOS_SANDBOX": "/tmp",
    "MESOS_CHECKPOINT": "1",
    "MESOS_RECOVERY_TIMEOUT": "300ms",
    "MESOS_SUBSCRIPTION_BACKOFF_MAX": "20ms",
}


def test_the_environment_is_checked() -> None:
    """The error names the variable."""
    parsed = ExecutorEnvironment.parse(ENV)
    assert parsed.checkpoint and parsed.recovery_timeout_s == 0.3
    assert parsed.agent_url == "http://127.0.0.1:5051"
    for name in ("MESOS_AGENT_ENDPOINT", "MESOS_EXECUTOR_ID", "MESOS_SANDBOX"):
        with pytest.raises(
            EnvironmentInvalid, match=name if "SANDBOX" not in name else "DIRECTORY"
        ):
            ExecutorEnvironment.parse({k: v for k, v in ENV.items() if k != name})
    with pytest.raises(EnvironmentInvalid, match="MESOS_RECOVERY_TIMEOUT"):
        ExecutorEnvironment.parse({**ENV, "MESOS_RECOVERY_TIMEOUT": "soon"})


def _executor(transport: AiohttpTransport, url: str, **env: str) -> ExecutorClient:
    rng = random.Random(1)
    environment = ExecutorEnvironment.parse(
        {**ENV, "MESOS_AGENT_ENDPOINT": url.removeprefix("http://"), **env}
    )
    options = ExecutorOptions(call_timeout_s=0.5, backoff_min_s=0.01)
    return ExecutorClient(
        transport, environment, clock=SystemClock(), rng=rng, ids=RngIds(rng), options=options
    )


TASK = {"name": "t", "task_id": {"value": "t"}, "agent_id": {"value": "a"}, "resources": []}
EXECUTOR_SUBSCRIBED = {
    "type": "SUBSCRIBED",
    "subscribed": {"executor_info": {}, "framework_info": {}, "agent_info": {}},
}


async def test_an_executor_carries_what_is_unacknowledged(transport: AiohttpTransport) -> None:
    """Across a cut: the task and the update that nobody acknowledged, and nothing else."""
    launch = {"type": "LAUNCH", "launch": {"task": TASK}}
    refuse = False

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] != "SUBSCRIBE":
            return web.Response(status=500 if refuse else 202)
        first = not body["subscribe"]["unacknowledged_tasks"]
        again = [EXECUTOR_SUBSCRIBED, *([launch] if first else [])]
        return await stream(request, again, stream_id=None, hold_s=0.2 if first else 5)

    async with peer(handler) as agent:
        client = _executor(transport, agent.url)
        async with asyncio.timeout(60), client.subscribe() as stream_:
            assert isinstance(await anext(stream_), events.ExecutorSubscribed)
            assert isinstance(await anext(stream_), events.Launch)
            starting = client.make_status("t", "TASK_STARTING")
            running = client.make_status("t", "TASK_RUNNING", message="up")
            assert await client.update(starting)
            refuse = True
            assert not await client.update(running)
            lost = await anext(stream_)
            assert isinstance(lost, events.Disconnected) and "delivered" in lost.reason
            assert not await client.update(running), "not connected: kept for the next SUBSCRIBE"
            assert isinstance(await anext(stream_), events.ExecutorSubscribed)
        subscribe = [body for _, _, body in agent.calls if body["type"] == "SUBSCRIBE"][1]
    assert subscribe["subscribe"]["unacknowledged_tasks"] == [TASK]
    assert subscribe["subscribe"]["unacknowledged_updates"] == [
        {"status": starting},
        {"status": running},
    ]
    assert len(base64.b64decode(starting["uuid"])) == 16
    client.unacknowledged.acknowledged("t", starting["uuid"])
    assert client.unacknowledged.tasks == []
    assert [u["status"]["state"] for u in client.unacknowledged.updates] == ["TASK_RUNNING"]


@pytest.mark.parametrize("checkpoint", ["1", "0"])
async def test_an_executor_without_its_agent_ends(
    transport: AiohttpTransport, checkpoint: str
) -> None:
    """After the recovery time-out, or at once when the framework does not checkpoint."""

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if len(agent.calls) > 1:
            return web.Response(status=503, text="Agent is recovering")
        return await stream(request, [EXECUTOR_SUBSCRIBED], stream_id=None)

    async with peer(handler) as agent:
        client = _executor(transport, agent.url, MESOS_CHECKPOINT=checkpoint)
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(60), client.subscribe() as stream_:
            found = [event async for event in stream_]
        passed_s = asyncio.get_running_loop().time() - began
        tries = len(agent.calls)
    assert isinstance(found[-1], events.Shutdown) and found[-1].reason
    if checkpoint == "1":
        assert "recovery" in found[-1].reason and passed_s >= 0.3 and tries > 3
    else:
        assert tries == 1


async def test_a_failed_heartbeat_reopens_the_stream(transport: AiohttpTransport) -> None:
    """An agent that no longer answers calls is subscribed to again."""
    alive = True

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await stream(request, [EXECUTOR_SUBSCRIBED], stream_id=None, hold_s=5)
        return web.Response(status=202 if alive else 503)

    async with peer(handler) as agent:
        client = _executor(transport, agent.url)
        assert not await client.heartbeat(), "not subscribed yet"
        async with asyncio.timeout(60), client.subscribe() as stream_:
            await anext(stream_)
            assert await client.heartbeat()
            alive = False
            assert not await client.heartbeat()
            lost = await anext(stream_)
            assert isinstance(lost, events.Disconnected) and "heartbeat" in lost.reason
            assert isinstance(await anext(stream_), events.ExecutorSubscribed)


async def test_an_invalid_update_is_forgotten(transport: AiohttpTransport) -> None:
    """Else every later SUBSCRIBE would be refused because of it."""

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        if body["type"] == "SUBSCRIBE":
            return await stream(request, [EXECUTOR_SUBSCRIBED], stream_id=None, hold_s=1)
        return web.Response(status=400, text="Failed to validate Executor::Call: no")

    async with peer(handler) as agent:
        client = _executor(transport, agent.url)
        async with asyncio.timeout(60), client.subscribe() as stream_:
            await anext(stream_)
            with pytest.raises(BadCall):
                await client.update(client.make_status("t", "TASK_STAGING"))
    assert client.unacknowledged.updates == []
