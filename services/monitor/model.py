"""Hosts and alerts, as the monitor keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

Severity = Literal["info", "warning", "critical"]


class SmtpConfig(BaseModel):
    """Where alerts are mailed to; no host means no mail."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = ""
    port: int = Field(25, ge=1, le=65535)
    sender: str = "gantry@localhost"
    recipients: tuple[str, ...] = ()
    user: str = ""
    password_file: Path | None = None
    start_tls: bool = False
    timeout_s: float = Field(10.0, gt=0)


class MonitorConfig(BaseModel):
    """The section `monitor`. Times are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    masters: tuple[str, ...] = ("127.0.0.1:5050",)
    principal: str = ""
    credential_file: Path | None = None
    smtp: SmtpConfig = SmtpConfig()
    crash_count: int = Field(3, ge=1, description="unwanted exits of an app…")
    crash_window_s: float = Field(300.0, gt=0, description="…within this time raise an alert")
    crash_quiet_s: float = Field(120.0, gt=0, description="without an exit: resolved")
    node_poll_s: float = Field(5.0, gt=0)
    sweep_s: float = Field(5.0, gt=0)
    leader_lease_s: float = Field(0.0, ge=0, description="0: the only monitor there is")
    probe_s: float = Field(5.0, gt=0, description="components are asked so often…")
    probe_timeout_s: float = Field(3.0, gt=0)
    probe_misses: int = Field(2, ge=1, description="…and down after so many failures in a row")
    blind_after_s: float = Field(
        30.0, gt=0, description="a longer time without any monitor is an alert of its own"
    )
    lag_limit: int = Field(10_000, ge=1, description="a service that is so many events behind, …")
    lag_s: float = Field(20.0, gt=0, description="…asked so often…")
    lag_probes: int = Field(3, ge=1, description="…and found so many times in a row, is an alert")
    disk_s: float = Field(30.0, gt=0, description="disks are looked at so often…")
    disk_low_pct: float = Field(
        10.0, ge=0, le=100, description="…and this machine's is low with less room than this left"
    )
    pool_s: float = Field(30.0, gt=0, description="networks are asked for so often…")
    pool_low_pct: float = Field(
        10.0, ge=0, le=100, description="…and a pool is low with less of its addresses free…"
    )
    pool_low_count: int = Field(
        16, ge=0, description="…or with fewer than so many, but at most a quarter of a small one…"
    )
    pool_probes: int = Field(2, ge=1, description="…found so many times in a row")
    job_s: float = Field(30.0, gt=0, description="the scheduler is asked so often whose jobs fail")
    keep_lost_s: float = Field(
        7 * 86_400.0, ge=60, description="a host that is lost for longer is forgotten"
    )
    keep_alerts_s: float = Field(
        30 * 86_400.0, ge=60, description="an alert that is over for longer is forgotten"
    )
    endpoints: dict[str, str] = Field(
        {},
        description="more components by name: http(s)://…, zookeeper://host:port or tcp://host:port",
    )

    @field_validator("endpoints")
    @classmethod
    def _urls(cls, given: dict[str, str]) -> dict[str, str]:
        for name, url in given.items():
            parts = urlsplit(url)
            bare = parts.scheme in ("tcp", "zookeeper")
            if not (bare or parts.scheme in ("http", "https")) or not parts.hostname:
                raise ValueError(
                    f"{name}: {url!r} is not http(s)://…, zookeeper://host:port or tcp://host:port"
                )
            if bare and parts.port is None:
                raise ValueError(f"{name}: {url!r} names no port")
        return given


class NodeState(StrEnum):
    """Of a host, as the master sees it."""

    UP = "up"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Node:
    """A host; a document. Amounts are cores and MiB."""

    id: str
    hostname: str
    state: NodeState = NodeState.UP
    attributes: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 0.0
    mem_mib: float = 0.0
    disk_mib: float = 0.0
    used_cpus: float = 0.0
    used_mem_mib: float = 0.0
    since: float = 0.0
    version: int = 0

    def same_host(self, other: Node) -> bool:
        """Do both say the same but for what is used, which is not worth a write."""
        return (self.hostname, self.state, self.attributes, self.cpus, self.mem_mib) == (
            other.hostname,
            other.state,
            other.attributes,
            other.cpus,
            other.mem_mib,
        )


Exit = tuple[float, str]
"""When something ended, and the id of the event that told it."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that may be wrong, e.g. `app-crashing:acme/web`; a document.

    `exits` are what the rule counts: when, and the event's id; `notified` is the state that the last mail told of,
    None from each turn until its mail is known to have been sent. A sender that dies in between is made up for: a turn
    that stays is told once at least.
    """

    id: str
    rule: str
    severity: Severity = "warning"
    labels: Mapping[str, str] = field(default_factory=dict)
    firing: bool = False
    summary: str = ""
    since: float = 0.0
    exits: tuple[Exit, ...] = ()
    notified: bool | None = False
    version: int = 0

    @property
    def unsettled(self) -> bool:
        """Is there still something to do about it: to tell, or to see the end of."""
        return self.firing or self.notified != self.firing or bool(self.exits)


_NODE = (
    *("hostname", "attributes", "cpus", "mem_mib", "disk_mib", "used_cpus", "used_mem_mib"),
    "since",
)
_ALERT = ("rule", "severity", "labels", "firing", "summary", "since", "notified")


def node_body(node: Node) -> dict[str, Any]:
    """The document of a node."""
    return {**{name: getattr(node, name) for name in _NODE}, "state": node.state.value}


def node_of(doc_id: str, version: int, body: Mapping[str, Any]) -> Node:
    """The node of a document."""
    known = {name: body[name] for name in _NODE}
    return Node(id=doc_id, version=version, state=NodeState(body["state"]), **known)


def alert_body(alert: Alert) -> dict[str, Any]:
    """The document of an alert."""
    body: dict[str, Any] = {name: getattr(alert, name) for name in _ALERT}
    body["exits"] = [list(each) for each in alert.exits]
    body["unsettled"] = alert.unsettled
    return body


def alert_of(doc_id: str, version: int, body: Mapping[str, Any]) -> Alert:
    """The alert of a document."""
    known = {name: body[name] for name in _ALERT}
    return Alert(
        id=doc_id, version=version, exits=tuple((at, event) for at, event in body["exits"]), **known
    )
