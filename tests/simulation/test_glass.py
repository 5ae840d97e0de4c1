"""The bus is away for minutes, and somebody breaks the glass: done in seconds, and nothing doubled afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from libs.common.bus.base import Delivered
from libs.common.events import EVENT_TYPES
from libs.common.events import model as ev
from services.executor.model import LABEL_INSTANCE
from tests.simulation import loop
from tests.simulation.cloud import Cloud
from tests.simulation.final import check_end
from tests.simulation.invariants import Invariants
from tests.simulation.promises import Acked, Promises
from tests.simulation.test_roll import until_ended
from tests.simulation.workload import APPS, User, begin

GLASS = {"break_glass": True, "reason": "the bus is gone"}
SECONDS = 45.0


def running(cloud: Cloud, app: str) -> int:
    """Containers of an app, on all hosts."""
    prefix = app.replace("/", "-") + "-"
    return sum(
        each.running and each.spec.labels[LABEL_INSTANCE].startswith(prefix)
        for host in cloud.hosts
        for each in host.docker.containers.values()
    )


def published(cloud: Cloud, topic: str) -> list[Delivered]:
    """What lies in a topic."""
    return [each for log in cloud.bus.log.topics[topic].partitions for each in log.records]


async def play(world: loop.World) -> Cloud:
    cloud, acked = Cloud(world), Acked()
    invariants = Invariants(cloud)
    promises = Promises(cloud, acked, invariants.fail)
    await begin(cloud, invariants.after_step)
    users = {app: User(cloud, app, acked) for app in APPS}
    for user in users.values():
        await user.first()
    for deployment in list(acked.deployments):
        assert await until_ended(users["acme/web"], deployment) == "succeeded"

    cloud.faults.away["bus"] += 1
    web, api, worker = (users[app] for app in ("acme/web", "acme/api", "beta/worker"))
    late = await api.ask("scale", {"instances": 1})  # waits for the bus
    await asyncio.sleep(60.0)
    assert late is not None and (state := await api.state(late))["state"] == "accepted"
    assert state["delayed"] and "--break-glass" in state["reason"]
    stopped = await web.ask("stop", GLASS)
    scaled = await api.ask("scale", {"instances": 6, **GLASS})
    restarted = await worker.ask("restart", GLASS)
    for user, asked in ((web, stopped), (api, scaled), (worker, restarted)):
        async with asyncio.timeout(SECONDS):
            assert await until_ended(user, asked) == "succeeded"
    assert [running(cloud, app) for app in APPS] == [0, 6, 2]
    await asyncio.sleep(120.0)
    cloud.faults.away["bus"] -= 1
    await asyncio.sleep(60.0)

    overtaken = await api.state(late)
    assert (overtaken["state"], running(cloud, "acme/api")) == ("refused", 6)
    assert "broke the glass" in overtaken["reason"]
    counts = [Counter(each.record.headers for each in published(cloud, t)) for t in TOPICS]
    assert all(n == 1 for each in counts for n in each.values()), "an event was published twice"
    exits = Counter(each.record.key for each in published(cloud, "container.exited"))
    assert set(exits.values()) == {1}, "a copy of a request had its answer told again"
    audits = [EVENT_TYPES.open(each.record)[0] for each in published(cloud, "audit.recorded")]
    loud = [a for a in audits if isinstance(a, ev.AuditRecorded) and "BREAK GLASS" in a.detail]
    assert Counter(each.target for each in loud) == dict.fromkeys(APPS, 2)  # gateway and deployer
    await check_end(cloud, list(users.values()), promises, invariants, Counter(), [])
    cloud.check()
    cloud.loop.after_step = None
    return cloud


TOPICS = ("deploy.requested", "instance.requested", "instance.stop_requested", "container.exited")


@pytest.mark.timeout(600)
def test_what_an_admin_asks_for_is_done_without_the_bus() -> None:
    cloud = loop.run(play, 5)
    assert not cloud.failed
