"""The first admin key on disk: root-only, written once, never logged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from libs.common.disk import create_file


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
        create_file(self.path, f"{key}\n".encode())
