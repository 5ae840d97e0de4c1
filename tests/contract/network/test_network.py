"""What every NetworkDriver does."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace

import pytest

from services.hostd import flows
from services.hostd.model import LinkState, WireView
from services.hostd.netns import LinuxNetwork
from services.hostd.ports import NetworkDriver
from tests.contract.network.conftest import dual_wire, eventually, wire


async def test_makes_a_namespace_with_its_link(network: NetworkDriver) -> None:
    made = await network.ensure(wire(1))
    assert made.inode not in (0, await network.host_inode())
    assert await network.find(made.name) == made
    view = await network.view()
    assert view.namespaces == {made.name}
    assert view.links == {wire(1).link}


async def test_what_exists_stays(network: NetworkDriver) -> None:
    first = await network.ensure(wire(1))
    assert await network.ensure(wire(1)) == first


async def test_many_at_once(network: NetworkDriver) -> None:
    wires = [wire(n) for n in range(1, 13)]
    made = await asyncio.gather(*(network.ensure(each) for each in wires))
    assert len({each.inode for each in made}) == len(wires)
    assert (await network.view()).links == {each.link for each in wires}


async def test_a_namespace_goes_with_its_link(network: NetworkDriver) -> None:
    made = await network.ensure(wire(1))
    await network.remove_namespace(made.name)
    assert await network.find(made.name) is None

    async def gone() -> bool:
        view = await network.view()
        return not view.namespaces and not view.links

    await eventually(gone)
    await network.remove_namespace(made.name)
    again = await network.ensure(wire(1))
    assert (await network.view()).links == {wire(1).link}
    assert again.name == made.name


async def test_a_lost_link_is_made_anew_in_the_same_namespace(network: NetworkDriver) -> None:
    made = await network.ensure(wire(1))
    await network.remove_link(wire(1).link)
    await network.remove_link(wire(1).link)
    assert (await network.view()).links == frozenset()
    assert await network.ensure(wire(1)) == made
    assert (await network.view()).links == {wire(1).link}


async def test_a_link_that_was_down_comes_up_with_all_it_had(network: NetworkDriver) -> None:
    made, link = await network.ensure(dual_wire(1)), dual_wire(1).link
    before = await network.inspect(dual_wire(1))
    assert not (await network.view()).down
    for _ in range(2):
        assert await network.set_down(link)
    assert (await network.view()).down == {link}
    silent = await network.inspect(dual_wire(1))
    assert silent.outer is not None
    assert not silent.outer.up
    assert await network.ensure(dual_wire(1)) == made
    assert await network.inspect(dual_wire(1)) == before
    assert not (await network.view()).down
    assert not await network.set_down("gnothere0000000")


async def test_counters(network: NetworkDriver) -> None:
    await network.ensure(wire(1))
    counters = await network.counters(wire(1).link)
    assert counters is not None
    assert counters.rx_bytes >= 0
    assert await network.counters("gnothere0000000") is None


async def test_other_clusters_are_not_ours_to_see(network: NetworkDriver) -> None:
    other = wire(1, cluster="another")
    await network.ensure(other)
    try:
        assert (await network.view()).links == frozenset()
    finally:
        await network.remove_link(other.link)


# -- what only the kernel can show ---------------------------------------------------------------


def inside(path: str, *command: str) -> str:
    """Output of a command inside a namespace."""
    run = ["nsenter", f"--net={path}", *command]
    return subprocess.run(run, check=True, capture_output=True, text=True, timeout=10).stdout


@pytest.mark.parametrize("network", ["real"], indirect=True)
async def test_the_interface_is_wired_as_asked(network: LinuxNetwork) -> None:
    made = await network.ensure(wire(7))
    (link,) = json.loads(inside(made.path, "ip", "-j", "address", "show", "dev", "eth0"))
    assert link["address"] == wire(7).mac
    assert link["mtu"] == 1400
    assert "UP" in link["flags"]
    (address,) = link["addr_info"]
    assert (address["local"], address["prefixlen"]) == ("10.77.0.7", 24)
    assert address["broadcast"] == "10.77.0.255"
    (route,) = json.loads(inside(made.path, "ip", "-j", "route", "show", "default"))
    assert route["gateway"] == "10.77.0.254"
    assert inside(made.path, "cat", "/proc/sys/net/ipv4/ip_forward") == "0\n"
    assert "tx-checksumming: off" in inside(made.path, "ethtool", "-k", "eth0")
    (loopback,) = json.loads(inside(made.path, "ip", "-j", "link", "show", "dev", "lo"))
    assert "UP" in loopback["flags"]


@pytest.mark.parametrize("network", ["real"], indirect=True)
async def test_a_changed_gateway_replaces_the_route(network: LinuxNetwork) -> None:
    first = wire(1)
    made = await network.ensure(first)
    changed = type(first)(
        first.namespace, first.link, "eth0", first.mac, first.ip, 24, "10.77.0.253", 1400
    )
    await network.ensure(changed)
    (route,) = json.loads(inside(made.path, "ip", "-j", "route", "show", "default"))
    assert route["gateway"] == "10.77.0.253"


@pytest.mark.parametrize("network", ["real"], indirect=True)
async def test_a_file_without_a_namespace_is_no_namespace(network: LinuxNetwork) -> None:
    made = await network.ensure(wire(1))
    await asyncio.to_thread(subprocess.run, ["umount", made.path], check=True, timeout=10)
    assert await network.find(made.name) is None
    again = await network.ensure(wire(1))
    assert again.inode != 0
    assert await network.find(made.name) == again


@pytest.mark.parametrize("network", ["real"], indirect=True)
async def test_no_thread_strays(network: LinuxNetwork) -> None:
    """Whatever the workers did, each of them is back in the host's namespace."""
    host = await network.host_inode()
    await asyncio.gather(*(network.ensure(wire(n)) for n in range(1, 9)))
    tasks = subprocess.run(
        ["sh", "-c", "stat -Lc %i /proc/$PPID/task/*/ns/net"],
        check=True, capture_output=True, text=True, timeout=10,
    )  # fmt: skip
    assert {int(inode) for inode in tasks.stdout.split()} == {host}


