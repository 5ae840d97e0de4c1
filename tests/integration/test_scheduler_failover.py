"""The leading scheduler dies, is stopped, or freezes and goes on, amid a thousand launches: none is lost or doubled.

With the second driver, and where it is stopped in good order, some hundreds do.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infra.provision import Server
from tests.contract.bus.worlds import kafka_world_url
from tests.contract.mesos.cluster import minimesos
from tests.contract.store.worlds import mongo_database
from tests.integration.scheduler_processes import VIRTUAL, Schedulers, schedulers, until
from tests.servers import MARK

COUNT, FEW = 1000, 300
EARLY, LATE = 0.1, 0.9  # what counts as the middle


@asynccontextmanager
async def _middle(
    directory: Path, kafka_url: str, mongo_url: str, election: str, driver: str, count: int
) -> AsyncIterator[tuple[Schedulers, str]]:
    """A leader and a standby; some of the tasks are launched, others on their way. Gives the framework's id."""
    flags = {"registry": "replicated_log"}
    urls = kafka_world_url(kafka_url), mongo_database(mongo_url)
    async with (
        minimesos(directory, master_flags=flags, agent_flags=VIRTUAL, agents=2) as mesos,
        schedulers(directory, mesos, *urls, election=election, driver=driver) as made,
    ):
        await made.start(0)
        await made.subscribed()
        await made.stand_by(1)
        framework = (await made.told())["framework"]
        await made.want(count)

        async def begun() -> bool:
            return await made.tasks_launched() >= EARLY * count

        await until(begun, 60)
        yield made, framework


async def _check(made: Schedulers, framework: str, count: int) -> None:
    """Mesos, the store and the events agree about each of so many."""
    await made.running_states(count)
    assert (await made.told())["framework"] == framework
    runs, ended = await made.tasks()
    assert ended == [], "a task was killed, or lost"
    assert sorted({task.rpartition(".")[0] for task in runs}) == sorted(
        f"acme-web-{n}" for n in range(count)
    )
    assert len(runs) == count, "an instance has two tasks"
    known = {name: each["attempt"] for name, each in (await made.instances()).items()}
    assert sorted(known.values()) == sorted(runs)

    async def told() -> bool:
        return set(known.items()) <= made.started.keys()

    await until(told, 60)
    assert {instance for instance, _ in made.started} == known.keys()


@pytest.mark.parametrize(
    ("how", "driver", "count"),
    [
        (signal.SIGKILL, "libs", COUNT),
        (signal.SIGTERM, "libs", FEW),
        (signal.SIGKILL, "pymesos", FEW),
    ],
)
async def test_the_leader_is_killed_or_stopped(
    how: signal.Signals,
    driver: str,
    count: int,
    tmp_path: Path,
    kafka_url: str,
    mongo_url: str,
    zookeeper_server: Server,
) -> None:
    """Elected by ZooKeeper. What was saved but not launched any more goes on in the instance's next attempt."""
    election = f"{zookeeper_server.url}/{MARK}/{how.name}-{driver}"
    middle = _middle(tmp_path, kafka_url, mongo_url, election, driver, count)
    async with middle as (made, framework):
        made.signal(0, how)
        assert await made.tasks_launched() < LATE * count
        assert await made.running[0].wait() == (0 if how is signal.SIGTERM else -how)
        await _check(made, framework, count)


@pytest.mark.parametrize(
    ("elected_by", "driver", "count"),
    [("store", "libs", FEW), ("zookeeper", "libs", COUNT), ("zookeeper", "pymesos", FEW)],
)
async def test_the_leader_freezes_and_goes_on(
    elected_by: str,
    driver: str,
    count: int,
    tmp_path: Path,
    kafka_url: str,
    mongo_url: str,
    zookeeper_server: Server,
) -> None:
    """The old leader finds itself replaced, and changes nothing."""
    by_zookeeper = f"{zookeeper_server.url}/{MARK}/frozen-{driver}"
    election = "store" if elected_by == "store" else by_zookeeper
    middle = _middle(tmp_path, kafka_url, mongo_url, election, driver, count)
    async with middle as (made, framework):
        failed = made.log_of(0).read_text().count("service failed")
        made.signal(0, signal.SIGSTOP)
        assert await made.tasks_launched() < LATE * count
        await made.subscribed()
        made.signal(0, signal.SIGCONT)  # while the new one is at it

        async def noticed() -> bool:
            return made.log_of(0).read_text().count("service failed") > failed

        await until(noticed, 60)
        await _check(made, framework, count)
        assert "service failed" not in made.log_of(1).read_text(), "the new leader was disturbed"
        assert made.running[0].returncode is None, "it stands by"
