"""Services in processes of their own on one store and bus, and a scheduler that is played."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from infra.provision.process import free_ports
from libs.client import GantryClient
from libs.common.bus.base import Bus
from libs.common.clock import SystemClock, system_rng
from libs.common.consume import Subscription
from libs.common.events import Event, seal, to_record
from libs.common.events import model as ev
from libs.common.telemetry import Telemetry, make_log
from tests.contract.bus.worlds import kafka_world_url
from tests.contract.store.worlds import mongo_database
from tests.integration.test_gateway_deployer import PlayedScheduler

SECRET = b"\xab" * 32
NETWORK = {"name": "blue", "cidr": "10.1.0.0/28", "vlan": 100}
SETTINGS = {
    "GANTRY_DEPLOYER__RESOLVE_IMAGES": "false",
    "GANTRY_IPAM__NETWORKS": orjson.dumps([NETWORK]).decode(),
}


class NextScheduler(PlayedScheduler):
    """Tells what it does with fields that nobody knows yet."""

    async def tell(self, event: Event) -> None:
        """Publish."""
        self.sequence += 1
        sealed = seal([event], source="scheduler", sequence=self.sequence, now=self.clock.now())
        for each in map(to_record, sealed):
            value = orjson.dumps(
                {**orjson.loads(each.value), "since_next": "yes", "parts": [{"a": 1}]}
            )
            await self.bus.publish([type(each)(each.topic, each.key, value, each.headers)])


@dataclass
class Cluster:
    """What the processes share, and those that run."""

    directory: Path
    bus_url: str
    store_url: str
    ports: Mapping[str, int]
    running: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start(self, name: str, *, newer: bool = False) -> None:
        """A replica, `deployer-1` say, of this release or the next; returns when it answers."""
        service = name.partition("-")[0]
        peers: dict[str, list[str]] = {}
        for each, port in self.ports.items():
            peers.setdefault(each.partition("-")[0], []).append(f"http://127.0.0.1:{port}")
        common = {
            "BUS": self.bus_url,
            "STORE": self.store_url,
            "DATA_DIR": str(self.directory / name),
            "SECRET_FILE": str(self.directory / "cluster.secret"),
            "LISTEN": orjson.dumps({service: f"127.0.0.1:{self.ports[name]}"}).decode(),
            "PEERS": orjson.dumps({n: ",".join(urls) for n, urls in peers.items()}).decode(),
            "LOG_LEVEL": "warning",
        }
        settings = {f"GANTRY_COMMON__{key}": value for key, value in common.items()}
        settings |= {key: value for key, value in SETTINGS.items() if f"_{service.upper()}_" in key}
        module = (
            ["tests.versions.next", f"services.{service}"] if newer else [f"services.{service}"]
        )
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *module), env={**os.environ, **settings}, stderr=log
            )
        async with asyncio.timeout(30):
            while not await self._ready(name):
                assert self.running[name].returncode is None, self.log(name)
                await asyncio.sleep(0.05)

    async def _ready(self, name: str) -> bool:
        url = f"http://127.0.0.1:{self.ports[name]}/readyz"
        try:
            async with aiohttp.request("GET", url) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def documents(self, *arguments: str) -> str:
        """What `python -m services.documents` says."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.documents", *arguments),
            env={**os.environ, "GANTRY_COMMON__STORE": self.store_url},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0
        return said.decode()

    async def stop(self, name: str) -> None:
        """In good order."""
        process = self.running.pop(name)
        process.terminate()
        assert await process.wait() == 0, self.log(name)

    def log(self, name: str) -> str:
        """What a replica said."""
        return (self.directory / f"{name}.log").read_text()


@pytest.fixture
async def cluster(kafka_url: str, mongo_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Nothing runs yet."""
    bus, store = kafka_world_url(kafka_url), mongo_database(mongo_url)
    secret = tmp_path / "cluster.secret"
    secret.write_text(SECRET.hex() + "\n")
    secret.chmod(0o600)
    names = ("gateway", "deployer-1", "deployer-2", "ipam")
    made = Cluster(tmp_path, bus, store, dict(zip(names, free_ports(4), strict=True)))
    try:
        yield made
    finally:
        for process in made.running.values():
            if process.returncode is None:
                process.kill()
            await process.wait()


@asynccontextmanager
async def played(bus: Bus) -> AsyncIterator[NextScheduler]:
    """The scheduler."""
    clock = SystemClock()
    made = NextScheduler(bus, clock)
    handlers: Any = {
        ev.InstanceRequested: made.on_requested,
        ev.InstanceStopRequested: made.on_stop,
    }
    telemetry = Telemetry("scheduler", make_log("scheduler"))
    subscription = Subscription("scheduler", handlers, bus, clock, system_rng(), telemetry)
    task = asyncio.create_task(subscription.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


async def deployed(client: GantryClient, accepted: Any) -> None:
    """A deployment must succeed."""
    async with asyncio.timeout(60):
        view = await client.wait(accepted.deployment, 0.1)
    assert view.state == "succeeded", view


async def all_as_wanted(
    client: GantryClient, app: str, scheduler: NextScheduler, wanted: int
) -> None:
    """What runs is what is wanted, and everybody says the same."""
    rows = (await client.instances(app)).instances
    live = {each.instance for each in rows if each.state != "gone"}
    assert len(live) == wanted and live == set(scheduler.running)
