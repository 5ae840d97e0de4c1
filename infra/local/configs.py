"""The configuration files of a local cluster's processes, as they would be written by hand."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.local.layout import Layout, machine_mem_mib

ZONE = "a"


def write_all(layout: Layout, monitor: Mapping[str, Any] | None = None) -> dict[str, Path]:
    """Write them; returns the file of each process. `monitor` is added to that section."""
    contents = {
        "gantry": control_plane(layout, monitor or {}),
        "hostd": hostd(layout),
        "executor": executor(layout),
    }
    files = {}
    for name, content in contents.items():
        file = layout.root / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        file.chmod(0o600)
        files[name] = file
    return files


def control_plane(layout: Layout, monitor: Mapping[str, Any]) -> dict[str, Any]:
    """All services and minimesos in one process."""
    ports = layout.ports
    master = f"127.0.0.1:{ports['mesos_master']}"
    credential = {"principal": "gantry", "credential_file": str(layout.data / "mesos.secret")}
    mem_mib = layout.mem_mib or machine_mem_mib()
    return {
        "common": {
            "cluster": layout.cluster,
            "data_dir": str(layout.data),
            "instance": "local",
            **_traced(layout),
            "listen": {
                "gateway": f"127.0.0.1:{ports['gateway']}",
                "ipam": f"127.0.0.1:{ports['ipam']}",
                "deployer": f"127.0.0.1:{ports['deployer']}",
            },
        },
        "minimesos": {
            "master_port": ports["mesos_master"],
            "agents": [
                {
                    "port": ports["mesos_agent"],
                    "hostname": layout.hostname,
                    "resources": f"cpus:{layout.cpus:g};mem:{mem_mib};disk:50000",
                    "attributes": f"zone:{ZONE};class:thin;hostd:http://127.0.0.1:{ports['hostd']}",
                }
            ],
        },
        "scheduler": {
            "masters": [master],
            # Of this checkout, whichever one the interpreter has installed.
            "executor_command": f"cd {layout.repo} && exec {sys.executable} -m services.executor"
            f" --config {layout.root / 'executor.yaml'}",
            **credential,
        },
        "monitor": {"masters": [master], **credential, **monitor},
        "gateway": {"chronos": chronos(layout, f"127.0.0.1:{ports['registry']}")},
        "ipam": {
            "cooldown_s": layout.cooldown_s,
            "networks": [
                {
                    "name": vlan.name,
                    "cidr": str(vlan.cidr),
                    "vlan": vlan.tag,
                    "gateway": str(vlan.gateway),
                }
                for vlan in layout.vlans
            ],
        },
        "deployer": {"haproxy_sockets": [str(layout.haproxy_socket)]},
    }


def chronos(layout: Layout, registry: str) -> dict[str, Any]:
    """What jobs of Chronos' clients get that don't say: the sample image has a shell and busybox's commands."""
    image = f"{registry}/sample-web:v1"
    return {"bu": "acme", "network": layout.vlans[0].name, "image": image}


def hostd(layout: Layout) -> dict[str, Any]:
    """The host daemon."""
    return {
        "common": {
            "cluster": layout.cluster,
            "data_dir": str(layout.data),
            "peers": {
                name: f"http://127.0.0.1:{layout.ports[name]}" for name in ("ipam", "deployer")
            },
            **_traced(layout),
        },
        "hostd": {
            "host": layout.hostname,
            "zone": ZONE,
            "listen": f"127.0.0.1:{layout.ports['hostd']}",
            "ovsdb": str(layout.ovs_dir / "db.sock"),
            "datapath_type": (layout.ovs_dir / "datapath-type").read_text().strip(),
            "docker": str(layout.root / "engine/docker.sock"),
            "runs": str(layout.data / "executor" / layout.cluster / "runs"),
        },
    }


def executor(layout: Layout) -> dict[str, Any]:
    """The executor: its file is flat, since it has one section only."""
    return {
        "cluster": layout.cluster,
        "agent": layout.hostname,
        "docker": f"unix://{layout.root / 'engine/docker.sock'}",
        "data_dir": str(layout.data / "executor"),
        "init": str(layout.init),
        **_traced(layout),
    }


def _traced(layout: Layout) -> dict[str, Any]:
    return {"trace_file": str(layout.trace_file)} if layout.traced else {}
