"""The first admin key on disk: root-only, written once, never logged."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class KeyFile(Protocol):
    """Where the first admin key is put for the operator."""

    def write_once(self, key: str) -> None:
        """Write the key unless something is there already."""
        ...


@dataclass(frozen=True)
class DiskKeyFile:
    """A file of mode 0600."""

    path: Path

    def write_once(self, key: str) -> None:
        """See KeyFile. Raises OSError."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        with os.fdopen(descriptor, "w") as out:
            out.write(key + "\n")
            out.flush()
            os.fsync(out.fileno())
