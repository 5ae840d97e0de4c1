"""A server that was provided: where it is, and how a test makes it suffer.

`Server` is what callers hold. `Control` is how its processes are reached; there are three:
`ProcessControl` (daemons of this host, by pid file), `ExternalControl` (a server somebody lent us)
and `ContainerControl` in infra/provision/containers.py.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from infra.provision import process
from infra.provision.errors import NotOursError


class Control(Protocol):
    """The processes behind a server. Everything is idempotent."""

    def pids(self) -> tuple[int, ...]:
        """Those alive now, the main one first."""
        ...

    async def start(self) -> None:
        """Returns when the server answers. Raises NotReadyError."""
        ...

    async def stop(self) -> None:
        """Ends the server in good order; its data stay."""
        ...

    async def kill9(self) -> None:
        """SIGKILL, and wait until it is dead; its data stay as they are."""
        ...

    async def pause(self) -> None:
        """Freezes the server: connections stay open, nothing answers."""
        ...

    async def resume(self) -> None:
        """Ends pause()."""
        ...

    async def purge(self) -> None:
        """Stops the server and removes what it leaves on the host, its data included."""
        ...


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    url: `kafka://127.0.0.1:PORT`, `mongodb://…`, `zk://…`, `http://…` (registry),
    `unix:///D/docker.sock` (engine) or `unix:D/db.sock` (ovs).
    data_dir: its directory; for a lent server an empty one.
    """

    name: str
    url: str
    data_dir: Path
    control: Control

    @property
    def address(self) -> str:
        """The URL without its scheme: `127.0.0.1:PORT`, as most clients want it."""
        return urlsplit(self.url).netloc

    @property
    def socket(self) -> Path:
        """The unix socket of an engine or ovs."""
        return Path(urlsplit(self.url).path)

    @property
    def pid(self) -> int | None:
        """The main process now; None when it is down or not ours to see."""
        return next(iter(self.control.pids()), None)

    async def start(self) -> None:
        await self.control.start()

    async def stop(self) -> None:
        await self.control.stop()

    async def restart(self) -> None:
        """Stop in good order (a dead one is fine) and start on the same address and data."""
        await self.control.stop()
        await self.control.start()

    async def kill9(self) -> None:
        await self.control.kill9()

    async def pause(self) -> None:
        await self.control.pause()

    async def resume(self) -> None:
        await self.control.resume()


@dataclass(frozen=True, slots=True)
class OvsServer(Server):
    """An Open vSwitch; bridges must be made with datapath_type, "netdev" or "system".

    OVS_RUNDIR for its tools is data_dir."""

    @property
    def datapath_type(self) -> str:
        return (self.data_dir / "datapath-type").read_text().strip()


@dataclass(frozen=True, slots=True)
class ProcessControl:
    """Daemons of this host.

    pid_files: the main one first. needle: what their command lines hold.
    launch: starts whatever is not running and waits until it answers.
    shutdown, remove: the orderly end; the same, with all that is left on the host.
    """

    pid_files: tuple[Path, ...]
    needle: str
    launch: Callable[[], Awaitable[None]]
    shutdown: Callable[[], Awaitable[None]]
    remove: Callable[[], Awaitable[None]]

    def pids(self) -> tuple[int, ...]:
        found = (process.pid_in(each, self.needle) for each in self.pid_files)
        return tuple(pid for pid in found if pid is not None)

    async def start(self) -> None:
        await self.launch()

    async def stop(self) -> None:
        await self.shutdown()

    async def kill9(self) -> None:
        pids = self.pids()
        process.send(pids, signal.SIGKILL)
        await process.wait_gone(pids, timeout_s=10)

    async def pause(self) -> None:
        pids = self.pids()
        process.send(pids, signal.SIGSTOP)
        await process.wait_stopped(pids, timeout_s=10)

    async def resume(self) -> None:
        process.send(self.pids(), signal.SIGCONT)

    async def purge(self) -> None:
        # A frozen server answers no request of its own clean-up.
        await self.resume()
        await self.remove()


@dataclass(frozen=True, slots=True)
class ExternalControl:
    """A server named by an environment variable. It is shared: nothing here disturbs it."""

    variable: str

    def pids(self) -> tuple[int, ...]:
        return ()

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        raise self._refusal()

    async def kill9(self) -> None:
        raise self._refusal()

    async def pause(self) -> None:
        raise self._refusal()

    async def resume(self) -> None:
        raise self._refusal()

    async def purge(self) -> None:
        return

    def _refusal(self) -> NotOursError:
        return NotOursError(f"the server of {self.variable} is not ours to stop")
