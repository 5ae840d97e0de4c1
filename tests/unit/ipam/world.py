"""ipam behind its HTTP face, in virtual time: several replicas on one store, asked by hosts and by people."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from libs.common.actor import Actor
from libs.common.http import Kind, Role, ServiceClient, call_json
from services.ipam.model import IpamConfig
from services.ipam.service import run
from tests.simulation.life import Life
from tests.simulation.loop import World
from tests.simulation.process import client_of
from tests.simulation.small import SmallWorld

ADMIN = Actor("root", "*", Role.ADMIN)


@dataclass
class Served:
    """What tests ask with."""

    small: SmallWorld
    clients: Mapping[str, ServiceClient]
    gateway: ServiceClient

    async def claim(self, name: str, host: str = "h1", network: str = "web", **fields: Any) -> Any:
        """PUT an attachment."""
        path = f"/v1/attachments/{name}.eth0"
        return await call_json(
            self.clients[host], "ipam", "PUT", path, body_of(name, host, network, **fields)
        )

    async def host(
        self, method: str, path: str, content: Mapping[str, Any] | None = None, host: str = "h1"
    ) -> Any:
        """What a host asks."""
        return await call_json(self.clients[host], "ipam", method, path, content)

    async def ask(
        self,
        method: str,
        path: str,
        content: Mapping[str, Any] | None = None,
        actor: Actor = ADMIN,
        **headers: str,
    ) -> Any:
        """What a person asks, through the gateway."""
        given = {**actor.headers(), **{k.replace("_", "-"): v for k, v in headers.items()}}
        return await call_json(
            self.gateway, "ipam", method, path, content, headers=given, timeout_s=30.0
        )


def body_of(name: str, host: str, network: str = "web", **fields: Any) -> dict[str, Any]:
    """What PUT of an attachment says."""
    own = {"network": network, "instance": f"acme-{name}", "attempt": f"acme-{name}.1"}
    return {**own, "host": host, **fields}


@asynccontextmanager
async def served(world: World, config: IpamConfig, replicas: int = 1) -> AsyncIterator[Served]:
    """All replicas at work."""
    small = SmallWorld(world.loop, settings={"ipam": config})
    names = [f"ipam-{n}" for n in range(replicas)]
    tasks = [asyncio.create_task(run(small.runtime("ipam", name))) for name in names]
    while small.net.pick("ipam") is None:
        await world.clock.sleep(0.1)
    clients = {
        host: client_of(small, Life(world.loop, f"hostd@{host}"), Kind.HOST, host)
        for host in ("h1", "h2")
    }
    gateway = client_of(small, Life(world.loop, "gateway"), Kind.SERVICE, "gateway")
    yield Served(small, clients, gateway)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
