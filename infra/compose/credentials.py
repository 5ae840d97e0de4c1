"""Makes the secret files of docker-compose.yml and infra/compose/host.yml.

    python -m infra.compose.credentials cluster DIR          once, where the control plane runs
    python -m infra.compose.credentials host DIR NAME OUT    there, for a host that can't enrol; OUT goes to that host
    python -m infra.compose.credentials login DIR USER       there: a login at the registry, or another password for it,
                                                             which is printed and kept nowhere

The cluster's lie in a directory for each kind of reader. The compose files mount these as a whole, so that a file that
is replaced is seen inside. One that is there stays as it is, and belongs to who reads it: the services (10001) or root.
A host gets a key that is good for itself only, never the cluster's secret; `gantry host enrol` has it do so by itself.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.registry import htpasswd
from libs.client.hostfiles import MODE, HostFiles, fresh, mesos_credential, mesos_credentials
from libs.client.hosts import AgentCredential
from libs.common.errors import InvalidInput
from libs.common.http import Kind
from libs.common.keys import read_secrets, write_private
from libs.common.tokens import derive_key

SERVICES_UID = 10001
ROOT_UID = 0
FRAMEWORK, AGENT = "gantry", "agent"  # principals, as mesos-acls.json knows them
# File → the directory that its readers' containers mount. kafka_keystore is the operator's (kafka-outside.yml).
PLACES: Mapping[str, str] = {
    "cluster_secret": "services",
    "mesos_secret": "leaders",
    "zookeeper_secret": "leaders",
    "agent_credential": "gateways",
    "mesos_credentials": "mesos-master",
    "registry_htpasswd": "registry",
    "kafka_keystore": "kafka",
}


def place(directory: Path, name: str) -> Path:
    """Where a file of the cluster is."""
    return directory / PLACES.get(name, "") / name


def put(file: Path, content: str, uid: int) -> None:
    """Write the file for its reader alone, unless there is one. Raises OSError."""
    if not file.exists():
        write_private(file, content + "\n", MODE, uid if os.geteuid() == ROOT_UID else None)


def make_cluster(directory: Path) -> None:
    """The control plane's files; nothing that is there changes. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o711)
    for each in set(PLACES.values()):
        (directory / each).mkdir(exist_ok=True)
        (directory / each).chmod(0o711)  # whatever the umask is: readers aren't root
    _take_in(directory)
    put(place(directory, "cluster_secret"), fresh(), SERVICES_UID)
    put(place(directory, "mesos_secret"), fresh(), SERVICES_UID)
    put(place(directory, "zookeeper_secret"), fresh(), SERVICES_UID)
    put(place(directory, "agent_secret"), fresh(), ROOT_UID)
    agent = _read(place(directory, "agent_secret"))
    known = {FRAMEWORK: _read(place(directory, "mesos_secret")), AGENT: agent}
    put(place(directory, "mesos_credentials"), mesos_credentials(known), ROOT_UID)
    # What the gateways give to hosts that enrol.
    credential = mesos_credential(AGENT, agent)
    put(place(directory, "agent_credential"), credential, SERVICES_UID)
    put(place(directory, "registry_htpasswd"), "", ROOT_UID)  # nobody gets in so far


def _take_in(directory: Path) -> None:
    """Move files that lie beside each other, as they once did, to their places; not one that is a host's file, too."""
    for name in PLACES.keys() - {HostFiles(directory).agent_credential.name}:
        before, now = directory / name, place(directory, name)
        if before.exists() and not now.exists():
            before.rename(now)


def make_host(cluster: Path, host: str, out: Path) -> None:
    """A host's files, made of the cluster's. Raises FileNotFoundError before those are there, InvalidInput."""
    agent = AgentCredential(principal=AGENT, secret=_read(place(cluster, "agent_secret")))
    known = read_secrets(place(cluster, "cluster_secret"))
    files = HostFiles(out)
    files.make_directory()
    files.put(tuple(derive_key(each, Kind.HOST, host) for each in known), agent)


def make_login(cluster: Path, user: str) -> str:
    """Let a user into the registry; the new password. Raises FileNotFoundError before `make_cluster`, ValueError."""
    file, password = place(cluster, "registry_htpasswd"), secrets.token_urlsafe(24)
    others = (line for line in file.read_text().splitlines() if line)
    lines = [line for line in others if line.partition(":")[0] != user]
    lines.append(htpasswd.line(user, password))
    write_private(
        file, "\n".join(lines) + "\n", MODE, ROOT_UID if os.geteuid() == ROOT_UID else None
    )
    return password


def _read(file: Path) -> str:
    return file.read_text().strip()


def main(arguments: Sequence[str]) -> None:
    """Make what is asked for; exits 2 when the words are wrong, 1 when a file can't be made."""
    parser = argparse.ArgumentParser(prog="credentials", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    cluster = verbs.add_parser("cluster")
    cluster.add_argument("directory", type=Path)
    host = verbs.add_parser("host")
    host.add_argument("directory", type=Path)
    host.add_argument("name")
    host.add_argument("out", type=Path)
    login = verbs.add_parser("login")
    login.add_argument("directory", type=Path)
    login.add_argument("user")
    given = parser.parse_args(arguments)
    try:
        if given.verb == "cluster":
            make_cluster(given.directory)
        elif given.verb == "host":
            make_host(given.directory, given.name, given.out)
        else:
            print(make_login(given.directory, given.user))
    except (OSError, InvalidInput, ValueError) as error:
        sys.exit(f"credentials: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
