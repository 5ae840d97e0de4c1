"""HAProxy by its runtime socket: endpoints are put into the slots of a pool (`haproxy_config.py`).

Runtime API of HAProxy 2.x: `set server <b>/<s> addr|state`, `show servers state` (addresses and administrative
state), `show stat` (scur: sessions now on a server).
Nothing is remembered here: a slot is found again by its address, so a restart of either side is no matter.
"""

from __future__ import annotations

import asyncio
import csv
import ipaddress
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from libs.common.clock import Clock
from libs.common.errors import GantryError, InvalidInput, TimedOut, Unavailable
from services.deployer.loadbalancer.base import Answer, AnswerState, Change, ChangeKind
from services.deployer.model import Endpoint

CALL_S = 3.0
T = TypeVar("T")

MAX_ANSWER_BYTES = 4_000_000
# Bits of srv_admin_state. 0x04, "disabled in the configuration", is history: it stays after `state ready`.
_MAINT = 0x01 | 0x02 | 0x20 | 0x40  # forced, inherited, by resolution of its address, of its name
_DRAIN = 0x08 | 0x10  # forced, inherited


@dataclass(frozen=True, slots=True)
class Slot:
    """One server of a pool."""

    name: str
    address: str
    port: int
    admin: int

    @property
    def free(self) -> bool:
        """In maintenance, so ours to take."""
        return bool(self.admin & _MAINT)

    @property
    def takes_traffic(self) -> bool:
        """Neither in maintenance nor draining."""
        return not self.admin & (_MAINT | _DRAIN)


class RuntimeSocket:
    """The command socket of one HAProxy: a path, or `host:port`."""

    def __init__(self, where: str) -> None:
        self.where = where

    async def run(self, *commands: str) -> str:
        """The joined answers of the commands. Raises Unavailable or TimedOut."""
        try:
            async with asyncio.timeout(CALL_S):
                reader, writer = await self._connect()
                try:
                    writer.write((";".join(commands) + "\n").encode())
                    await writer.drain()
                    return await self._read(reader)
                finally:
                    writer.close()
        except TimeoutError:
            raise TimedOut(f"HAProxy at {self.where} did not answer within {CALL_S:g} s") from None
        except OSError as error:
            text = error.strerror or type(error).__name__
            raise Unavailable(f"HAProxy at {self.where} can't be reached: {text}") from None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if "/" in self.where:
            return await asyncio.open_unix_connection(self.where)
        host, _, port = self.where.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _read(self, reader: asyncio.StreamReader) -> str:
        chunks: list[bytes] = []
        size = 0
        while chunk := await reader.read(65536):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise Unavailable(f"HAProxy at {self.where} answers without end")
        return b"".join(chunks).decode(errors="replace")


