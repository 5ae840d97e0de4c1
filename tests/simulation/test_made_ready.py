"""Before the next run of a rare job a container is there, on the host of the last one, whoever leads by then."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest

from services.executor.model import LABEL_POOL
from tests.fakes.docker import FakeImage
from tests.simulation import loop
from tests.simulation.cloud import Cloud
from tests.simulation.host import Host
from tests.simulation.loop import EPOCH_S
from tests.simulation.promises import Acked
from tests.simulation.workload import REGISTRY, User, begin

JOB = "acme/rare"
FIRST_S, EVERY_S = 60.0, 300.0


def stock(cloud: Cloud) -> str:
    """The job's image; its tag."""
    tag = f"{REGISTRY}/rare:1"
    digest = "sha256:" + hashlib.sha256(tag.encode()).hexdigest()
    cloud.registry.digests[tag] = digest
    cloud.images[f"{REGISTRY}/rare@{digest}"] = FakeImage(exits_after_s=2.0)
    return tag


def shared(cloud: Cloud) -> list[Host]:
    """The hosts that have a container for runs, one for each such container."""
    return [
        host
        for host in cloud.hosts
        for each in host.docker.containers.values()
        if each.running and LABEL_POOL in each.spec.labels
    ]


async def runs(user: User) -> list[dict[str, Any]]:
    """The job's, oldest first, as the gateway tells them."""
    answer = await user.call("GET", f"/v1/jobs/{JOB}/runs")
    return list(reversed(answer.json()["runs"]))


async def story(cloud: Cloud) -> None:
    """A run, a change of leaders, and the next run."""
    await begin(cloud)
    user = User(cloud, JOB, Acked())
    start = datetime.fromtimestamp(EPOCH_S + FIRST_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    schedule = f"R/{start}/PT{EVERY_S:g}S"
    spec = {"image": stock(cloud), "network": "web", "schedule": schedule}
    put = await user.call("PUT", f"/v1/jobs/{JOB}", spec, key="put")
    assert put.status in (200, 202), put.body
    while not shared(cloud):
        await asyncio.sleep(1.0)
    (home,) = shared(cloud)
    while shared(cloud):  # it idles, and goes
        await asyncio.sleep(1.0)
    leader = cloud.store.lease_holder("scheduler").rpartition("-")[0]
    (process,) = [each for each in cloud.service("scheduler") if each.name == leader]
    process.stop()
    await asyncio.sleep(FIRST_S + EVERY_S - 5.0 - cloud.loop.time())
    assert cloud.store.lease_holder("scheduler").rpartition("-")[0] not in ("", leader)
    assert shared(cloud) == [home], "none was made ready, or not where the last run was"
    await asyncio.sleep(30.0)
    first, second = await runs(user)
    assert first["hostname"] == home.name
    # Where hosts are of two roles, what is offered when it is due may not be that host yet: it takes what there is.
    assert second["hostname"] == home.name or cloud.reserved
    assert first["state"] == second["state"] == "succeeded"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_new_leader_has_it_made_there_too(seed: int) -> None:
    async def main(world: loop.World) -> None:
        cloud = Cloud(world)
        await story(cloud)
        cloud.check()

    loop.run(main, seed)
