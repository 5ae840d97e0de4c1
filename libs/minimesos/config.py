"""Flags of master and agent under Mesos' own names, with Mesos' defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from libs.minimesos.errors import ConfigError
from libs.minimesos.units import format_duration, parse_duration_s

DEFAULT_RESOURCES = "cpus:4;mem:4096;disk:10000;ports:[31000-32000]"
Credentials = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MasterConfig:
    """A master. Times in seconds; `credentials` maps principal to secret.

    `registry` "in_memory" forgets agents at a restart, as Mesos' does; otherwise they are kept. `leader` (host:port)
    makes it a standby, which sends its askers there; not `elected` is one that knows no leader.
    """

    ip: str = "127.0.0.1"
    port: int = 5050
    hostname: str = ""
    cluster: str = ""
    work_dir: str = ""
    registry: str = "replicated_log"
    agent_ping_timeout_s: float = 15.0
    max_agent_ping_timeouts: int = 5
    agent_reregister_timeout_s: float = 600.0
    allocation_interval_s: float = 1.0
    offer_timeout_s: float | None = None
    heartbeat_interval_s: float = 15.0
    min_allocatable_resources: str = "cpus:0.01|mem:32"
    filter_gpu_resources: bool = True
    authenticate_http_frameworks: bool = False
    authenticate_http_readonly: bool = False
    authenticate_http_readwrite: bool = False
    credentials: Credentials = field(default_factory=dict)
    max_completed_frameworks: int = 50
    max_completed_tasks_per_framework: int = 1000
    max_unreachable_tasks_per_framework: int = 1000
    max_operator_event_stream_subscribers: int = 1000
    elected: bool = True
    leader: str = ""

    @property
    def host(self) -> str:
        """The name under which the master is known."""
        return self.hostname or self.ip

    @property
    def leads(self) -> bool:
        """Is it the master that frameworks and agents are to talk to."""
        return self.elected and not self.leader


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """An agent. `work_dir` "" keeps nothing on disk; `virtual` runs tasks without processes.

    `master` may name several with commas between: the agent is with the one that leads. `jwt_secret_key` is what the
    flag's file holds; it signs executors' tokens.
    """

    ip: str = "127.0.0.1"
    port: int = 5051
    hostname: str = ""
    master: str = ""
    work_dir: str = ""
    resources: str = DEFAULT_RESOURCES
    attributes: str = ""
    executor_environment_variables: str = ""
    executor_registration_timeout_s: float = 60.0
    executor_reregistration_timeout_s: float = 2.0
    executor_shutdown_grace_period_s: float = 5.0
    recovery_timeout_s: float = 900.0
    gc_delay_s: float = 604_800.0
    gc_disk_headroom: float = 0.1
    disk_watch_interval_s: float = 60.0
    registration_backoff_factor_s: float = 1.0
    subscription_backoff_max_s: float = 2.0
    status_update_retry_interval_s: float = 10.0
    status_update_retry_interval_max_s: float = 600.0
    recover: str = "reconnect"
    switch_user: bool = True
    authenticate_http_readonly: bool = False
    authenticate_http_readwrite: bool = False
    authenticate_http_executors: bool = False
    jwt_secret_key: bytes = field(default=b"", repr=False)
    credentials: Credentials = field(default_factory=dict)
    max_completed_executors_per_framework: int = 150
    max_completed_frameworks: int = 50
    virtual: bool = False

    def __post_init__(self) -> None:
        values = self._variables()
        if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
            raise ConfigError("--executor_environment_variables: not a JSON object of strings")
        if self.authenticate_http_executors and not self.jwt_secret_key:
            raise ConfigError("--authenticate_http_executors=true needs --jwt_secret_key=FILE")

    @property
    def host(self) -> str:
        """The name under which the agent is known."""
        return self.hostname or self.ip

    @property
    def executor_variables(self) -> dict[str, str]:
        """Environment variables that every executor gets."""
        variables: dict[str, str] = self._variables()
        return variables

    def _variables(self) -> Any:
        try:
            return orjson.loads(self.executor_environment_variables or "{}")
        except orjson.JSONDecodeError:
            return None


_HIDDEN = frozenset(
    {"credentials", "jwt_secret_key", "elected", "leader", "virtual", "heartbeat_interval_s"}
)
_OWN = frozenset(
    {
        "subscription_backoff_max_s",
        "status_update_retry_interval_s",
        "status_update_retry_interval_max_s",
        "max_completed_frameworks",
    }
)
# Flags that minimesos has no use for, at the defaults of Mesos 1.12; clients read them from /state.
_MASTER_FIXED = {
    "allocator": "hierarchical",
    "allocator_agent_recovery_factor": "0.8",
    "allocator_recovery_timeout": "10mins",
    "authenticate_agents": "false",
    "authenticate_frameworks": "false",
    "authentication_v0_timeout": "15secs",
    "authenticators": "crammd5",
    "authorizers": "local",
    "framework_sorter": "drf",
    "help": "false",
    "hostname_lookup": "true",
    "http_authenticators": "basic",
    "initialize_driver_logging": "true",
    "log_auto_initialize": "true",
    "logbufsecs": "0",
    "logging_level": "INFO",
    "memory_profiling": "false",
    "offer_constraints_re2_max_mem": "4KB",
    "offer_constraints_re2_max_program_size": "100",
    "publish_per_framework_metrics": "true",
    "quiet": "false",
    "recovery_agent_removal_limit": "100%",
    "registry_fetch_timeout": "1mins",
    "registry_gc_interval": "15mins",
    "registry_max_agent_age": "2weeks",
    "registry_max_agent_count": "102400",
    "registry_store_timeout": "20secs",
    "registry_strict": "false",
    "require_agent_domain": "false",
    "role_sorter": "drf",
    "root_submissions": "true",
    "version": "false",
    "webui_dir": "/usr/share/mesos/webui",
    "zk_session_timeout": "10secs",
}
_AGENT_FIXED = {
    "authenticatee": "crammd5",
    "authorizer": "local",
    "container_disk_watch_interval": "15secs",
    "containerizers": "mesos",
    "default_role": "*",
    "docker": "docker",
    "fetcher_cache_size": "2GB",
    "fetcher_stall_timeout": "1mins",
    "frameworks_home": "",
    "help": "false",
    "hostname_lookup": "true",
    "http_command_executor": "false",
    "http_heartbeat_interval": "30secs",
    "initialize_driver_logging": "true",
    "isolation": "posix/cpu,posix/mem",
    "launcher": "posix",
    "launcher_dir": "/usr/libexec/mesos",
    "logbufsecs": "0",
    "logging_level": "INFO",
    "memory_profiling": "false",
    "oversubscribed_resources_interval": "15secs",
    "quiet": "false",
    "reconfiguration_policy": "equal",
    "runtime_dir": "/var/run/mesos",
    "sandbox_directory": "/mnt/mesos/sandbox",
    "strict": "true",
    "systemd_enable_support": "false",
    "version": "false",
    "zk_session_timeout": "10secs",
}


def flags(config: MasterConfig | AgentConfig) -> dict[str, str]:
    """The flags as /state, /flags and GET_FLAGS show them, sorted by name."""
    out = dict(_MASTER_FIXED if isinstance(config, MasterConfig) else _AGENT_FIXED)
    hidden = _HIDDEN if isinstance(config, MasterConfig) else _HIDDEN | _OWN
    for item in fields(config):
        value = getattr(config, item.name)
        if item.name in hidden or value is None or value == "":
            continue
        if item.name.endswith("_s"):
            out[item.name[:-2]] = format_duration(value)
        else:
            out[item.name] = str(value).lower() if isinstance(value, bool) else str(value)
    out["hostname"] = config.host
    return dict(sorted(out.items()))


def set_flag(values: dict[str, object], cls: type, name: str, text: str) -> bool:
    """Put flag `name` (Mesos' spelling) into keyword arguments for `cls`.

    False when `cls` has no such flag; raises ConfigError when the text does not fit.
    """
    by_name = {f.name: str(f.type) for f in fields(cls)}
    kind = by_name.get(name)
    if kind is None:
        if name + "_s" not in by_name:
            return False
        values[name + "_s"] = parse_duration_s(text)
        return True
    try:
        values[name] = _convert(kind, text)
    except ValueError as error:
        raise ConfigError(f"--{name}: '{text}' is not {kind}") from error
    return True


def _convert(kind: str, text: str) -> object:
    if kind == "bool":
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    if kind == "int":
        return int(text)
    if kind == "float":
        return float(text)
    return text
