"""Start and stop a whole local cluster, piece by piece, in the order in which they need each other.

Everything is idempotent: starting what runs changes nothing, so `start` after a crash of any piece mends it. `destroy`
leaves no container, port, namespace, bridge or process of the cluster behind.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from infra.images.build import BuiltImage, build_images
from infra.local import configs, edge, leftovers
from infra.local.account import Account
from infra.local.layout import SHARED_OVS, Layout, choose_ports
from infra.local.processes import Daemon, LocalError, end, run
from services.hostd.settings import HostdConfig

READY_S = 60.0
Say = Callable[[str], None]


class Stack:
    """One local cluster."""

    def __init__(self, layout: Layout, say: Say = lambda _text: None) -> None:
        layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        layout.logs.mkdir(exist_ok=True)
        layout.data.mkdir(exist_ok=True, mode=0o700)
        self.layout = replace(layout, ports=choose_ports(layout.root))
        self._say = say
        root, logs = layout.root, layout.logs
        self.control_plane = Daemon("control plane", root / "gantry.pid", logs / "gantry.log")
        self.hostd = Daemon("hostd", root / "hostd.pid", logs / "hostd.log")
        self.account = Account(self.layout)
        hostd = HostdConfig(host=layout.hostname)
        self.bridge = hostd.bridge_name(layout.cluster)
        self._owner = hostd.owner(layout.cluster)
        self.overruns: list[str] = []

    # -- starting

    async def start(self, monitor: Mapping[str, Any] | None = None) -> None:
        """Start all of it; returns when the gateway is ready. Raises LocalError."""
        await self.start_servers()
        configs.write_all(self.layout, monitor)
        await self.start_hostd()
        await edge.up(self.layout, self.bridge)
        edge.start_haproxy(self.layout)
        await self.start_control_plane()
        await self.account.give(self.registry, self.admin_key())

    async def start_servers(self) -> None:
        """Docker engine, Open vSwitch and registry, private ones below the root."""
        layout = self.layout
        infra = layout.repo / "infra"
        engine = (
            "--dir",
            layout.root / "engine",
            "--runtime-path",
            layout.shim,
            "--registry",
            self.registry,
        )
        self.account.make()
        registry = (
            *("--dir", layout.root / "registry", "--port", str(layout.ports["registry"])),
            *("--logins", self.account.logins_file),
        )
        async with asyncio.TaskGroup() as group:
            self._say("starting Docker engine, Open vSwitch and registry")
            group.create_task(run(infra / "host/engine.sh", "start", *engine))
            group.create_task(run(infra / "host/ovs.sh", "start", "--dir", layout.ovs_dir))
            group.create_task(run(infra / "registry/registry.sh", "start", *registry))

    async def start_hostd(self) -> None:
        """The host daemon; returns when its socket answers."""
        self._say("starting hostd")
        self._spawn(self.hostd, "services.hostd", "hostd")
        await self._until(self.hostd, self._hostd_ready)

    async def start_control_plane(self) -> None:
        """The five services and minimesos; returns when the gateway is ready."""
        self._say("starting the control plane")
        self._spawn(self.control_plane, "services", "gantry")
        await self._until(self.control_plane, self._gateway_ready)

    def _spawn(self, daemon: Daemon, module: str, config: str) -> None:
        file = self.layout.root / f"{config}.yaml"
        daemon.start((sys.executable, "-m", module, "--config", str(file)), self.layout.repo)

    async def _until(self, daemon: Daemon, ready: Callable[[], Any]) -> None:
        deadline = time.monotonic() + READY_S
        while not await ready():
            if daemon.pid() is None:
                raise LocalError(
                    f"{daemon.name} ended at once; {daemon.log} says:\n{daemon.tail()}"
                )
            if time.monotonic() > deadline:
                raise LocalError(f"{daemon.name} is not ready; {daemon.log} says:\n{daemon.tail()}")
            await asyncio.sleep(0.1)

    async def _hostd_ready(self) -> bool:
        connector = aiohttp.UnixConnector(str(self.layout.run / "hostd.sock"))
        return await answers("http://localhost/readyz", connector)

    async def _gateway_ready(self) -> bool:
        return await answers(f"{self.layout.url}/readyz") and self.layout.admin_key_file.exists()

    @property
    def registry(self) -> str:
        """Where the registry is, as images name it."""
        return f"127.0.0.1:{self.layout.ports['registry']}"

    def engine_sockets(self) -> tuple[Path, ...]:
        """The Docker engine, as the only one."""
        return (self.layout.root / "engine/docker.sock",)

    def admin_key(self) -> str:
        """The first admin key."""
        return self.layout.admin_key_file.read_text().strip()

    async def push_samples(self) -> dict[str, BuiltImage]:
        """Build the sample images and push them; by `name:tag` without the registry."""
        engine = f"unix://{self.layout.root / 'engine/docker.sock'}"
        built = await build_images(engine, self.registry, login=self.account.login)
        return {image.name.rpartition("/")[2]: image for image in built}

    # -- stopping

    def executors(self) -> list[int]:
        """Executor processes (supervisors and workers) that minimesos' agents of this cluster started."""
        return executors_of(self.layout.data)

    async def stop(self) -> None:
        """Stop Gantry's own processes; containers and the servers go on. `overruns` has those that had to be killed."""
        self.overruns += await self.control_plane.stop()
        self.overruns += await end(self.executors())
        self.overruns += await self.hostd.stop()

    async def destroy(self) -> None:
        """Stop everything and remove every trace."""
        await self.stop()
        layout = self.layout
        infra = layout.repo / "infra"
        await edge.down(layout)
        for script, name in (
            ("host/engine.sh", "engine"),
            ("registry/registry.sh", "registry"),
        ):
            await run(infra / script, "stop", "--dir", layout.root / name, "--purge")
        await self._leave_switch()
        await remove_namespaces(layout.run)
        shutil.rmtree(layout.root, ignore_errors=True)

    async def _leave_switch(self) -> None:
        """Remove the cluster's bridge, and the switch itself when no bridge is left on it."""
        database = f"--db=unix:{self.layout.ovs_dir / 'db.sock'}"
        vsctl = ("ovs-vsctl", "--timeout=20", database)
        if not (self.layout.ovs_dir / "db.sock").exists():
            return
        await run(*vsctl, "--if-exists", "del-br", self.bridge, check=False)
        if self.layout.ovs_dir == SHARED_OVS and not await run(*vsctl, "list-br", check=False):
            script = self.layout.repo / "infra/host/ovs.sh"
            await run(script, "stop", "--dir", self.layout.ovs_dir, "--purge")

    def leftovers(self) -> list[str]:
        """What of the cluster is still on the machine; empty after `destroy`."""
        layout = self.layout
        left = [f"process {pid}" for pid in self.executors()]
        left += leftovers.of(layout, (layout.run,), (self._owner,), {self.bridge})
        legs = (name for name in leftovers.links() if name.startswith(f"{self.bridge[-6:]}-e"))
        return left + [f"port {name}" for name in sorted(legs)]


def executors_of(directory: Path) -> list[int]:
    """Executor processes whose sandboxes lie below a directory."""
    sandbox = f"MESOS_DIRECTORY={directory}/".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                environ = (process / "environ").read_bytes()
            except OSError:
                continue
            if any(each.startswith(sandbox) for each in environ.split(b"\0")):
                found.append(int(process.name))
    return sorted(found)


async def remove_namespaces(run_dir: Path) -> None:
    """Unmount and remove the namespaces below a cluster's run directory; their veths go with them."""
    for namespace in sorted((run_dir / "netns").glob("*")):
        await run("umount", namespace, check=False)
    for line in Path("/proc/mounts").read_text().splitlines():
        mounted = line.split()[1]
        if mounted.startswith(f"{run_dir}/"):
            await run("umount", mounted, check=False)
    await asyncio.to_thread(shutil.rmtree, run_dir, True)


async def answers(url: str, connector: aiohttp.BaseConnector | None = None) -> bool:
    """Does a GET of it give 200."""
    timeout = aiohttp.ClientTimeout(total=2.0)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(url) as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
