"""The CNI plugins on the real hostd, Open vSwitch and ipam, driven by cnitool and as Mesos drives them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from infra.provision import OvsServer, Server
from infra.provision.process import free_ports
from tests.integration.cni_host import Cni, Done, open_cni
from tests.integration.hostd_host import PORT, ROOT, inside, open_host, run, tcp

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESOS = ROOT / "tests/unit/hostd/cni/mesos"
GATEWAY = "10.88.0.1"
T = TypeVar("T")


@pytest.fixture(scope="session")
def cnitool() -> Path:
    """The CNI project's driver of plugins."""
    return Path(run(str(ROOT / "infra/host/cnitool.sh")).strip())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host_at_work(
    ready_engine: Server, ovs: OvsServer, cnitool: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cni]:
    """One host for all tests here, with its plugins."""
    home = tmp_path_factory.mktemp("cni")
    async with (
        open_host(home, ready_engine, ovs, free_ports(1)[0], "c") as host,
        host.ipam(),
    ):
        await host.start_hostd()
        with open_cni(host, cnitool, home) as cni:
            yield cni


@pytest.fixture
def cni(host_at_work: Cni) -> Iterator[Cni]:
    """The host's plugins; namespaces that a test made go with it."""
    yield host_at_work
    host_at_work.drop_all()


async def until_clean(cni: Cni) -> None:
    """All that a test asked for is gone again."""

    async def clean() -> bool:
        ports = cni.host.vsctl("list-ports", cni.host.bridge).split()
        return await known(cni) == {} and not ports

    await cni.host.until(clean, "something is left")


async def off(call: Callable[..., T], *arguments: Any, **more: Any) -> T:
    """A blocking call, while ipam (in this process) can answer."""
    return await asyncio.to_thread(call, *arguments, **more)


async def tool(cni: Cni, verb: str, network: str, short: str, **env: str) -> Done:
    return await off(cni.cnitool, verb, network, short, **env)


async def known(cni: Cni) -> dict[str, dict[str, Any]]:
    """hostd's attachments, by instance."""
    return {each["instance"]: each for each in (await cni.host.attachments()).values()}


@asynccontextmanager
async def serving(netns: str) -> AsyncIterator[None]:
    """A web server in a namespace."""
    command = ("nsenter", f"--net={netns}", sys.executable, "-m", "http.server", str(PORT))
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    server = await asyncio.create_subprocess_exec(*command, **quiet)  # type: ignore[arg-type]
    try:
        yield
    finally:
        server.kill()
        await server.wait()


def bare(address: str) -> str:
    return address.partition("/")[0]


# -- as main plugin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.2.0", "1.0.0", "1.1.0"])
async def test_cnitool_drives_the_main_plugin(cni: Cni, version: str) -> None:
    file = "mesos-gantry.conf" if version == "0.2.0" else "gantry.conflist"
    network = cni.example(file, version)
    ips = {}
    for short in ("one", "two"):
        netns = cni.namespace(short)
        result = (await tool(cni, "add", network, short)).ok().json
        assert result["cniVersion"] == version
        (ip,) = cni.addresses(short)
        ips[short] = bare(ip)
        assert cni.routes(short) == {("default", GATEWAY), ("10.88.0.0/24", "")}
        if version == "0.2.0":
            route = [{"dst": "0.0.0.0/0", "gw": GATEWAY}]
            assert result["ip4"] == {"ip": ip, "gateway": GATEWAY, "routes": route}
        else:
            assert result["ips"] == [{"address": ip, "gateway": GATEWAY, "interface": 1}]
            assert (result["interfaces"][1]["sandbox"]) == netns
    async with serving(cni.netns["two"]):
        await cni.host.wait_served(cni.netns["one"], ips["two"])
    if version == "1.1.0":
        (await tool(cni, "status", network, "one")).ok()
    if version != "0.2.0":
        (await tool(cni, "check", network, "one")).ok()
        await broken_things_fail_a_check(cni, network)
    (await tool(cni, "del", network, "one")).ok()
    (await tool(cni, "del", network, "one")).ok()
    assert cni.addresses("one") == []
    assert Path(cni.netns["one"]).stat().st_ino  # the caller's, and still there
    if version == "1.1.0":
        (await tool(cni, "gc", network, "two")).ok()  # of all that cnitool knows of
    else:
        (await tool(cni, "del", network, "two")).ok()
    await until_clean(cni)


