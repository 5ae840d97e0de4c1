"""Inits on the unix sockets of `gantry-init` processes, one connection a container."""

from __future__ import annotations

import array
import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from libs.common.errors import InvalidInput, Unavailable
from libs.common.jobs import OUTPUT_TAIL
from libs.common.outputs import OUT, Entries, place_of
from libs.common.telemetry import Log
from services.executor.model import ContainerName, Ref
from services.executor.runs import cgroups, wire
from services.executor.runs.model import Listed, TaskRefused, TaskStart, TaskView, Told

_ANSWER_BYTES = 64 * 1024


def make_place(directory: Path, name: ContainerName) -> Path:
    """Make the place of a shared container, for root alone. Raises Unavailable."""
    place = place_of(directory, name)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{place}: {error.strerror}") from None
    return place


def remove_place(directory: Path, name: ContainerName) -> None:
    """Remove it and all its tasks left; no error when there is none."""
    shutil.rmtree(place_of(directory, name), ignore_errors=True)


@dataclass
class _Link:
    """A connection. `spare` is a cell that waits for its task; `cells` those of tasks that are not forgotten."""

    sock: socket.socket
    place: Path
    groups: cgroups.Groups
    spare: str = ""
    number: int = 0
    listed: bool = False  # all that the init knows is known here
    cells: dict[str, str] = field(default_factory=dict)
    entries: Entries = field(init=False)
    stale: list[str] = field(default_factory=list)  # whose cgroups are still to be removed
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.entries = Entries(self.place)

    def enter(self, task: str, cell: str) -> None:
        """The task is in the cell."""
        self.cells[task] = cell
        self.entries.add(task, cell)


class SocketInits:
    """See Inits. `pid_of` tells the first process of a container; raises NotFound, Unavailable."""

    def __init__(self, directory: Path, pid_of: Callable[[Ref], Awaitable[int]], log: Log) -> None:
        self._directory = directory
        self._pid_of = pid_of
        self._log = log
        self._links: dict[ContainerName, _Link] = {}

    async def follow(self, container: Ref) -> AsyncIterator[Told]:
        """See Inits."""
        pid = await self._pid_of(container)
        groups = cgroups.of_process(pid)
        place = place_of(self._directory, container.name)
        with await _connect(place) as sock:
            link = self._links[container.name] = _Link(sock, place, groups)
            try:
                await _send(link, wire.encode("list"))
                async for told in self._hear(link):
                    yield told
            finally:
                if self._links.get(container.name) is link:
                    del self._links[container.name]

    async def _hear(self, link: _Link) -> AsyncIterator[Told]:
        while True:
            fields = wire.fields_of(await _receive(link.sock))
            match fields:
                case ["spare", cell]:
                    link.number = max(link.number, _number(cell))
                    link.spare = cell
                case ["running" | "ended", task, cell, *_]:
                    link.number = max(link.number, _number(cell))
                    link.enter(task, cell)
                    yield _seen(link, _view(fields))
                case ["listed", _]:
                    for stale in link.groups.cells() - {*link.cells.values(), link.spare}:
                        link.groups.remove(stale)
                    if not link.spare:
                        await self._prepare(link)
                    link.entries.keep(link.cells)
                    link.listed = True
                    yield Listed(tuple(link.cells))
                case ["refused", name, why] if name in link.cells:
                    link.entries.remove(name)
                    del link.cells[name]
                    yield TaskRefused(name, why)
                case ["refused", name, why]:
                    self._log.warning("a cell is broken", place=str(link.place), cell=name, why=why)
                    link.groups.remove(name)
                    if link.spare == name:
                        link.spare = ""  # the next task tries again, and says why not
                case _:
                    raise Unavailable(f"the init says what nobody understands: {fields[:1]}")

    async def _prepare(self, link: _Link) -> None:
        link.number += 1
        cell = f"c{link.number}"
        descriptors = link.groups.make(cell)
        try:
            await _send(link, wire.encode("prepare", cell), descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        link.spare = cell

    def _link(self, container: ContainerName) -> _Link:
        link = self._links.get(container)
        if link is None or not link.listed:
            raise Unavailable(f"there is no connection to the init of {container}")
        return link

    async def start(self, container: ContainerName, task: TaskStart) -> None:
        """See Inits."""
        link = self._link(container)
        async with link.sending:
            if task.task in link.cells:
                return
            if not link.spare:
                await self._prepare(link)
            cell = link.spare
            try:
                request = wire.start_of(cell, task)
            except ValueError as error:
                raise InvalidInput.of("task", str(error)) from None
            link.groups.limit(cell, task.limits)
            link.spare = ""
            link.enter(task.task, cell)
            await _send(link, request)
            await self._prepare(link)

    async def kill(self, container: ContainerName, task: str, name: str, grace_s: float) -> None:
        """See Inits."""
        number, grace_ms = wire.number_of(name), wire.milliseconds(grace_s)
        await _send(self._link(container), wire.encode("kill", task, number, grace_ms))

    async def forget(self, container: ContainerName, task: str) -> None:
        """See Inits."""
        link = self._link(container)
        link.entries.remove(task)  # first: who follows its output reads the rest of it now
        await _send(link, wire.encode("ack", task))
        if cell := link.cells.pop(task, ""):
            link.stale.append(cell)
        link.stale = [each for each in link.stale if not link.groups.remove(each)]


def _view(fields: list[str]) -> TaskView:
    try:
        return wire.view_of(fields)
    except ValueError as error:
        raise Unavailable(f"an init says what nobody understands: {error}") from None


def _number(cell: str) -> int:
    return int(cell[1:]) if cell[1:].isdecimal() else 0


def _seen(link: _Link, view: TaskView) -> TaskView:
    """With what the host knows of a task that has ended."""
    if view.running:
        return view
    oom = link.groups.out_of_memory(view.cell)
    return replace(view, oom_killed=oom, output=tail(link.place / OUT / view.cell))


def tail(file: Path) -> str:
    """The last of a task's output, which is in `file` and, what came before that, in `file.1`."""
    parts: list[bytes] = []
    lacking = OUTPUT_TAIL
    for each in (file, file.with_name(f"{file.name}.1")):
        try:
            with each.open("rb") as source:
                size = source.seek(0, os.SEEK_END)
                source.seek(max(0, size - lacking))
                parts.insert(0, source.read(lacking))
        except OSError:
            continue
        lacking -= len(parts[0])
        if lacking <= 0:
            break
    return b"".join(parts).decode("utf-8", "replace")


async def _connect(place: Path) -> socket.socket:
    """By a short name: a socket's address has room for 108 bytes."""
    try:
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"{place}: {error.strerror}") from None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * wire.MAX_MESSAGE)
        sock.connect(f"/proc/self/fd/{directory}/control")
    except OSError as error:
        sock.close()
        raise Unavailable(f"the init at {place}: {error.strerror}") from None
    finally:
        os.close(directory)
    return sock


async def _send(link: _Link, message: bytes, descriptors: list[int] | None = None) -> None:
    """One message, whole. Raises Unavailable."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors or []))]
    while True:
        try:
            link.sock.sendmsg([message], ancillary if descriptors else [])
            return
        except BlockingIOError:
            await _writable(link.sock)
        except OSError as error:
            raise Unavailable(f"the init at {link.place}: {error.strerror}") from None


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock, _done, ready)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


async def _receive(sock: socket.socket) -> bytes:
    try:
        message = await asyncio.get_running_loop().sock_recv(sock, _ANSWER_BYTES)
    except OSError as error:
        raise Unavailable(f"an init's connection: {error.strerror}") from None
    if not message:
        raise Unavailable("an init has hung up")
    return message
