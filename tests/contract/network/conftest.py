"""The ports of hostd's network with what a test may do around them: once on the fakes, once on the real thing."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from infra.provision import OvsServer
from libs.common.clock import SystemClock
from libs.common.telemetry import make_log
from services.hostd import core, flows
from services.hostd.model import Address6, SwitchPort, Wire
from services.hostd.netns import LinuxNetwork
from services.hostd.ofclient import OpenFlowClient
from services.hostd.ovs import OvsSwitch
from services.hostd.ports import NetworkDriver, Registry, SwitchDriver
from services.hostd.registry import FileRegistry
from services.hostd.rows import BridgeSettings
from tests.fakes.network import FakeHost, FakeNetns, FakeRegistry, StartRefused
from tests.fakes.switch import FakeSwitch
from tests.unit.native.conftest import native  # noqa: F401  (the fixture)

CLUSTER = f"ct-{os.getpid()}"
BOTH = ("fake", "real")


def wire(n: int, cluster: str = CLUSTER) -> Wire:
    """The n-th attachment's namespace and link."""
    name, ip = f"contract{n:02d}", f"10.77.0.{n}"
    link = core.link_name(cluster, name)
    return Wire(name, link, "eth0", core.mac_of(ip), ip, 24, "10.77.0.254", 1400)


def port(n: int, vlan: int = 100, ofport: int | None = None) -> SwitchPort:
    """The n-th attachment's port."""
    w = wire(n)
    made = SwitchPort(w.link, vlan, ofport or 2000 + n, w.mac, w.ip, w.namespace, f"container-{n}")
    return replace(made, netns=w.namespace, generation=f"{n},7")


def dual_wire(n: int, only6: bool = False) -> Wire:
    """The n-th attachment with an IPv6 address besides (or alone)."""
    made = replace(
        wire(n), ip6=Address6(ip=f"fd77::{n}", prefix=64, gateway="fe80::fe", generation=n)
    )
    return replace(made, ip="", prefix=0, gateway=None) if only6 else made


def dual_port(n: int, only6: bool = False) -> SwitchPort:
    """Its port."""
    made = replace(port(n), ip6=f"fd77::{n}")
    return replace(made, ip="") if only6 else made


def bridge_settings(server: OvsServer, **more: object) -> BridgeSettings:
    made = BridgeSettings(f"ct{os.getpid() % 100_000}", CLUSTER, server.datapath_type)
    return replace(made, **more)  # type: ignore[arg-type]


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.01)


async def restart_switch(server: OvsServer) -> None:
    """kill -9 and start. The taps of a killed switch stay; one of them would be taken for another switch's."""
    await server.kill9()
    command = ["ip", "link", "delete", "ovs-netdev"]
    await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=10, check=False)
    await server.start()


@asynccontextmanager
async def linux_network(directory: Path) -> AsyncIterator[LinuxNetwork]:
    """The kernel's side of the cluster CLUSTER, with nothing there before and afterwards."""
    driver = LinuxNetwork(CLUSTER, directory, checksum_offload=False)
    try:
        # The kernel takes its time with the namespaces of the tests before.
        async with asyncio.timeout(20):
            while (await driver.view()).links:
                await asyncio.sleep(0.05)
        yield driver
    finally:
        view = await driver.view()
        for name in sorted(view.namespaces):
            await driver.remove_namespace(name)
        for link in sorted(view.links):
            await driver.remove_link(link)
        driver.close()


@pytest.fixture(params=BOTH)
async def network(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NetworkDriver]:
    """A NetworkDriver of the cluster CLUSTER, with nothing there."""
    if request.param == "fake":
        yield FakeNetns(FakeHost(cluster=CLUSTER))
        return
    async with linux_network(tmp_path / "netns") as driver:
        yield driver


@dataclass
class SwitchWorld:
    """A switch, and what a test may do around it."""

    driver: SwitchDriver
    make_link: Callable[[SwitchPort], Awaitable[None]]
    drop_link: Callable[[SwitchPort], Awaitable[None]]
    occupy: Callable[[int], Awaitable[None]]  # a port that is not ours takes a number
    restart: Callable[[], Awaitable[None]]
    cookies: Callable[[], Awaitable[set[int]]]