@pytest.mark.parametrize("network", ["real"], indirect=True)
@pytest.mark.parametrize("only6", [False, True])
async def test_ipv6_is_usable_at_once(network: LinuxNetwork, only6: bool) -> None:
    wanted = dual_wire(7, only6)
    made = await network.ensure(wanted)
    (link,) = json.loads(inside(made.path, "ip", "-j", "address", "show", "dev", "eth0"))
    six = [each for each in link["addr_info"] if each["family"] == "inet6"]
    assert {(each["local"], each["prefixlen"]) for each in six} == {
        ("fd77::7", 64),
        (flows.link_local(wanted.mac), 64),
    }
    assert not any(each.get("tentative") for each in six)
    assert len(link["addr_info"]) == (2 if only6 else 3)
    (route,) = json.loads(inside(made.path, "ip", "-6", "-j", "route", "show", "default"))
    assert route["gateway"] == "fe80::fe"
    settings = ("accept_ra", "dad_transmits", "forwarding")
    paths = [f"/proc/sys/net/ipv6/conf/eth0/{each}" for each in settings]
    assert inside(made.path, "cat", *paths).split() == ["0", "0", "0"]


async def test_ipv6_may_come_later(network: NetworkDriver) -> None:
    made = await network.ensure(wire(1))
    assert await network.ensure(dual_wire(1)) == made
    assert "fd77::1/64" in (await network.inspect(dual_wire(1))).addresses


async def test_inspecting_tells_what_is_there(network: NetworkDriver) -> None:
    assert await network.inspect(dual_wire(1)) == WireView()
    await network.ensure(dual_wire(1))
    view = await network.inspect(dual_wire(1))
    assert view.inner == LinkState(True, 1400, wire(1).mac)
    assert view.outer is not None
    assert (view.outer.up, view.outer.mtu) == (True, 1400)
    assert view.addresses == {"10.77.0.1/24", "fd77::1/64", f"{flows.link_local(wire(1).mac)}/64"}
    assert view.gateways == {"10.77.0.254", "fe80::fe"}
    assert await network.link(wire(1).link) == view.outer
    assert await network.link("gnothere0000000") is None


async def test_a_changed_mtu_is_set(network: NetworkDriver) -> None:
    await network.ensure(wire(1))
    await network.ensure(replace(wire(1), mtu=1300))
    view = await network.inspect(wire(1))
    assert {end.mtu for end in (view.inner, view.outer) if end} == {1300}
