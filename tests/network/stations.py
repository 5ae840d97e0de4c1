"""Servers and clients in containers' namespaces, all of this process: who can connect to whom.

A station listens in its namespace and tells its name to who connects; so a connection counts only when the right one
answered. That somebody can't is proven by a connect that fails although the sender takes the other for a neighbour: it
has a route by its interface, and the other's MAC, so that it does not even need an answer to ARP.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from services.hostd import netlink
from tests.network import places
from tests.network.site import IFNAME

PORT = 8080
BACKLOG = 1024
CAN_S = 20.0  # those who can connect do so within this, also on a busy machine
POLL_S = 0.002
WAVE = 1500  # connects under way at a time
# The kernel's table of neighbours is one for all namespaces, and holds 1024: each round forgets its own.
ROUND = 300
RTM_DELNEIGH = 29
NDA_DST = 1
_NDMSG = struct.Struct("=BxxxiHBB")  # family, interface, state, flags, type
_RESET = struct.pack("ii", 1, 0)

Pair = tuple["Station", "Station"]


@dataclass(eq=False)
class Station:
    """One container's place: its address, and a server at it."""

    name: str
    host: str
    vlan: int
    ip: str
    mac: str
    namespace: str
    listener: socket.socket = field(repr=False)
    link: netlink.NetlinkSocket = field(repr=False)
    index: int = 0  # of its interface

    @classmethod
    def at(cls, host: str, view: Mapping[str, Any]) -> Station:
        """A station in an attachment, as hostd shows it."""
        with places.being_in(view["namespace"]):
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            link = netlink.NetlinkSocket()
        listener.bind((view["ip"], PORT))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        found = link.link(IFNAME)
        assert found is not None
        place = (view["ip"], view["mac"], view["namespace"], listener, link, found.index)
        return cls(view["container"], host, view["vlan"], *place)

    def close(self) -> None:
        """Let go of the namespace."""
        self.listener.close()
        self.link.close()

    def greet(self) -> int:
        """Answer all who have connected; how many they were."""
        count = 0
        with suppress(BlockingIOError):
            while True:
                guest, _ = self.listener.accept()
                with guest, suppress(OSError):
                    guest.send(self.name.encode())
                count += 1
        return count

    def forget(self, neighbours: Iterable[Station]) -> None:
        """Have the kernel forget what it has learnt of them."""
        for each in neighbours:
            body = _NDMSG.pack(socket.AF_INET, self.index, 0, 0, 0)
            body += netlink.attribute(NDA_DST, socket.inet_aton(each.ip))
            message = netlink.Message(RTM_DELNEIGH, body, forgiven=frozenset({errno.ENOENT}))
            self.link.run([message])

    def pretend(self, others: Iterable[Station]) -> None:
        """Take stations of other networks for neighbours on the own wire, and know their MACs."""
        lines = []
        for each in others:
            lines.append(f"route replace {each.ip}/32 dev {IFNAME}")
            lines.append(f"neigh replace {each.ip} lladdr {each.mac} dev {IFNAME} nud permanent")
        places.inside(self.namespace, "ip", "-batch", "-", fed="\n".join(lines) + "\n")


