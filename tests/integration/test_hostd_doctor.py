"""What the doctor says of a host that somebody broke, and what the wire says of an address; all parts are real."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from libs.cli.doctor_cmd import sentence
from libs.client.doctor import NetworkDiagnosis
from libs.common.clock import SystemClock
from libs.common.errors import NotFound
from libs.common.http import Kind, call_json
from libs.common.keys import SecretFile
from libs.common.peers import PeerClient
from libs.common.tokens import TokenSigner, party_keys
from tests.integration.hostd_host import HOST, Host, inside, run
from tests.stranger import stranger

UPLINK, FAR = "up0", "far0"


@dataclass
class Wired:
    """A host with an uplink, and a station at its other end that claims addresses."""

    host: Host
    claims: set[str]

    async def doctor(self) -> dict[str, set[str]]:
        """The checks that found something, by container ("": of the host)."""
        said = await self.host.call("GET", "/v1/doctor")
        checks: dict[str, set[str]] = {}
        for each in NetworkDiagnosis.model_validate(said).findings:
            assert each.what and each.advice and each.evidence, each
            assert sentence(each).startswith(f"{each.what} ({each.evidence}). "), (
                "as the command prints it"
            )
            checks.setdefault(each.container, set()).add(each.check)
        return checks

    async def finds(self, expected: dict[str, set[str]]) -> None:
        """These and no others. Looks again: a station may answer too late for one look, and nothing is mended."""
        found: dict[str, set[str]] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                while (found := await self.doctor()) != expected:
                    await asyncio.sleep(0.02)
        assert found == expected


@pytest.fixture
async def wired(bare_host: Host) -> AsyncIterator[Wired]:
    name = f"far{os.getpid()}"
    run("ip", "netns", "add", name)
    far = Path("/run/netns", name)
    for command in (
        f"link add {FAR} type veth peer name {UPLINK} netns {os.getpid()}",
        f"link set {FAR} up",
    ):
        inside(str(far), "ip", *command.split())
    run("ip", "link", "set", UPLINK, "up")
    async with AsyncExitStack() as stack:
        stack.callback(run, "ip", "netns", "delete", name)
        await stack.enter_async_context(bare_host.ipam())
        # Nothing is mended meanwhile.
        await bare_host.start_hostd(uplinks=f"[{UPLINK}]", reconcile_s=3600)
        claims: set[str] = set()
        stack.enter_context(stranger(str(far), FAR, claims))
        yield Wired(bare_host, claims)


async def give_it_away(host: Host, view: dict[str, Any]) -> None:
    """ipam takes an address back and gives it anew, without hostd's knowledge."""
    secret = SecretFile(host.home / "data/cluster.secret")
    key = party_keys(secret, Kind.HOST, HOST)
    peers = PeerClient(
        TokenSigner(Kind.HOST, HOST, key, SystemClock()),
        {"ipam": f"http://127.0.0.1:{host.ipam_port}"},
    )
    path = f"/v1/attachments/{view['attachment']}"
    query = f"?generation={view['address_generation']}"
    await call_json(peers, "ipam", "DELETE", path + query, timeout_s=5)
    await peers.close()


async def test_the_doctor_says_what_was_broken(wired: Wired) -> None:
    host = wired.host
    names = (
        "port",
        "tag",
        "flow",
        "down",
        "address",
        "route",
        "outer",
        "mtu",
        "taken",
        "lost",
        "gone",
    )
    views = {each: await host.add(host.name(each)) for each in names}
    assert await wired.doctor() == {}
    ports = {each: host.port_of(host.name(each)) for each in names}
    ofctl = ("ovs-ofctl", "-O", "OpenFlow13")
    bridge = f"unix:{host.ovs.data_dir}/{host.bridge}.mgmt"
    number = host.vsctl("get", "interface", ports["flow"], "ofport").strip()
    spaces = {each: views[each]["namespace"] for each in names}

    host.vsctl("del-port", host.bridge, ports["port"])
    host.vsctl("set", "port", ports["tag"], "tag=7")
    run(*ofctl, "del-flows", bridge, f"in_port={number},arp")
    inside(spaces["down"], "ip", "link", "set", "eth0", "down")
    inside(spaces["address"], "ip", "addr", "flush", "dev", "eth0")
    inside(spaces["route"], "ip", "route", "del", "default")
    run("ip", "link", "set", ports["outer"], "down")
    run("ip", "link", "set", ports["mtu"], "mtu", "1400")
    wired.claims.add(views["taken"]["ip"])
    await give_it_away(host, views["lost"])
    run("ip", "link", "delete", ports["gone"])
    full = {name: host.name(name) for name in names}
    expected = {
        full["port"]: {"port-missing"},
        full["tag"]: {"wrong-vlan"},
        full["flow"]: {"flows-missing"},
        full["down"]: {"interface-down", "route-missing"},
        full["address"]: {"address-missing", "route-missing"},
        full["route"]: {"route-missing"},
        full["outer"]: {"link-down"},
        full["mtu"]: {"mtu-mismatch"},
        full["taken"]: {"address-conflict"},
        full["lost"]: {"ipam-disagrees"},
        full["gone"]: {"link-missing", "interface-missing"},
    }
    await wired.finds(expected)
    run(*ofctl, "add-flow", bridge, "priority=50,tcp,actions=NORMAL")
    run("ip", "link", "set", UPLINK, "mtu", "1300")
    await wired.finds({**expected, "": {"flows-foreign", "mtu-mismatch"}})
    run("ip", "link", "set", UPLINK, "down")
    found = await wired.doctor()
    assert found[""] == {"flows-foreign", "uplink-down"}
    assert full["taken"] not in found  # nobody answers any more
    run("ip", "link", "delete", UPLINK)
    assert (await wired.doctor())[""] == {"flows-foreign", "uplink-missing"}
    await host.ovs.kill9()
    await host.until(lambda: _says(wired, "", "switch-down"), "the dead switch is not told")
    run("ip", "link", "delete", "ovs-netdev", check=False)
    await host.ovs.start()


async def _says(wired: Wired, container: str, check: str) -> bool:
    return check in (await wired.doctor()).get(container, ())


async def test_an_address_of_a_stranger_is_not_used(wired: Wired) -> None:
    host = wired.host
    wired.claims.add("10.88.0.3")
    for name, ip in (("first", "10.88.0.2"), ("second", "10.88.0.3")):
        assert (await host.add(host.name(name)))["ip"] == ip
    await host.register(host.name("first"), "1" * 64)
    with pytest.raises(NotFound):
        await host.register(host.name("second"), "2" * 64)
    assert "10.88.0.3" in (host.home / "hostd.log").read_text()
    assert not host.port_of(host.name("second"))
