"""Where everything of one local cluster lies, and which ports and networks it has."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from infra.provision.process import free_ports

PORTS = ("gateway", "ipam", "hostd", "mesos_master", "mesos_agent", "registry", "deployer")
USUAL_PORTS = {"gateway": 8080, "registry": 5000}
"""Tried first, so that things are where people and examples expect them."""


@dataclass(frozen=True)
class Vlan:
    """A network of the cluster. Its gateway's address belongs to the edge namespace."""

    name: str
    tag: int
    cidr: IPv4Network

    @property
    def gateway(self) -> IPv4Address:
        """The first address."""
        return self.cidr.network_address + 1


DEFAULT_VLANS = (
    Vlan("web", 110, IPv4Network("10.110.0.0/22")),
    Vlan("batch", 120, IPv4Network("10.120.0.0/24")),
)


@dataclass(frozen=True)
class Pool:
    """An HAProxy pool that apps may register in; it listens at `port` of all the edge's addresses."""

    name: str
    port: int
    slots: int = 200
    check_path: str = "/health"


# A host has one userspace datapath, so all local clusters share a switch; each has its own bridge.
SHARED_OVS = Path("/run/gantry-ovs")


@dataclass(frozen=True)
class Layout:
    """One local cluster. `root` must be short: unix sockets lie below it."""

    cluster: str
    root: Path
    vlans: tuple[Vlan, ...] = DEFAULT_VLANS
    pools: tuple[Pool, ...] = (Pool("acme-web", 8000),)
    cpus: float = 16.0
    mem_mib: int = 0  # 0: most of the machine's
    hostname: str = "node-1"
    cooldown_s: float = 60.0
    ovs_dir: Path = SHARED_OVS
    traced: bool = False
    units: tuple[str, ...] = ("acme",)  # who has a login at the cluster's registry from the start
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def repo(self) -> Path:
        """The checkout."""
        return Path(__file__).resolve().parents[2]

    @property
    def data(self) -> Path:
        """State of the control plane and hostd."""
        return self.root / "data"

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Where hostd's namespaces and registrations are."""
        return Path("/run/gantry") / self.cluster

    @property
    def edge(self) -> str:
        """The namespace that has a leg in each VLAN."""
        return f"gantry-edge-{self.cluster}"

    @property
    def haproxy_socket(self) -> Path:
        """HAProxy's runtime socket."""
        return self.root / "haproxy.sock"

    @property
    def trace_file(self) -> Path:
        """Where all processes put their spans, when the cluster is traced."""
        return self.root / "spans.jsonl"

    @property
    def shim(self) -> Path:
        """The OCI runtime shim."""
        return self.repo / "build/native/gantry-runc"

    @property
    def init(self) -> Path:
        """The first process of containers for runs."""
        return self.shim.with_name("gantry-init")

    @property
    def url(self) -> str:
        """The gateway's URL."""
        return f"http://127.0.0.1:{self.ports['gateway']}"

    @property
    def admin_key_file(self) -> Path:
        """The first admin key."""
        return self.data / "admin.key"


def choose_ports(root: Path, names: Sequence[str] = PORTS) -> dict[str, int]:
    """Free ports, chosen once and remembered, so that a restart finds its peers where they were."""
    file = root / "ports.json"
    if file.exists():
        known = json.loads(file.read_text())
        new = [name for name in names if name not in known]  # since a newer version
        known.update(zip(new, free_ports(len(new)), strict=True))
        if new:
            file.write_text(json.dumps(known, indent=2) + "\n")
        return {name: int(known[name]) for name in names}
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    ports |= {name: port for name, port in USUAL_PORTS.items() if name in ports and _is_free(port)}
    file.write_text(json.dumps(ports, indent=2) + "\n")
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def machine_mem_mib() -> int:
    """The machine's memory less a quarter, in MiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 3 // 4 // 1024
    raise OSError("/proc/meminfo has no MemTotal")
