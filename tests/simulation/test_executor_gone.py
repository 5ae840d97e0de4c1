"""A host whose executor died for good, and where nothing is placed any more, keeps no container that nobody wants."""

from __future__ import annotations

import asyncio

import pytest

from services.executor.model import LABEL_INSTANCE
from services.scheduler import cleaning
from tests.simulation import loop
from tests.simulation.cloud import Cloud
from tests.simulation.host import Host
from tests.simulation.invariants import Invariants
from tests.simulation.promises import Acked
from tests.simulation.test_roll import APP, until_ended
from tests.simulation.workload import User, begin


def instances(host: Host) -> set[str]:
    """Whose containers run on a host."""
    every = host.docker.containers.values()
    return {each.spec.labels[LABEL_INSTANCE] for each in every if each.running}


async def lose_one(cloud: Cloud) -> tuple[set[str], bool]:
    """A host that runs something is cut off from Mesos, and loses its executor, until all was replaced elsewhere.

    Returns what it still ran then, and whether anything of it runs there a good while after.
    """
    host = max(cloud.hosts, key=lambda each: len(instances(each)))
    there = instances(host)
    assert there
    others = [each for each in cloud.hosts if each is not host]
    cloud.mesos.partition(host.index, True)
    host.lose_executor()
    while not all(any(name in instances(each) for each in others) for name in there):
        await asyncio.sleep(1.0)
    doubled = instances(host)
    host.barren = False
    cloud.mesos.partition(host.index, False)
    await asyncio.sleep(400.0)
    return doubled, bool(doubled & instances(host))


def play(seed: int) -> tuple[set[str], bool]:
    found: list[tuple[set[str], bool]] = []

    async def main(world: loop.World) -> None:
        cloud = Cloud(world)
        await begin(cloud)
        user = User(cloud, APP, Acked())
        await user.put()
        assert await until_ended(user, await user.ask("deploys")) == "succeeded"
        cloud.loop.after_step = Invariants(cloud).after_step
        found.append(await lose_one(cloud))
        cloud.loop.after_step = None
        cloud.check()

    loop.run(main, seed)
    return found[0]


@pytest.mark.timeout(600)
def test_a_clean_up_is_sent_there() -> None:
    doubled, left = play(11)
    assert doubled
    assert not left


@pytest.mark.timeout(600)
def test_without_it_the_containers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above can fail."""
    monkeypatch.setattr(cleaning, "leave_behind", lambda *_: None)
    doubled, left = play(11)
    assert doubled
    assert left
