"""The command line: Mesos' flag names, `--work_dir` and `--work-dir` alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import orjson

from libs.minimesos.config import AgentConfig, MasterConfig, set_flag
from libs.minimesos.errors import ConfigError

MODES = ("all", "master", "agent")
_BOOLEAN = frozenset({"virtual"})
# Given once, these mean the master in `all`; the agents' own ports and directories are derived.
_MASTER_ONLY_IN_ALL = frozenset({"port", "work_dir", "hostname", "master"})


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    mode: str
    work_dir: Path | None
    master: MasterConfig
    agents: tuple[AgentConfig, ...]


def parse(argv: Sequence[str]) -> Options:
    """Options from the arguments after the program name. Raises ConfigError."""
    if not argv or argv[0] not in MODES:
        raise ConfigError(f"expected one of {', '.join(MODES)} as the first argument")
    mode, given = argv[0], _pairs(argv[1:])
    if "credentials" in given:
        credentials: Mapping[str, str] = read_credentials(Path(given.pop("credentials")))
    else:
        credentials = {}
    count = _integer("agents", given.pop("agents", "1"))
    agent_port = _integer("agent_port", given.pop("agent_port", "5051"))
    # Accepted for compatibility: basic is the only way, and no ZooKeeper is ever asked.
    for name in ("http_framework_authenticators", "http_authenticators", "quorum", "zk"):
        given.pop(name, None)
    master_values: dict[str, object] = {"credentials": credentials}
    agent_values: dict[str, object] = {"credentials": credentials}
    if mode != "master" and "jwt_secret_key" in given:
        agent_values["jwt_secret_key"] = _read_key(Path(given.pop("jwt_secret_key")))
    for name, text in given.items():
        _set(mode, name, text, master_values, agent_values)
    work_dir = given.get("work_dir")
    master_values.pop("work_dir", None)
    agent_values.pop("work_dir", None)
    master = MasterConfig(**master_values)  # type: ignore[arg-type]
    if mode == "all":
        ports = [0 if agent_port == 0 else agent_port + i for i in range(count)]
        agents = tuple(AgentConfig(**agent_values, port=port) for port in ports)  # type: ignore[arg-type]
    else:
        if mode == "agent" and not agent_values.get("master"):
            raise ConfigError("--master=HOST:PORT is needed")
        agents = (AgentConfig(**agent_values),)  # type: ignore[arg-type]
    return Options(mode, Path(work_dir) if work_dir else None, master, agents)


def _set(
    mode: str,
    name: str,
    text: str,
    master_values: dict[str, object],
    agent_values: dict[str, object],
) -> None:
    known = False
    if mode != "agent":
        known = set_flag(master_values, MasterConfig, name, text)
    if mode != "master" and not (mode == "all" and name in _MASTER_ONLY_IN_ALL):
        known = set_flag(agent_values, AgentConfig, name, text) or known
    if not known:
        raise ConfigError(f"unknown flag --{name} for {mode}")


def _pairs(arguments: Sequence[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    waiting: str | None = None
    for argument in arguments:
        if waiting is not None:
            out[waiting], waiting = argument, None
            continue
        if not argument.startswith("--"):
            raise ConfigError(f"'{argument}' is not a flag")
        name, separator, value = argument[2:].partition("=")
        name = name.replace("-", "_")
        if separator:
            out[name] = value
        elif name in _BOOLEAN:
            out[name] = "true"
        else:
            waiting = name
    if waiting is not None:
        raise ConfigError(f"--{waiting} needs a value")
    return out


def _integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"--{name}: '{text}' is not a number") from error


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--jwt_secret_key: {error}") from error


def read_credentials(path: Path) -> dict[str, str]:
    """Principals and secrets from Mesos' JSON or its `principal secret` lines."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"--credentials: {error}") from error
    if text.lstrip().startswith("{"):
        try:
            entries = orjson.loads(text)["credentials"]
            return {entry["principal"]: entry["secret"] for entry in entries}
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise ConfigError(f"--credentials: {path} is not Mesos' JSON") from error
    pairs = [line.split() for line in text.splitlines() if line.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise ConfigError(f"--credentials: {path} has a line that is not 'principal secret'")
    return {pair[0]: pair[1] for pair in pairs}


def known_flags() -> list[str]:
    """All flag names, for the usage text."""
    names = {f.name.removesuffix("_s") for c in (MasterConfig, AgentConfig) for f in fields(c)}
    return sorted(names | {"agents", "agent_port"})
