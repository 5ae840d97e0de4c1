"""What every SwitchDriver does."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
from dataclasses import replace

import pytest

from infra.provision import OvsServer
from libs.common.clock import SystemClock
from libs.common.telemetry import make_log
from services.hostd import flows
from services.hostd.model import SwitchPort
from services.hostd.ovs import OvsSwitch
from tests.contract.network.conftest import (
    SwitchWorld,
    bridge_settings,
    eventually,
    port,
    vsctl,
)


def cookie(of: SwitchPort) -> int:
    return flows.OWNER_COOKIE | of.ofport


async def test_adds_ports_as_asked(switch: SwitchWorld) -> None:
    ports = [port(1), port(2, vlan=200)]
    for each in ports:
        await switch.make_link(each)
    views = await switch.driver.ensure(ports)
    for view, each in zip(views, ports, strict=True):
        assert view.error is None
        assert (view.name, view.vlan, view.ofport) == (each.name, each.vlan, each.ofport)
        assert (view.attachment, view.container) == (each.attachment, each.container)
        assert (view.netns, view.generation) == (each.netns, each.generation)
    assert set(await switch.driver.view()) == set(views)
    assert {cookie(each) for each in ports} <= await switch.cookies()


async def test_again_is_the_same(switch: SwitchWorld) -> None:
    await switch.make_link(port(1))
    first = await switch.driver.ensure([port(1)])
    assert await switch.driver.ensure([port(1)]) == first
    assert await switch.driver.view() == first


async def test_a_port_may_change(switch: SwitchWorld) -> None:
    await switch.make_link(port(1))
    await switch.driver.ensure([port(1)])
    changed = replace(port(1), vlan=300, container="its-heir", generation="8")
    (view,) = await switch.driver.ensure([changed])
    assert (view.error, view.vlan, view.container) == (None, 300, "its-heir")
    assert view.generation == "8"


async def test_a_port_without_a_link_tells_so(switch: SwitchWorld) -> None:
    await switch.make_link(port(1))
    good, bad = await switch.driver.ensure([port(1), port(2)])
    assert good.error is None
    assert bad.error
    assert bad.ofport is None
    await switch.make_link(port(2))
    (mended,) = await switch.driver.ensure([port(2)])
    assert (mended.error, mended.ofport) == (None, port(2).ofport)


async def test_a_number_somebody_has_is_an_error(switch: SwitchWorld) -> None:
    await switch.make_link(port(1))
    await switch.driver.ensure([port(1)])
    await switch.occupy(port(2).ofport)
    await switch.make_link(port(2))
    (view,) = await switch.driver.ensure([port(2)])
    assert view.error
    assert view.ofport not in (None, port(2).ofport)
    await switch.driver.remove([port(2).name])
    (view,) = await switch.driver.ensure([port(2, ofport=3000)])
    assert (view.error, view.ofport) == (None, 3000)


async def test_removed_ports_leave_nothing(switch: SwitchWorld) -> None:
    ports = [port(1), port(2)]
    for each in ports:
        await switch.make_link(each)
    await switch.driver.ensure(ports)
    await switch.driver.remove([port(1).name, "gnothere0000000"])
    assert [view.name for view in await switch.driver.view()] == [port(2).name]
    cookies = await switch.cookies()
    assert cookie(port(1)) not in cookies
    assert cookie(port(2)) in cookies
    await switch.driver.remove([port(1).name])
    await switch.driver.remove([])


async def test_a_link_that_vanished_keeps_its_number(switch: SwitchWorld) -> None:
    """Why reconcile asks the kernel, too: the switch alone does not tell."""
    await switch.make_link(port(1))
    await switch.driver.ensure([port(1)])
    await switch.drop_link(port(1))
    await switch.driver.remove([port(1).name])
    await switch.make_link(port(1))
    (view,) = await switch.driver.ensure([port(1)])
    assert (view.error, view.ofport) == (None, port(1).ofport)


async def test_a_restart_is_told_and_flows_come_back(switch: SwitchWorld) -> None:
    ports = [port(1), port(2)]
    for each in ports:
        await switch.make_link(each)
    await switch.driver.restarted()
    await switch.driver.ensure(ports)
    await switch.restart()
    await switch.driver.restarted()
    assert cookie(port(1)) not in await switch.cookies()
    await switch.driver.restore_flows(lambda: ports)
    wanted = {flows.OWNER_COOKIE, *(cookie(each) for each in ports)}
    assert await switch.cookies() == wanted

    async def back() -> bool:
        views = {view.name: view.ofport for view in await switch.driver.view()}
        return views == {each.name: each.ofport for each in ports}

    await eventually(back)


async def test_restoring_removes_rules_of_ports_that_are_no_more(switch: SwitchWorld) -> None:
    ports = [port(1), port(2)]
    for each in ports:
        await switch.make_link(each)
    await switch.driver.ensure(ports)
    await switch.driver.restore_flows(lambda: [port(2)])
    # As long as it is there nobody wants it, and it is silent.
    assert await switch.cookies() == {flows.OWNER_COOKIE, cookie(port(1)), cookie(port(2))}
    await switch.driver.remove([port(1).name])
    await switch.driver.restore_flows(lambda: [port(2)])
    assert await switch.cookies() == {flows.OWNER_COOKIE, cookie(port(2))}


async def test_a_port_on_its_way_out_keeps_its_flows_until_it_is_out(switch: SwitchWorld) -> None:
    await switch.make_link(port(1))
    await switch.driver.ensure([port(1)])
    leaving = replace(port(1), leaving=True)
    assert (await switch.driver.inspect(lambda: [leaving])).surplus == ()
    await switch.driver.restore_flows(lambda: [leaving])
    well = await switch.driver.inspect(lambda: [port(1)])
    assert (well.missing, well.surplus) == ((), ())
    await switch.driver.remove([port(1).name])
    await switch.driver.restore_flows(lambda: [leaving])
    assert await switch.cookies() == {flows.OWNER_COOKIE}


async def test_inspecting_tells_what_is_missing_and_changes_nothing(switch: SwitchWorld) -> None:
    await switch.make_link(port(1))
    await switch.driver.restore_flows(list)
    await switch.driver.ensure([port(1)])
    well = await switch.driver.inspect(lambda: [port(1)])
    assert [view.name for view in well.ports] == [port(1).name]
    assert (well.missing, well.surplus, well.foreign) == ((), (), ())
    ill = await switch.driver.inspect(lambda: [port(2)])
    assert set(ill.missing) == {cookie(port(2))}
    assert ill.surplus
    assert await switch.driver.inspect(lambda: [port(1)]) == well


@pytest.mark.parametrize("count", [12])
async def test_a_batch(switch: SwitchWorld, count: int) -> None:
    ports = [port(n) for n in range(1, count + 1)]
    for each in ports:
        await switch.make_link(each)
    views = await switch.driver.ensure(ports)
    assert [view.ofport for view in views] == [each.ofport for each in ports]
    await switch.driver.remove([each.name for each in ports])
    assert await switch.driver.view() == ()


# -- what only Open vSwitch can show -----------------------------------------------------------------


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_the_rules_as_the_switch_reads_them(switch: SwitchWorld, ovs: OvsServer) -> None:
    await switch.make_link(port(5))
    await switch.driver.ensure([port(5)])
    command = [
        "ovs-ofctl",
        "-O",
        "OpenFlow13",
        "--no-stats",
        "--no-names",
        "dump-flows",
        bridge_settings(ovs).name,
    ]
    environment = {**os.environ, "OVS_RUNDIR": str(ovs.data_dir)}
    text = await asyncio.to_thread(
        subprocess.check_output, command, env=environment, text=True, timeout=10
    )
    lines = {line.strip().partition("cookie=0x47414e54000007d5, ")[2] for line in text.splitlines()}
    number, mac, ip = port(5).ofport, port(5).mac, port(5).ip
    own = f"in_port={number},vlan_tci=0x0000/0x1fff,dl_src={mac}"
    assert lines - {""} == {
        f"priority=110,arp,{own},arp_spa={ip},arp_sha={mac} actions=NORMAL",
        f"priority=110,ip,{own},nw_src={ip} actions=goto_table:1",
        f"priority=100,in_port={number} actions=drop",
    }


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_a_batch_is_one_transaction(switch: SwitchWorld, ovs: OvsServer) -> None:
    ports = [port(n) for n in range(1, 21)]
    for each in ports:
        await switch.make_link(each)
    await switch.driver.view()

    def changes() -> int:
        return int(vsctl(ovs, "get", "open_vswitch", ".", "next_cfg"))

    before = await asyncio.to_thread(changes)
    await switch.driver.ensure(ports)
    assert await asyncio.to_thread(changes) == before + 1


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_a_port_that_got_another_number_is_silent(switch: SwitchWorld) -> None:
    """Its rules name the number it asked for: by the one it got it would pass for an uplink."""
    await switch.driver.view()
    await switch.occupy(port(2).ofport)
    await switch.make_link(port(2))
    (view,) = await switch.driver.ensure([port(2)])
    assert view.ofport not in (None, port(2).ofport)
    assert flows.OWNER_COOKIE | (view.ofport or 0) in await switch.cookies()
    await switch.driver.remove([port(2).name])
    assert not await switch.cookies()


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_a_bridge_of_another_cluster_is_not_touched(
    switch: SwitchWorld, ovs: OvsServer
) -> None:
    await switch.driver.view()
    said: list[str] = []
    settings = bridge_settings(ovs, cluster="another")
    log = make_log("test", stream=io.StringIO())
    other = OvsSwitch(ovs.socket, settings, clock=SystemClock(), log=log)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(other.run())
        for _ in range(20):
            said.append(str(other.is_connected()))
            await asyncio.sleep(0.01)
        task.cancel()
    assert set(said) == {"False"}


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_uplinks_carry_all_vlans(switch: SwitchWorld, ovs: OvsServer) -> None:
    await switch.driver.view()
    uplink = port(9)
    await switch.make_link(uplink)
    settings = bridge_settings(ovs, uplinks=(uplink.name,))
    second = OvsSwitch(ovs.socket, settings, clock=SystemClock(), log=make_log("test"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(second.run())
        assert await second.view() == ()  # it is no attachment's
        task.cancel()
    command = ["ovs-vsctl", f"--db=unix:{ovs.socket}", "get", "port", uplink.name, "tag"]
    tag = await asyncio.to_thread(subprocess.check_output, command, text=True, timeout=10)
    assert tag.strip() == "[]"
