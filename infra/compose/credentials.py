"""Makes the secret files of docker-compose.yml and infra/compose/host.yml.

    python -m infra.compose.credentials cluster DIR          once, where the control plane runs
    python -m infra.compose.credentials host DIR NAME OUT    there, for each host; OUT goes to that host

A file that is there stays as it is. Each belongs to who reads it: the services (user 10001) or root. A host gets a
key that is good for itself only, never the cluster's secret.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from libs.common.http import Kind
from libs.common.tokens import derive_key

SERVICES_UID = 10001
ROOT_UID = 0
SECRET_BYTES = 32
FRAMEWORK, AGENT = "gantry", "agent"  # principals, as mesos-acls.json knows them


def put(file: Path, content: str, uid: int) -> None:
    """Write the file for its reader alone, unless there is one. Raises OSError."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as out:
        out.write(content + "\n")
        if os.geteuid() == ROOT_UID:
            os.fchown(out.fileno(), uid, uid)


def fresh() -> str:
    """A new secret in hex."""
    return secrets.token_bytes(SECRET_BYTES).hex()


def make_cluster(directory: Path) -> None:
    """The control plane's files; nothing that is there changes."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o711)
    put(directory / "cluster_secret", fresh(), SERVICES_UID)
    put(directory / "mesos_secret", fresh(), SERVICES_UID)
    put(directory / "agent_secret", fresh(), ROOT_UID)
    known = {FRAMEWORK: _read(directory / "mesos_secret"), AGENT: _read(directory / "agent_secret")}
    put(directory / "mesos_credentials", credentials(known), ROOT_UID)


def make_host(cluster: Path, host: str, out: Path) -> None:
    """A host's files, made of the cluster's. Raises FileNotFoundError before those are there."""
    agent = {"principal": AGENT, "secret": _read(cluster / "agent_secret")}
    key = derive_key(bytes.fromhex(_read(cluster / "cluster_secret")), Kind.HOST, host)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    put(out / "host_key", key.hex(), ROOT_UID)
    put(out / "agent_credential", json.dumps(agent), ROOT_UID)
    # For people who must call the agent's own API; known on this host only.
    put(out / "agent_http_credentials", credentials({"operator": fresh()}), ROOT_UID)


def credentials(secret_of: Mapping[str, str]) -> str:
    """Mesos' credentials file."""
    entries = [{"principal": name, "secret": secret} for name, secret in secret_of.items()]
    return json.dumps({"credentials": entries})


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
    given = parser.parse_args(arguments)
    try:
        if given.verb == "cluster":
            make_cluster(given.directory)
        else:
            make_host(given.directory, given.name, given.out)
    except OSError as error:
        sys.exit(f"credentials: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
