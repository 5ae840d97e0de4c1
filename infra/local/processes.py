"""Processes that outlive the one that starts them, known by pid files."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from libs.common.logfile import MAX_BYTES, bound

log = logging.getLogger(__name__)

STOP_S = 10.0  # what services and executors promise; of the servers of others none needs more
SCRIPT_S = 300.0


class LocalError(Exception):
    """Something of the local cluster could not be started; the text says what and where its log is."""


@dataclass(frozen=True)
class Daemon:
    """One long-lived process."""

    name: str
    pid_file: Path
    log: Path

    def pid(self) -> int | None:
        """Its pid while it lives."""
        try:
            pid = int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if alive(pid) else None

    def start(self, command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> int:
        """Start it in a session of its own, unless it runs; returns its pid."""
        running = self.pid()
        if running is not None:
            return running
        with self.log.open("ab") as log:
            bound(log.fileno(), MAX_BYTES)
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid_file.write_text(str(process.pid))
        return process.pid

    async def stop(self) -> list[str]:
        """TERM, and KILL when it takes too long: see `end`."""
        pid = self.pid()
        overruns = [] if pid is None else await end([pid])
        self.pid_file.unlink(missing_ok=True)
        return overruns

    def kill9(self) -> None:
        """As if the power of this process alone had failed."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            while alive(pid):  # the kernel takes a moment, and `start` must not take it for running
                time.sleep(0.01)

    def pause(self) -> None:
        """Freeze it: its sockets stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        pid = self.pid()
        if pid is not None:
            os.kill(pid, number)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"


def alive(pid: int) -> bool:
    """Does it run (a zombie doesn't)."""
    reap(pid)
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def reap(pid: int) -> None:
    """Take the exit status of a child of ours, so that it doesn't stay as a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


async def end(pids: Sequence[int], patience_s: float = STOP_S) -> list[str]:
    """TERM to all, KILL to those that are there after `patience_s`; says of each of these that it had to be killed."""
    await _signal_all(pids, signal.SIGTERM, patience_s)
    overruns = [
        f"process {pid} was killed, {patience_s:g} s after SIGTERM: {_command(pid)}"
        for pid in pids
        if alive(pid)
    ]
    for overrun in overruns:
        log.warning(overrun)
    await _signal_all(pids, signal.SIGKILL, STOP_S)
    return overruns


async def _signal_all(pids: Sequence[int], number: signal.Signals, wait_s: float) -> None:
    """To those that live; returns when none does, or after `wait_s`."""
    for pid in pids:
        if alive(pid):
            os.kill(pid, number)
    deadline = time.monotonic() + wait_s
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return " ".join(word.decode(errors="replace") for word in words if word)


async def run(*command: str | Path, timeout_s: float = SCRIPT_S, check: bool = True) -> str:
    """A command's standard output. Raises LocalError with what it said."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise LocalError(f"{command[0]} took longer than {timeout_s:g} s") from None
    if check and process.returncode != 0:
        text = (err or out).decode(errors="replace").strip()
        raise LocalError(f"{' '.join(map(str, command))}: {text}")
    return out.decode(errors="replace").strip()
