"""Pools and networks as the allocator needs them: which offsets may be given out, and to whom. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address

from services.ipam.definition import Ip, NetworkConfig, PoolConfig, parse_range
from services.ipam.model import Claim

MAX_SPAN = 2**52
"""Of a huge IPv6 range the first so many addresses are used: offsets stay exact in JSON."""

Span = tuple[int, int]
"""First and last offset."""


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """In order, without overlaps, neighbours joined; empty ones fall away."""
    result: list[Span] = []
    for first, last in sorted(span for span in spans if span[0] <= span[1]):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return tuple(result)


def without(span: Span, holes: Iterable[Span]) -> list[Span]:
    """What is left of a span; `holes` are merged."""
    at, last = span
    left: list[Span] = []
    for first, end in holes:
        if end < at or first > last:
            continue
        if first > at:
            left.append((at, first - 1))
        at = end + 1
    if at <= last:
        left.append((at, last))
    return left


@dataclass(frozen=True)
class Pool:
    """A pool with its excluded offsets worked out; offset 0 is the range's own address."""

    network: str
    config: PoolConfig
    excluded: tuple[Span, ...]

    @classmethod
    def of(cls, network: str, config: PoolConfig) -> Pool:
        """Sort and merge what must not be given out."""
        base = int(config.cidr.network_address)
        last = min(config.cidr.num_addresses, MAX_SPAN) - 1
        spans = [(0, 0)]
        if config.family == 4:
            spans.append((last, last))  # the broadcast; IPv6 has none
        if config.gateway is not None:
            spans.append((int(config.gateway) - base,) * 2)
        for each in config.excluded:
            first, end = parse_range(each)
            if first.version == config.family:
                spans.append((max(0, int(first) - base), min(last, int(end) - base)))
        return cls(network, config, merged(span for span in spans if span[0] <= last))

    @property
    def name(self) -> str:
        """The pool's name."""
        return self.config.name

    @property
    def id(self) -> str:
        """Unique among all networks' pools."""
        return f"{self.network}/{self.name}"

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.config.family

    @cached_property
    def size(self) -> int:
        """Offsets are less than this."""
        return int(min(self.config.cidr.num_addresses, MAX_SPAN))

    @cached_property
    def usable(self) -> int:
        """Addresses that may be given out."""
        return self.size - sum(end - first + 1 for first, end in self.excluded)

    @cached_property
    def _base(self) -> int:
        return int(self.config.cidr.network_address)

    @cached_property
    def _firsts(self) -> list[int]:
        return [first for first, _ in self.excluded]

    def usable_from(self, offset: int) -> int | None:
        """The first offset ≥ `offset` that may be given out, or None."""
        at = bisect_right(self._firsts, offset) - 1
        if at >= 0 and offset <= self.excluded[at][1]:
            offset = self.excluded[at][1] + 1  # merged: the next one does not begin here
        return offset if offset < self.size else None

    def address(self, offset: int) -> str:
        """The address at an offset."""
        return str(self.config.cidr.network_address + offset)

    def place(self, address: str) -> int | None:
        """The offset of any address in the range."""
        given = parsed(address)
        if given is None or given.version != self.family or given not in self.config.cidr:
            return None
        offset = int(given) - self._base
        return offset if offset < self.size else None

    def offset(self, address: str) -> int | None:
        """The offset of an address that may be given out; None for any other."""
        offset = self.place(address)
        return offset if offset is not None and self.usable_from(offset) == offset else None


def parsed(address: str) -> Ip | None:
    """The address, if it is one."""
    try:
        return ip_address(address)
    except ValueError:
        return None


def canonical(address: str) -> str:
    """As addresses are stored, if it is one: IPv6 has many ways to write the same."""
    given = parsed(address)
    return address if given is None else str(given)


def _admits(bus: tuple[str, ...], environments: tuple[str, ...], zone: str, claim: Claim) -> str:
    """Why the claim is kept out; "" when it isn't."""
    unit = claim.app.partition("/")[0]
    if bus and not (unit in bus if unit else any(claim.instance.startswith(f"{b}-") for b in bus)):
        return f"is for business units {', '.join(bus)}"
    if environments and claim.environment not in environments:
        return f"is for environments {', '.join(environments)}"
    if zone and claim.zone and claim.zone != zone:
        return f"is for zone {zone}"
    return ""


@dataclass(frozen=True)
class Network:
    """A network with its pools, those of the highest priority first. `fixed`: the configuration defines it."""

    config: NetworkConfig
    pools: tuple[Pool, ...]
    fixed: bool = True
    version: int = 0  # of its definition, when the API made it
    closing: frozenset[str] = frozenset()  # pools that are being deleted

    @classmethod
    def of(
        cls,
        config: NetworkConfig,
        fixed: bool = True,
        version: int = 0,
        closing: Iterable[str] = (),
    ) -> Network:
        """Work it out."""
        pools = [Pool.of(config.name, each) for each in config.every_pool()]
        pools.sort(key=lambda each: (-each.config.priority, each.name))
        return cls(config, tuple(pools), fixed, version, frozenset(closing))

    @property
    def name(self) -> str:
        """The network's name."""
        return self.config.name

    @cached_property
    def families(self) -> tuple[int, ...]:
        """Of its pools: 4 before 6."""
        return tuple(sorted({each.family for each in self.pools}))

    def pool(self, name: str) -> Pool | None:
        """The pool of that name."""
        return next((each for each in self.pools if each.name == name), None)

    def pool_with(self, address: str) -> Pool | None:
        """The pool in whose range an address lies, whether it may be given out or not."""
        return next((each for each in self.pools if each.place(address) is not None), None)

    def pool_of(self, address: str) -> Pool | None:
        """The pool that gives an address out."""
        return next((each for each in self.pools if each.offset(address) is not None), None)

    def refusal(self, claim: Claim) -> str:
        """Why the claim may not use the network; "" when it may."""
        config = self.config
        return _admits(config.bus, config.environments, config.zone, claim)

    def pools_for(self, claim: Claim, family: int) -> list[Pool]:
        """The pools of a family that the claim may use, the first to be tried first."""
        return [
            each
            for each in self.pools
            if each.family == family
            and each.name not in self.closing
            and not _admits(each.config.bus, each.config.environments, each.config.zone, claim)
        ]
