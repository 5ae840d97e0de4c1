"""`libs.mesos`' clients against a live Mesos: a task's life, failover, a restarted master, an agent that is gone.

What a scheduler does is done through both of its clients.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from libs.common.clock import RngIds, SystemClock, system_rng
from libs.mesos import calls, events
from libs.mesos.environment import ExecutorEnvironment
from libs.mesos.errors import (
    BadCall,
    CallTimeout,
    NotConnected,
    NotSubscribed,
    TransportError,
)
from libs.mesos.executor import ExecutorClient
from libs.mesos.framework import FrameworkClient, SchedulerOptions
from libs.mesos.http import AiohttpTransport
from libs.mesos.messages import FrameworkInfo, Offer, TaskInfo, TaskStatus
from libs.mesos.operator import OperatorClient
from libs.mesos.subscription import Options
from tests.contract.mesos.cluster import Mesos, Power, minimesos
from tests.contract.mesos.executors import Proxy, executor_hub
from tests.frameworks import KINDS, make_client

pytestmark = pytest.mark.asyncio(loop_scope="session")
WAIT_S = 60.0


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


Make = Callable[..., FrameworkClient]


@pytest_asyncio.fixture(params=KINDS, loop_scope="session")
async def scheduler(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes a scheduler's client, of one kind and then of the other."""
    async with aiohttp.ClientSession() as session:
        yield lambda mesos, info, **more: make_client(
            request.param, session, [mesos.master_url], info, **more
        )


def _operator(session: aiohttp.ClientSession, url: str) -> OperatorClient:
    transport = AiohttpTransport(session)
    return OperatorClient(transport, [url], clock=SystemClock(), rng=random.Random(1))


async def _next(
    stream: AsyncIterator[Any],
    kind: type | tuple[type, ...],
    wanted: Callable[[Any], bool] = lambda _: True,
) -> Any:
    """The next event of that kind for which `wanted`; others pass by."""
    async with asyncio.timeout(WAIT_S):
        async for event in stream:
            if isinstance(event, kind) and wanted(event):
                return event
    raise AssertionError(f"the stream ended before {kind}")


def _task(offer: Offer, task_id: str, command: str) -> TaskInfo:
    return {
        "name": task_id,
        "task_id": calls.value(task_id),
        "agent_id": offer["agent_id"],
        "resources": [calls.scalar("cpus", 0.1), calls.scalar("mem", 32.0)],
        "command": {"value": command, "shell": True},
    }


