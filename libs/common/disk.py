"""Files that are there whole or not at all, and how much room their file system has.

What is written here survives a crash and a full disk: a new content goes to a file beside, is synced, and takes the
old one's place by rename; so nobody ever reads half of one.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from libs.common.errors import Unavailable

FULL = "the disk is full"
MIB = 1024 * 1024
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
# With less than this free, an I/O error of SQLite's is the lack of room.
_SQLITE_BYTES = 16 * 4096


@dataclass(frozen=True, slots=True)
class Space:
    """Room of the file system that `path` is on; `free` is what a process may still use. Inodes 0: not counted."""

    path: str
    total_bytes: int
    free_bytes: int
    inodes: int = 0
    free_inodes: int = 0

    @property
    def used_pct(self) -> float:
        """What can't be used any more, in percent."""
        return 100.0 - _pct(self.free_bytes, self.total_bytes)

    @property
    def free_inodes_pct(self) -> float:
        """Inodes left, in percent; 100 where the file system makes them as it needs them."""
        return _pct(self.free_inodes, self.inodes) if self.inodes else 100.0

    def lacks(self, free_mib: float = 0, free_pct: float = 0, inodes_pct: float = 0) -> str:
        """What there is less of than this, in words; "" when there is enough."""
        if self.free_bytes < free_mib * MIB or 100.0 - self.used_pct < free_pct:
            return (
                f"{self.path} has {self.free_bytes // MIB} MiB ({100 - self.used_pct:.0f} %) left"
            )
        if self.free_inodes_pct < inodes_pct:
            return f"{self.path} has {self.free_inodes_pct:.0f} % of its inodes left"
        return ""


def _pct(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0


def measure(path: Path) -> Space:
    """The room where `path` is; where its nearest parent is when it is not there yet. Raises Unavailable."""
    place = path
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        found = os.statvfs(place)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from None
    # What is kept for root is neither free nor used: count as `df` does.
    usable = found.f_blocks - found.f_bfree + found.f_bavail
    return Space(
        str(path),
        usable * found.f_frsize,
        found.f_bavail * found.f_frsize,
        found.f_files,
        found.f_favail,
    )


def why(error: OSError) -> str:
    """An error of the file system in words; a disk that is full is always called the same."""
    return FULL if error.errno in _FULL_ERRNOS else error.strerror or str(error)


def why_sqlite(error: sqlite3.Error, file: Path) -> str:
    """The same for SQLite, which calls the lack of room by several names."""
    if getattr(error, "sqlite_errorname", "").startswith("SQLITE_FULL"):
        return FULL
    with suppress(Unavailable):
        if isinstance(error, sqlite3.OperationalError):
            return FULL if measure(file.parent).free_bytes < _SQLITE_BYTES else str(error)
    return str(error)


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Give a file another content in one step. Raises OSError; then it is as it was."""
    _beside(path, content, mode, lambda new: new.replace(path))
    with suppress(OSError):
        _sync_directory(path.parent)


def create_file(path: Path, content: bytes, mode: int = 0o600) -> bool:
    """Make a file with its content in one step; False when there is one. Raises OSError; then there is none."""

    def name_it(new: Path) -> None:
        os.link(new, path)
        new.unlink()

    try:
        _beside(path, content, mode, name_it)
    except FileExistsError:
        return False
    _sync_directory(path.parent)
    return True


def _beside(path: Path, content: bytes, mode: int, put: Callable[[Path], object]) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(descriptor)
        put(new)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
