"""hostd at work on a real engine, real Open vSwitch and the real ipam: who can talk to whom, and what stays true."""

from __future__ import annotations

import asyncio
import json
import os
from functools import partial
from pathlib import Path

import pytest

from infra.provision import OvsServer, Server
from infra.provision.process import free_ports
from libs.common.errors import Conflict, NotFound
from tests.integration.hostd_host import (
    HOST_INODE,
    PORT,
    Host,
    inside,
    open_host,
    ping,
    router,
    run,
    tcp,
    udp,
)

# -- who can talk to whom ------------------------------------------------------------------------


async def test_one_vlan_talks_and_two_do_not(host: Host) -> None:
    one, two, other = await asyncio.gather(
        host.start("one"), host.start("two"), host.start("other", "blue")
    )
    await host.wait_served(one.namespace, two.ip)
    await host.wait_served(two.namespace, one.ip)
    assert not await tcp(one.namespace, other.ip)
    # Also when both sides believe the other to be a neighbour.
    inside(one.namespace, "ip", "route", "add", "10.89.0.0/24", "dev", "eth0")
    inside(other.namespace, "ip", "route", "add", "10.88.0.0/24", "dev", "eth0")
    assert not await tcp(one.namespace, other.ip)
    assert not await tcp(other.namespace, one.ip)
    # The host itself has no way in.
    assert not await tcp("/proc/self/ns/net", one.ip)


