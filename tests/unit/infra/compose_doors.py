"""Who is let in where, by the compose files: secrets, published ports, and the passwords that servers ask for.

Complaints as in `compose`. `CONTROL_PLANE` and `ON_HOSTS` are all checks of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from infra.compose import credentials
from libs.cli.host_cmd import SECRETS
from libs.client.hostfiles import HostFiles
from services.hostd.settings import HostdConfig
from tests.unit.infra.calls import calls
from tests.unit.infra.compose import (
    CONTROL,
    PRIVILEGED,
    REPOSITORY,
    Parsed,
    addresses,
    environment,
    masters,
    mounted,
    ours,
    published,
    service_of,
    settings,
    wrong_confinement,
    wrong_health,
    wrong_images,
    wrong_masters,
    wrong_peers,
    wrong_replicas,
    wrong_servers,
    wrong_topics,
)

# What each can't work without: there are no defaults in a container, or each replica would make a secret of its own.
_NEEDED: Mapping[str, frozenset[str]] = {
    "gateway": frozenset({"secret_file", "agent_credential_file"}),
    "deployer": frozenset({"secret_file"}),
    "scheduler": frozenset({"secret_file", "credential_file"}),
    "ipam": frozenset({"secret_file"}),
    "monitor": frozenset({"secret_file", "credential_file"}),
    "hostd": frozenset({"host_key_file"}),
}
_FILES = frozenset({"webhook_token_file", "webhook_signing_key_file"}).union(*_NEEDED.values())
# What makes a server ask who is there. A path is a secret that must be mounted; the others are taken word for word.
_MOUNTED = "a mounted secret"
_LOCKS: Mapping[str, Mapping[str, str]] = {
    "mesos-master": {
        "MESOS_AUTHENTICATE_AGENTS": "true",
        "MESOS_AUTHENTICATE_FRAMEWORKS": "true",
        "MESOS_AUTHENTICATE_HTTP_FRAMEWORKS": "true",
        "MESOS_AUTHENTICATE_HTTP_READONLY": "true",
        "MESOS_AUTHENTICATE_HTTP_READWRITE": "true",
        "MESOS_HTTP_FRAMEWORK_AUTHENTICATORS": "basic",
        "MESOS_CREDENTIALS": _MOUNTED,
        "MESOS_ACLS": "/etc/gantry/mesos-acls.json",
    },
    "mesos-agent": {
        "MESOS_AUTHENTICATE_HTTP_READONLY": "true",
        "MESOS_AUTHENTICATE_HTTP_READWRITE": "true",
        "MESOS_AUTHENTICATE_HTTP_EXECUTORS": "true",
        "MESOS_CREDENTIAL": _MOUNTED,
        "MESOS_HTTP_CREDENTIALS": _MOUNTED,
        "MESOS_JWT_SECRET_KEY": _MOUNTED,
    },
    "registry": {"REGISTRY_AUTH": "htpasswd", "REGISTRY_AUTH_HTPASSWD_PATH": _MOUNTED},
}
_DELETES = "REGISTRY_STORAGE_DELETE_ENABLED"
_SECRET_NAME = re.compile(
    r"secret|password|(?<!ht)passwd|token|key(?!store_type)|credential", re.IGNORECASE
)


CLUSTERS = SECRETS.parent  # where the guide has the cluster's made


def kept() -> set[Path]:
    """The secret files that there are on a control machine and on a host; kafka_keystore is for who opens that door."""
    host = HostFiles(SECRETS)
    on_hosts = {host.host_key, host.agent_credential, host.agent_http_credentials}
    on_control = {credentials.place(CLUSTERS, name) for name in credentials.PLACES}
    return {*on_hosts, host.executor_secret, *on_control}


def secrets_of(service: Parsed) -> dict[str, Path]:
    """Path inside → the secret file, for each in the directories that are mounted."""
    return {
        str(Path(inside, file.name)): file
        for inside, directory in mounted(service).items()
        for file in sorted(kept())
        if file.parent == directory
    }


def wrong_secrets(parsed: Parsed) -> Iterator[str]:
    """No secret by value; each file that is named is mounted, in a directory that has nothing for others."""
    for name, service in parsed["services"].items():
        given = secrets_of(service)
        yield from _frozen(name, service)
        yield from _too_much(name, service)
        mine = name in ours(parsed)
        told = " ".join([*environment(service).values(), *(_told(name, service) if mine else ())])
        for variable, value in environment(service).items():
            if _SECRET_NAME.search(variable) and not value.startswith("/"):
                yield f"{name}: {variable} has a secret's name and no file"
            if re.search(r"://[^/\s@]+:[^/\s@]+@", value):
                yield f"{name}: {variable} has a password in it"
            if _SECRET_NAME.search(variable) and value not in given:
                yield f"{name}: {variable}: {value} is not mounted"
        for inside in given:
            if inside not in told and name not in PRIVILEGED:  # those could read it anyway
                yield f"{name}: has {inside} and no use for it"
        if mine:
            yield from _wrong_files(name, service)


def _frozen(name: str, service: Parsed) -> Iterator[str]:
    """Secrets that would stay as they were when the container started: a replaced file is another one."""
    for each in service.get("secrets", ()):
        yield f"{name}: {each['source']} is a single file, which nobody can replace"
    for source in mounted(service).values():
        if source in kept():
            yield f"{name}: {source} is a single file, which nobody can replace"


def _too_much(name: str, service: Parsed) -> Iterator[str]:
    """Mounts with directories of secrets below them, but for those that something empty is put over."""
    hidden = {Path(each) for each in service.get("tmpfs", ())}
    for inside, source in mounted(service).items():
        for directory in sorted({file.parent for file in kept()}):
            if source not in directory.parents:
                continue
            there = Path(inside, directory.relative_to(source))
            if not hidden & {there, *there.parents}:
                yield f"{name}: {source} has {directory} in it"


def _told(name: str, service: Parsed) -> Iterator[str]:
    """What the settings of one of ours say."""
    for section in settings(name, service):
        yield from (str(value) for _, value in section)


def _wrong_files(name: str, service: Parsed) -> Iterator[str]:
    """The secret files that the settings of one of ours name: those it needs, and none that is not there."""
    given = secrets_of(service)
    wanted = _NEEDED[service_of(name)]
    for section in settings(name, service):
        for field, value in section:
            if field in _FILES and value is None and field in wanted:
                yield f"{name}: {field} is not set"
            if field in _FILES and value is not None and str(value) not in given:
                yield f"{name}: {field}: {value} is not mounted"
            if field == "election":
                for each in parse_qs(urlsplit(value).query).get("password_file", ()):
                    if each not in given:
                        yield f"{name}: {field}: {each} is not mounted"


def wrong_locks(parsed: Parsed) -> Iterator[str]:
    """Servers of others that hosts or people reach ask for a password."""
    for name, service in parsed["services"].items():
        variables, secrets = environment(service), secrets_of(service)
        for variable, wanted in _LOCKS.get(service_of(name), {}).items():
            value = variables.get(variable, "")
            if wanted == _MOUNTED and value not in secrets:
                yield f"{name}: {variable} is {value!r}, and not {wanted}"
            elif wanted != _MOUNTED and value != wanted:
                yield f"{name}: {variable} is {value!r}, not {wanted!r}"
            elif wanted.startswith("/") and wanted not in mounted(service):
                yield f"{name}: {variable}: {wanted} is not mounted"
    if environment(parsed["services"].get("registry", {})).get(_DELETES, "false") != "false":
        yield "registry: whoever may push may delete what others have pushed"


def wrong_neighbours(host: Parsed, control: Parsed) -> Iterator[str]:
    """A host's daemons find the control plane that docker-compose.yml makes, and it finds them."""
    common, hostd = settings("hostd", host["services"]["hostd"])
    assert isinstance(hostd, HostdConfig)
    for peer in sorted(calls()["hostd"]):
        told = {each.strip() for each in common.peers.get(peer, "").split(",") if each.strip()}
        opened = _opened(control, peer)
        yield from (f"hostd: {each} is nobody of {peer}" for each in sorted(told - opened))
        yield from (f"hostd: does not know {each} of {peer}" for each in sorted(opened - told))
        if len(opened) != len(addresses(control, peer)):
            yield f"{peer}: not every replica is open to hosts"
    cluster = settings("ipam-1", control["services"]["ipam-1"])[0].cluster
    if common.cluster != cluster:
        yield f"hostd: is of {common.cluster}, the control plane of {cluster}"
    agent = environment(host["services"]["mesos-agent"])
    # The gateway finds hostd by the agent's attribute, and its key by the agent's host name.
    if f"hostd:http://{hostd.listen}" not in agent["MESOS_ATTRIBUTES"].split(";"):
        yield f"mesos-agent: no attribute says that hostd listens at {hostd.listen}"
    if agent["MESOS_HOSTNAME"] != hostd.host:
        yield f"mesos-agent: is {agent['MESOS_HOSTNAME']}, and hostd {hostd.host}"
    path = {urlsplit(environment(each)["MESOS_ZK"]).path for each in masters(control).values()}
    asked = [f"zk://{CONTROL}:2181{each}" for each in path]
    if [agent["MESOS_MASTER"]] != asked or 2181 not in published(control["services"]["zookeeper"]):
        yield f"mesos-agent: asks {agent['MESOS_MASTER']} for the master"


