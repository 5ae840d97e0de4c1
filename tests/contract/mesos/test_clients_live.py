"""`libs.mesos`' clients against a live Mesos: a task's life, failover, a restarted master."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from libs.common.clock import SystemClock
from libs.mesos import calls, events
from libs.mesos.errors import BadCall, NotSubscribed
from libs.mesos.http import AiohttpTransport
from libs.mesos.messages import FrameworkInfo, Offer, TaskInfo
from libs.mesos.operator import OperatorClient
from libs.mesos.scheduler import SchedulerClient
from tests.contract.mesos.cluster import Mesos, Power, minimesos

pytestmark = pytest.mark.asyncio(loop_scope="session")
WAIT_S = 20.0


def _info(name: str, framework_id: str | None = None) -> FrameworkInfo:
    info: FrameworkInfo = {
        "user": "root",
        "name": name,
        "roles": ["*"],
        "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}],
        "failover_timeout": 60.0,
        "checkpoint": True,
    }
    if framework_id is not None:
        info["id"] = calls.value(framework_id)
    return info


@asynccontextmanager
async def _transport() -> AsyncIterator[AiohttpTransport]:
    async with aiohttp.ClientSession() as session:
        yield AiohttpTransport(session)


def _client(transport: AiohttpTransport, mesos: Mesos, info: FrameworkInfo) -> SchedulerClient:
    return SchedulerClient(
        transport, [mesos.master_url], info, clock=SystemClock(), rng=random.Random(1)
    )


def _operator(transport: AiohttpTransport, url: str) -> OperatorClient:
    return OperatorClient(transport, [url], clock=SystemClock(), rng=random.Random(1))


async def _next(
    stream: AsyncIterator[Any], kind: type, wanted: Callable[[Any], bool] = lambda _: True
) -> Any:
    """The next event of that kind for which `wanted`; others pass by."""
    async with asyncio.timeout(WAIT_S):
        async for event in stream:
            if isinstance(event, kind) and wanted(event):
                return event
    raise AssertionError(f"the stream ended before {kind.__name__}")


def _task(offer: Offer, task_id: str, command: str) -> TaskInfo:
    return {
        "name": task_id,
        "task_id": calls.value(task_id),
        "agent_id": offer["agent_id"],
        "resources": [calls.scalar("cpus", 0.1), calls.scalar("mem", 32.0)],
        "command": {"value": command, "shell": True},
    }


async def _run(
    client: SchedulerClient, stream: AsyncIterator[Any], task_id: str, command: str, until: str
) -> list[str]:
    """Launch on the next offer; the task's states up to `until`, each acknowledged."""
    offers = await _next(stream, events.Offers)
    offer = offers.offers[0]
    await client.accept(
        [offer["id"]["value"]], [calls.launch([_task(offer, task_id, command)])], calls.filters(0.0)
    )
    states: list[str] = []
    while not states or states[-1] != until:
        status = (await _next(stream, events.Update)).status
        await client.acknowledge(status)
        states.append(status["state"])
    return states


async def test_a_task_from_offer_to_end(shared: Mesos) -> None:
    """Subscribe, accept, updates, reconcile, kill, teardown; then the id is burnt."""
    async with _transport() as transport:
        client = _client(transport, shared, _info("client-life"))
        async with client.subscribe() as stream:
            subscribed = await _next(stream, events.Subscribed)
            assert subscribed.heartbeat_interval_s == 15.0
            states = await _run(client, stream, "c1", "sleep 1000", "TASK_RUNNING")
            assert states == ["TASK_STARTING", "TASK_RUNNING"]
            await client.reconcile([("c1", None), ("ghost", None)])
            known = await _next(stream, events.Update)
            assert known.status["reason"] == "REASON_RECONCILIATION"
            assert calls.acknowledge(known.status) is None
            unknown = await _next(stream, events.Update)
            assert unknown.status["state"] == "TASK_UNKNOWN"
            await client.kill("c1")
            killed = await _next(stream, events.Update)
            assert killed.status["state"] == "TASK_KILLED"
            await client.acknowledge(killed.status)
            with pytest.raises(BadCall):
                await client.call({"type": "KILL"})
            await client.teardown()
            error = await _next(stream, events.Error)
            assert error.message == "Framework has been removed"


