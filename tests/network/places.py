"""Places in the network: namespaces, into which this process reaches by opening sockets there.

A socket stays in the namespace it was opened in, so one process can be a server and a client in hundreds of them.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.hostd import netlink

CLONE_NEWNET = 0x40000000
RUN_S = 30.0

_libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str, check: bool = True, fed: str = "") -> str:
    """Output of a command."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=RUN_S, input=fed
    )
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def entering(namespace: str) -> tuple[str, ...]:
    """What a command begins with to run in a namespace (by its path); mounts stay shared with ours."""
    return ("nsenter", f"--net={namespace}")


def inside(namespace: str, *command: str, check: bool = True, fed: str = "") -> str:
    """Output of a command inside a namespace."""
    return run(*entering(namespace), *command, check=check, fed=fed)


@contextmanager
def being_in(namespace: str) -> Iterator[None]:
    """This thread is in the namespace; nothing may be awaited meanwhile."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot enter a network namespace: {os.strerror(code)}")


def make(name: str) -> str:
    """A named namespace with its loopback up; its path."""
    run("ip", "netns", "add", name)
    run("ip", "-n", name, "link", "set", "lo", "up")
    return f"/run/netns/{name}"


def remove(name: str) -> None:
    """Remove a named namespace with all that is in it."""
    run("ip", "netns", "delete", name, check=False)


def links(namespace: str) -> frozenset[str]:
    """Names of all interfaces of a namespace."""
    with being_in(namespace):
        there = netlink.NetlinkSocket()
    try:
        return frozenset(link.name for link in there.links())
    finally:
        there.close()


def addresses(namespace: str) -> tuple[str, ...]:
    """All its addresses with their prefix lengths, except for loopback's and link-local ones."""
    found = []
    for line in inside(namespace, "ip", "-o", "addr", "show").splitlines():
        _, ifname, _, address, *_ = line.split()
        if ifname != "lo" and not address.startswith("fe80:"):
            found.append(address)
    return tuple(sorted(found))


def bound(directory: Path) -> frozenset[str]:
    """Names of the files in a directory of namespaces."""
    return (
        frozenset(each.name for each in directory.iterdir()) if directory.is_dir() else frozenset()
    )


def sockets_in(namespace: str, count: int) -> Sequence[socket.socket]:
    """TCP sockets in a namespace, not blocking."""
    with being_in(namespace):
        made = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    for each in made:
        each.setblocking(False)
    return made
