"""What every NetworkDriver does in namespaces that are not its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from libs.common.errors import Conflict, Unavailable
from services.hostd.model import Hop, Wire
from services.hostd.netns import LinuxNetwork
from services.hostd.ports import NetworkDriver
from tests.contract.network.conftest import BOTH, CLUSTER, eventually, linux_network, wire
from tests.fakes.network import HOST_INODE, FakeHost, FakeNetns


@dataclass
class Callers:
    """A driver, and what runtimes do beside it."""

    driver: NetworkDriver
    bring: Callable[[str], str]  # short name -> path of a new namespace
    drop: Callable[[str], None]  # by path
    put: Callable[[str, str], None]  # an interface of somebody else's into a namespace
    own: str  # path of the host's namespace

    async def wire(self, n: int, path: str, **changes: object) -> Wire:
        """The n-th attachment's wire, in a caller's namespace."""
        inode = await self.driver.inode_of(path)
        assert inode is not None
        return replace(wire(n), netns=path, inode=inode, **changes)  # type: ignore[arg-type]


@pytest.fixture(params=BOTH)
async def callers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callers]:
    """No namespaces yet."""
    if request.param == "fake":
        yield _fake()
        return
    made: list[str] = []
    async with linux_network(tmp_path / "netns") as driver:
        try:
            yield _real(driver, made)
        finally:
            for name in made:
                subprocess.run(
                    ["ip", "netns", "del", name], check=False, capture_output=True, timeout=10
                )


def _fake() -> Callers:
    host = FakeHost(cluster=CLUSTER)
    host.callers["/host"] = HOST_INODE

    def bring(short: str) -> str:
        host.bring_namespace(f"/run/netns/{short}")
        return f"/run/netns/{short}"

    def put(path: str, ifname: str) -> None:
        host.interfaces.add((path, ifname))

    return Callers(FakeNetns(host), bring, host.drop_namespace, put, "/host")


def _real(driver: LinuxNetwork, made: list[str]) -> Callers:
    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)

    def bring(short: str) -> str:
        name = f"ct{os.getpid()}-{short}"
        ip("netns", "add", name)
        made.append(name)
        return f"/run/netns/{name}"

    def drop(path: str) -> None:
        ip("netns", "del", Path(path).name)

    def put(path: str, ifname: str) -> None:
        ip("-n", Path(path).name, "link", "add", ifname, "type", "veth", "peer", "name", "other")

    return Callers(driver, bring, drop, put, "/proc/self/ns/net")


async def test_what_is_at_a_path(callers: Callers) -> None:
    path = callers.bring("one")
    first = await callers.driver.inode_of(path)
    assert first not in (None, 0) and await callers.driver.inode_of(path) == first
    assert await callers.driver.inode_of("/nowhere") is None
    with pytest.raises(Conflict, match="host's own"):
        await callers.driver.inode_of(callers.own)
    callers.drop(path)
    assert await callers.driver.inode_of(path) is None
    again = await callers.driver.inode_of(callers.bring("two"))
    assert again not in (None, 0)


async def test_wires_into_it_and_mends(callers: Callers) -> None:
    driver = callers.driver
    wanted = await callers.wire(1, callers.bring("one"))
    made = await driver.ensure(wanted)
    assert (made.name, made.path, made.inode) == (wanted.namespace, wanted.netns, wanted.inode)
    assert await driver.ensure(wanted) == made
    view = await driver.view()
    assert not view.namespaces and view.links == {wanted.link}
    assert await driver.complaints(wanted) == ()
    await driver.remove_link(wanted.link)
    assert "is missing" in (await driver.complaints(wanted))[0]
    assert await driver.ensure(wanted) == made
    assert await driver.complaints(wanted) == ()
    await driver.remove_link(wanted.link)
    assert await driver.inode_of(wanted.netns) == wanted.inode


async def test_an_interface_of_somebody_elses_stays(callers: Callers) -> None:
    path = callers.bring("one")
    callers.put(path, "eth0")
    with pytest.raises(Conflict, match="eth0 already"):
        await callers.driver.ensure(await callers.wire(1, path))
    assert (await callers.driver.view()).links == frozenset()
    other = await callers.wire(1, path, ifname="eth1")
    await callers.driver.ensure(other)
    with pytest.raises(Conflict, match="eth1 already"):
        await callers.driver.ensure(await callers.wire(2, path, ifname="eth1", gateway=None))
    assert await callers.driver.complaints(other) == ()


async def test_a_namespace_that_is_another_one_now(callers: Callers) -> None:
    path = callers.bring("one")
    wanted = await callers.wire(1, path)
    await callers.driver.ensure(wanted)
    with pytest.raises(Unavailable, match="not the container's namespace"):
        await callers.driver.ensure(replace(wanted, inode=wanted.inode + 1))
    callers.drop(path)

    async def gone() -> bool:
        return not (await callers.driver.view()).links

    await eventually(gone)
    with pytest.raises(Unavailable):
        await callers.driver.ensure(wanted)


# -- what only the kernel can show ---------------------------------------------------------------


def inside(path: str, *command: str) -> str:
    """Output of a command inside a namespace."""
    run = ["nsenter", f"--net={path}", *command]
    return subprocess.run(run, check=True, capture_output=True, text=True, timeout=10).stdout


@pytest.mark.parametrize("callers", ["real"], indirect=True)
async def test_routes_and_nothing_of_ipv6(callers: Callers) -> None:
    hops = (Hop(dst="192.0.2.0/24", gw="10.77.0.9"), Hop(dst="198.51.100.0/24"))
    wanted = await callers.wire(1, callers.bring("one"), routes=hops)
    await callers.driver.ensure(wanted)
    await callers.driver.ensure(wanted)
    routes = inside(wanted.netns, "ip", "route").splitlines()
    said = {line.partition(" dev")[0] for line in routes}
    assert said == {
        "default via 10.77.0.254", "10.77.0.0/24", "192.0.2.0/24 via 10.77.0.9", "198.51.100.0/24",
    }  # fmt: skip
    assert inside(wanted.netns, "ip", "-6", "addr", "show", "dev", "eth0") == ""
    assert inside(wanted.netns, "cat", "/proc/sys/net/ipv6/conf/default/disable_ipv6") == "0\n"


@pytest.mark.parametrize("callers", ["real"], indirect=True)
async def test_it_says_what_was_changed(callers: Callers) -> None:
    wanted = await callers.wire(1, callers.bring("one"))
    await callers.driver.ensure(wanted)
    for change, said in (
        (("addr", "del", "10.77.0.1/24", "dev", "eth0"), "10.77.0.1/24"),
        (("link", "set", "eth0", "address", "0a:00:00:00:00:01"), "0a:00:00:00:00:01"),
        (("link", "set", "eth0", "down"), "down"),
    ):
        inside(wanted.netns, "ip", *change)
        assert said in " ".join(await callers.driver.complaints(wanted))
    assert "route" in " ".join(await callers.driver.complaints(wanted))


@pytest.mark.parametrize("callers", ["real"], indirect=True)
async def test_a_default_route_of_somebody_elses_stays(callers: Callers) -> None:
    path = callers.bring("one")
    callers.put(path, "eth9")
    for command in ("link set eth9 up", "link set other up", "addr add 192.0.2.1/24 dev eth9",
                    "route add default via 192.0.2.2"):  # fmt: skip
        await asyncio.to_thread(inside, path, "ip", *command.split())
    wanted = await callers.wire(1, path)
    with pytest.raises(Conflict, match="default route"):
        await callers.driver.ensure(wanted)
    await callers.driver.ensure(replace(wanted, gateway=None))
    assert "default via 192.0.2.2 dev eth9" in inside(path, "ip", "route")


@pytest.mark.parametrize("callers", ["real"], indirect=True)
async def test_a_file_is_no_namespace(callers: Callers, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert await callers.driver.inode_of(str(tmp_path / "file")) is None
    assert await callers.driver.inode_of(str(tmp_path / "file/deeper")) is None
