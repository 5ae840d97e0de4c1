"""Containers on several hosts: one VLAN is one wire wherever its ends are, and an address moves with its instance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.network import places
from tests.network.site import NETWORKS, NetHost, Site, until
from tests.network.stations import Station, connect, full_matrix, stations

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOVED_S = 5.0  # from the ADD on the new host on


@asynccontextmanager
async def attached(
    *wanted: tuple[NetHost, str, str],
) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    """Attachments (host, container, network), as (host's name, view); they are detached afterwards."""
    try:
        views = await asyncio.gather(*(host.add(name, network) for host, name, network in wanted))
        yield [(host.name, view) for (host, _, _), view in zip(wanted, views, strict=True)]
    finally:
        await asyncio.gather(*(host.delete(name) for host, name, _ in wanted))


async def test_twelve_on_three_hosts(site: Site) -> None:
    wanted = [
        (site.hosts[n % 3], f"acme-web-{n}", str(NETWORKS[n // 3 % 3]["name"])) for n in range(12)
    ]
    async with attached(*wanted) as views:
        with stations(views) as everybody:
            matrix = await full_matrix(everybody)
    assert (matrix.pairs, matrix.wrong) == (12 * 11, ())
    assert matrix.can == 6 * 5 + 2 * 3 * 2


async def test_an_address_moves_with_its_instance(site: Site) -> None:
    old, new, third = site.hosts
    witnesses = ((third, "acme-witness-1", "red"), (old, "acme-witness-2", "red"))
    async with attached(*witnesses) as views:
        before = await old.add("acme-db-1.a", "red", instance="acme-db-1", sticky_key="acme-db-1")
        with stations([*views, (old.name, before)]) as (far, near, first):
            assert len(await connect([(far, first), (near, first)], MOVED_S)) == 2
            await old.delete("acme-db-1.a")
        began = time.monotonic()
        after = await new.add("acme-db-1.b", "red", instance="acme-db-1", sticky_key="acme-db-1")
        try:
            assert (after["ip"], after["mac"]) == (before["ip"], before["mac"])
            assert after["address_generation"] == before["address_generation"] + 1
            # The trunk's switch has heard of it, although the container itself has not sent a frame yet.
            await until(
                lambda: _learnt(site, after["mac"], "h2"), lambda: "no announcement", MOVED_S
            )
            # Nobody's neighbours have to be forgotten: who takes over an address has its MAC, too.
            with stations([*views, (new.name, after)]) as (far, near, second):
                assert len(await connect([(far, second), (near, second)], MOVED_S)) == 2
            assert time.monotonic() - began < MOVED_S
            assert await _left(old) == {"acme-witness-2"}
        finally:
            await new.delete("acme-db-1.b")


async def test_a_switch_that_forgot_all_is_on_the_trunk_again(site: Site) -> None:
    """Its database is wiped: hostd wires the uplink, too, and nothing was restarted."""
    host, other, _ = site.hosts
    wanted = [(host, "acme-lost-1", "red"), (other, "acme-lost-2", "red")]
    async with attached(*wanted) as views:
        with stations(views) as (one, two):
            assert len(await connect([(one, two), (two, one)], MOVED_S)) == 2
            await host.ovs.kill9()
            (host.ovs.data_dir / "conf.db").unlink()
            # The tap of a killed switch stays, and would be taken for another one's.
            places.run("ip", "-n", host.namespace, "link", "delete", "ovs-netdev", check=False)
            await host.ovs.start()
            # Who asks too early may be told that there is no such neighbour.
            async with asyncio.timeout(120):
                while len(await connect([(one, two), (two, one)], MOVED_S)) < 2:
                    pass


async def _learnt(site: Site, mac: str, port: str) -> bool:
    known = places.run("bridge", "-n", site.trunk, "fdb", "show", "br", "trunk")
    return any(line.startswith(f"{mac} dev {port} ") for line in known.splitlines())


async def _left(host: NetHost) -> set[str]:
    """Containers with a port on a host; its links and rules have been seen to be theirs."""
    attachments = await host.attachments()
    ours = {each for each in places.links(host.namespace) if each.startswith(host.link_prefix)}
    ports = set(host.vsctl("list-ports", host.bridge).split()) - {"up0"}
    assert ports == ours
    assert len(ours) == len(attachments)
    flows = host.ofctl("dump-flows")
    assert all(view["mac"] in flows for view in attachments.values())
    return set(attachments)


async def test_a_port_in_the_wrong_vlan_is_seen(site: Site) -> None:
    """The matrix is no test that can't fail: it finds the one port that somebody moved, in both directions."""
    host = site.hosts[0]
    wanted = [(host, f"acme-odd-{n}", ("red", "blue")[n % 2]) for n in range(4)]
    async with attached(*wanted) as views:
        await host.hostd.kill()  # or it would mend it
        try:
            with stations(views) as everybody:
                moved, _, other, _ = everybody
                host.vsctl("set", "port", _port_of(host, moved), "tag=200")
                matrix = await full_matrix(everybody, can_s=1.0)
        finally:
            host.hostd.start()
            await host.wait_ready()
    lost = {(moved.name, other.name), (other.name, moved.name)}
    blue = ("acme-odd-1", "acme-odd-3")
    found = {(moved.name, each) for each in blue} | {(each, moved.name) for each in blue}
    assert set(matrix.wrong) == lost | found


def _port_of(host: NetHost, station: Station) -> str:
    for port in host.vsctl("list-ports", host.bridge).split():
        if station.name in host.vsctl("get", "port", port, "external_ids"):
            return port
    raise AssertionError(f"{station.name} has no port")
