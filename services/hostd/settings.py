"""What hostd is told: the section `hostd` of the configuration, and the paths made of it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from services.hostd.core import owner_tag


class HostdConfig(BaseModel):
    """The section `hostd`. Empty paths and names are derived from the cluster, so that two never collide."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("", description="this host's name; default: the machine's")
    zone: str = Field(
        "",
        max_length=64,
        description="where this host is, as its Mesos agent's attribute `zone` says: of a network's pools with a zone "
        "it uses those of this one; empty: all of them",
    )
    host_key_file: Path | None = Field(
        None, description="this host's own key, hex; default: made of the cluster's"
    )
    run_dir: Path | None = Field(
        None, description="default /run/gantry/<cluster>; gone after a boot"
    )
    socket: Path | None = Field(None, description="default <run_dir>/hostd.sock")
    listen: str = Field("", description="host:port for the gateway; empty: the socket only")
    ovsdb: Path = Path("/var/run/openvswitch/db.sock")
    bridge: str = Field(
        "", max_length=15, description="default gbr-<four digits of cluster and host>"
    )
    uplinks: tuple[str, ...] = Field(
        (), description="interfaces that carry the VLANs to other hosts"
    )
    datapath_type: Literal["netdev", "system"] = "system"
    fail_mode: Literal["secure", "standalone"] = "secure"
    docker: str = "/var/run/docker.sock"
    runtime: str = "gantry"
    runs: Path | None = Field(
        None,
        description="where the executor has what runs of jobs write, `<its data_dir>/<cluster>/runs`; "
        "default /var/lib/gantry/executor/<cluster>/runs",
    )
    reconcile_s: float = Field(30.0, gt=0)
    watch_s: float = Field(5.0, gt=0)
    executor_silent_s: float = Field(
        15.0,
        ge=5,
        le=600,
        description="an executor that gives no sign of life for so long is told of",
    )
    orphan_grace_s: float = Field(
        60.0, ge=0, description="how long an attachment stays whose container is gone"
    )
    launch_grace_s: float = Field(
        900.0,
        ge=0,
        description="how long one stays whose container is not there yet: its image may be pulled for as long as the "
        "executor waits for a launch",
    )
    start_empty: bool = Field(
        False,
        description="begin without state although containers run in namespaces of ours: they end, as nobody knows them",
    )
    batch: int = Field(
        64,
        ge=1,
        le=1024,
        description="ports that one change of the switch has at most; 1: each its own",
    )
    disks: tuple[Path, ...] = Field(
        (), description="to be watched besides the engine's and hostd's own, e.g. /var/lib/mesos"
    )
    disk_s: float = Field(15.0, gt=0)
    disk_low_pct: float = Field(
        10.0, ge=0, le=100, description="with less room or inodes left a disk is called low"
    )
    conflict_probe: Literal["off", "first_use", "always"] = Field(
        "always",
        description="ask by the uplinks whether another station has an address before it is used: never, "
        "only when ipam gives it for the first time, or each time that it gives it",
    )
    park_s: float = Field(
        60.0,
        ge=0,
        description="how long namespace, port and flows of a container that keeps its address wait for the next; "
        "0: not at all",
    )
    ipam_wait_s: float = Field(
        8.0, ge=0, description="how long an ADD waits for an ipam that is away"
    )

    cni_queue: Path | None = Field(
        None, description="where the CNI shim keeps DELs; default <data_dir>/hostd/cni"
    )
    cni_replay_s: float = Field(5.0, gt=0)

    def run_path(self, cluster: str) -> Path:
        """Where everything lies that must not outlive a boot."""
        return self.run_dir or Path("/run/gantry", cluster)

    def socket_path(self, cluster: str) -> Path:
        """Where the executor and the CNI shim connect."""
        return self.socket or self.run_path(cluster) / "hostd.sock"

    def runs_path(self, cluster: str) -> Path:
        """Where the executor's shared containers have their places."""
        return self.runs or Path("/var/lib/gantry/executor", cluster, "runs")

    def owner(self, cluster: str) -> str:
        """Whose the links and ports are: hosts that share a kernel never touch each other's."""
        return f"{cluster}/{self.host_name()}"

    def bridge_name(self, cluster: str) -> str:
        """The bridge of this host in this cluster."""
        return self.bridge or f"gbr-{owner_tag(self.owner(cluster))}"

    def host_name(self) -> str:
        """What ipam and the gateway know this host by."""
        return self.host or socket.gethostname()
