"""The process that Mesos sees as the executor: it starts the worker, restarts it, and does nothing else.

Mesos ties an executor's tasks to this process, so it must not fail and never changes. Hence the standard library
only, no threads, no configuration of its own. A worker that ends is started again and takes up all tasks; none of
them changes state by that.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

EXIT_CONFIG = 78  # the worker says: this configuration can't ever work
EXIT_USAGE = 2
_FINAL = (0, EXIT_USAGE, EXIT_CONFIG)
_PAUSE_MIN_S = 0.1
_PAUSE_MAX_S = 5.0
_STEADY_S = 30.0  # a worker that lived so long starts the pauses anew
_TERM_GRACE_S = 8.0  # so that all of it is over within 10 s
_TICK_S = 1.0  # bounds what a lost signal can cost
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


def next_pause_s(pause_s: float, lived_s: float) -> float:
    """How long to wait before the next start, after a worker that lived `lived_s`."""
    if lived_s >= _STEADY_S:
        return _PAUSE_MIN_S
    return min(max(pause_s * 2, _PAUSE_MIN_S), _PAUSE_MAX_S)


def main(arguments: Sequence[str]) -> int:
    """Supervise `python -m services.executor.worker *arguments`; returns the exit status."""
    _own_session()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    command = [
        sys.executable,
        "-m",
        "services.executor.worker",
        *arguments,
        f"--parent={os.getpid()}",
    ]
    pause_s = 0.0
    while True:
        started = _clock()
        worker = os.posix_spawn(command[0], command, os.environ, setsigmask=(), setsigdef=_SIGNALS)
        status, told_to_end = _wait(worker)
        if told_to_end:
            return 0
        if status in _FINAL:
            return status
        pause_s = next_pause_s(pause_s, _clock() - started)
        _say(f"worker ended ({status}), next in {pause_s:g} s\n")
        if _sleep(pause_s):
            return 0


def _say(line: str) -> None:
    """A full disk, or nobody who reads, is no reason to end."""
    try:
        os.write(2, line.encode())
    except OSError:
        pass


def _own_session() -> None:
    """So that signals to the agent's group don't reach us. Refused when we lead a group already: as well."""
    try:
        os.setsid()
    except PermissionError:
        pass


def _clock() -> float:
    return os.times().elapsed


def _wait(worker: int) -> tuple[int, bool]:
    """Reap until the worker ends; its exit status (negative: a signal) and whether we were told to end."""
    told_to_end, kill_at = False, 0.0
    while True:
        status = _reap(worker)
        if status is not None:
            return status, told_to_end
        received = signal.sigtimedwait(_SIGNALS, _TICK_S)
        if received is not None and received.si_signo != signal.SIGCHLD and not told_to_end:
            told_to_end, kill_at = True, _clock() + _TERM_GRACE_S
            os.kill(worker, signal.SIGTERM)
        if told_to_end and _clock() > kill_at:
            os.kill(worker, signal.SIGKILL)


def _reap(worker: int) -> int | None:
    """Reap all that has ended; the worker's exit status when it is among them."""
    ended: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid == worker:
            ended = os.waitstatus_to_exitcode(status)


def _sleep(pause_s: float) -> bool:
    """Wait; true when we were told to end."""
    until = _clock() + pause_s
    while (left := until - _clock()) > 0:
        received = signal.sigtimedwait(_SIGNALS, left)
        if received is not None and received.si_signo != signal.SIGCHLD:
            return True
    return False
