"""Processes that another one speaks of by their numbers."""

from __future__ import annotations

from pathlib import Path


def pid_space() -> str:
    """In which namespace of this machine our numbers of processes hold; "" where nobody can say."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def is_gone(pid: int, space: str) -> bool:
    """Has this process of this namespace ended, as far as that can be seen from ours. Frozen ones have not."""
    return bool(pid and space) and space == pid_space() and not Path(f"/proc/{pid}").exists()