def _opened(control: Parsed, service: str) -> set[str]:
    """The URLs by which hosts reach the replicas of a service."""
    return {
        f"http://{address}:{port}"
        for name, each in ours(control).items()
        if service_of(name) == service
        for port, (address, _) in published(each).items()
    }


def wrong_exposure(parsed: Parsed) -> Iterator[str]:
    """Published on one address only; events and state are not, and reach no other network."""
    for name, service in parsed["services"].items():
        for port, (address, _) in published(service).items():
            if address in ("", "0.0.0.0"):
                yield f"{name}: port {port} is open to everybody"
        if name in ("kafka", "mongo"):
            networks = parsed["networks"]
            if service.get("ports") or any(
                not (networks[each] or {}).get("internal") for each in service["networks"]
            ):
                yield f"{name}: can be reached from outside"
        for file in mounted(service).values():
            if REPOSITORY in file.parents and not file.exists():
                yield f"{name}: {file} is not there"
        for other in service.get("depends_on", ()):
            if other not in parsed["services"]:
                yield f"{name}: waits for {other}, which is not there"


ON_HOSTS = (
    wrong_secrets,
    wrong_locks,
    wrong_images,
    wrong_confinement,
    wrong_exposure,
    wrong_health,
)
CONTROL_PLANE = (
    *ON_HOSTS,
    wrong_servers,
    wrong_topics,
    wrong_masters,
    wrong_peers,
    wrong_replicas,
)
