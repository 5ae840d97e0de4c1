"""The compose files as docker-compose reads them, and what must hold of them, as lists of complaints.

Each check takes the resolved file, so that a test can also show that it would notice.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel

from libs.common import config
from libs.common.bus.kafka_url import parse_url
from libs.common.errors import InvalidInput
from libs.common.runtime import CommonConfig
from services.__main__ import SECTIONS
from services.hostd.settings import HostdConfig
from tests.unit.infra.calls import REPOSITORY as REPOSITORY
from tests.unit.infra.calls import calls

CONTROL_FILE = REPOSITORY / "docker-compose.yml"
HOST_FILE = REPOSITORY / "infra/compose/host.yml"
# Debian's, as `infra/host/setup.sh test` installs it. Without it these tests fail; they never skip.
COMPOSE = "/usr/bin/docker-compose"
CONTROL, HOST = "192.0.2.10", "192.0.2.20"
VARIABLES = {
    "CONTROL_ADDRESS": CONTROL,
    "HOST_NAME": "host-1",
    "HOST_ADDRESS": HOST,
    "HOST_UPLINK": "eth1",
    "HOST_RESOURCES": "cpus:14;mem:57344;disk:200000",
    "HOST_ATTRIBUTES": "zone:a;class:thin",
}
MODELS: Mapping[str, type[BaseModel]] = {
    **{name: model for name, model in SECTIONS.items() if name != "minimesos"},
    "hostd": HostdConfig,
}
PRIVILEGED = {"hostd", "mesos-agent"}
ONE_SHOT = {"install"}
SERVERS = {"kafka": 9092, "mongo": 27017, "mesos-master": 5050, "zookeeper": 2181}
MASTERS = 3
Parsed = dict[str, Any]


def run_compose(
    file: Path, *arguments: str, variables: Mapping[str, str] = VARIABLES
) -> subprocess.CompletedProcess[str]:
    """docker-compose on a file, with nothing but `variables` for it to fill in."""
    assert Path(COMPOSE).exists(), f"{COMPOSE} is missing: run infra/host/setup.sh test"
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables}
    with NamedTemporaryFile() as nothing:  # in the place of a `.env` that may be there
        command = [COMPOSE, "-f", str(file), "--env-file", nothing.name, *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)


@cache
def _resolved(file: Path) -> str:
    done = run_compose(file, "config")
    assert done.returncode == 0, done.stderr
    return done.stdout


def resolved(file: Path) -> Parsed:
    """The file with anchors and variables filled in; a copy of its own each time."""
    parsed: Parsed = yaml.safe_load(_resolved(file))
    return parsed


def control() -> Parsed:
    """docker-compose.yml."""
    return resolved(CONTROL_FILE)


def host() -> Parsed:
    """infra/compose/host.yml."""
    return resolved(HOST_FILE)


def version() -> str:
    """The project's version."""
    project: str = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    return project


def ours(parsed: Parsed) -> dict[str, Parsed]:
    """The containers that run one of our services."""
    image = f"gantry:{version()}"
    services: dict[str, Parsed] = parsed["services"]
    return {
        name: each
        for name, each in services.items()
        if each["image"].partition(":")[0] == image.partition(":")[0] and name not in ONE_SHOT
    }


def service_of(name: str) -> str:
    """Which service a container is a replica of: `deployer` for deployer-2."""
    return re.sub(r"-\d+$", "", name)


def addresses(parsed: Parsed, service: str) -> list[str]:
    """The base URL of each replica of a service."""
    found = []
    for name, each in ours(parsed).items():
        if service_of(name) == service:
            listen = settings(name, each)[0].listen.get(service, ":0")
            found.append(f"http://{name}:{port_of(listen)}")
    return found


def environment(service: Parsed) -> dict[str, str]:
    """Its variables."""
    return {name: str(value) for name, value in (service.get("environment") or {}).items()}


def mounted(service: Parsed) -> dict[str, Path]:
    """Paths inside, and what lies there outside."""
    found: dict[str, Path] = {}
    for each in service.get("volumes", ()):
        if isinstance(each, dict):
            found[each["target"]] = Path(each["source"])
        else:
            outside, inside, *_ = each.split(":")
            if outside.startswith("/"):
                found[inside] = Path(outside)
    return found


def settings(name: str, service: Parsed) -> tuple[CommonConfig, BaseModel]:
    """Both sections, read as the process would read them. Raises InvalidInput, KeyError."""
    words, name = iter(service["command"]), service_of(name)
    module, file = next(words), None
    assert module == f"services.{name}", f"{name} runs {module}"
    for word in words:
        assert word == "--config", word
        file = mounted(service)[next(words)]
    loaded = config.load(
        {"common": CommonConfig, name: MODELS[name]}, file=file, environ=environment(service)
    )
    common = loaded["common"]
    assert isinstance(common, CommonConfig)
    return common, loaded[name]


def port_of(address: str) -> int:
    """The port of `host:port`."""
    return int(address.rpartition(":")[2])


