"""The distributed form on one machine: a process a service, on real Kafka, MongoDB-wire server and ZooKeeper.

Two hosts, each with a Docker engine, a bridge, hostd and a Mesos agent of its own; a Mesos master beside them; any
number of replicas of each service, and HAProxy in front of the gateways. Everything is idempotent: `start` mends what
is broken. `parts` has each process by name, so that tests can stop, kill and freeze it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yaml

from infra.images.build import BuiltImage, SampleImage, build_images
from infra.local import edge, front, leftovers
from infra.local.account import Account
from infra.local.configs import chronos
from infra.local.host import CONFIG_VARIABLE, Host
from infra.local.layout import SHARED_OVS, Layout, choose_ports
from infra.local.processes import Daemon, LocalError, end, run
from infra.local.stack import Say, answers, executors_of, remove_namespaces
from infra.provision.scripts import ovs_server, registry_server
from infra.provision.server import Server
from infra.provision.sources import KINDS
from services.hostd.core import owner_tag

SERVICES = ("ipam", "scheduler", "deployer", "monitor", "gateway")
PRINCIPAL = "gantry"
READY_S = 60.0
LEASE_S = 6.0


@dataclass(frozen=True)
class Part:
    """One thing that can fail. `start` returns when it answers again."""

    name: str
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[object]]
    kill9: Callable[[], Awaitable[None]]
    pause: Callable[[], Awaitable[None]]
    resume: Callable[[], Awaitable[None]]

    @classmethod
    def of(
        cls,
        daemon: Daemon,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[object]],
    ) -> Part:
        """A process of its own."""

        async def kill9() -> None:
            daemon.kill9()

        async def pause() -> None:
            daemon.pause()

        async def resume() -> None:
            daemon.resume()

        return cls(daemon.name, start, stop, kill9, pause, resume)


def _within(url: str, name: str) -> str:
    """A database or node of a server; what the URL says besides stays."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


