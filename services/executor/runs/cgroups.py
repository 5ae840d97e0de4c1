"""Cgroups of cells: children of their container's, made on the host, so that nothing in the container needs leave to.

Version 1 has a tree for each of memory, cpu and pids; version 2 one for all, in which a group that has children may
have no processes of its own: what is there goes into a leaf first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from libs.common.errors import Unavailable
from services.executor.model import Limits

ROOT = Path("/sys/fs/cgroup")
_WANTED = ("memory", "cpu", "pids")
_PERIOD_US = 100_000
_LEAF = "init"


@dataclass(frozen=True, slots=True)
class Groups:
    """The cgroups of one container: directories by controller (v1), or one directory (v2, key "")."""

    places: dict[str, Path]

    @property
    def unified(self) -> bool:
        """Is it version 2?"""
        return "" in self.places

    def make(self, cell: str) -> list[int]:
        """Make the cell's groups; open descriptors of their cgroup.procs, the caller's to close. Raises Unavailable."""
        opened: list[int] = []
        try:
            for place in dict.fromkeys(self.places.values()):
                (place / cell).mkdir(exist_ok=True)
                opened.append(os.open(place / cell / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            for descriptor in opened:
                os.close(descriptor)
            raise Unavailable(f"cgroup of {cell}: {error.strerror}") from None
        return opened

    def limit(self, cell: str, limits: Limits) -> None:
        """Hold the cell to its limits. Raises Unavailable."""
        try:
            for controller, name, value in _settings(limits, unified=self.unified):
                place = self.places.get("" if self.unified else controller)
                if place is not None:
                    _write(place / cell / name, value)
        except OSError as error:
            raise Unavailable(f"limits of {cell}: {error.filename}: {error.strerror}") from None

    def out_of_memory(self, cell: str) -> bool:
        """Has the kernel killed a process of the cell because of its limit?"""
        place, name = self.places.get(""), "memory.events"
        if place is None:
            place, name = self.places.get("memory"), "memory.oom_control"
        try:
            text = (place / cell / name).read_text() if place is not None else ""
        except OSError:
            return False
        counts = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
        return int(counts.get("oom_kill", "0")) > 0

    def remove(self, cell: str) -> bool:
        """Remove the groups; False: a process is still on its way out of one."""
        for place in dict.fromkeys(self.places.values()):
            try:
                (place / cell).rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno == errno.EBUSY:
                    return False
                raise Unavailable(f"cgroup of {cell}: {error.strerror}") from None
        return True

    def cells(self) -> frozenset[str]:
        """Cells that have groups, also what earlier workers left."""
        place = next(iter(self.places.values()), None)
        if place is None or not place.exists():
            return frozenset()
        return frozenset(each.name for each in place.iterdir() if each.is_dir()) - {_LEAF}


def _settings(limits: Limits, *, unified: bool) -> Sequence[tuple[str, str, str]]:
    """(controller, file, value) in the order of writing."""
    quota = round(limits.nano_cpus * _PERIOD_US / 1e9)
    if unified:
        weight = max(1, min(10_000, 1 + round((limits.cpu_shares - 2) * 9999 / 262_142)))
        return (
            ("memory", "memory.max", str(limits.mem_bytes)),
            ("memory", "memory.swap.max", "0"),
            ("cpu", "cpu.weight", str(weight)),
            ("cpu", "cpu.max", f"{quota} {_PERIOD_US}"),
            ("pids", "pids.max", str(limits.pids + 1)),
        )
    return (
        ("memory", "memory.limit_in_bytes", str(limits.mem_bytes)),
        ("memory", "memory.memsw.limit_in_bytes", str(limits.mem_bytes)),
        ("cpu", "cpu.shares", str(limits.cpu_shares)),
        ("cpu", "cpu.cfs_quota_us", str(max(1000, quota))),
        ("pids", "pids.max", str(limits.pids + 1)),  # the cell's own first process counts
    )


def _write(file: Path, value: str) -> None:
    """Swap is not counted on every kernel: such a file is missing then."""
    optional = "swap" in file.name or "memsw" in file.name
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if optional:
            return
        raise
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def of_process(pid: int, root: Path = ROOT, proc: Path = Path("/proc")) -> Groups:
    """The groups in which a container's first process is. Raises Unavailable."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError as error:
        raise Unavailable(f"cgroups of process {pid}: {error.strerror}") from None
    paths: dict[str, str] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    if not any(each in paths for each in _WANTED):
        return _unified(root / paths.get("", "/").lstrip("/"))
    return Groups(
        {each: root / each / paths[each].lstrip("/") for each in _WANTED if each in paths}
    )


def _unified(place: Path) -> Groups:
    if place.name == _LEAF:  # an earlier worker's doing
        return Groups({"": place.parent})
    try:
        (place / _LEAF).mkdir(exist_ok=True)
        for process in (place / "cgroup.procs").read_text().split():
            _write(place / _LEAF / "cgroup.procs", process)
        _write(place / "cgroup.subtree_control", " ".join(f"+{each}" for each in _WANTED))
    except OSError as error:
        raise Unavailable(f"cgroup {place}: {error.strerror}") from None
    return Groups({"": place})
