"""Networks and addresses.

An address is a document from its first use on; those never used yet lie beyond the network's frontier and cost
nothing, so a /8 is as cheap as a /26. Each allocation has a generation, one more than the address' last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from libs.common.spec import Name


class NetworkConfig(BaseModel):
    """One network: a VLAN with a range of addresses.

    `excluded` are single addresses or `first-last` ranges that are never given out; the network, broadcast and gateway
    addresses aren't either. `bus` limits who may use it (empty: everyone).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    cidr: IPv4Network
    vlan: int = Field(ge=1, le=4094)
    gateway: IPv4Address | None = None
    excluded: tuple[str, ...] = ()
    zone: str = ""
    bus: tuple[str, ...] = ()
    mtu: int = Field(1500, ge=576, le=9216)

    @field_validator("excluded")
    @classmethod
    def _ranges(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                first, last = parse_range(each)
            except AddressValueError as error:
                raise ValueError(
                    f"{each!r}: {error}; expected 10.0.0.1 or 10.0.0.1-10.0.0.9"
                ) from None
            if last < first:
                raise ValueError(f"{each!r} ends before it begins")
        return value

    @model_validator(mode="after")
    def _gateway(self) -> Self:
        if self.gateway is not None and self.gateway not in self.cidr:
            raise ValueError(f"gateway {self.gateway} is not in {self.cidr}")
        if self.cidr.prefixlen > 30:
            raise ValueError(f"cidr {self.cidr} has no room; expected a prefix of 30 or shorter")
        return self


class IpamConfig(BaseModel):
    """The section `ipam`. Times are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    networks: tuple[NetworkConfig, ...] = ()
    cooldown_s: float = Field(60.0, ge=0, description="a released address rests this long")
    hold_s: float = Field(3600.0, ge=0, description="a sticky one is kept for its owner this long")
    leak_grace_s: float = Field(120.0, ge=1, description="between two looks at a lost attachment")
    tombstone_s: float = Field(86_400.0, ge=60)
    restore_wait_s: float = Field(
        300.0, ge=1, description="after a restore, new addresses wait so long for hosts to report"
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for attribute in ("name", "vlan"):
            values = [getattr(each, attribute) for each in self.networks]
            doubled = sorted({str(v) for v in values if values.count(v) > 1})
            if doubled:
                raise ValueError(f"networks share the {attribute} {', '.join(doubled)}")
        return self


def parse_range(text: str) -> tuple[IPv4Address, IPv4Address]:
    """`a` or `a-b` as first and last. Raises AddressValueError."""
    first, _, last = text.partition("-")
    return IPv4Address(first.strip()), IPv4Address((last or first).strip())


@dataclass(frozen=True)
class Network:
    """A network with its excluded offsets worked out; offset 0 is the network's own address."""

    config: NetworkConfig
    excluded: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, config: NetworkConfig) -> Network:
        """Sort and merge what must not be given out."""
        base = int(config.cidr.network_address)
        last = config.cidr.num_addresses - 1
        spans = [(0, 0), (last, last)]
        if config.gateway is not None:
            spans.append((int(config.gateway) - base,) * 2)
        for each in config.excluded:
            first, end = parse_range(each)
            spans.append((max(0, int(first) - base), min(last, int(end) - base)))
        merged: list[tuple[int, int]] = []
        for first_offset, end_offset in sorted(span for span in spans if span[0] <= span[1]):
            if merged and first_offset <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end_offset))
            else:
                merged.append((first_offset, end_offset))
        return cls(config, tuple(merged))

    @property
    def name(self) -> str:
        """The network's name."""
        return self.config.name

    @property
    def usable(self) -> int:
        """Addresses that may be given out."""
        return self.config.cidr.num_addresses - sum(end - first + 1 for first, end in self.excluded)

    def usable_from(self, offset: int) -> int | None:
        """The first offset ≥ `offset` that may be given out, or None."""
        for first, end in self.excluded:
            if first <= offset <= end:
                offset = end + 1
        return offset if offset < self.config.cidr.num_addresses else None

    def address(self, offset: int) -> str:
        """The address at an offset."""
        return str(self.config.cidr.network_address + offset)

    def offset(self, address: str) -> int | None:
        """The offset of an address that may be given out; None for any other."""
        try:
            given = IPv4Address(address)
        except AddressValueError:
            return None
        if given not in self.config.cidr:
            return None
        offset = int(given) - int(self.config.cidr.network_address)
        return offset if self.usable_from(offset) == offset else None

    def admits(self, instance: str) -> bool:
        """May this instance (`bu-app-…`) use the network."""
        return not self.config.bus or any(instance.startswith(f"{bu}-") for bu in self.config.bus)


