"""Hosts for the tests of hostd and the executor: a real engine with the shim, real Open vSwitch, the real ipam."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.images.build import SAMPLES, build_images
from infra.provision import OvsServer, Server
from infra.provision.process import free_ports
from tests.integration.executor_host import Cloud, open_cloud
from tests.integration.hostd_host import ROOT, Host, open_host


@pytest.fixture(scope="module")
def ready_engine(docker_engine: Server) -> Server:
    """The engine with the shim built and the sample image in it."""
    native = ["make", "-s", "-C", str(ROOT / "services/executor/native"), "OUT=build/native"]
    subprocess.run(native, check=True, capture_output=True, timeout=120)
    asyncio.run(build_images(docker_engine.url, None, SAMPLES[:1]))
    return docker_engine


@pytest.fixture
async def bare_host(tmp_path: Path, ready_engine: Server, ovs: OvsServer) -> AsyncIterator[Host]:
    """A host on which neither ipam nor hostd runs."""
    async with open_host(tmp_path, ready_engine, ovs, free_ports(1)[0], "h") as host:
        yield host


@pytest.fixture
async def host(bare_host: Host) -> AsyncIterator[Host]:
    """A host at work."""
    async with bare_host.ipam():
        await bare_host.start_hostd()
        yield bare_host


@pytest.fixture(scope="module")
def samples(docker_engine: Server, registry_url: str) -> dict[str, str]:
    """The sample images by name, as references by digest in the registry; the shim is built."""
    native = ["make", "-s", "-C", str(ROOT / "services/executor/native"), "OUT=build/native"]
    subprocess.run(native, check=True, capture_output=True, timeout=120)
    address = registry_url.removeprefix("http://")
    built = asyncio.run(build_images(docker_engine.url, address, SAMPLES))
    return {each.name.removeprefix(f"{address}/"): each.reference for each in built}


@pytest.fixture
async def cloud(
    tmp_path: Path, docker_engine: Server, ovs: OvsServer, samples: dict[str, str]
) -> AsyncIterator[Cloud]:
    """A host with an agent that starts the executor, hostd and ipam, and a scheduler: nothing is launched yet."""
    ipam, master, agent = free_ports(3)
    async with open_host(tmp_path, docker_engine, ovs, ipam, "e") as host, host.ipam():
        await host.start_hostd()
        async with open_cloud(host, (master, agent), sweep_s=2, stray_grace_s=2) as cloud:
            yield cloud