class HaproxyDriver:
    """A `LoadBalancerDriver` over one or more HAProxies, which all get the same endpoints."""

    def __init__(self, sockets: Sequence[str], clock: Clock) -> None:
        if not sockets:
            raise InvalidInput.of("deployer.haproxy_sockets", "is empty", "at least one socket")
        self._sockets = tuple(RuntimeSocket(each) for each in sockets)
        self._clock = clock
        # Choosing a free slot and taking it are two commands: one at a time.
        self._locks = {each.where: asyncio.Lock() for each in self._sockets}

    async def submit(self, change: Change) -> Answer:
        """Take the endpoint in, or set it to drain."""
        return await self.poll(change)

    async def poll(self, change: Change) -> Answer:
        """Bring every HAProxy to where the change wants it, and tell how far that is."""
        _check(change.endpoint)
        step = self._add if change.kind is ChangeKind.ADD else self._remove
        return _together(await self._everywhere(lambda haproxy: step(haproxy, change)))

    async def cancel(self, change: Change) -> Answer:
        """Take an endpoint out again that was being added."""
        _check(change.endpoint)
        await self._everywhere(lambda haproxy: self._shut(haproxy, change.endpoint))
        return Answer(AnswerState.CANCELLED)

    async def _everywhere(self, step: Callable[[RuntimeSocket], Awaitable[T]]) -> list[T]:
        """Of each HAProxy; one that is away keeps none of the others from it. Raises the first one's error, then."""
        done: list[T] = []
        failed: list[GantryError] = []
        for each in self._sockets:
            try:
                done.append(await step(each))
            except GantryError as error:
                failed.append(error)
        if failed:
            raise failed[0]
        return done

    async def present(self, backend: str) -> frozenset[tuple[str, int]] | None:
        """Endpoints that every HAProxy sends traffic to."""
        views = [
            {(slot.address, slot.port) for slot in await self._slots(each, backend) or ()
             if slot.takes_traffic}
            for each in self._sockets
        ]  # fmt: skip
        return frozenset(set.intersection(*views))

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _add(self, haproxy: RuntimeSocket, change: Change) -> Answer:
        endpoint = change.endpoint
        async with self._locks[haproxy.where]:
            slots = await self._slots(haproxy, endpoint.backend)
            if slots is None:
                return _no_backend(endpoint)
            slot = _find(slots, endpoint) or _free(slots, change.instance)
            if slot is None:
                text = f"all {len(slots)} slots of backend {endpoint.backend} are taken"
                return Answer(AnswerState.FAILED, text)
            server = f"{endpoint.backend}/{slot.name}"
            told = ""
            if not slot.takes_traffic or not _is_at(slot, endpoint):
                told = await haproxy.run(
                    f"set server {server} addr {endpoint.address} port {endpoint.port}",
                    f"set server {server} state ready",
                )
            after = await self._slots(haproxy, endpoint.backend) or ()
        found = _find(after, endpoint)
        if found is None or not found.takes_traffic:
            return Answer(AnswerState.FAILED, f"HAProxy did not take it: {' '.join(told.split())}")
        return Answer(AnswerState.SUCCESS)

    async def _remove(self, haproxy: RuntimeSocket, change: Change) -> Answer:
        endpoint = change.endpoint
        slots = [
            slot
            for slot in await self._slots(haproxy, endpoint.backend) or ()
            if _is_at(slot, endpoint) and not slot.free
        ]
        if not slots:
            return Answer(AnswerState.SUCCESS)
        if any(not slot.admin & _DRAIN for slot in slots):
            drain = [f"set server {endpoint.backend}/{slot.name} state drain" for slot in slots]
            await haproxy.run(*drain)
        sessions = await self._sessions(haproxy, endpoint.backend)
        open_now = sum(sessions.get(slot.name, 0) for slot in slots)
        if open_now and self._clock.now() < change.drain_until:
            return Answer(AnswerState.WAITING, f"{open_now} requests are open")
        await self._shut(haproxy, endpoint)
        if open_now:
            text = f"{open_now} requests were still open when the drain time was over"
            return Answer(AnswerState.SUCCESS, text)
        return Answer(AnswerState.SUCCESS)

    async def _shut(self, haproxy: RuntimeSocket, endpoint: Endpoint) -> None:
        slots = await self._slots(haproxy, endpoint.backend) or ()
        maint = [
            f"set server {endpoint.backend}/{slot.name} state maint"
            for slot in slots
            if _is_at(slot, endpoint) and not slot.free
        ]
        if maint:
            await haproxy.run(*maint)

    async def _slots(self, haproxy: RuntimeSocket, backend: str) -> list[Slot] | None:
        """The pool's slots; None when there is no such backend."""
        text = await haproxy.run(f"show servers state {backend}")
        lines = [line for line in text.splitlines() if line.strip()]
        header = next((line for line in lines if line.startswith("# ")), None)
        if header is None:
            if "find backend" in text.lower():
                return None
            raise Unavailable(f"HAProxy at {haproxy.where} said {text[:200]!r}")
        names = header[2:].split()
        rows = (dict(zip(names, line.split(), strict=False)) for line in lines)
        return [_slot(row) for row in rows if row.get("be_name") == backend]

    async def _sessions(self, haproxy: RuntimeSocket, backend: str) -> dict[str, int]:
        text = await haproxy.run(f"show stat {backend} 4 -1")
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return {
            row["svname"]: int(row["scur"] or 0) + int(row["qcur"] or 0)
            for row in rows
            if row.get("pxname") == backend
        }


def _slot(row: dict[str, str]) -> Slot:
    return Slot(row["srv_name"], row["srv_addr"], int(row["srv_port"]), int(row["srv_admin_state"]))


def _is_at(slot: Slot, endpoint: Endpoint) -> bool:
    return (slot.address, slot.port) == (endpoint.address, endpoint.port)


def _find(slots: Sequence[Slot], endpoint: Endpoint) -> Slot | None:
    """The slot that has the endpoint's address; one with traffic before one without."""
    found = [slot for slot in slots if _is_at(slot, endpoint)]
    return min(found, key=lambda slot: slot.free, default=None)


def _free(slots: Sequence[Slot], instance: str) -> Slot | None:
    """A free slot, elsewhere for each instance, so that two deployers at a time seldom choose the same."""
    free = [slot for slot in slots if slot.free]
    return free[zlib.crc32(instance.encode()) % len(free)] if free else None


def _no_backend(endpoint: Endpoint) -> Answer:
    return Answer(
        AnswerState.FAILED, f"HAProxy's configuration has no backend {endpoint.backend!r}"
    )


def _together(answers: Sequence[Answer]) -> Answer:
    """The answer for all HAProxies: the worst one."""
    for state in (AnswerState.FAILED, AnswerState.WAITING):
        for each in answers:
            if each.state is state:
                return each
    said = "; ".join(dict.fromkeys(each.message for each in answers if each.message))
    return Answer(AnswerState.SUCCESS, said)


def _check(endpoint: Endpoint) -> None:
    """What goes into a command must be an address and a name, and nothing else. Raises InvalidInput."""
    try:
        ipaddress.ip_address(endpoint.address)
    except ValueError:
        raise InvalidInput.of("address", f"{endpoint.address!r} is no IP address") from None
    if not endpoint.backend.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise InvalidInput.of("load_balancer.backend", "not a name", "letters, digits, _ . -")
