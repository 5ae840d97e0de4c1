"""IpamPort in memory: one pool a network, generations, reservations, and an ipam that can be away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

from libs.common.errors import Conflict, NotFound, TimedOut, TooMany, Unavailable
from services.hostd.model import Address, Attachment, AttachmentSpec, PendingRelease

T = TypeVar("T")


@dataclass
class FakeNetwork:
    """A pool: its VLAN, its addresses, and who has which."""

    vlan: int
    cidr: IPv4Network
    gateway: str | None = None
    held: dict[str, Address] = field(default_factory=dict)  # ipam key -> address
    reserved: dict[str, str] = field(default_factory=dict)  # name of the reservation -> address


class FakeIpam:
    """Addresses by rising number; a released one comes last again."""

    def __init__(self, **networks: tuple[int, str]) -> None:
        self.networks = {
            name.replace("_", "-"): FakeNetwork(vlan, IPv4Network(cidr), str(IPv4Network(cidr)[-2]))
            for name, (vlan, cidr) in networks.items()
        }
        self.away = False
        self.lose_answers = 0  # so many answers are lost after the deed was done
        self.stale_releases: list[PendingRelease] = []
        self.live: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self._generation = 0
        self._released_at: dict[tuple[str, str], int] = {}

    async def allocate(self, attachment: Attachment) -> Address:
        """See IpamPort."""
        return self._done(self._allocate(attachment.ipam_key, attachment.spec))

    async def release(self, pending: PendingRelease) -> None:
        """See IpamPort: an older generation changes nothing."""
        self._arrive("release", pending.ipam_key)
        for name, network in self.networks.items():
            held = network.held.get(pending.ipam_key)
            if held is None:
                continue
            if pending.generation not in (None, held.generation):
                self.stale_releases.append(pending)
                continue
            del network.held[pending.ipam_key]
            self._generation += 1
            self._released_at[name, held.ip] = self._generation
        self._done(None)

    async def report_live(self, keys: Sequence[str], held: Sequence[Attachment] = ()) -> None:
        """See IpamPort."""
        self._arrive("report", "")
        self.live = list(keys)

    def addresses(self) -> dict[str, str]:
        """Who has which address, as ipam key -> address."""
        return {key: a.ip for n in self.networks.values() for key, a in n.held.items()}

    def _allocate(self, key: str, spec: AttachmentSpec) -> Address:
        self._arrive("allocate", key)
        network = self.networks.get(spec.network)
        if network is None:
            raise NotFound(f"there is no network {spec.network!r}")
        if key in network.held:
            return network.held[key]
        taken = {address.ip for address in network.held.values()}
        if spec.reservation and spec.reservation not in network.reserved:
            raise NotFound(f"{spec.network} has no reservation {spec.reservation!r}")
        wanted = network.reserved.get(spec.reservation) or spec.ip
        if wanted in taken:
            raise Conflict(f"{wanted} is taken")
        kept = {*taken, *network.reserved.values(), network.gateway}
        free = [str(ip) for ip in network.cidr.hosts() if str(ip) not in kept]
        if not free and not wanted:
            raise TooMany(f"network {spec.network} is full")
        ip = wanted or min(free, key=lambda each: self._age(spec.network, each))
        self._generation += 1
        address = Address(
            ip=ip,
            prefix=network.cidr.prefixlen,
            gateway=network.gateway,
            vlan=network.vlan,
            generation=self._generation,
        )
        network.held[key] = address
        return address

    def _age(self, network: str, ip: str) -> tuple[int, IPv4Address]:
        return self._released_at.get((network, ip), 0), IPv4Address(ip)

    def _arrive(self, what: str, key: str) -> None:
        if self.away:
            raise Unavailable("ipam can't be reached")
        self.calls.append((what, key))

    def _done(self, answer: T) -> T:
        if self.lose_answers > 0:
            self.lose_answers -= 1
            raise TimedOut("ipam did not answer in time")
        return answer
