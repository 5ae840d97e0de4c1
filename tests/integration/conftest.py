"""A host for hostd's tests: a real engine with the shim, real Open vSwitch, the real ipam."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.images.build import SAMPLES, build_images
from infra.provision import OvsServer, Server
from infra.provision.process import free_ports
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