async def broken_things_fail_a_check(cni: Cni, network: str) -> None:
    netns = cni.netns["one"]
    for breaking, mending, said in (
        (("route", "del", "default"), ("route", "add", "default", "via", GATEWAY), "route"),
        (("link", "set", "eth0", "down"), ("link", "set", "eth0", "up"), "down"),
    ):
        inside(netns, "ip", *breaking)
        failed = await tool(cni, "check", network, "one")
        assert failed.code != 0 and said in failed.stderr
        inside(netns, "ip", *mending)
        if mending[0] == "link":  # which took the route along
            inside(netns, "ip", "route", "replace", "default", "via", GATEWAY)
    (await tool(cni, "check", network, "one")).ok()


async def test_a_fixed_address_and_mac(cni: Cni) -> None:
    network = cni.example("gantry.conflist", "1.1.0")
    cni.namespace("one")
    wished = {"CAP_ARGS": json.dumps({"ips": ["10.88.0.50/24"], "mac": "02:11:22:33:44:55"})}
    result = (await tool(cni, "add", network, "one", **wished)).ok().json
    assert cni.addresses("one") == ["10.88.0.50/24"]
    assert result["interfaces"][1]["mac"] == "02:11:22:33:44:55"
    (await tool(cni, "check", network, "one", **wished)).ok()
    cni.namespace("two")
    taken = await tool(cni, "add", network, "two", CNI_ARGS="IP=10.88.0.50")
    assert taken.code != 0 and "10.88.0.50 is allocated" in taken.stderr + taken.stdout
    assert cni.addresses("two") == []
    assert (await tool(cni, "add", network, "two", CNI_ARGS="IP=10.88.0.51")).ok()
    assert cni.addresses("two") == ["10.88.0.51/24"]
    async with serving(cni.netns["one"]):
        await cni.host.wait_served(cni.netns["two"], "10.88.0.50")
        inside(cni.netns["two"], "ip", "addr", "add", "10.88.0.200/32", "dev", "eth0")
        assert not await tcp(cni.netns["two"], "10.88.0.50", source="10.88.0.200")
    for short in ("one", "two"):
        (await tool(cni, "del", network, short)).ok()
    await until_clean(cni)


