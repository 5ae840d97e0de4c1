"""What is made once a machine and shared by all runs: jars and compiled classes.

An entry is a directory named by what went into it, so that a changed recipe makes a new one. It
is built aside under a file lock and renamed into place: who finds it, finds it whole.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

LOCK_TIMEOUT_S = 600


def cache_dir() -> Path:
    """GANTRY_CACHE, else ~/.cache/gantry."""
    return Path(os.environ.get("GANTRY_CACHE") or Path.home() / ".cache" / "gantry")


@asynccontextmanager
async def file_lock(path: Path, *, timeout_s: float = LOCK_TIMEOUT_S) -> AsyncIterator[None]:
    """An exclusive lock between processes; the kernel drops it when its holder dies.

    Raises TimeoutError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        async with asyncio.timeout(timeout_s):
            # Polled: a thread blocked in flock could not be cancelled.
            while not _try_lock(fd):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def key_of(recipe: list[Path]) -> str:
    """12 hex digits over the names and contents of the files that make an entry."""
    digest = hashlib.sha256()
    for path in recipe:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


async def cached(name: str, recipe: list[Path], build: Callable[[Path], Awaitable[None]]) -> Path:
    """The entry made from the recipe's files; build(directory) fills it when it is not there."""
    key = await asyncio.to_thread(key_of, recipe)
    entry = cache_dir() / f"{name}-{key}"
    if entry.is_dir():
        return entry
    async with file_lock(cache_dir() / f"{name}.lock"):
        if entry.is_dir():
            return entry
        aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_dir()))
        try:
            await build(aside)
            _publish(aside, entry)
        finally:
            await asyncio.to_thread(shutil.rmtree, aside, True)
    return entry


def _publish(aside: Path, entry: Path) -> None:
    aside.chmod(0o755)  # mkdtemp's 0700 would shut other users out
    aside.rename(entry)