def published(service: Parsed) -> dict[int, tuple[str, int]]:
    """Published port → (address it is bound to, port inside)."""
    found: dict[int, tuple[str, int]] = {}
    for each in service.get("ports", ()):
        outside, _, inside = each.removesuffix("/tcp").rpartition(":")
        address, _, ports = outside.rpartition(":")
        first, _, last = ports.partition("-")
        for port in range(int(first), int(last or first) + 1):
            found[port] = (address, int(inside))
    return found


# -- checks ----------------------------------------------------------------------------------------


def wrong_settings(parsed: Parsed) -> Iterator[str]:
    """Each service of ours exists and takes its configuration."""
    for name, service in ours(parsed).items():
        if not (REPOSITORY / "services" / service_of(name) / "__main__.py").exists():
            yield f"{name}: there is no such service"
            continue
        try:
            settings(name, service)
        except (InvalidInput, KeyError, AssertionError) as error:
            yield f"{name}: {error!r}"


def wrong_servers(parsed: Parsed) -> Iterator[str]:
    """Bus, store and masters are servers of the file, the same for all services."""
    shared = set()
    for name, service in ours(parsed).items():
        common, section = settings(name, service)
        shared.add((common.cluster, common.bus, common.store, common.secret_file))
        bootstrap = parse_url(common.bus).bootstrap
        store = urlsplit(common.store).netloc
        electing = urlsplit(common.election).netloc.rpartition("@")[2]
        voters = electing.split(",") if hasattr(section, "leader_lease_s") else []
        for server in (*bootstrap, store, *getattr(section, "masters", ()), *voters):
            host, _, port = server.rpartition(":")
            if host not in parsed["services"] or int(port) != SERVERS.get(service_of(host)):
                yield f"{name}: no server {server}"
    if len(shared) != 1:
        yield f"services don't agree: {sorted(map(str, shared))}"


def wrong_topics(parsed: Parsed) -> Iterator[str]:
    """Topics are made by services alone, as `topics.py` has them, with as many copies as there can be.

    A broker that makes what it is asked for would give a topic its own partitions and retention, whoever asks first.
    """
    services: dict[str, Parsed] = parsed["services"]
    brokers = {name: each for name, each in services.items() if service_of(name) == "kafka"}
    for name, each in brokers.items():
        variables = environment(each)
        if variables.get("KAFKA_AUTO_CREATE_TOPICS_ENABLE") != "false":
            yield f"{name}: makes topics by itself"
        for topics in ("OFFSETS_TOPIC", "TRANSACTION_STATE_LOG"):
            if int(variables.get(f"KAFKA_{topics}_REPLICATION_FACTOR", "3")) > len(brokers):
                yield f"{name}: more copies of its own topics than brokers"
    for name, service in ours(parsed).items():
        common, _ = settings(name, service)
        if (copies := parse_url(common.bus).replication) > len(brokers):
            yield f"{name}: makes topics with {copies} copies for {len(brokers)} brokers"


def masters(parsed: Parsed) -> dict[str, Parsed]:
    """The containers of Mesos masters."""
    services: dict[str, Parsed] = parsed["services"]
    return {name: each for name, each in services.items() if service_of(name) == "mesos-master"}