@pytest.fixture(params=BOTH)
async def switch(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SwitchWorld]:
    """A SwitchDriver on a bridge of its own, running."""
    if request.param == "fake":
        yield _fake_switch()
        return
    server: OvsServer = request.getfixturevalue("ovs")
    settings = bridge_settings(server)
    bridge = settings.name
    driver = OvsSwitch(
        server.socket, settings, clock=SystemClock(), log=make_log("test", level="info")
    )
    async with linux_network(tmp_path / "netns") as network:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(driver.run())
            try:
                yield _real_switch(driver, network, server, bridge)
            finally:
                task.cancel()
        await asyncio.to_thread(vsctl, server, "--if-exists", "del-br", bridge)


def _fake_switch() -> SwitchWorld:
    host = FakeHost(cluster=CLUSTER)
    network = FakeNetns(host)

    async def occupy(number: int) -> None:
        host.numbers["somebody"] = number

    async def restart() -> None:
        host.restart_switch()

    async def cookies() -> set[int]:
        return set(host.rules)

    return SwitchWorld(
        FakeSwitch(host), _link_maker(network), _link_dropper(network), occupy, restart, cookies
    )


def _real_switch(
    driver: OvsSwitch, network: LinuxNetwork, server: OvsServer, bridge: str
) -> SwitchWorld:
    async def occupy(number: int) -> None:
        internal = ("set", "interface", "ct-other", "type=internal", f"ofport_request={number}")
        await asyncio.to_thread(vsctl, server, "add-port", bridge, "ct-other", "--", *internal)

    async def restart() -> None:
        await restart_switch(server)

    async def cookies() -> set[int]:
        client = await OpenFlowClient.connect(str(server.data_dir / f"{bridge}.mgmt"))
        async with asyncio.TaskGroup() as group:
            group.create_task(client.read_forever())
            found = {flow.cookie for flow in await client.flows()}
            client.close()
        return {cookie for cookie in found if cookie & flows.OWNER_MASK == flows.OWNER_COOKIE}

    return SwitchWorld(
        driver, _link_maker(network), _link_dropper(network), occupy, restart, cookies
    )


def _link_maker(network: NetworkDriver) -> Callable[[SwitchPort], Awaitable[None]]:
    async def make(port: SwitchPort) -> None:
        await network.ensure(
            Wire(port.attachment, port.name, "eth0", port.mac, port.ip, 24, None, 1500)
        )

    return make


def _link_dropper(network: NetworkDriver) -> Callable[[SwitchPort], Awaitable[None]]:
    async def drop(port: SwitchPort) -> None:
        await network.remove_link(port.name)

    return drop


def vsctl(server: OvsServer, *arguments: str) -> str:
    """Output of ovs-vsctl."""
    command = ["ovs-vsctl", f"--db=unix:{server.socket}", "--timeout=10", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=15).stdout


@dataclass
class RegistryWorld:
    """A registry, the namespaces it may name, and the runtime that reads it."""

    driver: Registry
    network: NetworkDriver
    start: Callable[[str], Awaitable[str]]  # "" or why the runtime refused the container
    reopen: Callable[[], Registry]  # as the next process finds it


@pytest.fixture(params=BOTH)
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RegistryWorld]:
    """A Registry with nothing in it."""
    if request.param == "fake":
        host = FakeHost(cluster=CLUSTER)

        async def claim(container_id: str) -> str:
            try:
                host.claim(container_id)
            except StartRefused as error:
                return str(error)
            return ""

        yield RegistryWorld(FakeRegistry(host), FakeNetns(host), claim, lambda: FakeRegistry(host))
        return
    programs: Path = request.getfixturevalue("native")
    directory = tmp_path / "reg"
    (tmp_path / "bundle").mkdir()

    async def run_shim(container_id: str) -> str:
        (tmp_path / "bundle/config.json").write_text('{"linux":{"namespaces":[]}}')
        options = [f"--gantry-registry={directory}", "--gantry-runc=/bin/true"]
        create = ["create", "--bundle", str(tmp_path / "bundle"), container_id]
        command = [str(programs / "gantry-runc"), *options, *create]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=10, check=False
        )
        return done.stderr.strip()

    async with linux_network(tmp_path / "netns") as network:
        yield RegistryWorld(
            FileRegistry(directory), network, run_shim, lambda: FileRegistry(directory)
        )
