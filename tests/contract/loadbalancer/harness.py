"""The load balancers that the suite runs against, each really started, with real servers behind where it has any."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import orjson
from aiohttp import web

from infra.provision.process import free_ports
from libs.common.clock import SystemClock
from libs.common.errors import Unavailable
from services.deployer.loadbalancer.base import (
    Answer,
    Change,
    ChangeKind,
    LoadBalancerDriver,
)
from services.deployer.loadbalancer.haproxy import HaproxyDriver
from services.deployer.loadbalancer.haproxy_config import Backend, render
from services.deployer.loadbalancer.webhook import WebhookConfig, WebhookDriver
from services.deployer.model import Endpoint
from tests.fakes.loadbalancer import FakeLoadBalancer

BACKEND = "shop-web"
SLOTS = 6
TOKEN = "contract-suite"


class Harness(Protocol):
    """A driver and what the suite needs around it."""

    driver: LoadBalancerDriver

    async def endpoint(self, number: int) -> Endpoint:
        """The address of a server that answers; the same for the same number."""
        ...

    async def traffic(self) -> set[tuple[str, int]]:
        """Endpoints that a number of new requests came to."""
        ...

    async def hold(self, endpoint: Endpoint) -> None:
        """Begin a request to the endpoint that stays open."""
        ...

    async def finish(self) -> None:
        """Let the open requests end."""
        ...

    async def restart(self) -> None:
        """Stop the load balancer and start it anew."""
        ...

    async def stop(self) -> None:
        """Stop it for good."""
        ...


@dataclass
class FakeHarness:
    """The fake itself, or a driver that ends at it."""

    fake: FakeLoadBalancer
    driver: LoadBalancerDriver

    async def endpoint(self, number: int) -> Endpoint:
        return Endpoint(driver="x", backend=BACKEND, address=f"10.0.0.{number}", port=80)

    async def traffic(self) -> set[tuple[str, int]]:
        return set(self.fake.serving.get(BACKEND, {}))

    async def hold(self, endpoint: Endpoint) -> None:
        self.fake.open_requests[(endpoint.address, endpoint.port)] = 1

    async def finish(self) -> None:
        self.fake.open_requests.clear()

    async def restart(self) -> None:
        self.fake.restart()

    async def stop(self) -> None:
        self.fake.down = True


@asynccontextmanager
async def fake_harness() -> AsyncIterator[Harness]:
    fake = FakeLoadBalancer(SystemClock(), slots=SLOTS, backends=(BACKEND,))
    yield FakeHarness(fake, fake)


# -- webhook ---------------------------------------------------------------------------------------


@dataclass
class HookServer:
    """The owner's side of a webhook, in front of the fake; it knows changes by their id."""

    fake: FakeLoadBalancer
    changes: dict[str, Change] = field(default_factory=dict)
    bodies: list[tuple[str, bytes, str]] = field(default_factory=list)

    async def post(self, request: web.Request) -> web.Response:
        body = await request.read()
        content = orjson.loads(body)
        signature = request.headers.get("X-Gantry-Signature", "")
        self.bodies.append((request.method, body, signature))
        endpoint = Endpoint(
            driver="webhook",
            backend=content["backend"],
            address=content["address"],
            port=content["port"],
        )
        change = Change(
            content["id"],
            ChangeKind(content["kind"]),
            content["app"],
            content["instance"],
            endpoint,
            content["drain_until"],
        )
        self.changes[change.id] = change
        return self._say(request, await self.fake.submit(change) if not self.fake.down else None)

    async def get(self, request: web.Request) -> web.Response:
        change = self.changes.get(request.match_info["id"])
        if change is None:
            return web.Response(status=404)
        return self._say(request, await self.fake.poll(change) if not self.fake.down else None)

    async def delete(self, request: web.Request) -> web.Response:
        change = self.changes.pop(request.match_info["id"], None)
        if change is None:
            return web.Response(status=404)
        return self._say(request, await self.fake.cancel(change) if not self.fake.down else None)

    def _say(self, request: web.Request, answer: Answer | None) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        if answer is None:
            return web.Response(status=503)
        return web.json_response({"state": answer.state.value, "message": answer.message})


