"""What hostd makes true again, on a real engine and a real Open vSwitch, without a container being started anew."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from tests.integration.hostd_host import Host, Started, inside, run, tcp

KEY = "acme/db/0"


async def facts(host: Host, *started: Started) -> list[tuple[object, ...]]:
    """What must stay of running containers: process, namespace, address, number in the switch."""
    found: list[tuple[object, ...]] = []
    views = await host.attachments()
    for each in started:
        state = (await each.container.show())["State"]
        ofport = host.vsctl("get", "interface", host.port_of(each.name), "ofport").strip()
        inode = os.stat(f"/proc/{state['Pid']}/ns/net").st_ino
        found.append((state["Pid"], state["StartedAt"], inode, views[each.name]["ip"], ofport))
    return found


async def reachable(host: Host, one: Started, two: Started) -> None:
    await host.wait_served(one.namespace, two.ip)
    await host.wait_served(two.namespace, one.ip)


async def test_whatever_dies_all_that_live_are_reached_again(host: Host) -> None:
    one, two, other = await asyncio.gather(
        host.start("one"), host.start("two"), host.start("other", "blue")
    )
    await reachable(host, one, two)
    before = await facts(host, one, two, other)
    names = sorted(host.vsctl("list-ports", host.bridge).split())
    inside(one.namespace, "ip", "addr", "add", "10.88.0.200/32", "dev", "eth0")
    for database, wipe, hostd_dies in (
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, True),
    ):
        host.vsctl(
            "add-port", host.bridge, "stale0", "--", "set", "interface", "stale0", "type=internal",
            "--", "set", "port", "stale0", "external_ids:gantry-attachment=0000000000",
        )  # fmt: skip
        if hostd_dies:
            await host.kill_hostd()
        await host.kill_switch(database=database, wipe=wipe)
        if hostd_dies:
            await host.start_hostd()
        await reachable(host, one, two)
        assert await facts(host, one, two, other) == before
        assert not any(
            await asyncio.gather(
                tcp(one.namespace, other.ip),
                tcp(one.namespace, two.ip, source="10.88.0.200"),
            )
        )

        async def only_ours() -> bool:
            return sorted(host.vsctl("list-ports", host.bridge).split()) == names

        await host.until(only_ours, "a stale port stays")
        if wipe:  # the tap of a switch that forgot it is nobody's
            run("ip", "link", "delete", "stale0", check=False)


async def test_a_reboot_keeps_addresses_and_wires_anew(host: Host) -> None:
    one, two = await asyncio.gather(host.start("one"), host.start("two"))
    await reachable(host, one, two)
    await host.kill_hostd()
    for each in (one, two):
        await each.container.kill()
        await each.container.wait()
    for path in (host.run_dir / "netns").iterdir():
        run("umount", "-l", str(path))
    shutil.rmtree(host.run_dir)
    await host.kill_switch(database=True)
    await host.start_hostd()
    again = []
    for each in (one, two):
        view = await host.add(each.name, generation=2)
        assert (view["ip"], view["ready"]) == (each.ip, True)
        await host.register(each.name, each.container.id, generation=2)
        await each.container.start()
        pid = (await each.container.show())["State"]["Pid"]
        again.append(
            Started(each.name, each.container, each.ip, view["namespace"], view["inode"], pid)
        )
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == view["inode"]
    await reachable(host, *again)


async def test_a_restart_and_an_heir_touch_neither_namespace_nor_port_nor_flows(host: Host) -> None:
    one, two = await asyncio.gather(host.start("one", sticky_key=KEY), host.start("two"))
    await reachable(host, one, two)
    number = host.vsctl("get", "interface", host.port_of(one.name), "ofport")
    before = await host.flows_of(one.name)
    assert sum(flow.packets for flow in before.values()) > 0
    # A restart: the same container, hostd killed in between.
    await one.container.kill()
    await one.container.wait()
    await host.kill_hostd()
    await host.start_hostd()
    view = await host.add(one.name, generation=2, sticky_key=KEY)
    await host.register(one.name, one.container.id, generation=2)
    await one.container.start()
    await host.wait_served(two.namespace, one.ip)
    # A new release that keeps its address: another container, hostd killed in between.
    await host.end(one)
    (parked,) = (v for v in (await host.attachments()).values() if v["phase"] == "parked")
    assert (parked["ip"], parked["attachment"]) == (one.ip, "")
    inside(two.namespace, "ip", "neigh", "flush", "dev", "eth0")
    assert not await tcp(two.namespace, one.ip)
    assert "lladdr" not in inside(two.namespace, "ip", "neigh", "show", one.ip)
    await host.kill_hostd()
    await host.start_hostd()
    heir = host.name("heir")
    container = await host.create(heir)
    taken = await host.add(heir, sticky_key=KEY)
    await host.register(heir, container.id)
    await container.start()
    await host.wait_served(two.namespace, one.ip)
    assert {view["inode"], taken["inode"], Path(one.namespace).stat().st_ino} == {one.inode}
    assert host.vsctl("get", "interface", host.port_of(heir), "ofport") == number
    after = await host.flows_of(heir)
    assert after.keys() == before.keys()
    for place, flow in after.items():
        assert flow.is_as(before[place])
        assert flow.age_s > before[place].age_s
        assert flow.packets >= before[place].packets


async def test_what_nobody_takes_over_goes(bare_host: Host) -> None:
    host = bare_host
    async with host.ipam():
        await host.start_hostd(park_s=1)
        view = await host.add(host.name("one"), sticky_key=KEY)
        await host.delete(host.name("one"))

        async def gone() -> bool:
            return not await host.attachments() and not Path(view["namespace"]).exists()

        await host.until(gone, "it stays parked")
        again = await host.add(host.name("two"), sticky_key=KEY)
        assert again["ip"] == view["ip"]
        assert again["address_generation"] > view["address_generation"]
