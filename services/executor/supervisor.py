"""The process that Mesos sees as the executor: it starts the worker, restarts it, and does nothing else.

Mesos ties an executor's tasks to this process, so it must not fail and never changes. Hence the standard library
only, no threads, no configuration of its own. A worker that ends is started again and takes up all tasks; none of
them changes state by that. One that is silent is killed: each line that it writes into a pipe says for how many seconds
the next may be waited for. A worker that never writes, such as an older one, is let be.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

EXIT_CONFIG = 78  # the worker says: this configuration can't ever work
EXIT_USAGE = 2
BEATS = "GANTRY_EXECUTOR_BEATS"  # the pipe's descriptor; an older worker would refuse an argument
_FINAL = (0, EXIT_USAGE, EXIT_CONFIG)
_PAUSE_MIN_S = 0.1
_PAUSE_MAX_S = 5.0
_STEADY_S = 30.0  # a worker that lived so long starts the pauses anew
_TERM_GRACE_S = 8.0  # so that all of it is over within 10 s
_TICK_S = 1.0  # bounds what a lost signal can cost
_TURN_MAX_S = 2.0  # a turn that took longer says that we, too, did not run
_READ_BYTES = 65_536
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
        worker, beats = _spawn(command)
        try:
            status, told_to_end = _wait(worker, Silence(beats))
        finally:
            os.close(beats)
        if told_to_end:
            return 0
        if status in _FINAL:
            return status
        pause_s = next_pause_s(pause_s, _clock() - started)
        _say(f"worker ended ({status}), next in {pause_s:g} s\n")
        if _sleep(pause_s):
            return 0


def _spawn(command: list[str]) -> tuple[int, int]:
    """Start a worker; its pid and our end of its pipe."""
    beats, its_end = os.pipe()
    os.set_blocking(beats, False)
    os.set_inheritable(its_end, True)
    environ = {**os.environ, BEATS: str(its_end)}
    try:
        worker = os.posix_spawn(command[0], command, environ, setsigmask=(), setsigdef=_SIGNALS)
    finally:
        os.close(its_end)
    return worker, beats


class Silence:
    """For how long a worker has written nothing, as far as we ran ourselves to hear it."""

    def __init__(self, beats: int) -> None:
        self._beats = beats
        self._bound_s = 0.0  # 0: it has not begun
        self._lasts_s = 0.0

    def too_long(self, turn_s: float) -> bool:
        """Listen, after so many seconds. A machine that slept is no silence: a long turn counts for a short one."""
        self._lasts_s += min(turn_s, _TURN_MAX_S)
        try:
            heard = os.read(self._beats, _READ_BYTES)
        except OSError:  # nothing
            heard = b""
        with suppress(IndexError, ValueError):
            self._bound_s, self._lasts_s = float(heard.split()[-1]), 0.0
        if not 0.0 < self._bound_s < self._lasts_s:
            return False
        self._lasts_s = 0.0
        return True


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


def _wait(worker: int, silence: Silence) -> tuple[int, bool]:
    """Reap until the worker ends; its exit status (negative: a signal) and whether we were told to end."""
    told_to_end, kill_at, turned = False, 0.0, _clock()
    while True:
        status = _reap(worker)
        if status is not None:
            return status, told_to_end
        received = signal.sigtimedwait(_SIGNALS, _TICK_S)
        if received is not None and received.si_signo != signal.SIGCHLD and not told_to_end:
            told_to_end, kill_at = True, _clock() + _TERM_GRACE_S
            os.kill(worker, signal.SIGTERM)
        now = _clock()
        if silence.too_long(now - turned) and not told_to_end:
            _say("worker is silent: killed\n")
            os.kill(worker, signal.SIGKILL)
        if told_to_end and now > kill_at:
            os.kill(worker, signal.SIGKILL)
        turned = now


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