class State(StrEnum):
    """Of an address that has been used. Released ones cool down (or are held) until `free_at`."""

    ALLOCATED = "allocated"
    RELEASED = "released"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Claimed:
    """That a host says its attachment has an address, which is in quarantine because somebody else seems to as well."""

    host: str
    attachment: str
    generation: int
    since: float
    missing_since: float | None = None

    @property
    def who(self) -> tuple[str, str]:
        """Host and attachment."""
        return self.host, self.attachment


@dataclass(frozen=True, slots=True)
class Address:
    """One address; a document. Times are Unix seconds."""

    network: str
    address: str
    offset: int
    version: int = 0
    state: State = State.RELEASED
    generation: int = 0
    attachment: str = ""
    instance: str = ""
    attempt: str = ""
    host: str = ""
    sticky_key: str = ""
    free_at: float = 0.0
    since: float = 0.0
    missing_since: float | None = None
    claims: tuple[Claimed, ...] = ()

    @property
    def id(self) -> str:
        """The document's id, also the subject of its events."""
        return f"{self.network}/{self.address}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What an attachment asks for."""

    attachment: str
    network: str
    instance: str
    attempt: str
    host: str
    sticky_key: str = ""
    requested: str = ""


@dataclass(frozen=True, slots=True)
class Reported:
    """An address that a host says one of its attachments has."""

    attachment: str
    network: str
    address: str
    generation: int
    instance: str = ""
    attempt: str = ""
    sticky_key: str = ""


def allocated(address: Address, claim: Claim, now: float) -> Address:
    """The address as the claim's, with the next generation."""
    return replace(
        address,
        state=State.ALLOCATED,
        generation=address.generation + 1,
        attachment=claim.attachment,
        instance=claim.instance,
        attempt=claim.attempt,
        host=claim.host,
        sticky_key=claim.sticky_key,
        free_at=0.0,
        since=now,
        missing_since=None,
    )


def released(address: Address, now: float, cooldown_s: float, hold_s: float) -> Address:
    """The address given back: it cools down, and longer if somebody may come back for it."""
    rest_s = max(cooldown_s, hold_s) if address.sticky_key else cooldown_s
    return replace(
        address,
        state=State.RELEASED,
        attachment="",
        free_at=now + rest_s,
        since=now,
        missing_since=None,
    )


_PLAIN = (
    *("network", "address", "offset", "generation", "instance", "attempt", "host", "sticky_key"),
    *("free_at", "since", "missing_since"),
)


def to_body(address: Address) -> dict[str, Any]:
    """The document's body; `attachment` is absent unless allocated, since its index is unique."""
    body: dict[str, Any] = {name: getattr(address, name) for name in _PLAIN}
    body["state"] = address.state.value
    if address.claims:
        body["claims"] = [asdict(each) for each in address.claims]
    if address.attachment:
        body["attachment"] = address.attachment
    return body


def from_body(version: int, body: Mapping[str, Any]) -> Address:
    """The address of a document."""
    return Address(
        version=version,
        state=State(body["state"]),
        attachment=body.get("attachment", ""),
        claims=tuple(_claimed(each) for each in body.get("claims", ())),
        **{name: body[name] for name in _PLAIN},
    )


_CLAIMED = tuple(each.name for each in fields(Claimed))


def _claimed(body: Mapping[str, Any]) -> Claimed:
    return Claimed(**{name: body[name] for name in _CLAIMED})
