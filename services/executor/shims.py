"""What runs of a container although its engine knows nothing of it, found among the host's processes.

An engine that dies while it starts a container leaves what it had begun: containerd's shim, and below it nothing yet,
the OCI runtime's first process, or the app. When it is back it takes the container for one that was never started,
refuses to start it as its task exists, and would remove it without what runs.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from libs.common.errors import Unavailable
from services.executor.model import Leftover

PROC = Path("/proc")
_SHIM = "containerd-shim"
_CLEANER = b"delete"  # containerd's own, that clears away after a dead shim
_RUNTIMES = ("runc", "gantry-runc")
_MADE = "init.pid"  # in the shim's working directory once the first process is made
_END_MS = 2000.0


def end(container_id: str, proc: Path = PROC) -> Leftover:
    """End it all, and say how far it had come. Blocks for a moment. Raises Unavailable if a process does not go."""
    shims = set(_shims(container_id, proc))
    if not shims:
        return Leftover.NONE
    begun = any(_may_have_begun(shim, proc) for shim in shims)
    with ExitStack() as stack:
        doomed = _stopped(shims, proc, stack)
        for process in doomed:
            _send(process, signal.SIGKILL)
        if not all(_has_ended(process) for process in doomed):
            raise Unavailable(f"processes of container {container_id[:12]} can't be ended")
    return Leftover.BEGUN if begun else Leftover.UNBEGUN


def _shims(container_id: str, proc: Path) -> Iterator[int]:
    for pid in _pids(proc):
        words = _words(pid, proc)
        if not words or not _program(words).startswith(_SHIM):
            continue
        if container_id.encode() in words and _CLEANER not in words:
            yield pid


def _may_have_begun(shim: int, proc: Path) -> bool:
    """Not, for certain, when its first process is not made yet, or is still the runtime's, which becomes the app's."""
    below = _below({shim}, proc)
    if below:
        return not all(_is_runtime(pid, proc) for pid in below)
    return (proc / str(shim) / "cwd" / _MADE).exists()


def _is_runtime(pid: int, proc: Path) -> bool:
    words = _words(pid, proc)
    return bool(words) and _program(words) in _RUNTIMES


def _stopped(roots: set[int], proc: Path, stack: ExitStack) -> list[int]:
    """File descriptors of them and of all below, which are stopped so that none makes another meanwhile."""
    seen: set[int] = set()
    processes: list[int] = []
    while new := (roots | _below(roots, proc)) - seen:
        seen |= new
        for pid in new:
            with suppress(ProcessLookupError):
                process = os.pidfd_open(pid)
                stack.callback(os.close, process)
                _send(process, signal.SIGSTOP)
                processes.append(process)
    return processes


def _below(roots: set[int], proc: Path) -> set[int]:
    parents = {pid: _parent(pid, proc) for pid in _pids(proc)}
    found: set[int] = set()
    while new := {pid for pid, parent in parents.items() if parent in roots | found} - found:
        found |= new
    return found - roots


def _has_ended(process: int) -> bool:
    waiting = select.poll()
    waiting.register(process, select.POLLIN)
    return bool(waiting.poll(_END_MS))


def _send(process: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, what)


def _pids(proc: Path) -> Iterator[int]:
    return (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())


def _parent(pid: int, proc: Path) -> int:
    """By proc(5), 0 when it is gone. Its own name, in parentheses, may have any in it."""
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _words(pid: int, proc: Path) -> list[bytes]:
    """Its command line; nothing when it is gone, or a zombie."""
    try:
        return (proc / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []


def _program(words: list[bytes]) -> str:
    return Path(os.fsdecode(words[0])).name