async def test_the_gateway_is_no_way_into_another_vlan(host: Host) -> None:
    one, two, other = await asyncio.gather(
        host.start("one"), host.start("two"), host.start("other", "blue")
    )
    async with router(host) as gateway:
        for each, beyond, via in (
            (one, "10.89.0.0/24", "10.88.0.1"),
            (other, "10.88.0.0/24", "10.89.0.1"),
        ):
            inside(each.namespace, "ip", "route", "replace", beyond, "via", via)
        await host.wait_served(one.namespace, two.ip)
        # Each reaches its own gateway, which has a leg in the other VLAN, and gets no further: in any protocol.
        for asker, near, far in ((one, "10.88.0.1", other.ip), (other, "10.89.0.1", one.ip)):
            await host.until(partial(ping, asker.namespace, near), f"{near} does not answer")
            assert not await ping(asker.namespace, far)
            assert not await tcp(asker.namespace, far)
        sends = partial(udp, one.namespace, two.namespace, two.ip)
        await host.until(sends, "no datagram came")
        assert not await udp(one.namespace, other.namespace, other.ip)
        assert not await udp(other.namespace, one.namespace, one.ip)
        # The routes are right: one that forwards, which ours does not, would join them.
        run("ip", "netns", "exec", gateway, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        forwards = partial(udp, one.namespace, other.namespace, other.ip)
        await host.until(forwards, "no datagram came by the gateway")


async def test_the_container_sees_its_own_network_only(host: Host) -> None:
    one = await host.start("one")
    assert os.stat(f"/proc/{one.pid}/ns/net").st_ino == one.inode != HOST_INODE
    execution = await one.container.exec(["sh", "-c", "hostname; ls /sys/class/net; ip -4 -o a"])
    async with execution.start(detach=False) as stream:
        text = b""
        while (message := await stream.read_out()) is not None:
            text += message.data
    lines = text.decode().split()
    assert lines[0] == "web-1"
    assert lines[1:3] == ["eth0", "lo"]
    assert f"{one.ip}/24" in lines


async def test_a_sender_cannot_pretend(host: Host) -> None:
    one, two = await asyncio.gather(host.start("one"), host.start("two"))
    await host.wait_served(one.namespace, two.ip)
    inside(one.namespace, "ip", "addr", "add", "10.88.0.200/32", "dev", "eth0")
    assert not await tcp(one.namespace, two.ip, source="10.88.0.200")
    await host.wait_served(one.namespace, two.ip, source=one.ip)
    neighbours = inside(two.namespace, "ip", "neigh", "show", "10.88.0.200")
    assert "lladdr" not in neighbours
    inside(one.namespace, "ip", "link", "set", "eth0", "address", "0a:00:00:00:00:99")
    assert not await tcp(one.namespace, two.ip)


# -- staying true ----------------------------------------------------------------------------------


async def test_kill_9_changes_nothing(host: Host) -> None:
    one, two = await asyncio.gather(host.start("one"), host.start("two"))
    await host.wait_served(one.namespace, two.ip)
    name = host.name("waiting")
    waiting = await host.create(name)
    await host.add(name)
    await host.register(name, waiting.id)
    before = await host.attachments()
    await host.kill_hostd()
    await host.wait_served(one.namespace, two.ip)
    await waiting.start()  # leave given before the crash is good after it
    _leave_rubbish(host)
    await host.start_hostd()
    after = await host.attachments()
    for each in (*before.values(), *after.values()):
        del each["registered"]
    assert after == before
    assert (await host.add(one.name))["inode"] == one.inode
    await host.until(lambda: _rubbish_gone(host), "rubbish stays")
    await host.wait_served(one.namespace, two.ip)
    await host.end(one)
    await host.wait_served(two.namespace, after[name]["ip"])


def _leave_rubbish(host: Host) -> None:
    from services.hostd.core import link_name

    link = link_name(host.owner, "0000000000")
    run("ip", "link", "add", link, "type", "veth", "peer", "name", "rubbish0")
    host.vsctl(
        "add-port", host.bridge, link, "--", "set", "port", link,
        "external_ids:gantry-attachment=0000000000",
    )  # fmt: skip
    namespace = host.run_dir / "netns/0000000000"
    namespace.touch()
    run("unshare", f"--net={namespace}", "true")
    registration = host.registry / ("f" * 64)
    registration.write_text("gantry-registration 1\nnamespace=0000000000\n")


async def _rubbish_gone(host: Host) -> bool:
    ports = host.vsctl("list-ports", host.bridge)
    links = run("ip", "-br", "link")
    files = [path.name for path in (*host.registry.iterdir(), *(host.run_dir / "netns").iterdir())]
    return (
        "0000000000" not in ports
        and "0000000000" not in links
        and not any(name.startswith(("0000000000", "ffff")) for name in files)
    )


async def test_what_is_lost_is_mended(host: Host) -> None:
    one, two = await asyncio.gather(host.start("one"), host.start("two"))
    await host.wait_served(one.namespace, two.ip)
    port = next(
        name
        for name in host.vsctl("list-ports", host.bridge).split()
        if two.name in host.vsctl("get", "port", name, "external_ids")
    )
    async with host.frozen():  # it mends faster than a test can look
        host.vsctl("del-port", host.bridge, port)
        assert not await tcp(one.namespace, two.ip)
    await host.wait_served(one.namespace, two.ip)
    run("ip", "link", "delete", port)
    await host.wait_served(one.namespace, two.ip)
    assert Path(two.namespace).stat().st_ino == two.inode


async def test_del_waits_for_ipam_and_add_does_too(bare_host: Host) -> None:
    host = bare_host
    async with host.ipam():
        await host.start_hostd(ipam_wait_s=20)
        name = host.name("one")
        first = await host.add(name)
    assert await host.delete(name) is True
    assert await host.delete(name) is False
    await host.kill_hostd()
    await host.start_hostd(ipam_wait_s=20)
    two = host.name("two")
    adding = asyncio.ensure_future(host.add(two, ip=first["ip"]))
    async with host.ipam():
        # The address is free again although hostd died between the DEL and ipam's return. Until the release
        # has been replayed, ipam refuses.
        async def added() -> bool:
            nonlocal adding
            try:
                return bool((await adding)["ip"] == first["ip"])
            except Conflict:
                adding = asyncio.ensure_future(host.add(two, ip=first["ip"]))
                return False

        await host.until(added, "the address was not released")


async def test_an_orphan_is_collected(bare_host: Host) -> None:
    async with bare_host.ipam():
        await bare_host.start_hostd(orphan_grace_s=1)
        one = await bare_host.start("one")
        two = await bare_host.start("two")
        await two.container.delete(force=True)

        async def collected() -> bool:
            return list(await bare_host.attachments()) == [one.name]

        await bare_host.until(collected, "the orphan stays")


async def test_two_clusters_share_a_host(
    host: Host, tmp_path: Path, ready_engine: Server, ovs: OvsServer
) -> None:
    (tmp_path / "other").mkdir()
    async with open_host(tmp_path / "other", ready_engine, ovs, free_ports(1)[0], "o") as other:
        async with other.ipam():
            await other.start_hostd()
            mine, theirs = await asyncio.gather(host.start("one"), other.start("one"))
            assert mine.ip == theirs.ip
            assert await host.delete(theirs.name) is False
            await host.end(mine)
            assert list(await other.attachments()) == [theirs.name]
            assert Path(theirs.namespace).stat().st_ino == theirs.inode
        await other.stop_hostd()


# -- logs and numbers --------------------------------------------------------------------------------


async def test_logs_and_stats(host: Host) -> None:
    one, two = await asyncio.gather(host.start("one"), host.start("two"))
    await host.wait_served(two.namespace, one.ip)
    path = f"/v1/containers/{one.name}/logs?tail=1000"
    lines: list[dict[str, str]] = []

    async def written() -> bool:  # the engine copies what a container says, a moment later
        response = await host.client.call(host.url, "GET", path)
        lines[:] = [json.loads(line) for line in response.body.splitlines()]
        return bool(lines)

    await host.until(written, "nothing is in its log")
    for line in lines:
        assert set(line) == {"time", "stream", "line"}
    assert f"listens on port {PORT}" in lines[0]["line"]
    stats = await host.call("GET", f"/v1/containers/{one.name}/stats")
    assert stats["mem_bytes"] > 0 and stats["cpu_ns"] > 0 and stats["at"] > 0
    assert stats["pids"] >= 1
    assert stats["network"]["rx_bytes"] > 0
    with pytest.raises(NotFound):
        await host.call("GET", "/v1/containers/nobody/stats")
    with pytest.raises(NotFound):
        await host.call("GET", "/v1/containers/nobody/logs")