class DistributedStack:
    """One local cluster of many processes. `replicas` is how many of each service run.

    `lent` are servers by kind, as `infra.provision` gives them: they are used, and whoever lent them takes them away.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        replicas: int = 1,
        lent: Mapping[str, Server] | None = None,
        say: Say = lambda _text: None,
    ) -> None:
        for directory, mode in (
            (layout.root, 0o700),
            (layout.root / "logs", 0o755),
            (layout.data, 0o700),
        ):
            directory.mkdir(parents=True, exist_ok=True, mode=mode)
        self._say = say
        self._lent = lent or {}
        self.names = tuple(f"{service}-{n + 1}" for service in SERVICES for n in range(replicas))
        hosts = ("h1", "h2")
        ports = ("gateway", "mesos_master", *self.names)
        ports += tuple(f"{kind}:{host}" for host in hosts for kind in ("hostd", "agent"))
        self.layout = replace(layout, ports=choose_ports(layout.root, ports))
        self.account = Account(self.layout)
        tag = owner_tag(layout.cluster)
        self.hosts = tuple(
            Host(self.layout, name, zone, (f"gt-{tag}{name[-1]}",))
            for name, zone in zip(hosts, ("a", "b"), strict=True)
        )
        self.servers: dict[str, Server] = {}
        self.parts: dict[str, Part] = {}
        self.credentials = layout.data / "mesos.credentials"
        self._monitor: Mapping[str, Any] = {}
        self.overruns: list[str] = []

    # -- starting

    async def start(self, monitor: Mapping[str, Any] | None = None) -> None:
        """Start all of it; returns when everything is ready. Raises LocalError."""
        self._monitor = monitor or {}
        await self._start_servers()
        self._write_secrets()
        await self._start_part("mesos-master", self.master)
        await self._join_bridges()
        for host in self.hosts:
            await self._start_part(host.hostd.name, host.hostd)
            await self._start_part(host.agent.name, host.agent)
        await edge.up(self.layout, self.hosts[0].bridge)
        edge.start_haproxy(self.layout)
        self._say("starting the services")
        await asyncio.gather(*(self._start_part(name, self.service(name)) for name in self.names))
        self._start_front()
        await self._until("gateways", lambda: answers(f"{self.layout.url}/readyz"))
        for service in SERVICES:
            await self._until(service, partial(self._one_ready, service))
        if self._login is not None:
            await self.account.give(self.registry, self.admin_key())

    async def _start_servers(self) -> None:
        self._say("starting Kafka, MongoDB, ZooKeeper, registry, Open vSwitch and Docker engines")
        await self._make_servers()
        await asyncio.gather(*(server.start() for server in self.servers.values()))
        for name, server in self.servers.items():
            self.parts[name] = Part(
                name, server.start, server.stop, server.kill9, server.pause, server.resume
            )

    async def _make_servers(self) -> None:
        root = self.layout.root
        made = dict(self._lent)
        for kind in ("kafka", "mongo", "zookeeper"):
            if kind not in made:
                made[kind] = await KINDS[kind](root / kind)
        if "registry" not in made:
            self.account.make()
            logins = self.account.logins_file
            made["registry"] = registry_server(root / "registry", logins=logins)
        made["ovs"] = ovs_server(self.layout.ovs_dir)
        registry = made["registry"].url.removeprefix("http://")
        for host in self.hosts:
            host.root.mkdir(exist_ok=True)
            made[f"engine-{host.name}"] = host.engine(registry)
        self.servers = made

    def _write_secrets(self) -> None:
        data = self.layout.data
        for file, content in (
            (data / "mesos.secret", secrets.token_urlsafe(32)),
            (data / "cluster.secret", secrets.token_hex(32)),
            *((host.executor_secret, secrets.token_hex(32)) for host in self.hosts),
        ):
            if not file.exists():
                file.touch(mode=0o600)
                file.write_text(content + "\n")
        self.credentials.touch(mode=0o600)
        secret = (data / "mesos.secret").read_text().strip()
        self.credentials.write_text(f"{PRINCIPAL} {secret}\n")

    async def _join_bridges(self) -> None:
        """The trunk between the hosts: hostd puts each end into its bridge as an uplink."""
        one, other = (host.uplinks[0] for host in self.hosts)
        if not Path("/sys/class/net", one).exists():
            await run("ip", "link", "add", one, "type", "veth", "peer", "name", other)
        for name in (one, other):
            await run("ip", "link", "set", name, "up")

    async def _start_part(self, name: str, daemon: Daemon) -> None:
        async def start() -> None:
            self.launch(name)
            await self._until(name, lambda: self._up(name), daemon)

        async def stop() -> None:
            self.overruns += await daemon.stop()

        self.parts[name] = Part.of(daemon, start, stop)
        await start()

    def launch(self, name: str) -> None:
        """Start the process of that name, unless it runs."""
        if name == "mesos-master":
            self._launch_master()
        elif name in self.names:
            config = self.layout.root / f"{name}.yaml"
            config.write_text(yaml.safe_dump(self.service_config(name), sort_keys=False))
            config.chmod(0o600)
            module = f"services.{name.rpartition('-')[0]}"
            command = (sys.executable, "-m", module, "--config", str(config))
            self.service(name).start(command, self.layout.repo)
        else:
            kind, _, host_name = name.partition("-")
            host = next(each for each in self.hosts if each.name == host_name)
            if kind == "hostd":
                host.start_hostd({each: self.urls(each) for each in ("ipam", "deployer")})
            else:
                host.start_agent(self.master_address, self.credentials)

    def _launch_master(self) -> None:
        flags = {
            "port": self.layout.ports["mesos_master"],
            "work_dir": self.layout.root / "mesos-master",
            "cluster": self.layout.cluster,
            "agent_ping_timeout": "3secs",
            "credentials": self.credentials,
            **{
                f"authenticate_http_{what}": "true"
                for what in ("frameworks", "readonly", "readwrite")
            },
        }
        command = (sys.executable, "-m", "libs.minimesos", "master")
        self.master.start((*command, *(f"--{k}={v}" for k, v in flags.items())), self.layout.repo)

    async def _up(self, name: str) -> bool:
        """Does it answer; a standby answers too."""
        if name == "mesos-master":
            return await answers(f"http://{self.master_address}/health")
        if name in self.names:
            return await answers(f"{self.url_of(name)}/healthz")
        kind, _, host_name = name.partition("-")
        host = next(each for each in self.hosts if each.name == host_name)
        if kind == "agent":
            return await answers(
                f"http://127.0.0.1:{self.layout.ports[f'agent:{host_name}']}/health"
            )
        connector = aiohttp.UnixConnector(str(host.run_dir / "hostd.sock"))
        return await answers("http://localhost/healthz", connector)

    async def _one_ready(self, service: str) -> bool:
        return any([await answers(f"{url}/readyz") for url in self.urls(service).split(",")])

    async def _until(
        self, what: str, ready: Callable[[], Awaitable[bool]], daemon: Daemon | None = None
    ) -> None:
        deadline = time.monotonic() + READY_S
        while not await ready():
            if daemon is not None and daemon.pid() is None:
                raise LocalError(f"{what} ended at once; {daemon.log} says:\n{daemon.tail()}")
            if time.monotonic() > deadline:
                raise LocalError(f"{what} is not ready; see the logs in {self.layout.logs}")
            await asyncio.sleep(0.1)

    # -- processes

    @property
    def master(self) -> Daemon:
        """The Mesos master."""
        return self._daemon("mesos-master")

    @property
    def master_address(self) -> str:
        """host:port of the Mesos master."""
        return f"127.0.0.1:{self.layout.ports['mesos_master']}"

    def service(self, name: str) -> Daemon:
        """A replica, such as `deployer-2`."""
        return self._daemon(name)

    def _daemon(self, name: str) -> Daemon:
        return Daemon(name, self.layout.root / f"{name}.pid", self.layout.logs / f"{name}.log")

    def url_of(self, name: str) -> str:
        """A replica's own URL."""
        return f"http://127.0.0.1:{self.layout.ports[name]}"

    def address_of(self, name: str) -> str:
        """Where a replica listens, host:port; the monitor calls it so, too."""
        return urlsplit(self.url_of(name)).netloc

    def urls(self, service: str) -> str:
        """All replicas of a service, as `common.peers` wants them."""
        return ",".join(self.url_of(each) for each in self.names if each.startswith(f"{service}-"))

    def executors(self) -> list[int]:
        """Executor processes (supervisors and workers) of this cluster."""
        return executors_of(self.layout.root)

    def engine_sockets(self) -> tuple[Path, ...]:
        """The hosts' Docker engines."""
        return tuple(host.socket for host in self.hosts)

    def admin_key(self) -> str:
        """The first admin key."""
        return self.layout.admin_key_file.read_text().strip()

    async def push_sample(self, version: str) -> BuiltImage:
        """The same app in another version, that no host has yet but the first one, whose engine builds it."""
        image = SampleImage("sample-web", version, version)
        engine = f"unix://{self.hosts[0].socket}"
        (built,) = await build_images(engine, self.registry, [image], login=self._login)
        return built

    async def push_samples(self) -> dict[str, BuiltImage]:
        """Build the sample images and push them; by `name:tag` without the registry."""
        engine = f"unix://{self.hosts[0].socket}"
        built = await build_images(engine, self.registry, login=self._login)
        return {image.name.rpartition("/")[2]: image for image in built}

    # -- configuration

    @property
    def registry(self) -> str:
        """Where the registry is, as images name it."""
        return self.servers["registry"].url.removeprefix("http://")

    @property
    def _login(self) -> tuple[str, str] | None:
        """For a registry of our own; one that was lent asks for none."""
        return None if "registry" in self._lent else self.account.login

    def service_config(self, name: str) -> dict[str, Any]:
        """The file of one replica, as it would be written by hand."""
        layout, service = self.layout, name.rpartition("-")[0]
        mesos = {
            "masters": [self.master_address],
            "principal": PRINCIPAL,
            "credential_file": str(layout.data / "mesos.secret"),
            "leader_lease_s": LEASE_S,
        }
        sections: dict[str, dict[str, Any]] = {
            "gateway": {"chronos": chronos(layout, self.registry)},
            "scheduler": {**mesos, "executor_command": self._executor_command()},
            "monitor": {**mesos, "endpoints": self._endpoints(), **self._monitor},
            "deployer": {"haproxy_sockets": [str(layout.haproxy_socket)]},
            "ipam": {
                "cooldown_s": layout.cooldown_s,
                "networks": [
                    {"name": v.name, "cidr": str(v.cidr), "vlan": v.tag, "gateway": str(v.gateway)}
                    for v in layout.vlans
                ],
            },
        }
        return {
            "common": {
                "cluster": layout.cluster,
                "data_dir": str(layout.data),
                "bus": self.servers["kafka"].url,
                "store": _within(self.servers["mongo"].url, layout.cluster),
                "election": _within(self.servers["zookeeper"].url, layout.cluster),
                "listen": {service: f"127.0.0.1:{layout.ports[name]}"},
                # Its own replicas, too: the monitor that leads watches the one that stands by.
                "peers": {each: self.urls(each) for each in SERVICES},
            },
            service: sections[service],
        }

    def _endpoints(self) -> dict[str, str]:
        """What nobody but the monitor would miss at once."""
        zookeeper = self.servers["zookeeper"].url.replace("zk://", "zookeeper://")
        return {"registry": f"{self.servers['registry'].url}/v2/", "zookeeper": zookeeper}

    def _executor_command(self) -> str:
        """The same for all hosts; what differs is in the file that each host's agent names."""
        return (
            f"cd {self.layout.repo} && exec {sys.executable} -m services.executor"
            f' --config "${CONFIG_VARIABLE}"'
        )

    def _start_front(self) -> None:
        """HAProxy before the gateways: people know one address."""
        gateways = {n: self.layout.ports[n] for n in self.names if n.startswith("gateway-")}
        config = self.layout.root / "front.cfg"
        config.write_text(front.render(self.layout.ports["gateway"], gateways))
        self._front.start(("haproxy", "-db", "-f", str(config)), self.layout.root)

    @property
    def _front(self) -> Daemon:
        return self._daemon("front")

    # -- stopping

    async def stop(self) -> None:
        """Stop Gantry's own processes; containers and the servers go on. `overruns` has those that had to be killed."""
        daemons = [self._front, *map(self.service, self.names)]
        daemons += [each for host in self.hosts for each in (host.agent,)]
        for daemon in daemons:
            daemon.resume()
        for overruns in await asyncio.gather(*(each.stop() for each in daemons)):
            self.overruns += overruns
        self.overruns += await end(self.executors())
        for daemon in (*(host.hostd for host in self.hosts), self.master):
            daemon.resume()
            self.overruns += await daemon.stop()

    async def destroy(self) -> None:
        """Stop everything and remove every trace."""
        await self.stop()
        await self._make_servers()
        await edge.down(self.layout)
        database = f"--db=unix:{self.layout.ovs_dir / 'db.sock'}"
        vsctl = ("ovs-vsctl", "--timeout=20", database)
        for host in self.hosts:
            await run(*vsctl, "--if-exists", "del-br", host.bridge, check=False)
        await run("ip", "link", "del", self.hosts[0].uplinks[0], check=False)
        for name, server in self.servers.items():
            if name != "ovs" and name not in self._lent:
                await server.control.resume()
                await server.control.purge()
        shared = self.layout.ovs_dir == SHARED_OVS
        if shared and not await run(*vsctl, "list-br", check=False):
            await self.servers["ovs"].control.purge()
        for host in self.hosts:
            await remove_namespaces(host.run_dir)
        shutil.rmtree(self.layout.root, ignore_errors=True)

    def leftovers(self) -> list[str]:
        """What of the cluster is still on the machine; empty after `destroy`."""
        left = [f"process {pid}" for pid in self.executors()]
        run_dirs = [host.run_dir for host in self.hosts]
        names = {each for host in self.hosts for each in (host.bridge, *host.uplinks)}
        return left + leftovers.of(
            self.layout, run_dirs, [host.owner for host in self.hosts], names
        )


def replicas_at(root: Path) -> int:
    """How many replicas of each service a cluster below `root` was started with; 0: there is none."""
    try:
        ports = json.loads((root / "ports.json").read_text())
    except OSError:
        return 0
    return sum(name.startswith("gateway-") for name in ports)
