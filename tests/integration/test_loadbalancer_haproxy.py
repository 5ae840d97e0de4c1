"""Releases under load through a real HAProxy: the deployer's loops, real servers as instances, no request lost."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from libs.common.clock import Clock, Ids, RngIds, SystemClock
from libs.common.errors import Unavailable
from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.events.model import DeployAction
from services.deployer.loadbalancer.base import Change, ChangeKind
from services.deployer.loadbalancer.haproxy import HaproxyDriver
from services.deployer.model import DeployerConfig
from tests.contract.loadbalancer.harness import HaproxyHarness, haproxy_harness
from tests.unit.deployer.fake_scheduler import FakeScheduler
from tests.unit.deployer.service_world import Site, site

ADDRESSES = iter(f"127.9.{n // 250}.{n % 250 + 1}" for n in range(60_000))
PORT = 18_099
WORK_S = 0.03
ACCEPT_TURNS = 5  # of the loop, until a connection that was just accepted is among the server's
# Bounds of what should not come: a request that is still open when a drain's time is over is lost.
SPEC = {
    "instances": 4,
    "strategy": {"max_surge": 2, "deadline_s": 120},
    "load_balancer": {"driver": "haproxy", "port": PORT, "drain_s": 60, "deadline_s": 60},
}


@dataclass(frozen=True)
class Machine:
    """The machine's own time and chance."""

    clock: Clock
    rng: random.Random
    ids: Ids


@dataclass
class ServerScheduler(FakeScheduler):
    """Each instance is a real web server; a stop ends it at once, with whatever it is doing."""

    runners: dict[str, web.AppRunner] = field(default_factory=dict)

    async def start(self, instance: str) -> None:
        self.attempts[instance] = 1
        address = self.addresses[instance] = next(ADDRESSES)
        image = self.running[instance].spec.image[-1]

        async def answer(_request: web.Request) -> web.Response:
            await asyncio.sleep(WORK_S)
            return web.Response(text=image)

        app = web.Application()
        app.router.add_route("*", "/", answer)
        runner = self.runners[instance] = web.AppRunner(app, shutdown_timeout=0.0)
        await runner.setup()
        await web.TCPSite(runner, address, PORT).start()
        await self.tell(instance, ev.ContainerStarted)
        await self.tell(instance, ev.ContainerHealthy)

    async def hear(self, event: Event) -> None:
        if isinstance(event, ev.InstanceStopRequested) and event.instance in self.runners:
            await self.kill(event.instance)
        await super().hear(event)

    async def kill(self, instance: str) -> None:
        """As a process that is gone: its connections are reset, those not yet accepted too."""
        runner = self.runners.pop(instance)
        for place in runner.sites:
            await place.stop()
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        for connection in list(runner.server.connections) if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def close(self) -> None:
        for instance in list(self.runners):
            await self.kill(instance)


@dataclass
class Load:
    """Clients that go on and on; `failed` says what went wrong."""

    url: str
    answers: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    stopping: bool = False

    async def client(self, keep_alive: bool, method: str) -> None:
        connector = aiohttp.TCPConnector(force_close=not keep_alive)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not self.stopping:
                try:
                    async with session.request(method, self.url) as response:
                        text = await response.text()
                        if response.status != 200:
                            self.failed.append(f"{response.status} {text[:60]}")
                        else:
                            self.answers[text] = self.answers.get(text, 0) + 1
                except aiohttp.ClientError as error:
                    self.failed.append(repr(error))
                await asyncio.sleep(0.002)


@dataclass
class Stand:
    """The whole thing."""

    site: Site
    harness: HaproxyHarness
    load: Load


@asynccontextmanager
async def stand() -> AsyncIterator[Stand]:
    rng = random.Random(7)
    machine = Machine(SystemClock(), rng, RngIds(rng))
    made: list[ServerScheduler] = []

    def make(bus: Any, world: Any) -> ServerScheduler:
        made.append(ServerScheduler(bus, world))
        return made[0]

    config = DeployerConfig(verify_balancer_s=0.3)
    with tempfile.TemporaryDirectory(prefix="lb") as directory:
        async with haproxy_harness(Path(directory), slots=20) as harness:
            try:
                async with site(
                    machine, config=config, driver=harness.driver, make_scheduler=make
                ) as here:
                    yield Stand(here, harness, Load(f"http://{harness.bind}/"))
            finally:
                for each in made:
                    await each.close()


