"""Files of ours that containers see as /etc/hosts and /etc/resolv.conf.

In network mode `host`, which the runtime turns into hostd's namespace, Docker would mount the host's own. Files are
few and small because each costs a burst of starts some time: one a container, one for all with the same resolver.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from libs.common.disk import why
from libs.common.errors import Unavailable
from services.executor.model import ContainerName


class EtcFiles:
    """The files of one cluster's containers, under one directory. Methods raise Unavailable when the disk won't."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written: dict[str, Path] = {}

    def hosts(self, name: ContainerName) -> Path:
        """Where a container's hosts file is, or will be."""
        return self._directory / f"{quote(name, safe='')}.hosts"

    def write_hosts(self, name: ContainerName, content: str) -> None:
        """To be done before the start: what does not exist then, Docker makes a directory of."""
        with _disk():
            self._directory.mkdir(parents=True, exist_ok=True)
            _write(self.hosts(name), content)

    def remove_hosts(self, name: ContainerName) -> None:
        """No error when there is none."""
        with _disk():
            self.hosts(name).unlink(missing_ok=True)

    def resolv_conf(self, content: str) -> Path:
        """A file with this content."""
        known = self._written.get(content)
        if known is not None:
            return known
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        file = self._directory / f"resolv-{digest}.conf"
        with _disk():
            self._directory.mkdir(parents=True, exist_ok=True)
            _write(file, content)
        self._written[content] = file
        return file


def _write(file: Path, content: str) -> None:
    """A container that runs may have this very file: what stands there already is not written over."""
    try:
        if file.read_text() == content:
            return
    except FileNotFoundError:
        pass
    file.write_text(content)


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{error.filename}: {why(error)}") from None
