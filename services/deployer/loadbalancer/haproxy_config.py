"""Renders an HAProxy configuration whose backends are pools of empty slots for the runtime-socket driver.

HAProxy can change a server's address and state at run time, but its backends must stand in the configuration;
so each backend declares as many slots as it may ever have instances at a time (wanted and surge), all disabled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from libs.common.errors import InvalidInput

SLOT = "slot"
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
# TEST-NET-1: what an empty slot points to until it is given an address; never routed.
EMPTY_ADDRESS = "192.0.2.1:9"


@dataclass(frozen=True, slots=True)
class Backend:
    """One pool. `name` is what an app's `load_balancer.backend` says; `bind` is `address:port`.

    `check_path` "" makes HAProxy's own check a TCP connect; the checks only take a dead instance out sooner
    than its event does, they never take one in. `tcp` balances connections instead of HTTP requests.
    """

    name: str
    bind: str
    slots: int = 200
    check_path: str = ""
    check_interval_ms: int = 1000
    tcp: bool = False
    max_connections_per_instance: int = 0


def render(
    backends: Sequence[Backend], socket: Path, *, pid_file: Path | None = None, mode: str = "600"
) -> str:
    """The text of haproxy.cfg. Raises InvalidInput for names or numbers that HAProxy would refuse."""
    seen: set[str] = set()
    for each in backends:
        _check(each)
        if each.name in seen:
            raise InvalidInput.of(f"backends.{each.name}", "is there twice")
        seen.add(each.name)
    parts = [_global(socket, pid_file, mode), _DEFAULTS, *map(_backend, backends)]
    return "\n".join(parts)


def _check(backend: Backend) -> None:
    field = f"backends.{backend.name}"
    if not _NAME.fullmatch(backend.name):
        raise InvalidInput.of(field, "not a name for HAProxy", "letters, digits and _ . : -")
    if not re.fullmatch(r"[0-9A-Za-z.*:\[\]-]*:\d{1,5}", backend.bind):
        raise InvalidInput.of(f"{field}.bind", "not an address and port", "127.0.0.1:8080")
    if not 1 <= backend.slots <= 10_000:
        raise InvalidInput.of(f"{field}.slots", "out of range", "1 to 10000")
    if backend.check_path and not re.fullmatch(r"/[!-~]*", backend.check_path):
        raise InvalidInput.of(f"{field}.check_path", "not a path", "/healthz")


def _global(socket: Path, pid_file: Path | None, mode: str) -> str:
    pid = f"    pidfile {pid_file}\n" if pid_file else ""
    return (
        "global\n"
        f"    stats socket {socket} mode {mode} level admin\n"
        "    stats timeout 10s\n"
        "    hard-stop-after 30s\n"
        # Without it, a machine with an unlimited number of files makes HAProxy reserve memory for all of them.
        f"    fd-hard-limit 100000\n{pid}"
    )


_DEFAULTS = """\
defaults
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout check 2s
    timeout queue 5s
    option redispatch 1
    retries 3
"""


def _backend(backend: Backend) -> str:
    lines = [f"listen {backend.name}", f"    bind {backend.bind}"]
    if backend.tcp:
        lines += ["    mode tcp", "    balance leastconn"]
    else:
        lines += [
            "    mode http",
            "    balance roundrobin",
            "    option forwardfor",
            "    http-reuse safe",
            # An instance that dies takes requests with it. What changes nothing is tried at another one.
            "    retry-on conn-failure empty-response",
            "    http-request disable-l7-retry unless METH_GET",
        ]
        if backend.check_path:
            lines += [f"    option httpchk GET {backend.check_path}"]
    limit = backend.max_connections_per_instance
    extra = f" maxconn {limit}" if limit else ""
    lines.append(
        f"    server-template {SLOT} 1-{backend.slots} {EMPTY_ADDRESS}"
        f" check inter {backend.check_interval_ms}ms fall 2 rise 1{extra} disabled"
    )
    return "\n".join(lines) + "\n"
