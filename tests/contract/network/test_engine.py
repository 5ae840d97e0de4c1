"""What every Engine does."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiodocker
import pytest

from infra.images.build import SAMPLES, build_images
from infra.provision import Server
from libs.common.errors import NotFound
from services.hostd.docker import CLUSTER_LABEL, DockerEngine
from services.hostd.model import ContainerView, Life
from services.hostd.ports import Engine, LogQuery
from tests.contract.network.conftest import BOTH, CLUSTER
from tests.fakes.network import HOST_INODE, FakeEngine, FakeHost

SAY = "echo one; echo two >&2; echo three; sleep 600"


@dataclass
class EngineWorld:
    """An engine, a way to run a container in the host's namespace, and that namespace's inode."""

    driver: Engine
    run: Callable[[str], Awaitable[str]]
    host_inode: int


@pytest.fixture(params=BOTH)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[EngineWorld]:
    """An engine without containers of the cluster."""
    if request.param == "fake":
        yield _fake()
        return
    server: Server = request.getfixturevalue("docker_engine")
    await build_images(server.url, None, SAMPLES[:1])
    driver = DockerEngine(CLUSTER, str(server.socket))
    async with aiodocker.Docker(url=server.url) as docker:

        async def run(name: str) -> str:
            config: dict[str, Any] = {
                "Image": "sample-web:v1",
                "Entrypoint": ["sh", "-c", SAY],
                "Labels": {CLUSTER_LABEL: CLUSTER},
                "HostConfig": {"NetworkMode": "host"},
            }
            container = await docker.containers.create(config, name=name)
            await container.start()
            return container.id

        try:
            yield EngineWorld(driver, run, os.stat("/proc/self/ns/net").st_ino)
        finally:
            filters = {"label": [f"{CLUSTER_LABEL}={CLUSTER}"]}
            for each in await docker.containers.list(all=True, filters=filters):
                await each.delete(force=True)
            await driver.close()


def _fake() -> EngineWorld:
    host = FakeHost(cluster=CLUSTER)

    async def run(name: str) -> str:
        container_id = f"{len(host.containers) + 1:064x}"
        view = ContainerView(container_id, name, True, "runc", 77, HOST_INODE)
        host.containers[container_id] = view
        said = (("stdout", "one"), ("stderr", "two"), ("stdout", "three"))
        host.logs[container_id] = [
            json.dumps({"time": "t", "stream": stream, "line": line}).encode() + b"\n"
            for stream, line in said
        ]
        return container_id

    return EngineWorld(FakeEngine(host), run, HOST_INODE)


async def lines(engine: Engine, name: str, query: LogQuery) -> list[dict[str, str]]:
    text = b"".join([chunk async for chunk in await engine.logs(name, query)])
    return [json.loads(line) for line in text.splitlines()]


async def test_tells_what_runs_where(engine: EngineWorld) -> None:
    assert await engine.driver.containers() == ()
    name = f"{CLUSTER}-one"
    container_id = await engine.run(name)
    for _ in range(2):
        (view,) = await engine.driver.containers()
        assert (view.id, view.name, view.running) == (container_id, name, True)
        assert (view.runtime, view.netns_inode) == ("runc", engine.host_inode)
        assert view.pid > 0
    for known in (container_id, name):
        assert await engine.driver.exists(known)
        assert await engine.driver.life(known) is Life.RUNNING


async def test_a_killed_container_does_not_run(engine: EngineWorld) -> None:
    container_id = await engine.run(f"{CLUSTER}-one")
    await engine.driver.containers()
    await engine.driver.kill(container_id)
    async with asyncio.timeout(60):
        while await engine.driver.life(container_id) is not Life.ENDED:
            await asyncio.sleep(0.02)
    (view,) = await engine.driver.containers()
    assert (view.running, view.netns_inode) == (False, None)
    assert await engine.driver.exists(container_id)
    await engine.driver.kill(container_id)
    await engine.driver.kill("nobody")


async def test_logs_keep_streams_apart(engine: EngineWorld) -> None:
    name = f"{CLUSTER}-one"
    await engine.run(name)
    async with asyncio.timeout(60):
        while len(await lines(engine.driver, name, LogQuery())) < 3:
            await asyncio.sleep(0.02)
    said = await lines(engine.driver, name, LogQuery())
    assert all(each["time"] for each in said)
    texts = {"stdout": ["one", "three"], "stderr": ["two"]}
    for stream, expected in texts.items():
        assert [each["line"] for each in said if each["stream"] == stream] == expected
    assert len(await lines(engine.driver, name, LogQuery(tail=1))) == 1


async def test_strangers(engine: EngineWorld) -> None:
    assert not await engine.driver.exists("nobody")
    assert await engine.driver.life("nobody") is Life.ABSENT
    with pytest.raises(NotFound, match="nobody"):
        await engine.driver.stats("nobody")
    with pytest.raises(NotFound, match="nobody"):
        await engine.driver.logs("nobody", LogQuery())


async def test_numbers(engine: EngineWorld) -> None:
    name = f"{CLUSTER}-one"
    await engine.run(name)
    numbers = await engine.driver.stats(name)
    assert set(numbers) == {"cpu_ns", "mem_bytes", "mem_limit_bytes", "pids"}
    assert numbers["pids"] >= 1


@pytest.mark.parametrize("engine", ["real"], indirect=True)
async def test_following_goes_on_until_the_end(engine: EngineWorld) -> None:
    name = f"{CLUSTER}-one"
    container_id = await engine.run(name)
    stream = await engine.driver.logs(name, LogQuery(follow=True))
    text = b""
    async with asyncio.timeout(60):
        async for chunk in stream:
            text += chunk
            if text.count(b"\n") == 3:
                await engine.driver.kill(container_id)
    assert text.count(b"\n") == 3


async def test_it_says_where_its_data_is(engine: EngineWorld) -> None:
    assert (await engine.driver.root()).is_absolute()
