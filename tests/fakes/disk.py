"""A host's disk as the executor measures it, and what it remembers of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from libs.common.disk import MIB, Space


class FakeDisk:
    """One file system for all paths; each of `images` takes `image_mib` of it."""

    def __init__(self, images: Mapping[str, object], total_mib: int = 100_000) -> None:
        self.images = images
        self.total_mib = total_mib
        self.used_mib = 0  # besides the images
        self.image_mib = 0
        self.free_inodes_pct = 100

    def measure(self, path: Path) -> Space:
        """See Measure."""
        used = self.used_mib + self.image_mib * len(self.images)
        free = max(0, self.total_mib - used)
        return Space(str(path), self.total_mib * MIB, free * MIB, 100, self.free_inodes_pct)


class MemoryLedger:
    """See UseLedger."""

    def __init__(self) -> None:
        self.kept: dict[str, float] = {}

    def load(self) -> dict[str, float]:
        """See UseLedger."""
        return dict(self.kept)

    def save(self, used_at: Mapping[str, float]) -> None:
        """See UseLedger."""
        self.kept = dict(used_at)
