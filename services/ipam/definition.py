"""What a network is said to be: in the configuration, and over the API. Pure; errors name the field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from libs.common.spec import Name

Ip = IPv4Address | IPv6Address
Range = IPv4Network | IPv6Network

DEFAULT, DEFAULT6 = "default", "default6"
MAX_POOLS = 64
_SMALLEST = {4: 30, 6: 126}  # the longest prefix that has room


def parse_range(text: str) -> tuple[Ip, Ip]:
    """`a` or `a-b` as first and last, of one family. Raises ValueError."""
    first, _, last = text.partition("-")
    try:
        ends = ip_address(first.strip()), ip_address((last or first).strip())
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; expected 10.0.0.1 or 10.0.0.1-10.0.0.9") from None
    if ends[0].version != ends[1].version or int(ends[1]) < int(ends[0]):
        raise ValueError(f"{text!r} ends before it begins")
    return ends


class _Scope(BaseModel):
    """Who may use it. Empty: everyone, or everything that what it belongs to is for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bus: tuple[Name, ...] = ()
    environments: tuple[Name, ...] = Field(
        (), description="an instance that names none is kept out when there are any"
    )
    zone: str = Field("", max_length=64, description="an instance that names none is let in")


class PoolConfig(_Scope):
    """A range of a network's addresses, of one family.

    `excluded` are single addresses or `first-last` ranges that are never given out; the network's own, the broadcast
    and the gateway's aren't either. Pools of higher `priority` are used first.
    """

    name: Name
    cidr: Range
    gateway: Ip | None = None
    excluded: tuple[str, ...] = Field((), max_length=256)
    priority: int = Field(0, ge=-1000, le=1000)

    @field_validator("cidr", mode="before")
    @classmethod
    def _range(cls, value: object) -> object:
        return ip_network(value) if isinstance(value, str) else value

    @field_validator("excluded")
    @classmethod
    def _excluded(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            parse_range(each)
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.gateway is not None and self.gateway not in self.cidr:
            raise ValueError(f"gateway {self.gateway} is not in {self.cidr}")
        longest = _SMALLEST[self.cidr.version]
        if self.cidr.prefixlen > longest:
            raise ValueError(
                f"cidr {self.cidr} has no room; expected a prefix of {longest} or shorter"
            )
        return self

    @property
    def family(self) -> int:
        """4 or 6."""
        return int(self.cidr.version)


class NetworkConfig(_Scope):
    """One network: a VLAN with pools of addresses. With pools of both families it is dual stack.

    `cidr`, `gateway` and `excluded` are the short form of a pool named `default`, `cidr6` and `gateway6` that of one
    named `default6`.
    """

    name: Name
    vlan: int = Field(ge=1, le=4094)
    mtu: int = Field(1500, ge=576, le=9216)
    cidr: IPv4Network | None = None
    gateway: IPv4Address | None = None
    cidr6: IPv6Network | None = None
    gateway6: IPv6Address | None = None
    excluded: tuple[str, ...] = Field((), max_length=256)
    pools: tuple[PoolConfig, ...] = Field((), max_length=MAX_POOLS)

    @field_validator("excluded")
    @classmethod
    def _excluded(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            parse_range(each)
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        pools = self.every_pool()
        if not pools:
            raise ValueError("it has no addresses; expected cidr, cidr6 or pools")
        for name, given, needs in (
            ("gateway", self.gateway, self.cidr),
            ("gateway6", self.gateway6, self.cidr6),
        ):
            if given is not None and needs is None:
                raise ValueError(f"{name} {given} belongs to no range; put it into its pool")
        doubled = twice(each.name for each in pools)
        if doubled:
            raise ValueError(f"pools share the name {', '.join(doubled)}")
        if self.mtu < 1280 and any(each.family == 6 for each in pools):
            raise ValueError(f"mtu {self.mtu} is too small for IPv6; expected at least 1280")
        clash = overlap([(self.name, each) for each in pools])
        if clash:
            raise ValueError(clash)
        return self

    def every_pool(self) -> tuple[PoolConfig, ...]:
        """All pools, the short forms written out."""
        short = [
            PoolConfig(
                name=name,
                cidr=cidr,
                gateway=gateway,
                excluded=tuple(
                    each for each in self.excluded if parse_range(each)[0].version == cidr.version
                ),
            )
            for name, cidr, gateway in (
                (DEFAULT, self.cidr, self.gateway),
                (DEFAULT6, self.cidr6, self.gateway6),
            )
            if cidr is not None
        ]
        return (*short, *self.pools)


def twice(values: Iterable[object]) -> list[str]:
    """Those that are there more than once."""
    seen = [str(each) for each in values]
    return sorted({each for each in seen if seen.count(each) > 1})


def overlap(pools: Sequence[tuple[str, PoolConfig]]) -> str:
    """Which two pools (with their networks' names) have addresses in common, in words; "" when none have."""
    ordered = sorted(
        pools, key=lambda each: (each[1].family, int(each[1].cidr.network_address), each[1].name)
    )
    # A range begins within an earlier one exactly when it overlaps the one that reaches farthest so far.
    widest: tuple[str, PoolConfig] | None = None
    for network, pool in ordered:
        if widest is not None and widest[1].family == pool.family:
            other, far = widest
            if int(pool.cidr.network_address) <= int(far.cidr.broadcast_address):
                return (
                    f"pool {pool.name} of {network} ({pool.cidr}) overlaps"
                    f" pool {far.name} of {other} ({far.cidr})"
                )
        widest = (network, pool)
    return ""


def clashes(networks: Sequence[NetworkConfig]) -> str:
    """Why these networks can't be side by side; "" when they can."""
    for attribute in ("name", "vlan"):
        doubled = twice(getattr(each, attribute) for each in networks)
        if doubled:
            return f"networks share the {attribute} {', '.join(doubled)}"
    return overlap([(each.name, pool) for each in networks for pool in each.every_pool()])


def dumped(config: BaseModel) -> dict[str, Any]:
    """A definition as JSON; what it does not say is left out."""
    return config.model_dump(mode="json", exclude_defaults=True)


def known_networks(body: Mapping[str, Any]) -> dict[str, Any]:
    """What this code understands of the document of networks that the API made."""
    return {
        "networks": [
            {
                "id": entry["id"],
                "version": entry["version"],
                "config": dumped(NetworkConfig.model_validate(entry["config"], extra="ignore")),
                "closing": entry["closing"],
            }
            for entry in body["networks"]
        ]
    }