async def _run(
    client: FrameworkClient, stream: AsyncIterator[Any], task_id: str, command: str, until: str
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


async def test_a_task_from_offer_to_end(shared: Mesos, scheduler: Make) -> None:
    """Subscribe, accept, updates, reconcile, kill, teardown; then the id is burnt."""
    client = scheduler(shared, _info("client-life"))
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


async def test_updates_are_acknowledged_together(shared: Mesos, scheduler: Make) -> None:
    """A task's next update comes when the one before is acknowledged: all of them have to be."""
    client = scheduler(shared, _info("client-together"))
    names = [f"t{n}" for n in range(10)]
    async with client.subscribe() as stream:
        (offer, *_) = (await _next(stream, events.Offers)).offers
        launch = calls.launch([_task(offer, name, "exit 0") for name in names])
        await client.accept([offer["id"]["value"]], [launch], calls.filters(0.0))
        for state in ("TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"):
            told: dict[str, TaskStatus] = {}
            while len(told) < len(names):
                status = (await _next(stream, events.Update)).status
                if status["state"] == state:  # else one that is told again
                    told[status["task_id"]["value"]] = status
            await client.acknowledge_all(told.values())
        await client.teardown()


async def test_offers_of_one_agent_are_accepted_together(shared: Mesos, scheduler: Make) -> None:
    """What is left of an agent while a task runs there, and what that leaves: one task takes more than either has."""
    client = scheduler(shared, _info("client-merged"))
    async with client.subscribe() as stream:
        (first, *_) = (await _next(stream, events.Offers)).offers
        whole = _cpus(first)
        half = _task(first, "half", "sleep 1000")
        half["resources"] = [calls.scalar("cpus", whole / 2), calls.scalar("mem", 32.0)]
        await client.accept([first["id"]["value"]], [calls.launch([half])], calls.filters(0.0))
        held: list[Offer] = []
        while sum(map(_cpus, held)) < whole - 1e-6:
            event = await _next(stream, (events.Offers, events.Update))
            if isinstance(event, events.Update):
                await client.acknowledge(event.status)
            else:
                held += [one for one in event.offers if one["agent_id"] == first["agent_id"]]
                if len(held) == 1:
                    await client.kill("half")
        assert len(held) > 1
        large = _task(first, "large", "exit 0")
        large["resources"] = [calls.scalar("cpus", whole), calls.scalar("mem", 32.0)]
        ids = [each["id"]["value"] for each in held]
        await client.accept(ids, [calls.launch([large])], calls.filters(0.0))
        states: list[str] = []
        while "TASK_FINISHED" not in states:
            status = (await _next(stream, events.Update)).status
            await client.acknowledge(status)
            states += [status["state"]] if status["task_id"]["value"] == "large" else []
        await client.teardown()


def _cpus(offer: Offer) -> float:
    return sum(r["scalar"]["value"] for r in offer["resources"] if r["name"] == "cpus")


@pytest.mark.mesos_power(Power.EXECUTOR)
async def test_an_executor_is_told_messages_and_a_kills_grace(
    shared: Mesos, scheduler: Make
) -> None:
    """And what it says itself comes back."""
    client = scheduler(shared, _info("client-message"))
    async with executor_hub() as hub, client.subscribe() as stream, asyncio.TaskGroup() as group:
        (offer, *_) = (await _next(stream, events.Offers)).offers
        task = _task(offer, "m1", "")
        del task["command"]
        task["executor"] = {
            "executor_id": calls.value("echo"),
            "type": "CUSTOM",
            "command": {"value": hub.command, "shell": True},
            "resources": [calls.scalar("cpus", 0.1), calls.scalar("mem", 32.0)],
        }
        await client.accept([offer["id"]["value"]], [calls.launch([task])], calls.filters(0.0))
        echo = group.create_task(_echo(await hub.get("echo")))
        running = (await _next(stream, events.Update)).status
        await client.acknowledge(running)
        agent = running["agent_id"]["value"]
        await client.message(agent, "echo", b"\x00all bytes\xff")
        said = await _next(stream, events.Message)
        assert (said.data, said.executor_id, said.agent_id) == (
            *(b"heard \x00all bytes\xff", "echo", agent),
        )
        await client.kill("m1", agent, grace_s=2.5)
        killed = (await _next(stream, events.Update)).status
        await client.acknowledge(killed)
        assert (killed["state"], killed["message"]) == ("TASK_KILLED", "2.5")
        await client.shutdown("echo", agent)
        await echo
        await client.teardown()


async def _echo(proxy: Proxy) -> None:
    """An executor: says again what it is told, and of a kill the grace. Ends when it is shut down."""
    rng = system_rng()
    async with aiohttp.ClientSession() as session:
        environment = ExecutorEnvironment.parse(proxy.env)
        transport, clock, ids = AiohttpTransport(session), SystemClock(), RngIds(rng)
        client = ExecutorClient(transport, environment, clock=clock, rng=rng, ids=ids)
        async with client.subscribe() as stream:
            async for event in stream:
                match event:
                    case events.Launch(task):
                        status = client.make_status(task["task_id"]["value"], "TASK_RUNNING")
                        await client.update(status)
                    case events.Message(data):
                        await client.message(b"heard " + data)
                    case events.Kill(task_id, policy):
                        assert policy is not None
                        grace_s = policy["grace_period"]["nanoseconds"] / 1e9
                        status = client.make_status(task_id, "TASK_KILLED", message=f"{grace_s:g}")
                        await client.update(status)
                    case events.Shutdown():
                        await proxy.exit(0)
                        return
                    case _:
                        pass


async def test_who_suppresses_gets_no_offers_until_it_asks_again(
    shared: Mesos, scheduler: Make
) -> None:
    """Meanwhile others are offered what it declined, time and again."""
    shy, other = scheduler(shared, _info("client-shy")), scheduler(shared, _info("client-other"))
    async with shy.subscribe() as stream:
        offers = await _next(stream, events.Offers)
        await shy.suppress()
        await shy.decline([each["id"]["value"] for each in offers.offers], calls.filters(0.0))
        async with other.subscribe() as others:
            for _ in range(4):
                theirs = (await _next(others, events.Offers)).offers
                ids = [each["id"]["value"] for each in theirs]
                await other.decline(ids, calls.filters(0.0))
            await other.teardown()
        await shy.reconcile([("ghost", None)])  # what came before its answer has been told
        first = await _next(stream, (events.Offers, events.Update))
        assert isinstance(first, events.Update), first
        await shy.revive()
        await _next(stream, events.Offers)
        await shy.teardown()


async def test_failover_tells_the_old_one_and_takes_over(shared: Mesos, scheduler: Make) -> None:
    """The second client with the id gets the stream; the first one's calls are refused, cut, or not even sent."""
    first = scheduler(shared, _info("client-failover"))
    async with first.subscribe() as old:
        framework_id = (await _next(old, events.Subscribed)).framework_id
        second = scheduler(shared, _info("client-failover", framework_id))
        async with second.subscribe() as new:
            assert (await _next(new, events.Subscribed)).framework_id == framework_id
            with pytest.raises((NotSubscribed, NotConnected, TransportError)):
                await first.revive()
            assert (await _next(old, events.Error)).message == "Framework failed over"
            await second.teardown()


async def test_a_removed_framework_is_refused_for_good(shared: Mesos, scheduler: Make) -> None:
    """An operator's teardown ends the stream with ERROR; so does each further subscription with that id."""
    async with aiohttp.ClientSession() as session:
        first = scheduler(shared, _info("client-removed"))
        async with first.subscribe() as stream:
            framework_id = (await _next(stream, events.Subscribed)).framework_id
            await _operator(session, shared.master_url).teardown(framework_id)
            assert (await _next(stream, events.Error)).message == "Framework has been removed"
            assert [event async for event in stream] == []
    again = scheduler(shared, _info("client-removed", framework_id))
    async with again.subscribe() as stream:
        assert (await _next(stream, events.Error)).message == "Framework has been removed"
    anew = scheduler(shared, _info("client-removed"))
    async with anew.subscribe() as stream:
        assert (await _next(stream, events.Subscribed)).framework_id != framework_id
        await anew.teardown()


async def test_who_is_away_for_too_long_is_removed(shared: Mesos, scheduler: Make) -> None:
    """The failover time-out: none here. Whoever comes back later finds its framework removed."""
    first = scheduler(shared, {**_info("client-late"), "failover_timeout": 0.0})
    async with first.subscribe() as stream:
        framework_id = (await _next(stream, events.Subscribed)).framework_id
    async with asyncio.timeout(WAIT_S):
        while await _knows(shared, framework_id):
            await asyncio.sleep(0.05)
    late = scheduler(shared, _info("client-late", framework_id))
    async with late.subscribe() as stream:
        assert (await _next(stream, events.Error)).message == "Framework has been removed"


async def _knows(mesos: Mesos, framework_id: str) -> bool:
    _, found = await mesos.get("master", "/frameworks")
    return framework_id in {each["id"] for each in found["frameworks"]}


async def test_the_operator_api(shared: Mesos) -> None:
    """State on subscription, changes as events, and the GET_* calls agree."""
    async with aiohttp.ClientSession() as session:
        operator = _operator(session, shared.master_url)
        assert await operator.get_health() and await operator.health()
        assert (await operator.leader()).rpartition(":")[2] == shared.master_url.rpartition(":")[2]
        assert (await operator.get_version())["version_info"]["version"]
        assert (await operator.get_master())["master_info"]["id"]
        async with operator.subscribe() as stream:
            state = await _next(stream, events.OperatorEvent)
            assert state.type == "SUBSCRIBED" and "get_agents" in state.body["get_state"]
            client = make_client("libs", session, [shared.master_url], _info("client-operator"))
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
async def test_a_master_restarts_and_an_agent_goes(tmp_path: Path, scheduler: Make) -> None:
    """The same framework id and the task runs, without any help from the caller; then what an agent's id tells."""
    async with AsyncExitStack() as stack:
        flags = {"registry": "replicated_log"}
        mesos = await stack.enter_async_context(minimesos(tmp_path, master_flags=flags))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        client = scheduler(mesos, _info("client-restart"))
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
        agent = status["agent_id"]["value"]
        await _operator(session, mesos.master_url).mark_agent_gone(agent)
        gone = await _next(stream, events.Update, lambda each: "GONE" in each.status["state"])
        await client.acknowledge(gone.status)
        # Only with the agent's id does the master tell what became of it; other reasons are late updates of its own.
        for call, state in (
            (client.reconcile([("r1", agent)]), "TASK_GONE_BY_OPERATOR"),
            (client.reconcile([("r1", None)]), "TASK_UNKNOWN"),
            (client.kill("r1", agent), "TASK_GONE_BY_OPERATOR"),
            (client.kill("r1"), "TASK_UNKNOWN"),
        ):
            await call
            told = await _next(stream, events.Update, _reconciled)
            assert told.status["state"] == state
        await client.teardown()


@pytest.mark.mesos_power(Power.FLAGS, Power.AGENT)
async def test_an_agent_that_is_silent_is_unreachable_until_it_is_back(
    tmp_path: Path, scheduler: Make
) -> None:
    """Its task is not over: nobody knows, and on its return the master says how it is."""
    flags = {"agent_ping_timeout": "1secs", "max_agent_ping_timeouts": "2"}
    async with minimesos(tmp_path, master_flags=flags) as mesos:
        client = scheduler(mesos, _info("client-silent"))
        async with client.subscribe() as stream:
            await _run(client, stream, "u1", "sleep 1000", "TASK_RUNNING")
            (agent,) = mesos.agents
            agent.signal(signal.SIGSTOP)
            lost = (await _next(stream, events.Update)).status
            assert lost["state"] == "TASK_UNREACHABLE"
            await client.acknowledge(lost)
            place = lost["agent_id"]["value"]
            await client.reconcile([("u1", place)])
            told = (await _next(stream, events.Update, _reconciled)).status
            assert told["state"] == "TASK_UNREACHABLE"
            agent.signal(signal.SIGCONT)
            back = (await _next(stream, events.Update)).status
            assert (back["state"], back["reason"]) == ("TASK_RUNNING", "REASON_AGENT_REREGISTERED")
            await client.acknowledge(back)
            await client.kill("u1", place)
            ended = (await _next(stream, events.Update)).status
            await client.acknowledge(ended)
            assert ended["state"] == "TASK_KILLED"
            await client.teardown()


@pytest.mark.mesos_power(Power.MASTER)
async def test_the_standby_redirects_and_takes_over(tmp_path: Path, scheduler: Make) -> None:
    """Whoever knows the standby alone finds the leader by it, and the next leader when that one dies."""
    flags = {"registry": "replicated_log"}
    async with minimesos(tmp_path, master_flags=flags, standby=True) as mesos:
        leader = mesos.master_url
        mesos.master_url = mesos.standby_url  # the address that the clients are given
        client = scheduler(mesos, _info("client-standby"))
        mesos.master_url = leader
        async with client.subscribe() as stream, aiohttp.ClientSession() as session:
            framework_id = (await _next(stream, events.Subscribed)).framework_id
            await _run(client, stream, "s1", "sleep 1000", "TASK_RUNNING")
            operator = _operator(session, mesos.standby_url)
            assert await operator.leader() == leader
            await mesos.fail_over()
            assert (await _next(stream, events.Disconnected)).was_subscribed
            assert (await _next(stream, events.Subscribed)).framework_id == framework_id
            await mesos.await_agents(1)
            await client.reconcile([("s1", None)])
            status = (await _next(stream, events.Update, _reconciled)).status
            assert status["state"] == "TASK_RUNNING"
            assert (await operator.get_master())["master_info"]["id"]
            await client.teardown()


@pytest.mark.mesos_power(Power.MASTER)
async def test_a_frozen_master_is_left_and_found_again(tmp_path: Path, scheduler: Make) -> None:
    """TCP goes on in the kernel; calls time out, silence is noticed, and what follows is the same framework."""
    options = SchedulerOptions(Options(connect_timeout_s=3.0), call_timeout_s=2.0)
    # Silence is noticed after 5 s: after the call's time-out.
    flags = {"heartbeat_interval": "1secs"}
    async with minimesos(tmp_path, agents=0, master_flags=flags) as mesos:
        assert mesos.master is not None
        client = scheduler(mesos, _info("client-frozen"), options=options)
        async with client.subscribe() as stream:
            framework_id = (await _next(stream, events.Subscribed)).framework_id
            mesos.master.signal(signal.SIGSTOP)
            with pytest.raises(CallTimeout):
                await client.revive()
            lost = await _next(stream, events.Disconnected)
            assert "silence" in lost.reason and lost.was_subscribed
            half_open = await _next(stream, events.Disconnected)
            assert not half_open.was_subscribed
            mesos.master.signal(signal.SIGCONT)
            assert (await _next(stream, events.Subscribed)).framework_id == framework_id
            await client.revive()


def _reconciled(update: events.Update) -> bool:
    return update.status.get("reason") == "REASON_RECONCILIATION"
