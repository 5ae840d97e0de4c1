"""What a zk:// URL says.

    zk://[user@]host:port[,host:port]/path[?option=value&…]

The path is where leaders are elected (default /gantry). Options: `password_file` with the user's password (ZooKeeper's
`digest` scheme: nodes are then made for that user alone); `tls` (1), `cafile`, `certfile`, `keyfile`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from libs.common.bus.kafka_url import read_password
from libs.common.errors import InvalidInput

_FIELD = "common.election"
ATTEMPTS = 4  # connections tried, at least, within the time that a session lasts
_OPTIONS = frozenset({"password_file", "tls", "cafile", "certfile", "keyfile"})


@dataclass(frozen=True, slots=True)
class ZooKeeperSettings:
    """Where ZooKeeper is and how to speak to it; `path` begins with a slash and does not end with one."""

    hosts: tuple[str, ...]
    path: str
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    def connection(self) -> dict[str, Any]:
        """KazooClient's arguments.

        It waits for the answer to one attempt as long as the session's time divided by the number of hosts. A server
        that is just starting may accept an attempt and never answer it: each host is named as often as leaves time
        for ATTEMPTS of them before the session ends.
        """
        hosts = self.hosts * math.ceil(ATTEMPTS / len(self.hosts))
        arguments: dict[str, Any] = {"hosts": ",".join(hosts)}
        if self.user:
            arguments["auth_data"] = [("digest", f"{self.user}:{self.password}")]
        if self.tls:
            files = {"ca": self.cafile, "certfile": self.certfile, "keyfile": self.keyfile}
            arguments |= {"use_ssl": True, "verify_certs": True, "check_hostname": True, **files}
        return arguments


def parse_url(url: str) -> ZooKeeperSettings:
    """Read the URL and the password's file. Raises InvalidInput, never showing the password."""
    parts = urlsplit(url)
    login, _, netloc = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    hosts = tuple(each for each in netloc.split(",") if each)
    if colon:
        raise InvalidInput.of(_FIELD, "a password in the URL", "user@host and ?password_file=…")
    if not hosts or not all(each.rpartition(":")[2].isdigit() for each in hosts):
        raise InvalidInput.of(_FIELD, f"no servers in {netloc!r}", "host:port[,host:port]")
    options = dict(parse_qsl(parts.query))
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        known = ", ".join(sorted(_OPTIONS))
        raise InvalidInput.of(_FIELD, f"unknown options {unknown}", f"one of {known}")
    file = options.get("password_file")
    if bool(user) != (file is not None):
        raise InvalidInput.of(
            _FIELD,
            "a user without a password, or the other way round",
            "user@host and ?password_file=…",
        )
    return ZooKeeperSettings(
        hosts,
        parts.path.rstrip("/") or "/gantry",
        unquote(user),
        read_password(Path(file), f"{_FIELD}?password_file") if file else "",
        options.get("tls", "") in ("1", "true"),
        options.get("cafile"),
        options.get("certfile"),
        options.get("keyfile"),
    )
