"""Removes the sandboxes of executors that are over, as Mesos' agent does: after a while, sooner as the disk fills.

Mesos 1.12 docs, "agent flags", --gc_delay and --gc_disk_headroom: a sandbox goes when its executor has been over for
`gc_delay * max(0, 1 - gc_disk_headroom - disk usage)`, looked at every `disk_watch_interval`.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from libs.common.disk import measure

_RUNS = "slaves/*/frameworks/*/executors/*/runs/*"
_MIN_AGE_S = 60.0  # what ended just now may still be looked at, whatever the disk says


def allowed_age_s(delay_s: float, headroom: float, usage: float) -> float:
    """How long a sandbox outlives its executor; `headroom` and `usage` are parts of the disk."""
    return max(_MIN_AGE_S, delay_s * max(0.0, 1.0 - headroom - usage))


def usage_of(work_dir: Path) -> float:
    """Which part of the disk is in use. Raises Unavailable."""
    return measure(work_dir).used_pct / 100


def sandboxes(work_dir: Path) -> list[Path]:
    """All there are, of earlier agents and frameworks too."""
    return sorted(each for each in work_dir.glob(_RUNS) if each.is_dir() and not each.is_symlink())


def collect(found: Iterable[Path], live: Collection[str], before: float) -> list[Path]:
    """Remove those of `found` whose container is none of `live` and was over before then; returns them. Blocks."""
    gone = []
    for sandbox in found:
        if sandbox.name in live or _last_change(sandbox) >= before:
            continue
        shutil.rmtree(sandbox, ignore_errors=True)
        gone.append(sandbox)
        _remove_empty(sandbox.parent)
    return gone


def _last_change(sandbox: Path) -> float:
    """When something of it was written last: no later than that its executor was over, and not long before."""
    newest = 0.0
    for path in (sandbox, sandbox / "stdout", sandbox / "stderr"):
        with suppress(OSError):
            newest = max(newest, path.stat().st_mtime)
    return newest


def _remove_empty(runs: Path) -> None:
    """The directories of an executor, framework and agent of which nothing is left."""
    if any(not each.is_symlink() for each in runs.iterdir()):
        return
    with suppress(OSError):
        (runs / "latest").unlink(missing_ok=True)
        place = runs
        while place.name != "slaves":
            place.rmdir()
            place = place.parent