@asynccontextmanager
async def under_load(stand: Stand, *methods: str, clients: int = 12) -> AsyncIterator[Load]:
    load = stand.load
    load.stopping = False
    async with asyncio.TaskGroup() as tasks:
        for n in range(clients):
            method = methods[n // 2 % len(methods)]
            tasks.create_task(load.client(n % 2 == 0, method))
        try:
            yield load
        finally:
            load.stopping = True


async def test_release_rollback_and_scale_lose_no_request() -> None:
    async with stand() as it:
        here = it.site
        await here.put(**SPEC)
        assert (await here.deploy("d1"))["state"] == "succeeded"
        async with under_load(it, "GET", "POST") as load:
            await asyncio.sleep(0.3)
            await here.put(image="reg:5000/web:2", **SPEC)
            assert (await here.deploy("d2"))["state"] == "succeeded"
            assert load.answers.get("2")
            assert (await here.deploy("d3", DeployAction.SCALE, instances=2))[
                "state"
            ] == "succeeded"
            assert (await here.deploy("d4", DeployAction.SCALE, instances=6))[
                "state"
            ] == "succeeded"
            assert (await here.deploy("d5", DeployAction.ROLLBACK))["state"] == "succeeded"
            assert (await here.deploy("d6", DeployAction.RESTART))["state"] == "succeeded"
        assert load.failed == []
        assert sum(load.answers.values()) > 200
        assert set(load.answers) == {"1", "2"}


async def test_one_that_is_away_keeps_no_other_from_a_change(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lb") as directory:
        async with haproxy_harness(Path(directory)) as harness:
            assert isinstance(harness, HaproxyHarness)
            endpoint = await harness.endpoint(1)
            there = {(endpoint.address, endpoint.port)}
            sockets = [str(tmp_path / "away.sock"), str(Path(directory) / "admin.sock")]
            both = HaproxyDriver(sockets, SystemClock())

            def change(kind: ChangeKind) -> Change:
                return Change(f"c-{kind}", kind, "shop/web", "i1", endpoint, 0.0)

            for tell, kind, traffic in (
                (both.submit, ChangeKind.ADD, there),
                (both.submit, ChangeKind.REMOVE, set()),
                (both.submit, ChangeKind.ADD, there),
                (both.cancel, ChangeKind.ADD, set()),
            ):
                with pytest.raises(Unavailable, match=r"away\.sock"):
                    await tell(change(kind))
                async with asyncio.timeout(10):
                    while await harness.traffic() != traffic:
                        await asyncio.sleep(0.05)


async def test_a_restarted_haproxy_is_filled_again() -> None:
    async with stand() as it:
        await it.site.put(**SPEC)
        await it.site.deploy("d1")
        await it.harness.restart()

        async def filled() -> bool:
            return len(await it.harness.driver.present("shop-web") or ()) == 4

        await it.site.until(filled, 60)
        async with under_load(it, "GET", clients=4) as load:

            async def enough() -> bool:
                return load.answers.get("1", 0) > 20

            await it.site.until(enough, 60)
        assert load.failed == []


async def test_an_instance_that_dies_is_out_and_its_gets_are_tried_elsewhere() -> None:
    async with stand() as it:
        here = it.site
        scheduler = here.scheduler
        assert isinstance(scheduler, ServerScheduler)
        await here.put(**SPEC)
        await here.deploy("d1")
        async with under_load(it, "GET") as load:
            await asyncio.sleep(0.3)
            victim = sorted(scheduler.runners)[0]
            await scheduler.kill(victim)
            scheduler.running.pop(victim)
            await scheduler.tell(victim, ev.ContainerExited, state="TASK_FAILED", final=True)

            async def replaced() -> bool:
                rows = await here.instances()
                ready = [row for row in rows if row["ready"] and row["instance"] != victim]
                return len(ready) == 4

            await here.until(replaced, 60)
            await asyncio.sleep(0.3)
        assert load.failed == []
