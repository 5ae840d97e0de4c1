"""What runs of a container although its engine knows nothing of it, found among the host's processes.

An engine that dies while it starts a container leaves what it had begun: containerd's shim, and below it nothing yet,
the OCI runtime's first process, or the app. When it is back it takes the container for one that was never started,
refuses to start it as its task exists, and would remove it without what runs.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from libs.common.errors import Unavailable

_PROC = Path("/proc")
_SHIM = "containerd-shim"
_CLEANER = b"delete"  # containerd's own, that clears away after a dead shim
_END_MS = 2000.0


def there(container_id: str) -> bool:
    """Is there anything?"""
    return any(_is_shim_of(container_id, pid) for pid in _pids())


def end(container_id: str) -> bool:
    """End it all; was there anything? Blocks for a moment. Raises Unavailable when a process does not go.

    A shim goes last, as it alone tells whose those below it are.
    """
    with ExitStack() as stack:
        shims, below = _stop(container_id, stack)
        _kill(below, container_id)
        _kill(shims, container_id)
        return bool(shims)


def _stop(container_id: str, stack: ExitStack) -> tuple[list[int], list[int]]:
    """File descriptors of its shims and of all below, which are stopped so that none makes another meanwhile."""

    def stopped(pids: Iterable[int], is_still: Callable[[int], bool]) -> list[int]:
        processes = []
        for pid in pids:
            with suppress(ProcessLookupError):
                process = os.pidfd_open(pid)
                stack.callback(os.close, process)
                if is_still(pid):  # and not another process that has the number since
                    signal.pidfd_send_signal(process, signal.SIGSTOP)
                    processes.append(process)
        return processes

    def is_shim(pid: int) -> bool:
        return _is_shim_of(container_id, pid)

    def is_below(pid: int) -> bool:
        return _parent(pid) in seen

    seen = set(filter(is_shim, _pids()))
    shims = stopped(seen, is_shim)
    below: list[int] = []
    while new := set(filter(is_below, _pids())) - seen:
        seen |= new
        below += stopped(new, is_below)
    return shims, below


def _kill(processes: Iterable[int], container_id: str) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
    for process in processes:
        ended = select.poll()
        ended.register(process, select.POLLIN)
        if not ended.poll(_END_MS):
            raise Unavailable(f"a process of container {container_id[:12]} can't be ended")


def _is_shim_of(container_id: str, pid: int) -> bool:
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return False
    if not words or not Path(os.fsdecode(words[0])).name.startswith(_SHIM):
        return False
    return container_id.encode() in words and _CLEANER not in words


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _parent(pid: int) -> int:
    """By proc(5), 0 when it is gone. Its own name, in parentheses, may have any in it."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])
