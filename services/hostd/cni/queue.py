"""DelQueue in a directory that is root's alone: a file a DEL, renamed into place by the shim when it is on disk.

A file that is being worked on has a `~` at its end, so that a newer one of the same name is not taken for it.

**Invariant**: what others could have written is not obeyed.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from libs.common.errors import Unavailable

TAKEN = "~"
REFUSED = ".refused"
MAX_ENTRY_BYTES = 1_100_000


class FileQueue:
    """See DelQueue."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def names(self) -> tuple[str, ...]:
        """See DelQueue."""
        return await asyncio.to_thread(self._names)

    async def take(self, name: str) -> bytes | None:
        """See DelQueue."""
        return await asyncio.to_thread(self._take, name)

    async def done(self, name: str) -> None:
        """See DelQueue."""
        await asyncio.to_thread(self._done, name)

    async def refuse(self, name: str) -> None:
        """See DelQueue."""
        await asyncio.to_thread(self._refuse, name)

    def _names(self) -> tuple[str, ...]:
        try:
            self._check()
            found = {each.name for each in self._directory.iterdir() if not each.is_dir()}
        except OSError as error:
            raise Unavailable(f"kept DELs can't be read: {error}") from error
        # Those that begin with a dot are not whole, or refused.
        return tuple(sorted({each.removesuffix(TAKEN) for each in found if each[0] != "."}))

    def _check(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = self._directory.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise Unavailable(f"{self._directory} is not root's alone: its DELs are not obeyed")

    def _take(self, name: str) -> bytes | None:
        fresh, taken = self._directory / name, self._directory / f"{name}{TAKEN}"
        try:
            self._check()
            try:
                fresh.replace(taken)
            except FileNotFoundError:
                if not taken.exists():
                    return None
            with taken.open("rb") as file:
                return file.read(MAX_ENTRY_BYTES)
        except OSError as error:
            raise Unavailable(f"a kept DEL can't be read: {error}") from error

    def _done(self, name: str) -> None:
        try:
            (self._directory / f"{name}{TAKEN}").unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"a kept DEL can't be removed: {error}") from error

    def _refuse(self, name: str) -> None:
        try:
            aside = self._directory / REFUSED
            aside.mkdir(exist_ok=True, mode=0o700)
            (self._directory / f"{name}{TAKEN}").replace(aside / name)
        except OSError as error:
            raise Unavailable(f"a kept DEL can't be set aside: {error}") from error
