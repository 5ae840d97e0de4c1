"""Where log lines go: standard error, which may be a file on a disk that is full, and must not grow for ever.

A line that can't be written is lost, and counted; the process goes on. A file that grows over MAX_BYTES is copied to
`<name>.1` and cut, by whoever writes to it: so the processes that share one (a supervisor and its workers, which
inherit it) all go on at its new end. Only a file that is open for appending is ever cut.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import sys
import threading
from pathlib import Path
from typing import TextIO

MAX_BYTES = 32 * 1024 * 1024
_LOOK_EVERY = 256  # lines


class LogStream:
    """A stream of lines that never raises. `stream` None: standard error as it is at each write."""

    def __init__(self, stream: TextIO | None = None, max_bytes: int = MAX_BYTES) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._since_look = 0
        self._torn = False
        self.lost = 0  # lines

    def write(self, line: str) -> None:
        """Write one line, with its newline."""
        stream = self._stream or sys.stderr
        with self._lock:
            try:
                descriptor = stream.fileno()
            except (OSError, ValueError, AttributeError):  # a test's
                stream.write(line)
                return
            self._write(descriptor, line.encode(errors="replace"))

    def flush(self) -> None:
        """Every line is written at once."""

    def _write(self, descriptor: int, line: bytes) -> None:
        data = b"\n" + line if self._torn else line
        try:
            self._since_look += 1
            if self._since_look >= _LOOK_EVERY:
                self._since_look = 0
                bound(descriptor, self._max_bytes)
            while data:
                data = data[os.write(descriptor, data) :]
            self._torn = False
        except OSError:
            self.lost += 1
            self._torn = self._torn or 0 < len(data) < len(line)


def bound(descriptor: int, max_bytes: int) -> None:
    """Cut the file if it is too large, keeping what it had as `<name>.1` if there is room. Raises OSError."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size <= max_bytes:
        return
    if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
        return
    path = Path(f"/proc/self/fd/{descriptor}").readlink()
    if path.exists() and path.stat().st_ino == found.st_ino:
        keep(path)
    os.ftruncate(descriptor, 0)


def keep(path: Path) -> None:
    """Copy a file to `<name>.1`; where there is no room for it, there is no such copy."""
    kept = path.with_name(f"{path.name}.1")
    try:
        shutil.copyfile(path, kept)
    except OSError:
        kept.unlink(missing_ok=True)
