"""What a container may send, tried: each frame is sent from inside a namespace by a raw socket, on a real Open vSwitch.

A trunk watches the bridge. Every frame goes to a MAC of its own that no station has, so the switch floods it, and the
trunk sees it if any port could.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from infra.provision import OvsServer
from libs.common.clock import SystemClock
from libs.common.errors import Unavailable
from libs.common.telemetry import make_log
from services.hostd import flows
from services.hostd.model import Probe, SwitchPort
from services.hostd.netns import LinuxNetwork
from services.hostd.ovs import OvsSwitch
from tests import frames as f
from tests.contract.network.conftest import (
    CLUSTER,
    SwitchWorld,
    bridge_settings,
    dual_port,
    dual_wire,
    eventually,
    wire,
)
from tests.stranger import STRANGER_MAC, stranger

VLAN = 100
ONE, TWO = "fd77::1", "fd77::2"
OTHER_MAC, OTHER, OTHER6 = "0a:67:0a:4d:00:63", "10.77.0.99", "fd77::99"
ALL, ALL_NODES = "255.255.255.255", "ff02::1"


@dataclass
class Place:
    """A bridge with two dual-stack attachments, and a trunk that sees what is flooded."""

    paths: list[str]
    watch: socket.socket


@asynccontextmanager
async def place(tmp_path: Path, ovs: OvsServer, driver: OvsSwitch) -> AsyncIterator[Place]:
    network = LinuxNetwork(CLUSTER, tmp_path / "netns", checksum_offload=False)
    trunk = wire(90)
    namespaces = [await network.ensure(each) for each in (dual_wire(1), dual_wire(2), trunk)]
    settings = replace(bridge_settings(ovs), uplinks=(trunk.link,))
    uplinked = OvsSwitch(ovs.socket, settings, clock=SystemClock(), log=make_log("test"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(uplinked.run())
        await uplinked.view()
        task.cancel()
    await driver.restore_flows(list)
    watch = f.raw_socket(namespaces[2].path)
    try:
        yield Place([each.path for each in namespaces], watch)
    finally:
        watch.close()
        network.close()


@pytest.fixture
async def spot(
    switch: SwitchWorld, tmp_path: Path, ovs: OvsServer
) -> AsyncIterator[tuple[Place, OvsSwitch]]:
    assert isinstance(switch.driver, OvsSwitch)
    async with place(tmp_path, ovs, switch.driver) as made:
        yield made, switch.driver


def honest(me: SwitchPort) -> dict[str, bytes]:
    """Frames that must pass, by name, without their destination."""
    own = flows.link_local(me.mac)

    def six(source: str, following: int, payload: bytes) -> bytes:
        return f.ethernet(me.mac, f.IPV6, f.ipv6(source, TWO, following, payload))

    def nd(*what: object) -> bytes:
        return f.ethernet(me.mac, f.IPV6, f.discovery(*what))  # type: ignore[arg-type]

    return {
        "arp request": f.ethernet(me.mac, f.ARP, f.arp(1, me.mac, me.ip, "10.77.0.2")),
        "arp reply": f.ethernet(me.mac, f.ARP, f.arp(2, me.mac, me.ip, "10.77.0.2")),
        "ipv4": f.ethernet(me.mac, f.IPV4, f.ipv4(me.ip, ALL, f.UDP, f.udp(5000, 67))),
        "ipv6": six(ONE, f.UDP, f.udp(5000, 547)),
        "ipv6 link-local": six(own, f.UDP, f.udp(5000, 53)),
        "echo": six(ONE, f.ICMPV6, f.icmpv6(ONE, TWO, 128, bytes(4))),
        "a fragment's rest": six(ONE, f.FRAGMENT, f.fragment(f.UDP, 1480, bytes(64), more=False)),
        "listener report": six(own, f.ICMPV6, f.icmpv6(own, TWO, 143, bytes(4))),
        "solicitation": nd(135, ONE, "ff02::1:ff00:2", TWO, me.mac),
        "solicitation from link-local": nd(135, own, "ff02::1:ff00:2", TWO, me.mac),
        "duplicate detection": nd(135, "::", "ff02::1:ff00:1", ONE),
        "duplicate detection of link-local": nd(135, "::", "ff02::1:ff00:1", own),
        "advertisement": nd(136, ONE, ALL_NODES, ONE, me.mac),
        "advertisement without option": nd(136, ONE, TWO, ONE),
        "advertisement of link-local": nd(136, own, TWO, own, me.mac),
    }  # fmt: skip


def forged(me: SwitchPort) -> dict[str, bytes]:
    """Frames that must not pass."""
    own = flows.link_local(me.mac)
    good4 = f.ipv4(me.ip, ALL, f.UDP, f.udp(5000, 53))
    good6 = f.ipv6(ONE, TWO, f.UDP, f.udp(5000, 53))
    plain = f.ethernet(me.mac, f.IPV4, good4)

    def four(source: str, payload: bytes) -> bytes:
        return f.ethernet(me.mac, f.IPV4, f.ipv4(source, ALL, f.UDP, payload))

    def six(source: str, following: int, payload: bytes) -> bytes:
        return f.ethernet(me.mac, f.IPV6, f.ipv6(source, ALL_NODES, following, payload))

    def icmp(source: str, kind: int, body: bytes) -> bytes:
        return six(source, f.ICMPV6, f.icmpv6(source, ALL_NODES, kind, body))

    def nd(*what: object, source: str = me.mac) -> bytes:
        return f.ethernet(source, f.IPV6, f.discovery(*what))  # type: ignore[arg-type]

    advert = f.icmpv6(own, ALL_NODES, 134, bytes(12))
    options = bytes((f.ICMPV6, 0)) + bytes(6)
    two_options = bytes((0, 0, 0, 0)) + IPv6Address(TWO).packed
    two_options += b"\1\1" + f.mac(me.mac) + b"\1\1" + f.mac(OTHER_MAC)
    return {
        "foreign MAC, ipv4": f.ethernet(OTHER_MAC, f.IPV4, good4),
        "foreign MAC, ipv6": f.ethernet(OTHER_MAC, f.IPV6, good6),
        "foreign MAC, arp": f.ethernet(OTHER_MAC, f.ARP, f.arp(1, me.mac, me.ip, OTHER)),
        "arp with foreign address": f.ethernet(me.mac, f.ARP, f.arp(2, me.mac, OTHER, me.ip)),
        "arp with foreign MAC": f.ethernet(me.mac, f.ARP, f.arp(2, OTHER_MAC, me.ip, OTHER)),
        "foreign ipv4": four(OTHER, f.udp(5000, 53)),
        "no ipv4": four("0.0.0.0", f.udp(68, 67)),
        "foreign ipv6": six(OTHER6, f.UDP, f.udp(5000, 53)),
        "foreign link-local": six("fe80::1", f.UDP, f.udp(5000, 53)),
        "no ipv6": six("::", f.UDP, f.udp(546, 547)),
        "solicitation from a foreign address": nd(135, OTHER6, ALL_NODES, TWO, me.mac),
        "solicitation with foreign option": nd(135, ONE, ALL_NODES, TWO, OTHER_MAC),
        "solicitation with two options": six(ONE, f.ICMPV6, f.icmpv6(ONE, ALL_NODES, 135, two_options)),
        "solicitation without option": nd(135, ONE, ALL_NODES, TWO),
        "duplicate detection of a foreign one": nd(135, "::", ALL_NODES, OTHER6),
        "duplicate detection with option": nd(135, "::", ALL_NODES, ONE, me.mac),
        "advertisement of a foreign target": nd(136, ONE, ALL_NODES, OTHER6, me.mac),
        "advertisement from a foreign address": nd(136, OTHER6, ALL_NODES, OTHER6, me.mac),
        "advertisement with foreign option": nd(136, ONE, ALL_NODES, ONE, OTHER_MAC),
        "advertisement by foreign MAC": nd(136, ONE, ALL_NODES, ONE, me.mac, source=OTHER_MAC),
        "dhcp server": four(me.ip, f.udp(67, 68)),
        "dhcpv6 server": six(own, f.UDP, f.udp(547, 546)),
        "router advertisement": six(own, f.ICMPV6, advert),
        "router advertisement from its address": icmp(ONE, 134, bytes(12)),
        "router solicitation": icmp(own, 133, bytes(4)),
        "redirect": icmp(own, 137, bytes(36)),
        "listener query": icmp(own, 130, bytes(24)),
        "router advertisement behind options": six(own, f.OPTIONS, options + advert),
        "router advertisement in a later fragment": six(
            own, f.FRAGMENT, f.fragment(f.OPTIONS, 0, options, more=True)
        ),
        "dhcpv6 server in a later fragment": six(
            own, f.FRAGMENT, f.fragment(f.OPTIONS, 0, bytes((f.UDP, 0)) + bytes(6), more=True)
        ),
        "options cut short": six(
            own, f.FRAGMENT, f.fragment(f.OPTIONS, 0, bytes((f.ICMPV6, 3)) + bytes(6), more=True)
        ),
        "another VLAN": f.tagged(f.QTAG, 200, plain),
        "its own VLAN": f.tagged(f.QTAG, VLAN, plain),
        "no VLAN but a tag": f.tagged(f.QTAG, 0, plain),
        "another VLAN behind none": f.tagged(f.QTAG, 0, f.tagged(f.QTAG, 200, plain)),
        "another VLAN behind its own": f.tagged(f.QTAG, VLAN, f.tagged(f.QTAG, 200, plain)),
        "a service tag": f.tagged(f.STAG, 200, plain),
        "a spanning tree": f.mac(me.mac) + b"\x00\x26\x42\x42\x03" + bytes(35),
        "another protocol": f.ethernet(me.mac, 0x88CC, bytes(46)),
    }  # fmt: skip


async def passes(at: Place, tries: dict[str, bytes], patience_s: float = 20.0) -> dict[str, int]:
    """Send each from the first namespace; the VLAN in which those were seen that passed.

    It looks until the last has come, or for so long: the switch may pause.
    """
    names = {f"02:00:00:00:00:{n:02x}": name for n, name in enumerate(tries)}
    sender = f.raw_socket(at.paths[0])
    last = [None, *names][-1]
    seen: dict[str, int] = {}

    def run() -> None:
        for to, name in names.items():
            sender.send(f.mac(to) + tries[name])
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            if (got := f.receive(at.watch)) is None:
                continue
            name = names.get(got[0][:6].hex(":"), "")
            if name:
                seen[name] = got[1]
            if got[0][:6].hex(":") == last:
                return  # frames of one port keep their order

    await asyncio.to_thread(run)
    sender.close()
    return seen


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_only_honest_frames_pass(spot: tuple[Place, OvsSwitch]) -> None:
    at, driver = spot
    me = dual_port(1)
    await driver.ensure([me, dual_port(2)])
    end = honest(me)["ipv4"]  # the last to be sent: by then all others were judged
    assert await passes(at, {**honest(me), "end": end}) == dict.fromkeys([*honest(me), "end"], VLAN)
    assert await passes(at, {**forged(me), "end": end}) == {"end": VLAN}


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_one_family_alone_sends_nothing_of_the_other(spot: tuple[Place, OvsSwitch]) -> None:
    at, driver = spot
    me = dual_port(1)
    sixes = {name: frame for name, frame in honest(me).items() if frame[6:8] == b"\x86\xdd"}
    fours = {name: frame for name, frame in honest(me).items() if name not in sixes}
    await driver.ensure([replace(me, ip6="")])
    assert set(await passes(at, {**sixes, **fours})) == set(fours)
    await driver.ensure([replace(me, ip="")])
    assert set(await passes(at, {**fours, **sixes})) == set(sixes)


def inside(path: str, *command: str) -> str:
    run = ["nsenter", f"--net={path}", *command]
    return subprocess.run(run, check=True, capture_output=True, text=True, timeout=20).stdout


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_neighbours_find_each_other_and_check_on_each_other(
    spot: tuple[Place, OvsSwitch],
) -> None:
    at, driver = spot
    await driver.ensure([dual_port(1), dual_port(2)])
    for address in (TWO, "10.77.0.2"):
        assert await asyncio.to_thread(f.answers, at.paths[1], at.paths[0], address)
    # A stale entry is checked on by unicast, from the link-local address, answered without an option.
    # Once more when nobody answered; by then the kernel may have forgotten the MAC.
    known = ("lladdr", dual_port(2).mac, "dev", "eth0", "nud", "probe")
    check_on = ("ip", "neigh", "replace", TWO, *known)
    await asyncio.to_thread(inside, at.paths[0], *check_on)

    async def reachable() -> bool:
        shown = await asyncio.to_thread(inside, at.paths[0], "ip", "neigh", "show", TWO)
        return "REACHABLE" in shown

    async with asyncio.timeout(30):
        while not await reachable():
            await asyncio.to_thread(inside, at.paths[0], *check_on)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_addresses_are_announced(spot: tuple[Place, OvsSwitch]) -> None:
    at, driver = spot
    await driver.ensure([dual_port(1)])
    wanted = set(flows.announcements(dual_port(1)))
    assert len(wanted) == 2

    def run() -> None:
        left = set(wanted)
        until = time.monotonic() + 20.0
        while left and time.monotonic() < until:
            if (got := f.receive(at.watch)) is not None:
                left.discard(got[0])
        assert not left

    await asyncio.to_thread(run)


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_who_has_an_address_beyond_the_uplinks_is_found(
    spot: tuple[Place, OvsSwitch], ovs: OvsServer
) -> None:
    at, driver = spot
    me = dual_port(1)
    await driver.ensure([me, dual_port(2)])
    uplinked = OvsSwitch(
        ovs.socket,
        replace(bridge_settings(ovs), uplinks=(wire(90).link,)),
        clock=SystemClock(),
        log=make_log("test", level="error"),
    )
    asked = [
        Probe(VLAN, me.mac, each) for each in (OTHER, OTHER6, "10.77.0.98", me.ip, "10.77.0.2")
    ]
    with stranger(at.paths[2], "eth0", {OTHER, OTHER6}):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(uplinked.run())
            # What a container says does not count: its own address is its own. The stranger may be late.
            wanted = dict.fromkeys(asked[:2], STRANGER_MAC)
            async with asyncio.timeout(20):
                while (found := await uplinked.probe(asked)) != wanted:
                    assert found.items() <= wanted.items()
            assert (await uplinked.inspect(lambda: [me, dual_port(2)])).foreign == ()
            with pytest.raises(Unavailable, match="refused"):
                await uplinked.probe([Probe(0x2000, me.mac, OTHER)])
            task.cancel()
    assert await driver.probe(asked) == {}  # that one has no uplinks


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_no_frame_passes_before_the_rules_are_there(
    spot: tuple[Place, OvsSwitch], switch: SwitchWorld
) -> None:
    """A sender that never stops, from before its port is there, and while the switch is killed and started."""
    at, driver = spot
    me = dual_port(1)
    bad = f.mac("02:00:00:00:00:66") + forged(me)["foreign ipv4"]
    good = f.mac("02:00:00:00:00:77") + honest(me)["ipv4"]
    ended, seen = threading.Event(), {"bad": 0, "good": 0}

    def send() -> None:
        with f.raw_socket(at.paths[0]) as sock:
            while not ended.wait(0.0005):
                sock.send(bad)
                sock.send(good)

    def look() -> None:
        while not ended.is_set():
            got = f.receive(at.watch)
            if got is not None and got[0][:6] in (bad[:6], good[:6]):
                seen["bad" if got[0][:6] == bad[:6] else "good"] += 1

    async def more() -> None:
        before = seen["good"]

        async def came() -> bool:
            return seen["good"] > before + 5

        await eventually(came)

    threads = [threading.Thread(target=each) for each in (send, look)]
    for each in threads:
        each.start()
    try:
        for _ in range(3):
            await driver.ensure([me])
            await more()
            await driver.remove([me.name])
        await driver.ensure([me])
        await driver.restarted()
        await switch.restart()
        await driver.restarted()
        await driver.restore_flows(lambda: [me])
        await more()
    finally:
        ended.set()
        for each in threads:
            each.join()
    assert seen["bad"] == 0


@pytest.mark.parametrize("switch", ["real"], indirect=True)
async def test_a_port_that_lost_its_number_is_silent(spot: tuple[Place, OvsSwitch]) -> None:
    at, driver = spot
    me = dual_port(1)
    await driver.ensure([me])
    # As if another had taken the number while the switch was down: the rules of before name another port.
    await driver.restore_flows(lambda: [replace(me, ofport=2500)])
    assert await passes(at, {**forged(me), **honest(me)}, patience_s=1.0) == {}
    await driver.restore_flows(lambda: [me])
    assert set(await passes(at, honest(me))) == set(honest(me))
