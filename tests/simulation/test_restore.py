"""A store that is restored to an older state: no address twice, no container ended unasked, and all goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation import loop
from tests.simulation.cloud import Cloud
from tests.simulation.final import check_end
from tests.simulation.invariants import Invariants
from tests.simulation.promises import Acked, Promises
from tests.simulation.restore import Drill
from tests.simulation.workload import APPS, User, begin

SEEDS = range(1, 5)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_restored_store_costs_no_container_and_gives_no_address_twice(
    seed: int, tmp_path: Path
) -> None:
    outcomes: Counter[str] = Counter()

    async def main(world: loop.World) -> None:
        cloud = Cloud(world)
        invariants, acked = Invariants(cloud), Acked()
        promises = Promises(cloud, acked, invariants.fail)
        await begin(cloud, invariants.after_step)
        users = [User(cloud, app, acked) for app in APPS]
        async with asyncio.TaskGroup() as group:
            for user in users:
                group.create_task(user.first())
        await asyncio.sleep(world.rng.uniform(40, 90))
        drill = Drill(cloud, invariants, promises, tmp_path / "backup.gz")
        await drill.back_up()
        await _go_on(cloud, users, world)
        framework = cloud.store.body("scheduler_framework", "framework")
        await drill.restore(world.rng.uniform(1, 40))
        assert cloud.store.body("scheduler_framework", "framework") == framework
        assert drill.unknown and drill.later
        first = asyncio.create_task(
            _a_release(users[0])
        )  # it waits for its addresses, and no longer
        await drill.recover(users[0])
        await first
        for instance, attempt in drill.later.items():
            body = cloud.store.body("scheduler_instances", instance)
            assert body is not None
            if body["state"] == "running":
                assert f"{instance}.{body['generation']}" == attempt, "it was started anew"
                outcomes["taken up"] += 1
        last = [await user.last() for user in users]
        await asyncio.sleep(240)
        await check_end(cloud, users, promises, invariants, outcomes, last)
        cloud.loop.after_step = None
        cloud.check()

    loop.run(main, seed)
    assert outcomes["taken up"] and outcomes["succeeded"]


async def _go_on(cloud: Cloud, users: list[User], world: loop.World) -> None:
    """After the backup: a new release of one app, another is scaled out, and containers die and are started anew."""
    web, api, worker = users
    await web.ask("deploys", {"image": web.image("2")})
    await worker.ask("scale", {"instances": 5})
    killed = 0
    for host in cloud.hosts:
        for each in list(host.docker.containers.values()):
            if each.running and "api" in each.name and killed < 2:
                host.docker.kill(each.name, 1)
                killed += 1
    await asyncio.sleep(world.rng.uniform(60, 120))
    await api.put()


async def _a_release(user: User) -> None:
    await asyncio.sleep(5)
    await user.put()
    await user.ask("deploys")
