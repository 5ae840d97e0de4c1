"""A host as hostd sees it in production: its own process, a real engine with the shim, real OVS, the real ipam."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import aiodocker
from aiodocker.containers import DockerContainer

from infra.local import edge
from infra.local.layout import Layout, Vlan
from infra.provision import OvsServer, Server
from infra.provision.process import wait_gone, wait_stopped
from libs.common.clock import SystemClock
from libs.common.http import Kind, call_json
from libs.common.peers import PeerClient
from libs.common.runtime import CommonConfig, open_runtime, open_shared
from libs.common.tokens import TokenSigner
from services.hostd.flows import OWNER_COOKIE
from services.hostd.ofclient import OpenFlowClient
from services.hostd.openflow import Flow
from services.hostd.settings import HostdConfig
from services.ipam.model import IpamConfig
from services.ipam.service import run as run_ipam

ROOT = Path(__file__).resolve().parents[2]
HOST = "host-1"
IMAGE = "sample-web:v1"
PORT = 8080
HOST_INODE = os.stat("/proc/self/ns/net").st_ino
NETWORKS = (
    {"name": "red", "vlan": 100, "cidr": "10.88.0.0/24", "gateway": "10.88.0.1"},
    {"name": "blue", "vlan": 200, "cidr": "10.89.0.0/24", "gateway": "10.89.0.1"},
)


@dataclass
class Started:
    """A container that runs inside its attachment."""

    name: str
    container: DockerContainer
    ip: str
    namespace: str
    inode: int
    pid: int


@dataclass
class Host:
    """One cluster's hostd on this machine, with all that is around it."""

    cluster: str
    home: Path
    engine: Server
    ovs: OvsServer
    docker: aiodocker.Docker
    ipam_port: int
    client: PeerClient
    process: asyncio.subprocess.Process | None = None
    names: list[str] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return Path("/run/gantry", self.cluster)

    @property
    def registry(self) -> Path:
        return self.run_dir / "netns-reg"

    @property
    def bridge(self) -> str:
        return HostdConfig(host=HOST).bridge_name(self.cluster)

    @property
    def owner(self) -> str:
        return HostdConfig(host=HOST).owner(self.cluster)

    # -- processes -----------------------------------------------------------------------------------

    async def start_hostd(self, **settings: Any) -> None:
        flags = {
            "common.cluster": self.cluster,
            "common.data_dir": self.home / "data",
            "common.peers": f"{{ipam: 'http://127.0.0.1:{self.ipam_port}'}}",
            "hostd.host": HOST,
            "hostd.ovsdb": self.ovs.socket,
            "hostd.datapath_type": self.ovs.datapath_type,
            "hostd.docker": self.engine.socket,
            "hostd.runs": self.home / "executor" / self.cluster / "runs",
            "hostd.reconcile_s": 1,
            "hostd.watch_s": 0.5,
            **{f"hostd.{key}": value for key, value in settings.items()},
        }
        command = [sys.executable, "-m", "services.hostd"]
        with (self.home / "hostd.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, *(f"--{key}={value}" for key, value in flags.items()),
                cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        await self.until(self.is_ready, "hostd is not ready")

    async def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, (self.home / "hostd.log").read_text()[-2000:]
        with suppress(Exception):
            return (await self.client.call(self.url, "GET", "/readyz", timeout_s=2)).status == 200
        return False

    async def kill_hostd(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """hostd does nothing meanwhile."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            await wait_stopped((self.process.pid,), timeout_s=10)
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    async def stop_hostd(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self.process.wait(), 20)

    @asynccontextmanager
    async def ipam(self) -> AsyncIterator[None]:
        """The real ipam, in this process, at its port; its store lies on disk and outlives it."""
        common = CommonConfig(
            cluster=self.cluster,
            data_dir=self.home / "data",
            bus="memory:",
            store=f"sqlite://{self.home}/ipam.db",
            listen={"ipam": f"127.0.0.1:{self.ipam_port}"},
            log_level="error",
        )
        settings = {"ipam": IpamConfig.model_validate({"networks": NETWORKS, "cooldown_s": 0})}
        async with (
            open_shared(common, dict(settings)) as shared,
            open_runtime(shared, "ipam") as rt,
            asyncio.TaskGroup() as group,
        ):
            task = group.create_task(run_ipam(rt))
            try:
                await self.until(self._ipam_answers, "ipam does not answer")
                yield
            finally:
                task.cancel()

    async def _ipam_answers(self) -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.ipam_port)
            writer.close()
            return True
        return False

    # -- calls ---------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"unix:{self.run_dir}/hostd.sock"

    async def call(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        return await call_json(self.client, self.url, method, path, content, timeout_s=20)

    async def add(self, name: str, network: str = "red", **more: Any) -> dict[str, Any]:
        content = {"network": network, "instance": name, "attempt": name, "generation": 1, **more}
        answer: dict[str, Any] = await self.call("PUT", f"/v1/attachments/{name}/eth0", content)
        return answer

    async def register(self, name: str, container_id: str, generation: int = 1) -> Any:
        content = {"container_id": container_id, "generation": generation}
        return await self.call("POST", f"/v1/attachments/{name}/eth0/registration", content)

    async def revoke(self, name: str) -> bool:
        answer = await self.call("DELETE", f"/v1/attachments/{name}/eth0/registration")
        return bool(answer["revoked"])

    async def delete(self, name: str) -> bool:
        return bool((await self.call("DELETE", f"/v1/attachments/{name}/eth0"))["removed"])

    async def attachments(self) -> dict[str, dict[str, Any]]:
        found = await self.call("GET", "/v1/attachments")
        return {each["container"]: each for each in found["attachments"]}

    # -- containers ----------------------------------------------------------------------------------

    def name(self, short: str) -> str:
        full = f"{self.cluster}-{short}"
        self.names.append(full)
        return full

    async def create(self, name: str, **host_config: Any) -> DockerContainer:
        """As the executor creates one."""
        config: dict[str, Any] = {
            "Image": IMAGE,
            "Labels": {"gantry.cluster": self.cluster},
            "HostConfig": {
                "NetworkMode": "host",
                "Runtime": "gantry",
                "RestartPolicy": {"Name": "no"},
                **host_config,
            },
        }
        if not host_config.get("NetworkMode", "").startswith("container:"):
            config["Hostname"] = "web-1"
        return await self.docker.containers.create(config, name=name)

    async def start(self, short: str, network: str = "red", **more: Any) -> Started:
        """The whole way of a start: create, ADD, register, start."""
        name = self.name(short)
        container, view = await asyncio.gather(self.create(name), self.add(name, network, **more))
        await self.register(name, container.id)
        await container.start()
        pid = (await container.show())["State"]["Pid"]
        return Started(name, container, view["ip"], view["namespace"], view["inode"], pid)

    async def end(self, started: Started) -> None:
        """The whole way of an end."""
        await self.revoke(started.name)
        await started.container.delete(force=True)
        await self.delete(started.name)

    async def wait_served(self, namespace: str, ip: str, source: str = "") -> None:
        await self.until(partial(tcp, namespace, ip, source), f"{ip} does not answer")

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 60.0
    ) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not await condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log = self.home / "hostd.log"
            raise AssertionError(f"{what}; hostd: {log.read_text()[-3000:]}") from None

    # -- the switch ----------------------------------------------------------------------------------

    async def kill_switch(self, *, database: bool, wipe: bool = False) -> None:
        """kill -9 of ovs-vswitchd, and of ovsdb-server if asked, maybe with all it knew; then both start."""
        if database or wipe:
            await self.ovs.kill9()
        else:
            pid = int((self.ovs.data_dir / "ovs-vswitchd.pid").read_text())
            os.kill(pid, signal.SIGKILL)
            await wait_gone((pid,), timeout_s=10)
        if wipe:
            (self.ovs.data_dir / "conf.db").unlink()
        # The taps of a killed switch stay; one of them would be taken for another switch's.
        await asyncio.to_thread(run, "ip", "link", "delete", "ovs-netdev", check=False)
        await self.ovs.start()

    async def flows_of(self, name: str) -> dict[object, Flow]:
        """The flows of a container's port, by their place."""
        number = int(self.vsctl("get", "interface", self.port_of(name), "ofport"))
        client = await OpenFlowClient.connect(str(self.ovs.data_dir / f"{self.bridge}.mgmt"))
        async with asyncio.TaskGroup() as group:
            group.create_task(client.read_forever())
            found = await client.flows(OWNER_COOKIE | number)
            client.close()
        return {flow.place: flow for flow in found}

    def port_of(self, name: str) -> str:
        """The port of a container."""
        found = self.vsctl(
            "--bare", "--columns=name", "find", "port", f"external_ids:gantry-container={name}"
        )
        return found.strip()

    def vsctl(self, *arguments: str) -> str:
        return run("ovs-vsctl", f"--db=unix:{self.ovs.socket}", "--timeout=10", *arguments)


def run(*command: str, check: bool = True) -> str:
    """Output of a command."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def inside(namespace: str, *command: str, check: bool = True) -> str:
    """Output of a command inside a network namespace."""
    return run("nsenter", f"--net={namespace}", *command, check=check)


_FETCH = """
import socket, sys
ip, port, source = sys.argv[1:]
s = socket.create_connection((ip, int(port)), 1.0, (source, 0) if source else None)
s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
sys.exit(0 if b"200" in s.recv(100) else 1)
"""


async def tcp(namespace: str, ip: str, source: str = "") -> bool:
    """Does a web server answer over TCP at `ip`, asked from inside a namespace (within a second)?"""
    fetch = [sys.executable, "-IS", "-c", _FETCH, ip, str(PORT), source]
    process = await asyncio.create_subprocess_exec(
        "nsenter",
        f"--net={namespace}",
        *fetch,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await asyncio.wait_for(process.wait(), 10) == 0


async def ping(namespace: str, ip: str) -> bool:
    """Does the address answer ICMP, asked from inside a namespace (within a second)?"""
    command = ("busybox", "ping", "-c", "3", "-i", "0.2", "-W", "1", ip)
    process = await asyncio.create_subprocess_exec(
        "nsenter", f"--net={namespace}", *command,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    return await asyncio.wait_for(process.wait(), 10) == 0


_LISTEN = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 9))
s.settimeout(1.0)
print("ready", flush=True)
sys.exit(0 if s.recv(100) == b"hello" else 1)
"""
_SEND = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(3):
    s.sendto(b"hello", (sys.argv[1], 9))
"""


async def udp(namespace: str, there: str, ip: str) -> bool:
    """Does a datagram from inside a namespace to `ip` arrive at whoever listens inside another (within a second)?"""
    listener = await asyncio.create_subprocess_exec(
        "nsenter", f"--net={there}", sys.executable, "-IS", "-c", _LISTEN,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert listener.stdout is not None
    assert await listener.stdout.readline() == b"ready\n"
    await asyncio.to_thread(inside, namespace, sys.executable, "-IS", "-c", _SEND, ip)
    return await asyncio.wait_for(listener.wait(), 10) == 0


@asynccontextmanager
async def router(host: Host) -> AsyncIterator[str]:
    """A gateway with a leg in every network, as a local cluster has one; it forwards nothing. Yields its namespace."""
    vlans = tuple(
        Vlan(str(n["name"]), int(str(n["vlan"])), IPv4Network(n["cidr"])) for n in NETWORKS
    )
    layout = Layout(host.cluster, host.home, vlans=vlans, ovs_dir=host.ovs.data_dir)
    try:
        await edge.up(layout, host.bridge)
        yield layout.edge
    finally:
        await edge.down(layout)


@asynccontextmanager
async def open_host(
    tmp_path: Path, engine: Server, ovs: OvsServer, ipam_port: int, label: str
) -> AsyncIterator[Host]:
    """A Host with nothing running yet; all it made is gone afterwards."""
    cluster = f"it{label}{os.getpid()}"
    signer = TokenSigner(Kind.HOST, "test", b"0" * 32, SystemClock())
    client = PeerClient(signer, {})
    async with AsyncExitStack() as stack:
        docker = await stack.enter_async_context(aiodocker.Docker(url=engine.url))
        stack.push_async_callback(client.close)
        host = Host(cluster, tmp_path, engine, ovs, docker, ipam_port, client)
        try:
            yield host
        finally:
            await host.stop_hostd()
            await _clean(host)


async def _clean(host: Host) -> None:
    filters = {"label": [f"gantry.cluster={host.cluster}"]}
    for container in await host.docker.containers.list(all=True, filters=filters):
        with suppress(aiodocker.DockerError):
            await container.delete(force=True)
    host.vsctl("--if-exists", "del-br", host.bridge)
    for path in sorted((host.run_dir / "netns").glob("*")):
        run("umount", "-l", str(path), check=False)
    shutil.rmtree(host.run_dir, ignore_errors=True)