def wrong_masters(parsed: Parsed) -> Iterator[str]:
    """One of them may be away: a majority of logs, one for each, and all are known to who asks them."""
    there, logs, elections = masters(parsed), set[str](), set[str]()
    if len(there) < MASTERS:
        yield f"mesos-master: {len(there)}, and with one of them away nobody leads"
    for name, service in there.items():
        told = environment(service)
        if told.get("MESOS_QUORUM") != str(len(there) // 2 + 1):
            yield f"{name}: {told.get('MESOS_QUORUM')} of {len(there)} are no majority"
        log = named_volume(service, told["MESOS_WORK_DIR"])
        if told.get("MESOS_REGISTRY") != "replicated_log" or not log or log in logs:
            yield f"{name}: has no replica of the log to itself"
        logs.add(log)
        elections.add(told.get("MESOS_ZK", ""))
        asked = urlsplit(told.get("MESOS_ZK", ""))
        if asked.scheme != "zk" or asked.netloc != "zookeeper:2181":
            yield f"{name}: is elected by nobody"
        opened = {(ip, str(port)) for port, (ip, to) in published(service).items() if to == 5050}
        for host in ("MESOS_ADVERTISE_IP", "MESOS_HOSTNAME"):
            said = (told.get(host, ""), told.get("MESOS_ADVERTISE_PORT", ""))
            if said not in opened:
                yield f"{name}: says that it is at {':'.join(said)}, where it is not"
    if len(elections) > 1:
        yield f"the masters elect a leader each in their own way: {sorted(elections)}"
    for name, service in ours(parsed).items():
        known = getattr(settings(name, service)[1], "masters", None)
        if known is not None and sorted(known) != sorted(f"{each}:5050" for each in there):
            yield f"{name}: knows the masters {', '.join(known)}"


def named_volume(service: Parsed, inside: str) -> str:
    """The volume that is mounted there; "" when none is."""
    named = (each.split(":") for each in service.get("volumes", ()) if isinstance(each, str))
    return next((name for name, there, *_ in named if there == inside and "/" not in name), "")


def wrong_peers(parsed: Parsed) -> Iterator[str]:
    """Whom a service calls is configured: each replica of it that there is, where it listens."""
    for name, service in ours(parsed).items():
        common, _ = settings(name, service)
        if service_of(name) not in common.listen:
            yield f"{name}: listens nowhere"
            continue
        for port, (_, inside) in published(service).items():
            if inside != port_of(common.listen[service_of(name)]):
                yield f"{name}: published port {port} leads to {inside}, where nobody listens"
        for missing in sorted(calls()[service_of(name)] - common.peers.keys()):
            yield f"{name}: calls {missing}, and has no address of it"
        for peer, given in common.peers.items():
            urls = [each.strip() for each in given.split(",")]
            there = set(addresses(parsed, peer))
            yield from (f"{name}: {each} is nobody of {peer}" for each in set(urls) - there)
            yield from (f"{name}: does not know {each}" for each in there - set(urls))
            if len(set(urls)) != len(urls):
                yield f"{name}: a replica of {peer} twice"


def wrong_health(parsed: Parsed) -> Iterator[str]:
    """Health is asked where the process answers; a standby does so too."""
    for name, service in ours(parsed).items():
        common, section = settings(name, service)
        where = getattr(section, "listen", "") or common.listen.get(service_of(name), "")
        tool, url = service["healthcheck"]["test"][1:]
        asked = urlsplit(url)
        own = ("127.0.0.1", where.rpartition(":")[0])
        if tool != "healthy" or asked.path != "/healthz" or asked.hostname not in own:
            yield f"{name}: its health is not asked: {service['healthcheck']['test']}"
        elif not where or asked.port != port_of(where):
            yield f"{name}: health is asked at {asked.port}, and answered at {where!r}"


def wrong_replicas(parsed: Parsed) -> Iterator[str]:
    """Two of each of our services; of what leads, only with a lease. Each container has a name of its own."""
    names = Counter(service_of(name) for name in ours(parsed))
    for name, service in parsed["services"].items():
        scale = (service.get("deploy") or {}).get("replicas", service.get("scale", 1))
        if scale != 1:
            yield f"{name}: {scale} under one name, which the others can't tell apart"
    electing: dict[str, set[str]] = {}
    for name, service in ours(parsed).items():
        common, section = settings(name, service)
        electing.setdefault(service_of(name), set()).add(common.election)
        if len(electing[service_of(name)]) > 1:
            yield f"{name}: the replicas elect a leader each in their own way"
        if names[service_of(name)] < 2:
            yield f"{name}: nobody takes over"
        if getattr(section, "leader_lease_s", 1.0) <= 0:
            yield f"{name}: {names[service_of(name)]} would lead at once"
        if common.instance is not None:
            yield f"{name}: replicas share the name {common.instance}"


_PINNED = re.compile(r"[a-z0-9./_-]+:v?\d+\.\d+\.\d+[\w.-]*")


def wrong_images(parsed: Parsed) -> Iterator[str]:
    """Each image has a full version; ours is the project's."""
    for name, service in parsed["services"].items():
        image = service["image"]
        if not _PINNED.fullmatch(image):
            yield f"{name}: {image} is not pinned"
        if image.startswith("gantry:") and image != f"gantry:{version()}":
            yield f"{name}: {image}, the project is {version()}"


def wrong_confinement(parsed: Parsed) -> Iterator[str]:
    """Limits, health and log sizes for everything, and no more rights than it needs."""
    for name, service in parsed["services"].items():
        for limit in ("mem_limit", "cpus", "pids_limit"):
            if not service.get(limit):
                yield f"{name}: no {limit}"
        if "max-size" not in service.get("logging", {}).get("options", {}):
            yield f"{name}: its log grows for ever"
        lasts = name not in ONE_SHOT
        if lasts and service["restart"] != "unless-stopped":
            yield f"{name}: is not restarted"
        if lasts and service.get("healthcheck", {}).get("test", ["NONE"])[0] == "NONE":
            yield f"{name}: no health check"
        if service.get("privileged", False) != (name in PRIVILEGED):
            yield f"{name}: privileged or not, against expectation"
        if name not in PRIVILEGED:
            if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
                yield f"{name}: keeps capabilities"
            if "no-new-privileges:true" not in service.get("security_opt", ()):
                yield f"{name}: may gain privileges"
        if service["image"].startswith("gantry:"):
            root_needed = name in PRIVILEGED | ONE_SHOT
            if service.get("user") != ("0:0" if root_needed else "10001:10001"):
                yield f"{name}: runs as {service.get('user')}"
            if not service.get("read_only"):
                yield f"{name}: may write to its image"


def complaints(parsed: Parsed, checks: Sequence[Any]) -> list[str]:
    """All that is wrong. A file whose settings don't even parse is not looked at further."""
    unreadable = list(wrong_settings(parsed))
    if unreadable:
        return unreadable
    found: Iterable[list[str]] = (list(check(parsed)) for check in checks)
    return [each for some in found for each in some]
