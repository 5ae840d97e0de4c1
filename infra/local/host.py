"""One host of a local cluster of several: a Docker engine, a bridge, hostd and a Mesos agent of its own.

The hosts share the machine's kernel and its Open vSwitch; a trunk (a veth pair between two bridges) joins their VLANs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.local.layout import Layout
from infra.local.processes import Daemon
from infra.provision.scripts import engine_server
from infra.provision.server import Server
from services.hostd.settings import HostdConfig

CONFIG_VARIABLE = "GANTRY_EXECUTOR_CONFIG"


@dataclass(frozen=True)
class Host:
    """Where everything of one host lies. Ports: `hostd:<name>` and `agent:<name>` of the layout's."""

    layout: Layout
    name: str
    zone: str
    uplinks: tuple[str, ...]

    @property
    def root(self) -> Path:
        """Its directory."""
        return self.layout.root / self.name

    @property
    def run_dir(self) -> Path:
        """hostd's; the runtime shim looks for registrations below /run/gantry/<any>."""
        return Path("/run/gantry", f"{self.layout.cluster}-{self.name}")

    @property
    def socket(self) -> Path:
        """The engine's."""
        return self.root / "engine/docker.sock"

    @property
    def bridge(self) -> str:
        """Its bridge."""
        return HostdConfig(host=self.name).bridge_name(self.layout.cluster)

    @property
    def owner(self) -> str:
        """Whose its instances' links are."""
        return HostdConfig(host=self.name).owner(self.layout.cluster)

    @property
    def hostd(self) -> Daemon:
        """The host daemon."""
        return self._daemon("hostd")

    @property
    def agent(self) -> Daemon:
        """The Mesos agent; executors outlive it."""
        return self._daemon("agent")

    def _daemon(self, name: str) -> Daemon:
        full = f"{name}-{self.name}"
        return Daemon(full, self.layout.root / f"{full}.pid", self.layout.logs / f"{full}.log")

    @property
    def executor_secret(self) -> Path:
        """By which the agent signs its executors' tokens."""
        return self.root / "executor.secret"

    # -- starting

    def engine(self, registry: str) -> Server:
        """The Docker engine, with the runtime that joins hostd's namespaces."""
        directory = self.root / "engine"
        return engine_server(directory, runtime_path=self.layout.shim, registries=[registry])

    def start_hostd(self, peers: Mapping[str, str]) -> None:
        """Start it; `peers` has the URLs of the replicas of those that it calls."""
        config = self.root / "hostd.yaml"
        _write(config, self._hostd_config(peers))
        command = (sys.executable, "-m", "services.hostd", "--config", str(config))
        self.hostd.start(command, self.layout.repo)

    def start_agent(self, master: str, credentials: Path) -> None:
        """Start it with what an executor of this host must know."""
        layout = self.layout
        _write(self.root / "executor.yaml", self._executor_config())
        variables = {CONFIG_VARIABLE: str(self.root / "executor.yaml")}
        flags = {
            "master": master,
            "port": layout.ports[f"agent:{self.name}"],
            "hostname": self.name,
            "work_dir": self.root / "mesos",
            "resources": f"cpus:{layout.cpus:g};mem:16384;disk:50000",
            "attributes": f"zone:{self.zone};class:thin;hostd:http://127.0.0.1:{layout.ports[f'hostd:{self.name}']}",
            "executor_environment_variables": json.dumps(variables),
            "authenticate_http_readonly": "true",
            "authenticate_http_readwrite": "true",
            "authenticate_http_executors": "true",
            "jwt_secret_key": self.executor_secret,
            "credentials": credentials,
        }
        command = (sys.executable, "-m", "libs.minimesos", "agent")
        self.agent.start((*command, *(f"--{k}={v}" for k, v in flags.items())), layout.repo)

    def _hostd_config(self, peers: Mapping[str, str]) -> dict[str, Any]:
        layout = self.layout
        return {
            "common": {
                "cluster": layout.cluster,
                "data_dir": str(self.root / "data"),
                "secret_file": str(layout.data / "cluster.secret"),
                "peers": dict(peers),
            },
            "hostd": {
                "host": self.name,
                "zone": self.zone,
                "run_dir": str(self.run_dir),
                "listen": f"127.0.0.1:{layout.ports[f'hostd:{self.name}']}",
                "ovsdb": str(layout.ovs_dir / "db.sock"),
                "datapath_type": (layout.ovs_dir / "datapath-type").read_text().strip(),
                "docker": str(self.socket),
                "runs": str(self.root / "executor" / layout.cluster / "runs"),
                "uplinks": list(self.uplinks),
            },
        }

    def _executor_config(self) -> dict[str, Any]:
        return {
            "cluster": self.layout.cluster,
            "agent": self.name,
            "docker": f"unix://{self.socket}",
            "hostd": f"unix:{self.run_dir}/hostd.sock",
            "data_dir": str(self.root / "executor"),
            "init": str(self.layout.init),
        }


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    file.chmod(0o600)