async def test_what_is_the_containers_own_is_not_touched(cni: Cni) -> None:
    network = cni.example("gantry.conflist", "1.0.0")
    netns = cni.namespace("one")
    inside(netns, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    refused = await tool(cni, "add", network, "one")
    assert refused.code != 0 and "has an interface eth0 already" in refused.stderr + refused.stdout
    assert "eth0@other" in inside(netns, "ip", "-br", "link")
    inside(netns, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
    inside(netns, "ip", "link", "set", "eth0", "up")
    inside(netns, "ip", "route", "add", "default", "via", "192.0.2.2")
    refused = await tool(cni, "add", network, "one", CNI_IFNAME="eth1")
    assert refused.code != 0 and "default route" in refused.stderr + refused.stdout
    assert await known(cni) == {}
    second = cni.example("gantry.conflist", "1.0.0", defaultRoute=False)
    (await tool(cni, "add", second, "one", CNI_IFNAME="eth1")).ok()
    assert ("default", "192.0.2.2") in cni.routes("one")
    (await tool(cni, "del", second, "one", CNI_IFNAME="eth1")).ok()
    await until_clean(cni)
    host = {"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/proc/self/ns/net"}
    conf = {"cniVersion": "1.1.0", "name": "red"}
    said = (await off(cni.plugin, "gantry", "ADD", conf, **host)).json
    assert (said["code"], "host's own" in said["details"]) == (4, True)


async def test_it_survives_hostd_and_is_mended_in_its_namespace(cni: Cni) -> None:
    host, network = cni.host, cni.example("gantry.conflist", "1.0.0")
    for short in ("one", "two", "gone"):
        cni.namespace(short)
        (await tool(cni, "add", network, short)).ok()
    (ip,) = map(bare, cni.addresses("two"))
    before = {short: Path(cni.netns[short]).stat().st_ino for short in ("one", "two")}
    (container,) = [k for k, each in (await host.attachments()).items() if each["ip"] == ip]
    await host.kill_hostd()
    (link,) = [
        port
        for port in host.vsctl("list-ports", host.bridge).split()
        if container in host.vsctl("get", "port", port, "external_ids")
    ]
    run("ip", "link", "delete", link)
    cni.drop("gone")
    await host.start_hostd()
    async with serving(cni.netns["two"]):
        await host.wait_served(cni.netns["one"], ip)
    assert cni.addresses("two") == [f"{ip}/24"]
    assert {s: Path(cni.netns[s]).stat().st_ino for s in before} == before

    async def clean() -> bool:
        return len(host.vsctl("list-ports", host.bridge).split()) == 2

    await host.until(clean, "the port of a namespace that is no more stays")
    # Its DEL has yet to come: it has its address until then.
    assert len(await known(cni)) == 3
    for short in ("one", "two"):
        (await tool(cni, "del", network, short)).ok()
    (gone,) = await host.attachments()
    env = {"CNI_CONTAINERID": gone, "CNI_IFNAME": "eth0"}
    conf = {"cniVersion": "1.0.0", "name": network}
    (await off(cni.plugin, "gantry", "DEL", conf, **env)).ok()
    await until_clean(cni)


# -- as IPAM plugin, and over others -----------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.2.0", "1.0.0"])
async def test_debians_bridge_gets_its_addresses_here(cni: Cni, version: str) -> None:
    bridge = f"cb{cni.host.ipam_port}"
    network = cni.example("bridge-gantry-ipam.conflist", version, bridge=bridge)
    try:
        for short in ("one", "two"):
            cni.namespace(short)
            (await tool(cni, "add", network, short)).ok()
            if version == "1.0.0" and short == "one":  # the next one changes the bridge's MAC
                (await tool(cni, "check", network, short)).ok()
        assert [len(cni.addresses(short)) for short in ("one", "two")] == [1, 1]
        assert ("default", GATEWAY) in cni.routes("one")
        (ip,) = map(bare, cni.addresses("two"))
        async with serving(cni.netns["two"]):
            await cni.host.wait_served(cni.netns["one"], ip)
        assert ip in {each["ip"] for each in (await known(cni)).values()}
        assert cni.host.vsctl("list-ports", cni.host.bridge).split() == []
        for short in ("one", "two"):
            (await tool(cni, "del", network, short)).ok()
        await until_clean(cni)
    finally:
        run("ip", "link", "delete", bridge, check=False)


async def test_debians_macvlan_gets_its_addresses_here(cni: Cni) -> None:
    """Where the kernel has no macvlan, the plugin asks for an address all the same, fails, and gives it back."""
    master = f"cm{cni.host.ipam_port}"
    run("ip", "link", "add", master, "type", "veth", "peer", "name", f"{master}p")
    try:
        run("ip", "link", "set", master, "up")
        probe = run(
            "ip",
            "link",
            "add",
            "link",
            master,
            "name",
            f"{master}x",
            "type",
            "macvlan",
            check=False,
        )
        has_macvlan = f"{master}x" in run("ip", "-br", "link")
        run("ip", "link", "delete", f"{master}x", check=False)
        assert probe == ""
        network = cni.example("macvlan-gantry-ipam.conflist", "1.0.0", master=master)
        netns = cni.namespace("one")
        if has_macvlan:
            (await tool(cni, "add", network, "one")).ok()
            assert len(cni.addresses("one")) == 1
            (await tool(cni, "check", network, "one")).ok()
        else:
            failed = await tool(cni, "add", network, "one")
            assert failed.code != 0 and "macvlan" in failed.stderr + failed.stdout
            # What it asks of gantry-ipam, said by hand: the whole configuration, of type macvlan.
            conf = json.loads((cni.home / f"net.d/{network}.conflist").read_text())
            asked = {**conf["plugins"][0], "name": network, "cniVersion": "1.0.0"}
            env = {"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": netns}
            first = (await off(cni.plugin, "gantry-ipam", "ADD", asked, **env)).ok().json
            assert set(first) == {"cniVersion", "ips"}  # defaultRoute is off
            assert (await off(cni.plugin, "gantry-ipam", "ADD", asked, **env)).ok().json == first
            asked["prevResult"] = first
            (await off(cni.plugin, "gantry-ipam", "CHECK", asked, **env)).ok()
            (await off(cni.plugin, "gantry-ipam", "DEL", asked, **env)).ok()
            gone = (await off(cni.plugin, "gantry-ipam", "CHECK", asked, **env)).json
            assert gone["code"] == 3
        (await tool(cni, "del", network, "one")).ok()
        assert await known(cni) == {}
    finally:
        run("ip", "link", "delete", master)


async def test_host_local_and_static_give_addresses_to_ours(cni: Cni) -> None:
    books = cni.home / "books"
    section = json.loads((ROOT / "infra/cni/gantry-host-local.conflist").read_text())
    section = {**section["plugins"][0]["ipam"], "dataDir": str(books)}
    network = cni.example("gantry-host-local.conflist", "1.1.0", ipam=section)
    for short in ("one", "two"):
        cni.namespace(short)
        (await tool(cni, "add", network, short)).ok()
    assert [cni.addresses(short) for short in ("one", "two")] == [
        ["10.90.0.2/24"],
        ["10.90.0.3/24"],
    ]
    assert cni.routes("one") == {
        ("default", "10.90.0.1"), ("192.168.0.0/16", "10.90.0.2"), ("10.90.0.0/24", ""),
    }  # fmt: skip
    async with serving(cni.netns["two"]):
        await cni.host.wait_served(cni.netns["one"], "10.90.0.3")
    (await tool(cni, "check", network, "one")).ok()
    # An ADD that fails after the plugin gave an address leaves none there.
    netns = cni.namespace("three")
    inside(netns, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    assert (await tool(cni, "add", network, "three")).code != 0
    kept = {each.name for each in (books / network).iterdir()}
    assert {"10.90.0.2", "10.90.0.3"} < kept and "10.90.0.4" not in kept
    (books / network / "10.90.0.2").unlink()
    lost = await tool(cni, "check", network, "one")
    assert lost.code != 0 and "host-local" in lost.stderr + lost.stdout
    for short in ("one", "two"):
        (await tool(cni, "del", network, short)).ok()
    assert not [each for each in (books / network).iterdir() if each.name.startswith("10.")]
    fixed = cni.example("gantry-static.conflist", "1.0.0")
    wished = {"CAP_ARGS": json.dumps({"ips": ["10.91.0.9/24"]})}
    (await tool(cni, "add", fixed, "one", **wished)).ok()
    assert cni.addresses("one") == ["10.91.0.9/24"]
    (await tool(cni, "del", fixed, "one")).ok()
    assert await known(cni) == {}


# -- as Mesos does -----------------------------------------------------------------------------------


async def test_mesos_gets_what_it_understands(cni: Cni) -> None:
    conf = json.loads((MESOS / "task.json").read_text())
    env = {
        "CNI_CONTAINERID": "0e9c2c4e-7d6a-4a0a-b5b3-6c0ad6e0a1f7.5d",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": cni.namespace("task"),
    }
    result = (await off(cni.plugin, "gantry", "ADD", conf, **env)).ok().json
    (ip,) = cni.addresses("task")
    assert set(result) == {"cniVersion", "ip4"} and result["ip4"]["ip"] == ip
    assert (await known(cni))["shop-web-7"]["ip"] == bare(ip)
    # After a reboot there is no namespace, and Mesos does not name one.
    cni.drop("task")
    del env["CNI_NETNS"]
    for _ in range(2):
        done = await off(cni.plugin, "gantry", "DEL", conf, **env)
        assert (done.code, done.stdout) == (0, "")
    assert await known(cni) == {}


async def test_dels_without_hostd_are_kept_and_done(cni: Cni) -> None:
    host, conf = cni.host, json.loads((MESOS / "task.json").read_text())
    env = {"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": cni.namespace("task")}
    (await off(cni.plugin, "gantry", "ADD", conf, **env)).ok()
    await host.kill_hostd()
    refused = await off(cni.plugin, "gantry", "STATUS", conf)
    assert (refused.code, refused.json["code"]) == (1, 50)
    for _ in range(2):
        kept = await off(cni.plugin, "gantry", "DEL", conf, **env)
        assert (kept.code, kept.stdout) == (0, "") and "is kept" in kept.stderr
    assert [each.name for each in cni.queue.iterdir()] == ["gantry:c1:eth0"]
    assert cni.addresses("task") != []
    await host.start_hostd()

    async def gone() -> bool:
        return await known(cni) == {} and not list(cni.queue.iterdir())

    await host.until(gone, "the kept DEL is not done")
    assert cni.addresses("task") == []
    (await off(cni.plugin, "gantry", "ADD", conf, **env)).ok()
    (await off(cni.plugin, "gantry", "DEL", conf, **env)).ok()
    await until_clean(cni)
