"""A real engine for a site's hosts: containers that it starts in their attachments."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiodocker

from infra.images.build import SAMPLES, build_images
from infra.provision.scripts import engine_server
from tests.network.site import REPOSITORY, NetHost

RUNTIME = REPOSITORY / "build/native/gantry-runc"
START_S = 120.0
COMMAND = ("/bin/sh", "-c", "exec sleep 100000")


@dataclass(frozen=True)
class Engine:
    """One engine that all hosts of a site share."""

    socket: Path
    docker: aiodocker.Docker
    image: str

    async def run(self, host: NetHost, name: str, network: str) -> dict[str, Any]:
        """The whole way of a start. The attachment, with the namespace that the container's process is in."""
        async with asyncio.timeout(START_S):
            container, view = await asyncio.gather(
                self._create(host, name), host.add(name, network, owner="docker")
            )
            await host.register(name, container.id)
            await container.start()
            pid = (await container.show())["State"]["Pid"]
        namespace = f"/proc/{pid}/ns/net"
        inside = os.stat(namespace).st_ino
        assert inside == view["inode"], f"{name} runs in namespace {inside}: {view}"
        return {**view, "namespace": namespace}

    async def _create(self, host: NetHost, name: str) -> aiodocker.containers.DockerContainer:
        config: dict[str, Any] = {
            "Image": self.image,
            "Entrypoint": list(COMMAND),
            "Hostname": "web",
            "Labels": {"gantry.cluster": host.cluster},
            "HostConfig": {"NetworkMode": "host", "Runtime": "gantry"},
        }
        return await self.docker.containers.create(config, name=name)


@asynccontextmanager
async def open_engine() -> AsyncIterator[Engine]:
    """An engine of our own, with the shim and a sample image; all of it is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="gne-", dir="/tmp"))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        server = engine_server(home / "engine", runtime_path=RUNTIME)
        stack.push_async_callback(server.control.purge)
        await server.start()
        (built,) = await build_images(server.url, None, SAMPLES[:1])
        docker = await stack.enter_async_context(aiodocker.Docker(url=server.url))
        yield Engine(server.socket, docker, built.reference)