async def test_failover_tells_the_old_one_and_takes_over(shared: Mesos) -> None:
    """The second client with the id gets the stream; the first one's calls are refused."""
    async with _transport() as transport:
        first = _client(transport, shared, _info("client-failover"))
        async with first.subscribe() as old:
            framework_id = (await _next(old, events.Subscribed)).framework_id
            link = first.link
            second = _client(transport, shared, _info("client-failover", framework_id))
            async with second.subscribe() as new:
                assert (await _next(new, events.Subscribed)).framework_id == framework_id
                assert link is not None and second.link is not None
                assert link.stream_id != second.link.stream_id
                with pytest.raises(NotSubscribed):
                    await first.revive()
                assert (await _next(old, events.Error)).message == "Framework failed over"
                await second.teardown()


async def test_the_operator_api(shared: Mesos) -> None:
    """State on subscription, changes as events, and the GET_* calls agree."""
    async with _transport() as transport:
        operator = _operator(transport, shared.master_url)
        assert await operator.get_health() and await operator.health()
        assert (await operator.leader()).rpartition(":")[2] == shared.master_url.rpartition(":")[2]
        assert (await operator.get_version())["version_info"]["version"]
        assert (await operator.get_master())["master_info"]["id"]
        async with operator.subscribe() as stream:
            state = await _next(stream, events.OperatorEvent)
            assert state.type == "SUBSCRIBED" and "get_agents" in state.body["get_state"]
            client = _client(transport, shared, _info("client-operator"))
            async with client.subscribe() as own:
                await _next(own, events.Subscribed)
                added = await _next(
                    stream, events.OperatorEvent, lambda event: event.type == "FRAMEWORK_ADDED"
                )
                assert added.body["framework"]["framework_info"]["name"] == "client-operator"
                found = (await operator.get_frameworks())["frameworks"]
                names = {entry["framework_info"]["name"] for entry in found}
                assert "client-operator" in names
                assert client.framework_id is not None
                await operator.teardown(client.framework_id)
                await _next(
                    stream, events.OperatorEvent, lambda event: event.type == "FRAMEWORK_REMOVED"
                )
        metrics = await operator.get_metrics(timeout_s=5.0)
        snapshot = await operator.metrics_snapshot()
        assert metrics["master/elected"] == snapshot["master/elected"] == 1.0
        assert {"get_tasks", "get_agents"} <= set(await operator.get_state())
        assert (await operator.state())["id"] == (await operator.get_master())["master_info"]["id"]
        with pytest.raises(BadCall):
            await operator.call("NOPE")


@pytest.mark.mesos_power(Power.MASTER)
async def test_a_restarted_master_is_found_again(tmp_path: Path) -> None:
    """Same framework id, the task still runs, without any help from the caller."""
    async with AsyncExitStack() as stack:
        flags = {"registry": "replicated_log"}
        mesos = await stack.enter_async_context(minimesos(tmp_path, master_flags=flags))
        transport = await stack.enter_async_context(_transport())
        client = _client(transport, mesos, _info("client-restart"))
        stream = await stack.enter_async_context(client.subscribe())
        framework_id = (await _next(stream, events.Subscribed)).framework_id
        await _run(client, stream, "r1", "sleep 1000", "TASK_RUNNING")
        assert mesos.master is not None
        await mesos.master.kill()
        lost = await _next(stream, events.Disconnected)
        assert lost.was_subscribed
        await mesos.master.start()
        assert (await _next(stream, events.Subscribed)).framework_id == framework_id
        await mesos.await_agents(1)
        await client.reconcile([("r1", None)])
        status = (await _next(stream, events.Update)).status
        assert (status["task_id"]["value"], status["state"]) == ("r1", "TASK_RUNNING")
        await client.teardown()
