"""Hosts as network namespaces: each with its own Open vSwitch, bridge and hostd, joined by a trunk; one ipam for all.

        trunk (a Linux bridge in a namespace of its own, all VLANs)
        ├── up0 │ host 1: ovsdb-server, ovs-vswitchd, hostd ── containers' namespaces
        └── up0 │ host 2: …                                    ipam: a process, SQLite, by a unix socket

All are processes of their own, so that each can be killed. Containers are the namespaces that hostd makes; the
engine that starts some in them is `engine.py`'s.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra.provision import OvsServer
from infra.provision.process import send, tail, wait_gone
from infra.provision.scripts import ovs_server
from libs.common.clock import SystemClock
from libs.common.errors import Unavailable
from libs.common.http import Kind, call_json
from libs.common.keys import open_secret
from libs.common.peers import PeerClient
from libs.common.tokens import TokenSigner, party_keys
from services.hostd.core import LINK_PREFIX, owner_tag
from services.hostd.settings import HostdConfig
from tests.network import places

REPOSITORY = Path(__file__).parents[2]
NETWORKS: tuple[dict[str, Any], ...] = (
    {"name": "red", "vlan": 100, "cidr": "10.88.0.0/24", "gateway": "10.88.0.1"},
    {"name": "blue", "vlan": 200, "cidr": "10.89.0.0/24", "gateway": "10.89.0.1"},
    {"name": "green", "vlan": 300, "cidr": "10.90.0.0/24", "gateway": "10.90.0.1"},
)
IFNAME = "eth0"
UPLINK = "up0"
READY_S, STOP_S, CALL_S = 60.0, 20.0, 30.0
POLL_S = 0.02

# Should this process die without its clean-up, a watcher ends all that runs in the site's namespaces, and removes them.
_WATCH = """
while kill -0 "$1" 2>/dev/null; do sleep 1; [ -d "$2" ] || exit 0; done
names=$(ip netns list | cut -d' ' -f1 | grep "^$3-")
for name in $names; do kill -9 $(ip netns pids "$name"); done
sleep 1
for name in $names; do ip netns delete "$name"; done
for each in /run/gantry/"$4"-*/netns/*; do umount -l "$each"; done
rm -rf /run/gantry/"$4"-* "$2"
"""


class Process:
    """A process of ours in some network namespace, known by its pid."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Does it run?"""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it (again)."""
        assert not self.alive
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def kill(self) -> None:
        """SIGKILL, and wait until it is dead."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, STOP_S)

    async def stop(self) -> None:
        """SIGTERM, and wait; SIGKILL when it takes too long."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            await self.kill()


@dataclass
class NetHost:
    """One host. Its namespace has the uplink `up0`, and what Open vSwitch and hostd make."""

    name: str
    cluster: str
    home: Path
    namespace: str
    ovs: OvsServer
    hostd: Process
    client: PeerClient

    @property
    def run_dir(self) -> Path:
        """What hostd keeps until the next boot."""
        return run_dir(self.cluster, self.name)

    @property
    def bridge(self) -> str:
        """Its bridge."""
        return HostdConfig(host=self.name).bridge_name(self.cluster)

    @property
    def link_prefix(self) -> str:
        """What the names of hostd's links begin with."""
        return f"{LINK_PREFIX}{owner_tag(HostdConfig(host=self.name).owner(self.cluster))}"

    @property
    def url(self) -> str:
        """hostd's."""
        return f"unix:{self.run_dir}/hostd.sock"

    async def call(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        """hostd's answer. Raises what it refuses with, and Unavailable."""
        return await call_json(self.client, self.url, method, path, content, timeout_s=CALL_S)

    async def is_ready(self) -> bool:
        """Could an ADD succeed? There is no engine on these hosts, and hostd says so."""
        assert self.hostd.alive, tail(self.hostd.log)
        with suppress(Unavailable):
            answer = await self.client.call(self.url, "GET", "/readyz", timeout_s=2)
            return answer.status == 200 or answer.json()["reason"].startswith("the engine: ")
        return False

    async def wait_ready(self) -> None:
        """Until `is_ready`."""
        await until(self.is_ready, lambda: f"{self.name} is not ready: {tail(self.hostd.log)}")

    async def add(self, container: str, network: str, **more: Any) -> dict[str, Any]:
        """ADD; the attachment."""
        content = {
            "network": network,
            "instance": container,
            "attempt": container,
            "generation": 1,
            "owner": "cni",  # no engine knows these containers
            **more,
        }
        answer: dict[str, Any] = await self.call("PUT", attachment_path(container), content)
        return answer

    async def register(self, container: str, engine_id: str) -> None:
        """Give leave for one start."""
        content = {"container_id": engine_id, "generation": 1}
        await self.call("POST", f"{attachment_path(container)}/registration", content)

    async def delete(self, container: str) -> bool:
        """DEL; False: there was none."""
        return bool((await self.call("DELETE", attachment_path(container)))["removed"])

    async def attachments(self) -> dict[str, dict[str, Any]]:
        """All attachments, by container."""
        found = await self.call("GET", "/v1/attachments")
        return {each["container"]: each for each in found["attachments"]}

    async def kill_switch(self, *, database: bool = False) -> None:
        """kill -9 of ovs-vswitchd, or of ovsdb-server, alone; `ovs.start` starts what does not run."""
        switch, server = self.ovs.control.pids()
        pid = server if database else switch
        send([pid], signal.SIGKILL)
        await wait_gone([pid], timeout_s=STOP_S)

    def vsctl(self, *arguments: str, check: bool = True) -> str:
        """Output of ovs-vsctl; one that waits for a switch which does not run gives up."""
        command = ("ovs-vsctl", f"--db=unix:{self.ovs.socket}", "--timeout=10")
        return places.run(*command, *arguments, check=check)

    def ofctl(self, command: str, *arguments: str, check: bool = True) -> str:
        """Output of ovs-ofctl on the bridge."""
        bridge = f"unix:{self.ovs.data_dir}/{self.bridge}.mgmt"
        return places.run("ovs-ofctl", "-O", "OpenFlow13", command, bridge, *arguments, check=check)


@dataclass
class Site:
    """The hosts, the trunk and ipam."""

    label: str  # what the names of its namespaces begin with
    home: Path
    ipam: Process
    ipam_url: str
    client: PeerClient
    hosts: list[NetHost] = field(default_factory=list)

    @property
    def trunk(self) -> str:
        """The trunk's namespace."""
        return f"{self.label}-trunk"

    async def ipam_ready(self) -> bool:
        """Does ipam answer?"""
        assert self.ipam.alive, tail(self.ipam.log)
        with suppress(Unavailable):
            return (
                await self.client.call(self.ipam_url, "GET", "/readyz", timeout_s=2)
            ).status == 200
        return False

    async def start_ipam(self) -> None:
        """Start it; returns when it is ready."""
        self.ipam.start()
        await until(self.ipam_ready, lambda: f"ipam is not ready: {tail(self.ipam.log)}")

    async def used(self, network: str) -> list[dict[str, Any]]:
        """All addresses of a network that have been used, as ipam shows them."""
        found: list[dict[str, Any]] = []
        path, after = f"/v1/networks/{network}/addresses?limit=500", ""
        while True:
            page = await call_json(
                self.client, self.ipam_url, "GET", f"{path}&after={after}", timeout_s=CALL_S
            )
            found += page["addresses"]
            after = page.get("after", "")
            if not after:
                return found


async def until(
    condition: Callable[[], Awaitable[bool]], what: Callable[[], str], timeout_s: float = READY_S
) -> None:
    """Poll until the condition holds. Raises AssertionError with `what`."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(what()) from None


def attachment_path(container: str) -> str:
    """Where hostd has a container's attachment."""
    return f"/v1/attachments/{container}/{IFNAME}"


def run_dir(cluster: str, host: str) -> Path:
    """A host's; several hosts share this machine's /run."""
    return Path("/run/gantry", f"{cluster}-{host}")


@asynccontextmanager
async def open_site(
    hosts: int, *, hostd: Mapping[str, Any] | None = None, networks: Sequence[Any] = NETWORKS
) -> AsyncIterator[Site]:
    """A site at work; all of it is gone afterwards. `hostd` has settings beyond the usual ones."""
    mark = secrets.token_hex(2)
    home = Path(tempfile.mkdtemp(prefix="gn-", dir="/tmp"))  # unix sockets need short paths
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        cluster = f"net{mark}"
        keys = party_keys(open_secret(home / "cluster.secret"), Kind.SERVICE, "gateway")
        client = PeerClient(TokenSigner(Kind.SERVICE, "gateway", keys, SystemClock()), {})
        stack.push_async_callback(client.close)
        label = f"gn{mark}"
        _watch(home, label, cluster)
        ipam_place = places.make(f"{label}-ipam")
        stack.callback(places.remove, f"{label}-ipam")
        ipam, url = _ipam(home, cluster, networks, ipam_place)
        site = Site(label, home, ipam, url, client)
        stack.push_async_callback(ipam.stop)
        await site.start_ipam()
        _lay_trunk(site)
        stack.callback(places.remove, site.trunk)
        for n in range(1, hosts + 1):
            site.hosts.append(await stack.enter_async_context(_host(site, n, cluster, hostd or {})))
        for each in site.hosts:
            each.hostd.start()
        await asyncio.gather(*(each.wait_ready() for each in site.hosts))
        yield site


def _lay_trunk(site: Site) -> None:
    places.make(site.trunk)
    run = ("ip", "-n", site.trunk, "link")
    places.run(*run, "add", "trunk", "type", "bridge", "stp_state", "0")
    places.run(*run, "set", "trunk", "up")


@asynccontextmanager
async def _host(
    site: Site, n: int, cluster: str, settings: Mapping[str, Any]
) -> AsyncIterator[NetHost]:
    """A host whose switch runs, and whose hostd does not yet."""
    name, netns = f"host-{n}", f"{site.label}-h{n}"
    home = site.home / f"h{n}"
    home.mkdir()
    async with AsyncExitStack() as stack:
        namespace = places.make(netns)
        stack.callback(places.remove, netns)
        port = f"h{n}"
        places.run(
            *("ip", "link", "add", UPLINK, "netns", netns, "type", "veth"),
            *("peer", "name", port, "netns", site.trunk),
        )
        places.run("ip", "-n", netns, "link", "set", UPLINK, "up")
        places.run("ip", "-n", site.trunk, "link", "set", port, "master", "trunk", "up")
        ovs = ovs_server(home / "ovs", enter=places.entering(namespace))
        stack.push_async_callback(ovs.control.purge)
        await ovs.start()
        command = _hostd(site, name, cluster, ovs, home, settings)
        hostd = Process((*places.entering(namespace), *command), home / "hostd.log")
        host = NetHost(name, cluster, home, namespace, ovs, hostd, site.client)
        stack.callback(_forget, host.run_dir)
        stack.push_async_callback(hostd.stop)
        yield host


def _watch(home: Path, label: str, cluster: str) -> None:
    watch = ("setsid", "--fork", "sh", "-c", _WATCH, "gantry-watch")
    nothing = subprocess.DEVNULL
    subprocess.run(
        (*watch, str(os.getpid()), str(home), label, cluster),
        check=True, stdin=nothing, stdout=nothing, stderr=nothing,
    )  # fmt: skip


def _ipam(home: Path, cluster: str, networks: Sequence[Any], namespace: str) -> tuple[Process, str]:
    url = f"unix:{home}/ipam.sock"
    common = {
        "cluster": cluster,
        "data_dir": str(home / "ipam"),
        "secret_file": str(home / "cluster.secret"),
        "bus": f"sqlite://{home}/bus.db",
        "store": f"sqlite://{home}/store.db",
        "listen": {"ipam": url},
        "log_level": "warning",
    }
    file = home / "ipam.yaml"
    ipam = {"networks": list(networks), "cooldown_s": 0}
    file.write_text(yaml.safe_dump({"common": common, "ipam": ipam}))
    command = (sys.executable, "-m", "services.ipam", "--config", str(file))
    return Process((*places.entering(namespace), *command), home / "ipam.log"), url


def _hostd(
    site: Site, name: str, cluster: str, ovs: OvsServer, home: Path, settings: Mapping[str, Any]
) -> tuple[str, ...]:
    common = {
        "cluster": cluster,
        "data_dir": str(home / "data"),
        "secret_file": str(site.home / "cluster.secret"),
        "peers": {"ipam": site.ipam_url},
    }
    hostd = {
        "host": name,
        "run_dir": str(run_dir(cluster, name)),
        "ovsdb": str(ovs.socket),
        "datapath_type": ovs.datapath_type,
        "uplinks": [UPLINK],
        "docker": str(home / "no-engine.sock"),
        "reconcile_s": 1,
        "watch_s": 3600,
        "disk_s": 3600,
        **settings,
    }
    file = home / "hostd.yaml"
    file.write_text(yaml.safe_dump({"common": common, "hostd": hostd}))
    return (sys.executable, "-m", "services.hostd", "--config", str(file))


def _forget(directory: Path) -> None:
    for path in sorted((directory / "netns").glob("*")):
        places.run("umount", "-l", str(path), check=False)
    shutil.rmtree(directory, ignore_errors=True)
