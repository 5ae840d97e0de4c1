"""IpamPort in memory: one pool a network, generations, reservations, and an ipam that can be away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar

from libs.common.errors import Conflict, NotFound, TimedOut, TooMany, Unavailable
from services.hostd.model import Address, Address6, Attachment, AttachmentSpec, PendingRelease

T = TypeVar("T")


@dataclass
class FakeNetwork:
    """A pool: its VLAN, its addresses, and who has which. With `cidr6` each IPv4 address has its IPv6 twin."""

    vlan: int
    cidr: IPv4Network
    gateway: str | None = None
    cidr6: IPv6Network | None = None
    only6: bool = False
    mtu: int | None = None
    environments: frozenset[str] = frozenset()  # that it is for; none: all
    zone: str = ""  # that it is for; "": all
    held: dict[str, Address] = field(default_factory=dict)  # ipam key -> address
    reserved: dict[str, str] = field(default_factory=dict)  # name of the reservation -> address
    sticky: dict[str, str] = field(default_factory=dict)  # IPv4 address or twin -> held for whom


class FakeIpam:
    """Addresses by rising number; a released one comes last again, unless it is held for a sticky key."""

    def __init__(self, **networks: tuple[int, str]) -> None:
        self.networks = {
            name.replace("_", "-"): FakeNetwork(vlan, IPv4Network(cidr), str(IPv4Network(cidr)[-2]))
            for name, (vlan, cidr) in networks.items()
        }
        self.zone = ""  # where the host that asks is
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
            if pending.generation is not None and held.generations() != (
                pending.generation,
                pending.generation6,
            ):
                self.stale_releases.append(pending)
                continue
            del network.held[pending.ipam_key]
            self._generation += 1
            self._released_at[name, _ip4(network, held)] = self._generation
            if pending.spec.sticky_key:
                network.sticky[_ip4(network, held)] = pending.spec.sticky_key
        self._done(None)

    async def conflict(self, attachment: Attachment, address: str, seen_mac: str) -> None:
        """See IpamPort: the address is nobody's from now on."""
        self._arrive("conflict", attachment.ipam_key)
        for network in self.networks.values():
            held = network.held.get(attachment.ipam_key)
            if held is None or address not in {part.address for part in held.parts()}:
                continue
            if attachment.spec.ip is not None:
                raise Conflict(f"{address} is used by {seen_mac}, and was asked for")
            network.held[f"quarantine {address}"] = network.held.pop(attachment.ipam_key)
        self._done(self._allocate(attachment.ipam_key, attachment.spec))

    async def known(self) -> Mapping[str, frozenset[tuple[str, int]]]:
        """See IpamPort: one host is all there is."""
        self._arrive("known", "")
        return {
            key: frozenset((part.address, part.generation) for part in held.parts())
            for network in self.networks.values()
            for key, held in network.held.items()
        }

    async def holds(self, attachment: Attachment) -> bool:
        """See IpamPort."""
        self._arrive("holds", attachment.ipam_key)
        network = self.networks.get(attachment.spec.network)
        held = network.held.get(attachment.ipam_key) if network else None
        return held is not None and held == attachment.address

    async def room(self, network: str) -> int:
        """See IpamPort."""
        self._arrive("room", network)
        if network not in self.networks:
            raise NotFound(f"there is no network {network!r}")
        pool = self.networks[network]
        if pool.zone and self.zone and pool.zone != self.zone:
            return 0
        kept = {*(_ip4(pool, address) for address in pool.held.values()), pool.gateway}
        return sum(str(ip) not in kept for ip in pool.cidr.hosts())

    async def report_live(self, keys: Sequence[str], held: Sequence[Attachment] = ()) -> None:
        """See IpamPort."""
        self._arrive("report", "")
        self.live = list(keys)

    def addresses(self) -> dict[str, str]:
        """Who has which address, as ipam key -> address."""
        return {
            key: a.parts()[0].address for n in self.networks.values() for key, a in n.held.items()
        }

    def _allocate(self, key: str, spec: AttachmentSpec) -> Address:
        self._arrive("allocate", key)
        network = self.networks.get(spec.network)
        if network is None:
            raise NotFound(f"there is no network {spec.network!r}")
        if network.environments and spec.environment not in network.environments:
            raise NotFound(f"network {spec.network} is for others, and {spec.instance} is not")
        if network.zone and self.zone and network.zone != self.zone:
            raise NotFound(f"network {spec.network} has no pool for {spec.instance}")
        if key in network.held:
            return network.held[key]
        taken = {_ip4(network, address) for address in network.held.values()}
        if spec.reservation and spec.reservation not in network.reserved:
            raise NotFound(f"{spec.network} has no reservation {spec.reservation!r}")
        wanted = network.reserved.get(spec.reservation) or spec.ip
        if wanted is not None and wanted in taken:
            raise Conflict(f"{wanted} is taken")
        kept = {*taken, *network.reserved.values(), network.gateway}
        free = [str(ip) for ip in network.cidr.hosts() if str(ip) not in kept]
        if not free and not wanted:
            raise TooMany(f"network {spec.network} is full")
        age = partial(self._age, spec.network)
        mine = [each for each in free if spec.sticky_key == network.sticky.get(each)]
        loose = [each for each in free if each not in network.sticky]
        # Of those held for the same key the one released last, of others those that are held for nobody.
        ip = wanted or (max(mine, key=age) if mine else min(loose or free, key=age))
        network.sticky.pop(ip, None)
        self._generation += 1
        address = Address(
            ip=ip,
            prefix=network.cidr.prefixlen,
            gateway=network.gateway,
            vlan=network.vlan,
            mtu=network.mtu,
            generation=self._generation,
        )
        if network.cidr6 is not None:
            address = self._with_ip6(network, network.cidr6, address)
        network.held[key] = address
        return address

    def _with_ip6(self, network: FakeNetwork, cidr6: IPv6Network, four: Address) -> Address:
        self._generation += 1
        offset = int(IPv4Address(four.ip)) - int(network.cidr.network_address)
        six = Address6(
            ip=str(cidr6[offset]),
            prefix=cidr6.prefixlen,
            gateway=str(cidr6[-2]),
            generation=self._generation,
        )
        if network.only6:
            return Address(vlan=four.vlan, mtu=four.mtu, ip6=six)
        return four.model_copy(update={"ip6": six})

    def add_ip6(self, name: str, cidr6: str, *, only: bool = False) -> None:
        """From now on the network gives IPv6 addresses besides, or instead."""
        network = self.networks[name]
        network.cidr6, network.only6 = IPv6Network(cidr6), only

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


def _ip4(network: FakeNetwork, address: Address) -> str:
    """The IPv4 address that an address is, or whose twin it is."""
    if address.ip or address.ip6 is None or network.cidr6 is None:
        return address.ip
    offset = int(IPv6Address(address.ip6.ip)) - int(network.cidr6.network_address)
    return str(network.cidr[offset])
