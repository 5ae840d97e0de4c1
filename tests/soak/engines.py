"""What the Docker engines of the hosts say that they started: by their own streams of events, from beginning to end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.processes import Daemon

_LABELS = ("gantry.app", "gantry.pool")
_FORMAT = " ".join(
    ("{{.TimeNano}}", *('{{index .Actor.Attributes "' + each + '"}}' for each in _LABELS))
)


@dataclass(frozen=True)
class Started:
    """A container, at a Unix time. `job` is the one whose run has it alone; "": runs share it."""

    job: str
    at: float


class Engines:
    """Listens to them with `docker events`, a process an engine."""

    def __init__(self, sockets: Sequence[Path], directory: Path) -> None:
        self._sockets = sockets
        self._directory = directory
        files = [directory / f"events-{n}" for n in range(len(sockets))]
        self._daemons = [Daemon("events", f.with_suffix(".pid"), f) for f in files]

    def start(self) -> None:
        """Begin to listen."""
        filters = ("--filter", "type=container", "--filter", "event=start")
        for socket, daemon in zip(self._sockets, self._daemons, strict=True):
            command = ("docker", "-H", f"unix://{socket}", "events", *filters, "--format", _FORMAT)
            daemon.start(command, self._directory)

    async def stop(self) -> list[Started]:
        """End it. Returns what was heard, in no order between the engines."""
        heard: list[Started] = []
        for daemon in self._daemons:
            await daemon.stop()
            heard += read(daemon.log.read_text().splitlines())
        return heard


def read(lines: Iterable[str]) -> list[Started]:
    """What is in a file of them. Containers of apps are left out. Raises ValueError for what is no event."""
    found = []
    for line in lines:
        nanos, app, *pool = line.split()
        bu, _, name = app.partition("/job.")
        if name or pool:
            found.append(Started("" if pool else f"{bu}/{name}", int(nanos) / 1e9))
    return found
