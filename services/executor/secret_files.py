"""Secrets that containers see as files: on a tmpfs of the host, a directory a container, gone with it.

The directory is on a tmpfs already where /run is one; else a tmpfs is mounted over it. No value reaches a disk this way
(but swap, if the host has any).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

from libs.common.errors import Unavailable
from services.executor.model import ContainerName, SecretFile

OWNER_ONLY = 0o400
_MEMORY = frozenset({"tmpfs", "ramfs"})
_NO_SUID_DEV_EXEC = 2 | 4 | 8  # MS_NOSUID, MS_NODEV, MS_NOEXEC
_MOUNT_OPTIONS = b"mode=0700,size=256m"


class SecretFiles:
    """The files of one executor's containers. Methods raise Unavailable when the file system won't."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._checked = False

    def path(self, name: ContainerName, number: int) -> Path:
        """Where a container's file of that number is, or will be."""
        return self._place(name) / str(number)

    def write(self, name: ContainerName, files: Sequence[SecretFile]) -> None:
        """All files of a container; root's until `give` is called."""
        with _file_system():
            self._check()
            place = self._place(name)
            place.mkdir(mode=0o700, exist_ok=True)
            for number, file in enumerate(files):
                path = self.path(name, number)
                path.unlink(missing_ok=True)
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
                with os.fdopen(descriptor, "wb") as out:
                    out.write(file.content)

    def give(self, name: ContainerName, uid: int) -> None:
        """Make the files the user's own."""
        with _file_system():
            for path in self._place(name).iterdir():
                os.chown(path, uid, 0)

    def remove(self, name: ContainerName) -> None:
        """No error when there are none."""
        with _file_system():
            try:
                shutil.rmtree(self._place(name))
            except FileNotFoundError:
                pass

    def names(self) -> frozenset[ContainerName]:
        """Containers that have files here."""
        with _file_system():
            if not self._directory.exists():
                return frozenset()
            return frozenset(
                ContainerName(unquote(each.name)) for each in self._directory.iterdir()
            )

    def _place(self, name: ContainerName) -> Path:
        return self._directory / quote(name, safe="")

    def _check(self) -> None:
        if self._checked:
            return
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if file_system_of(self._directory) not in _MEMORY:
            _mount_tmpfs(self._directory)
        self._checked = True


def file_system_of(path: Path) -> str:
    """The kind of file system that a path is on, as /proc/self/mounts calls it."""
    real = str(path.resolve())
    found = ("", "")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        place = mounted.encode().decode("unicode_escape")
        # Of two mounts on one place the later one is seen.
        if f"{real}/".startswith(f"{place.rstrip('/')}/") and len(place) >= len(found[0]):
            found = (place, kind)
    return found[1]


def _mount_tmpfs(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.fsencode(path)
    if libc.mount(b"tmpfs", place, b"tmpfs", _NO_SUID_DEV_EXEC, _MOUNT_OPTIONS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"mount of a tmpfs at {path}")


@contextmanager
def _file_system() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"secret files: {error.filename}: {error.strerror}") from None


def uid_in(archive: tarfile.TarFile, user: str) -> int | None:
    """A user's number by an archive that has /etc/passwd, None when he is not there."""
    for member in archive:
        content = archive.extractfile(member) if member.isfile() else None
        for line in content.read().decode(errors="replace").splitlines() if content else ():
            name, _, uid, *_ = [*line.split(":"), "", "", ""]
            if name == user and uid.isdecimal():
                return int(uid)
    return None