@asynccontextmanager
async def hook_server(fake: FakeLoadBalancer) -> AsyncIterator[tuple[HookServer, str]]:
    server = HookServer(fake)
    app = web.Application()
    app.add_routes(
        [
            web.post("/hook", server.post),
            web.get("/hook/{id}", server.get),
            web.delete("/hook/{id}", server.delete),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield server, f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def webhook_harness() -> AsyncIterator[Harness]:
    fake = FakeLoadBalancer(SystemClock(), slots=SLOTS, backends=(BACKEND,))
    async with hook_server(fake) as (_, url):
        driver = WebhookDriver(WebhookConfig(url, TOKEN, b"signing key"))
        try:
            yield FakeHarness(fake, driver)
        finally:
            await driver.close()


# -- HAProxy ---------------------------------------------------------------------------------------


@dataclass
class HaproxyHarness:
    """A private HAProxy, its own socket and configuration, and servers on addresses of 127.0.0.0/8."""

    directory: Path
    tasks: asyncio.TaskGroup
    driver: LoadBalancerDriver
    bind: str
    config: Path
    process: asyncio.subprocess.Process | None = None
    servers: dict[int, tuple[web.AppRunner, Endpoint]] = field(default_factory=dict)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    held: list[asyncio.Task[bytes]] = field(default_factory=list)
    arrived: set[tuple[str, int]] = field(default_factory=set)

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            "haproxy", "-db", "-f", str(self.config), stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(10):
            while not await self._answers():
                await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            return await self.driver.present(BACKEND) is not None
        except Unavailable:
            return False

    async def endpoint(self, number: int) -> Endpoint:
        if number not in self.servers:
            self.servers[number] = await self._serve(f"127.7.0.{number}")
        return self.servers[number][1]

    async def _serve(self, address: str) -> tuple[web.AppRunner, Endpoint]:
        async def answer(request: web.Request) -> web.Response:
            pair = request.transport.get_extra_info("sockname") if request.transport else ("", 0)
            if request.path == "/held":
                self.arrived.add((pair[0], pair[1]))
                await self.release.wait()
            return web.Response(text=f"{pair[0]} {pair[1]}")

        app = web.Application()
        app.router.add_get("/{any:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, address, 0).start()
        port = runner.addresses[0][1]
        return runner, Endpoint(driver="haproxy", backend=BACKEND, address=address, port=port)

    async def _get(self, path: str) -> bytes:
        host, _, port = self.bind.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        content = await reader.read()
        writer.close()
        return content

    async def traffic(self) -> set[tuple[str, int]]:
        found = set()
        for _ in range(4 * SLOTS):
            head, _, body = (await self._get("/")).partition(b"\r\n\r\n")
            if b" 200 " in head.splitlines()[0]:
                address, port = body.decode().split()
                found.add((address, int(port)))
        return found

    async def hold(self, endpoint: Endpoint) -> None:
        pair = (endpoint.address, endpoint.port)
        async with asyncio.timeout(10):
            while pair not in self.arrived:
                count = len(self.arrived)
                self.held.append(self.tasks.create_task(self._get("/held")))
                while len(self.arrived) == count and not self.held[-1].done():
                    await asyncio.sleep(0.01)

    async def finish(self) -> None:
        self.release.set()
        for task in self.held:
            with contextlib.suppress(OSError):
                await task

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            await self.process.wait()
            self.process = None

    async def close(self) -> None:
        await self.finish()
        await self.stop()
        for runner, _ in self.servers.values():
            await runner.cleanup()


@asynccontextmanager
async def haproxy_harness(directory: Path, slots: int = SLOTS) -> AsyncIterator[HaproxyHarness]:
    socket = directory / "admin.sock"
    (port,) = free_ports(1)
    bind = f"127.0.0.1:{port}"
    config = directory / "haproxy.cfg"
    config.write_text(render([Backend(BACKEND, bind, slots=slots)], socket))
    async with asyncio.TaskGroup() as tasks:
        driver = HaproxyDriver([str(socket)], SystemClock())
        harness = HaproxyHarness(directory, tasks, driver, bind, config)
        await harness.start()
        try:
            yield harness
        finally:
            await harness.close()
