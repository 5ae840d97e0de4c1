"""What a `Prober` finds, asked of the fake and of the real one: into real containers' network namespaces."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.spec import HealthCheck
from services.executor.docker import DockerEngine
from services.executor.exec import DockerCommands
from services.executor.health import NamespaceProber
from services.executor.model import ProbeTarget
from services.executor.ports import Prober
from tests.contract.engine.conftest import HOSTS, EngineWorld
from tests.fakes.docker import FakeDocker, FakeEngine
from tests.fakes.prober import FakeProber

PORT = 8080
HTTP = HealthCheck(type="http", port=PORT, path="/health", timeout_s=5)
TCP = HealthCheck(type="tcp", port=PORT, timeout_s=5)
COMMAND = HealthCheck(type="command", command=("/bin/true",), timeout_s=10)


@pytest.fixture
async def prober(it: EngineWorld) -> AsyncIterator[Prober]:
    if isinstance(it.engine, DockerEngine):
        real = NamespaceProber(DockerCommands(it.engine.docker))
        yield real
        real.close()
    else:
        assert isinstance(it.engine, FakeEngine)
        yield FakeProber(it.engine.docker)


def docker_of(it: EngineWorld) -> FakeDocker | None:
    return it.engine.docker if isinstance(it.engine, FakeEngine) else None


async def web(it: EngineWorld) -> ProbeTarget:
    """A running web server, alone in its namespace."""
    ref = await it.create("ends-on-term", command=None)
    inode = await it.around.give_leave(ref.id)
    namespace = "/nowhere"
    if it.real:
        made = [Path("/run/netns", each) for each in it.around.namespaces]
        files = [each for each in made if each.stat().st_ino == inode]
        namespace = str(files[0])
        up = ["ip", "netns", "exec", files[0].name, "ip", "link", "set", "lo", "up"]
        subprocess.run(up, check=True)
    await it.engine.start(ref, HOSTS)
    return ProbeTarget(ref.id, "127.0.0.1", namespace)


async def test_a_healthy_one_passes_every_check(it: EngineWorld, prober: Prober) -> None:
    target = await web(it)
    for check in (HTTP, TCP, COMMAND):
        results = [await prober.probe(target, check)]
        while not results[-1].passed and len(results) < 200:
            await asyncio.sleep(0.1)
            results.append(await prober.probe(target, check))
        assert results[-1].passed, results[-1].message
        assert results[-1].message == ""


async def test_a_dead_one_passes_none(it: EngineWorld, prober: Prober) -> None:
    target = await web(it)
    await it.around.by_hand("kill", target.container_id)
    for check in (HTTP, TCP, COMMAND):
        result = await prober.probe(target, check)
        assert not result.passed
        assert result.message
    await it.around.by_hand("remove", target.container_id)
    for check in (HTTP, TCP, COMMAND):
        assert not (await prober.probe(target, check)).passed


async def test_a_sick_one_says_why(it: EngineWorld, prober: Prober) -> None:
    target = await web(it)
    await until_up(prober, target)
    fake = docker_of(it)
    if fake is not None:
        fake.containers[target.container_id].healthy = False
    sick = HealthCheck(type="http", port=PORT, path="/no-such-page", timeout_s=5)
    result = await prober.probe(target, sick)
    assert not result.passed
    assert "status" in result.message
    assert target.ip in result.message


async def until_up(prober: Prober, target: ProbeTarget) -> None:
    for _ in range(200):
        if (await prober.probe(target, TCP)).passed:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it does not answer")


async def test_a_namespace_is_not_kept_alive(it: EngineWorld, prober: Prober) -> None:
    target = await web(it)
    await until_up(prober, target)
    own = Path("/proc/self/ns/net").stat().st_ino
    inodes = {each.stat().st_ino for each in Path("/proc/self/task").glob("*/ns/net")}
    assert inodes == {own}, "a thread stayed in a container's namespace"
