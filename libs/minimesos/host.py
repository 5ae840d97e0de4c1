"""What the machine says of itself: load, memory, cpus. A port, so that the cores stay pure."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from libs.minimesos.schema import Json

_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class HostLoad:
    """One reading: load averages over 1, 5 and 15 minutes, memory in bytes."""

    cpus: int
    load: tuple[float, float, float]
    mem_total_bytes: int
    mem_free_bytes: int

    def metrics(self) -> dict[str, float]:
        """The `system/*` metrics."""
        return {
            "system/cpus_total": float(self.cpus),
            "system/load_1min": self.load[0],
            "system/load_5min": self.load[1],
            "system/load_15min": self.load[2],
            "system/mem_total_bytes": float(self.mem_total_bytes),
            "system/mem_free_bytes": float(self.mem_free_bytes),
        }

    def stats(self) -> Json:
        """/system/stats.json."""
        return {
            "avg_load_15min": self.load[2],
            "avg_load_1min": self.load[0],
            "avg_load_5min": self.load[1],
            "cpus_total": self.cpus,
            "mem_free_bytes": self.mem_free_bytes,
            "mem_total_bytes": self.mem_total_bytes,
        }


class Host(Protocol):
    """The machine a node runs on."""

    def read(self) -> HostLoad:
        """How it is doing now."""
        ...


class StillHost:
    """A machine that never changes: for the simulation."""

    def read(self) -> HostLoad:
        """One cpu, no load, a gibibyte."""
        return HostLoad(1, (0.0, 0.0, 0.0), 1 << 30, 1 << 30)


class LinuxHost:
    """This machine, by /proc."""

    def read(self) -> HostLoad:
        """Load averages and memory; zeros for memory where /proc is missing."""
        try:
            lines = _MEMINFO.read_text().splitlines()
        except OSError:
            lines = []
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
        total, free = kib.get("MemTotal", 0) * 1024, kib.get("MemFree", 0) * 1024
        return HostLoad(os.cpu_count() or 1, os.getloadavg(), total, free)
