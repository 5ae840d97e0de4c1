"""The whole life of an app on a cluster of many processes, and what outages in the middle of a release do to it.

`make matrix` breaks everything in every way; here a part of it, with shorter outages and fewer instances.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from infra.demo.__main__ import finish, releases
from infra.demo.story import APP
from infra.local.distributed import SERVICES, DistributedStack
from infra.local.processes import end
from infra.provision import OvsServer
from libs.common.spec import AppSpec
from tests.bench.containers import rss_mib
from tests.e2e.conftest import Cloud
from tests.e2e.distributed import Distributed, distributed
from tests.e2e.doors import answer_of
from tests.e2e.drill import Drill, until
from tests.e2e.test_secrets import files_with, told_by_proc
from tests.matrix.runner import Matrix

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(900)]
SIZE = 4
OUTAGE_S = 6.0
SOON_S = 120.0
STOP_S = 10.0  # from SIGTERM until a process is gone
FROZEN_S = 2.0  # so that calls to it hang
IDLE_MIB = 120.0
CELLS = (
    ("kafka", "kill9", OUTAGE_S),
    ("mongo", "stop", OUTAGE_S),
    ("mesos-master", "pause", OUTAGE_S),
    ("executor", "kill9", OUTAGE_S),
    ("scheduler", "kill9", OUTAGE_S),
    ("deployer", "stop", OUTAGE_S),
    ("registry", "stop", 11.0),  # long enough to be told of
)


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def many(ovs: OvsServer) -> AsyncIterator[Distributed]:
    """Two replicas of each service."""
    async with distributed(ovs.data_dir, 2, SIZE) as cloud:
        yield cloud


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def matrix(many: Distributed) -> AsyncIterator[Matrix]:
    """Its app runs under load."""
    matrix = Matrix(many, size=SIZE, outage_s=OUTAGE_S)
    await matrix.begin()
    yield matrix
    await matrix.end()


async def whole_life(cloud: Distributed) -> None:
    """All of it, and no request failed on the way."""
    story = cloud.story
    await releases(story)
    await finish(story)
    assert sum(step.requests for step in story.steps) > 100
    assert sum(step.failed for step in story.steps) == 0


async def test_two_clusters_on_one_machine_do_not_touch_each_other(
    cloud: Cloud, many: Distributed
) -> None:
    """The same app on both; what one does, the other does not notice."""
    many.story.size = SIZE
    for story in (cloud.story, many.story):
        await story.release("sample-web:v1")
    mine, theirs = await cloud.story.instances(), await many.story.instances()
    for story, instances in ((cloud.story, mine), (many.story, theirs)):
        assert set(await story.containers()) == {each.container for each in instances}
    await many.story.gantry("stop", "acme/web")
    assert await many.story.containers() == {}
    assert await cloud.story.healthy(len(mine), "the other cluster's stop") == mine
    await cloud.story.gantry("stop", "acme/web")


# What only those who are known may ask of each kind of port. The front is HAProxy before the gateways.
ASKED = {
    "gateway": ("/v1/apps", "/metrics"),
    "deployer": ("/v1/apps", "/metrics"),
    "scheduler": ("/v1/status", "/metrics"),
    "ipam": ("/v1/networks", "/metrics"),
    "monitor": ("/v1/nodes", "/metrics"),
    "hostd": ("/v1/attachments", "/metrics"),
    "mesos_master": ("/state", "POST /api/v1", "POST /api/v1/scheduler"),
    "agent": ("/state", "POST /api/v1", "POST /api/v1/executor"),
}


async def test_a_stranger_is_turned_away_at_every_port(many: Distributed) -> None:
    answers = {
        (name, asked): await answer_of(port, asked)
        for name, port in many.stack.layout.ports.items()
        for asked in ASKED[re.split(r"[-:]", name)[0]]
    }
    standbys = {name for (name, _), status in answers.items() if status == 503}
    assert len(standbys) == len({name.rpartition("-")[0] for name in standbys}), "one of two leads"
    assert {name.rpartition("-")[0] for name in standbys} == {"scheduler", "monitor"}
    doors = {door: status for door, status in answers.items() if door[0] not in standbys}
    assert {door: status for door, status in doors.items() if status != 401} == {}


async def test_idle_processes_are_small_and_leave_in_time(many: Distributed) -> None:
    """Each of ours, hosts' daemons and executors included, after an app's life; then SIGTERM to all at once.

    The engines are frozen then: who calls them waits for nothing. (Services without Kafka and store: `test_stop`.)
    """
    story, stack = many.story, many.stack
    story.size = SIZE
    await story.release("sample-web:v1")
    await story.gantry("stop", "acme/web")
    daemons = {name: stack.service(name) for name in stack.names}
    daemons |= {each.hostd.name: each.hostd for each in stack.hosts}
    pids = {name: daemon.pid() or 0 for name, daemon in daemons.items()}
    executors = {f"executor {pid}": pid for pid in stack.executors()}
    assert len(executors) == 2 * len(stack.hosts), "a supervisor and a worker on each host"
    pids |= executors
    large = {name: size for name, pid in pids.items() if (size := rss_mib(pid)) >= IDLE_MIB}
    assert large == {}

    for host in stack.hosts:
        await stack.parts[f"engine-{host.name}"].pause()
    await asyncio.sleep(FROZEN_S)
    overruns = await end([*pids.values()], STOP_S)
    for host in stack.hosts:
        await stack.parts[f"engine-{host.name}"].resume()
    assert overruns == []


async def test_the_order_of_starts_does_not_matter(many: Distributed) -> None:
    """Services and hosts first, what they stand on last, the store before the bus; then an app is released."""
    story, stack = many.story, many.stack
    hosts = [each.name for host in stack.hosts for each in (host.agent, host.hostd)]
    ours = [*stack.names, *hosts]
    servers = ("zookeeper", "mongo", "kafka")
    for name in (*ours, "mesos-master", *servers):
        await stack.parts[name].stop()
    for name in ours:
        stack.launch(name)
    async with asyncio.timeout(180):
        while not all([await waits(stack, name) for name in stack.names]):
            await asyncio.sleep(0.2)
    await stack.parts["mesos-master"].start()
    for name in servers:
        await stack.parts[name].start()
    for name in ours:
        await stack.parts[name].start()
    await many.ready()
    await story.release("sample-web:v2")
    await story.expect_versions("v2", SIZE)
    await story.gantry("stop", "acme/web")


async def waits(stack: DistributedStack, name: str) -> bool:
    """Does the service's process answer, and say that it can't work so far."""
    try:
        return await answer_of(stack.layout.ports[name], "/readyz") == 503
    except aiohttp.ClientError:
        return False


async def test_one_replica_of_each_service_and_servers_that_ask_for_passwords(
    ovs: OvsServer,
) -> None:
    """A secret is in its own file, or in memory, and nowhere else of all that the cluster writes."""
    async with distributed(ovs.data_dir, 1, SIZE, guarded=True) as cloud:
        await whole_life(cloud)
        stack, root = cloud.stack, cloud.stack.layout.root
        kafka, mongo = (stack.servers[each] for each in ("kafka", "mongo"))
        files = [
            kafka.data_dir / "password",
            kafka.data_dir.parent / "mongo.password",
            *(stack.layout.data / each for each in ("mesos.secret", "cluster.secret", "admin.key")),
            *(each.executor_secret for each in stack.hosts),
        ]
        broker = (kafka.data_dir / f"{each}.properties" for each in ("server", "secure"))
        own = {*files, *broker, stack.credentials}
        commands = "\0".join(told_by_proc())
        for secret in (each.read_text().strip() for each in files):
            places = [root, mongo.data_dir, *files[:2], kafka.data_dir]
            found = {file for place in places for file in files_with(place, secret)}
            assert found <= own and found, found - own
            assert secret not in commands


async def test_two_replicas_of_each_service(many: Distributed) -> None:
    await whole_life(many)


async def test_the_glass_is_broken_where_kafka_never_was(many: Distributed) -> None:
    """Kafka is killed, all services start without it, and two apps are stopped and scaled within seconds."""
    story, stack, client = many.story, many.stack, many.story.client
    apps = ("acme/glass-a", "acme/glass-b")
    spec = {**story.spec("sample-web:v1", 2), "load_balancer": {"driver": "none"}}
    for app in apps:
        await client.put_app(app, AppSpec.model_validate(spec))
    asked = [await client.deploy(app) for app in apps]
    ended = await asyncio.gather(*(client.wait(each.deployment) for each in asked))
    assert [each.state for each in ended] == ["succeeded"] * 2
    kafka, firsts = stack.parts["kafka"], [f"{service}-1" for service in SERVICES]
    await kafka.kill9()
    await asyncio.gather(*(stack.parts[name].stop() for name in stack.names))
    await asyncio.gather(*(stack.parts[name].start() for name in firsts))
    await many.ready()

    began = time.monotonic()
    glass = ("--break-glass", "--reason", "Kafka is gone")
    await story.gantry("stop", apps[0], *glass)
    await story.gantry("scale", apps[1], "3", *glass)
    assert time.monotonic() - began < SOON_S
    running = await story.containers()
    assert [sum(each.startswith(many.prefix(app)) for each in running) for app in apps] == [0, 3]
    assert len((await client.instances(apps[1])).instances) == 3

    await kafka.start()
    await asyncio.gather(*(stack.parts[name].start() for name in stack.names if name not in firsts))
    async with asyncio.timeout(60):
        while Counter(await many.loud_lines()) != dict.fromkeys(apps, 2):  # gateway and deployer
            await asyncio.sleep(0.5)
    assert await story.containers() == running, "the copies on the bus changed something"
    assert not (await client.dead_letters()).letters
    await story.gantry("stop", apps[1])  # by the bus again
    assert await story.containers() == {}


@pytest.mark.parametrize(("part", "kind", "outage_s"), CELLS)
async def test_an_outage_in_the_middle_of_a_release(
    matrix: Matrix, many: Distributed, part: str, kind: str, outage_s: float
) -> None:
    row = await matrix.cell(part, kind, outage_s)
    assert row.errors == []
    assert row.acknowledged > 0
    assert row.failed == 0, "running apps serve throughout"
    assert row.requests > 100
    if part == "registry":
        assert "component-down:registry" in row.alerts
        assert any("RAISED" in each and "component-down:registry" in each for each in row.alerts)
    hosts = {each.hostname for each in await many.story.instances()}
    assert hosts == {"h1", "h2"}


async def test_a_restored_older_store_ends_no_container(matrix: Matrix, many: Distributed) -> None:
    """The framework is kept, what the backup has is taken up, and what it hasn't waits for a person and serves."""
    story, client = many.story, many.story.client
    drill = Drill(many, many.stack.layout.root / "backup.gz")
    await drill.deploy("acme/drill", 2)
    before = await story.containers()
    framework = await client.scheduling.status()
    await drill.documents("backup", drill.file)
    await story.gantry("scale", APP, str(SIZE + 1))
    await drill.deploy("acme/later", 1)
    await drill.crash("acme/drill")
    await drill.part(before)
    assert len(drill.unknown) == 2 and len(drill.known.keys() - before.keys()) == 1
    failed = story.load_counts()["failed"]

    await drill.restore()
    await until(drill.holds_back, "the breaker does not hold back what nobody knows")
    await until(drill.told, "nobody was told")
    await until(drill.as_known, "not all is taken up that is known")
    assert await client.scheduling.status() == framework and framework.subscribed
    assert await story.containers() == drill.known | drill.unknown
    await until(drill.serves, "the app does not serve")
    assert (await story.stop_load())["failed"] == failed

    await drill.end_unknown()
    await until(drill.only_known, "not just the unknown ones were ended")
    story.start_load()
    await until(drill.serves, "the load balancer was not filled anew")
    await until(drill.resolved, "the alert stays")
    await story.gantry("scale", APP, str(SIZE - 1))
    await story.gantry("stop", "acme/drill")
    assert {*await story.containers()} == {each.container for each in await story.instances()}
    assert not (await client.dead_letters()).letters
