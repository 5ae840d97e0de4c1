"""The registrations that the runtime shim reads (`services/executor/native/gantry-runc.c` has the other side).

A directory of root's alone, in /run so that no registration outlives a boot:

    <container id>              leave for one start; the shim removes it as it uses it
    <namespace>.generation      the namespace's present generation

Every file appears by rename, whole or not at all.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from libs.common.errors import Unavailable
from services.hostd.model import ENGINE_ID, Namespace, Registration

HEADER = "gantry-registration 1"
SUFFIX = ".generation"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

T = TypeVar("T")


def encode(registration: Registration, boot_id: str) -> str:
    """A registration as the shim reads it: the lines and their order are fixed."""
    namespace = registration.namespace
    lines = (
        HEADER,
        f"boot_id={boot_id}",
        f"container={registration.container_id}",
        f"generation={registration.generation}",
        f"inode={namespace.inode}",
        f"namespace={namespace.name}",
        f"path={namespace.path}",
    )
    return "\n".join(lines) + "\n"


def namespace_of(text: str) -> str:
    """The namespace a registration names, "" when it is broken."""
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key == "namespace":
            return value
    return ""


class FileRegistry:
    """See Registry. Small files on a memory file system, written in a thread all the same."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._boot_id = BOOT_ID.read_text().strip()
        self._lock = threading.Lock()  # a caller that is cancelled leaves its thread at work

    async def register(self, container_id: str, namespace: Namespace) -> Registration:
        """See Registry."""
        return await self._run(lambda: self._register(container_id, namespace))

    async def revoke(self, container_id: str | None, namespace: str) -> bool:
        """See Registry."""
        return await self._run(lambda: self._revoke(container_id, namespace))

    async def forget(self, namespace: str) -> None:
        """See Registry."""
        await self._run(lambda: self._remove(f"{namespace}{SUFFIX}"))

    async def registered(self) -> tuple[tuple[str, str], ...]:
        """See Registry."""
        return await self._run(self._registered)

    async def _run(self, job: Callable[[], T]) -> T:
        def locked() -> T:
            with self._lock:
                return job()

        try:
            return await asyncio.to_thread(locked)
        except OSError as error:
            raise Unavailable(f"registry: {error}") from error

    def _register(self, container_id: str, namespace: Namespace) -> Registration:
        generation = self._generation(namespace.name)
        if generation == 0:
            generation = 1
            self._write(f"{namespace.name}{SUFFIX}", f"{generation}\n")
        registration = Registration(container_id, namespace, generation)
        self._write(container_id, encode(registration, self._boot_id))
        return registration

    def _revoke(self, container_id: str | None, namespace: str) -> bool:
        # The generation first: should we die in between, the registration is void all the same.
        generation = self._generation(namespace)
        if generation:
            self._write(f"{namespace}{SUFFIX}", f"{generation + 1}\n")
        return container_id is not None and self._remove(container_id)

    def _registered(self) -> tuple[tuple[str, str], ...]:
        found = []
        for file in sorted(self._directory.iterdir()):
            if ENGINE_ID.fullmatch(file.name):
                with suppress(FileNotFoundError):  # used while we look
                    found.append((file.name, namespace_of(file.read_text())))
        return tuple(found)

    def _generation(self, namespace: str) -> int:
        try:
            return int((self._directory / f"{namespace}{SUFFIX}").read_text())
        except FileNotFoundError:
            return 0

    def _write(self, name: str, text: str) -> None:
        temporary = self._directory / f".{name}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(text)
        temporary.rename(self._directory / name)

    def _remove(self, name: str) -> bool:
        try:
            (self._directory / name).unlink()
        except FileNotFoundError:
            return False
        return True
