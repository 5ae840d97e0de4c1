"""What a cluster that should be gone has left on the machine: links, mounts, and processes that no pid file knows."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from infra.local.layout import SHARED_OVS, Layout
from services.hostd.core import is_link_of

PROC = Path("/proc")
LINKS = Path("/sys/class/net")
LOOK_S = 15.0  # what was killed a moment ago may take so long to be gone


def of(
    layout: Layout, run_dirs: Collection[Path], owners: Collection[str], devices: Collection[str]
) -> list[str]:
    """What can be seen of a cluster but its executors. Of its hosts: hostd's directories and owners, and devices."""
    deadline = time.monotonic() + LOOK_S
    while (left := _seen(layout, run_dirs, owners, devices)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _seen(
    layout: Layout, run_dirs: Collection[Path], owners: Collection[str], devices: Collection[str]
) -> list[str]:
    paths = (layout.root, *run_dirs)
    there = links()
    left = [f"process {each}" for each in processes_of(layout.root)]
    left += [f"file {path}" for path in paths if path.exists()]
    left += [f"mount {point}" for point in mounts_below(paths)]
    left += [f"link {name}" for name in (*sorted(there & set(devices)), *links_of(owners, there))]
    left += [f"namespace {layout.edge}"] if Path("/run/netns", layout.edge).exists() else []
    if layout.ovs_dir == SHARED_OVS:
        left += [f"process {each}" for each in idle_switch(SHARED_OVS)]
    return left


def links_of(owners: Iterable[str], names: Iterable[str]) -> list[str]:
    """Which of these interfaces are the host's ends of instances' links."""
    whose = tuple(owners)
    return sorted(name for name in names if any(is_link_of(owner, name) for owner in whose))


def links() -> set[str]:
    """All interfaces of this network namespace."""
    return {path.name for path in LINKS.iterdir()}


def mounts_below(directories: Iterable[Path]) -> list[str]:
    """Mount points below any of these."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted({each for each in points if any(_below(each, base) for base in directories)})


def processes_of(directory: Path, proc: Path = PROC) -> list[str]:
    """Processes that have to do with a directory, as "PID NAME": by their command line or working directory, or because
    their root file system or a mount of theirs alone comes from there, as that of an app in a container does.

    Not those at a terminal, which are people's (a shell, a pager), nor whoever asks and its parents.
    """
    ours = _line_of_descent(proc)
    found = []
    for entry in proc.iterdir():
        if entry.name.isdigit() and int(entry.name) not in ours:
            try:
                if _has_to_do_with(entry, directory, proc):
                    name = (entry / "comm").read_text().strip()
                    found.append((int(entry.name), name))
            except (OSError, IndexError):
                continue  # it is gone, or about to be
    return [f"{pid} {name}" for pid, name in sorted(found)]


def idle_switch(ovs_dir: Path) -> list[str]:
    """Processes of a shared Open vSwitch without a bridge: the last cluster should have taken it along."""
    command = ("ovs-vsctl", "--timeout=5", f"--db=unix:{ovs_dir / 'db.sock'}", "list-br")
    if not (ovs_dir / "db.sock").exists():
        return processes_of(ovs_dir)
    done = subprocess.run(command, capture_output=True, check=False)
    return [] if done.stdout.strip() else processes_of(ovs_dir)


def _has_to_do_with(entry: Path, directory: Path, proc: Path) -> bool:
    state, _, _, _, terminal = (entry / "stat").read_text().rpartition(")")[2].split()[:5]
    if state == "Z" or terminal != "0":
        return False
    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    if any(_names(word, directory) for word in words):
        return True
    if _below(str((entry / "cwd").readlink()).removesuffix(" (deleted)"), directory):
        return True
    own, ours = (entry / "ns/mnt").readlink(), (proc / "self/ns/mnt").readlink()
    return own != ours and _mounted_from(entry, directory)


def _mounted_from(entry: Path, directory: Path) -> bool:
    """Fields of mountinfo: see proc(5). An overlay says its layers in the last one."""
    for line in (entry / "mountinfo").read_text().splitlines():
        fields = line.split()
        origin, point = fields[3], fields[4]
        if _below(origin, directory) or (point == "/" and _names(fields[-1], directory)):
            return True
    return False


def _below(path: str, directory: Path) -> bool:
    return path == str(directory) or path.startswith(f"{directory}/")


def _names(text: str, directory: Path) -> bool:
    """Does the text have the directory's path in it, and not that of one whose name merely begins alike."""
    base = str(directory)
    at = text.find(base)
    while at >= 0:
        after = text[at + len(base) : at + len(base) + 1]
        if after in ("", "/", ":", ",", " ", '"', "'"):
            return True
        at = text.find(base, at + 1)
    return False


def _line_of_descent(proc: Path) -> set[int]:
    """Whoever asks, and its parents."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            break
    return found
