"""Small file systems that a test can fill, and empty again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from libs.common.disk import measure

BALLAST = "ballast"


class SmallDisk:
    """A file system of its own, mounted at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(self, leave_bytes: int = 0) -> None:
        """Leave this much room, and no more."""
        with (self.root / BALLAST).open("ab", buffering=0) as out:
            left = measure(self.root).free_bytes - leave_bytes
            try:
                while left > 0:
                    left -= out.write(b"\0" * min(left, 65536))
            except OSError:
                pass

    def free(self) -> None:
        """As it was before it was filled."""
        (self.root / BALLAST).unlink(missing_ok=True)


@contextmanager
def small_disk(root: Path, mib: int = 4) -> Iterator[SmallDisk]:
    """A tmpfs of some MiB; it takes root."""
    root.mkdir(parents=True)
    options = f"size={mib}m,nr_inodes=4096"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", root], check=True)
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)