@contextmanager
def stations(views: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[list[Station]]:
    """A station in each attachment (host, view)."""
    made: list[Station] = []
    try:
        for host, view in views:
            made.append(Station.at(host, view))
        yield made
    finally:
        for each in made:
            each.close()


@dataclass
class _Attempt:
    pair: Pair
    socket: socket.socket
    began: float
    took_s: float | None = None  # until it was connected


async def connect(pairs: Sequence[Pair], patience_s: float) -> dict[Pair, float]:
    """Connect from the first to the second of each pair, all at once; those that got the right answer, and how long
    the connection took."""
    everybody = {id(each): each for pair in pairs for each in pair}
    attempts = _begin(pairs)
    poll = select.poll()
    by_fd = {each.socket.fileno(): each for each in attempts}
    for fd in by_fd:
        poll.register(fd, select.POLLOUT)
    try:
        give_up_at = time.monotonic() + patience_s
        while by_fd and time.monotonic() < give_up_at:
            for fd, _ in poll.poll(0):
                attempt = by_fd.pop(fd)
                poll.unregister(fd)
                if attempt.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    attempt.took_s = time.monotonic() - attempt.began
            await asyncio.sleep(POLL_S)
        answered = {}
        connected = [each for each in attempts if each.took_s is not None]
        for attempt in connected:
            if await _answer(attempt.socket, everybody.values()) == attempt.pair[1].name:
                answered[attempt.pair] = attempt.took_s or 0.0
        return answered
    finally:
        for attempt in attempts:
            with suppress(OSError):
                attempt.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            attempt.socket.close()


def _begin(pairs: Sequence[Pair]) -> list[_Attempt]:
    by_sender: dict[int, list[Pair]] = {}
    for pair in pairs:
        by_sender.setdefault(id(pair[0]), []).append(pair)
    attempts = []
    for group in by_sender.values():
        made = places.sockets_in(group[0][0].namespace, len(group))
        for pair, each in zip(group, made, strict=True):
            attempts.append(_Attempt(pair, each, time.monotonic()))
            # One that fails at once tells so when it is asked for its error.
            each.connect_ex((pair[1].ip, PORT))
    return attempts


async def _answer(connection: socket.socket, everybody: Iterable[Station]) -> str:
    give_up_at = time.monotonic() + CAN_S
    while time.monotonic() < give_up_at:
        try:
            return connection.recv(256).decode()
        except BlockingIOError:
            for each in everybody:
                each.greet()
            await asyncio.sleep(0)
        except OSError:
            return ""
    return ""


@dataclass(frozen=True)
class Matrix:
    """What a full matrix showed. `wrong` has the pairs that could and must not, or must and could not."""

    can: int
    cannot: int
    wrong: tuple[tuple[str, str], ...]
    slowest_s: float  # of those that can
    took_s: float

    @property
    def pairs(self) -> int:
        """How many ordered pairs were tried."""
        return self.can + self.cannot


async def full_matrix(everybody: Sequence[Station], can_s: float = CAN_S) -> Matrix:
    """Every station tries every other one: those of the same VLAN can, others can't.

    Those who can are tried first; how long that takes at most says how long is to be waited for those who can't.
    """
    _many_files()
    began = time.monotonic()
    friends = [(a, b) for a in everybody for b in everybody if a is not b and a.vlan == b.vlan]
    strangers = [(a, b) for a in everybody for b in everybody if a.vlan != b.vlan]
    could: dict[Pair, float] = {}
    for part in _parts(_spread(friends), ROUND):
        could.update(await connect(part, can_s))
        for a, b in part:
            a.forget([b])
            b.forget([a])
    slowest_s = max(could.values(), default=0.0)
    missing = [pair for pair in friends if pair not in could]
    for each in everybody:
        each.pretend(other for other in everybody if other.vlan != each.vlan)
    patience_s = max(1.0, 3 * slowest_s)
    intruders: dict[Pair, float] = {}
    for part in _parts(strangers, WAVE):
        intruders.update(await connect(part, patience_s))
    wrong = [(a.name, b.name) for a, b in (*missing, *intruders)]
    # Nor did any connection come through whose sender did not hear of it.
    wrong += [("?", each.name) for each in everybody if each.greet()]
    took_s = time.monotonic() - began
    return Matrix(len(friends), len(strangers), tuple(sorted(wrong)), slowest_s, took_s)


def _parts(pairs: Sequence[Pair], size: int) -> Iterable[Sequence[Pair]]:
    return (pairs[first : first + size] for first in range(0, len(pairs), size))


def _spread(pairs: Sequence[Pair]) -> list[Pair]:
    """In an order in which neighbouring pairs have different senders."""
    by_sender: dict[int, list[Pair]] = {}
    for pair in pairs:
        by_sender.setdefault(id(pair[0]), []).append(pair)
    most = max((len(each) for each in by_sender.values()), default=0)
    return [group[n] for n in range(most) for group in by_sender.values() if n < len(group)]


def _many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * WAVE if hard == resource.RLIM_INFINITY else min(3 * WAVE, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
