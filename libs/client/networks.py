"""Networks, pools, addresses, reservations and quotas: the words of the public API.

Amounts are numbers of addresses. An address is text, `10.0.0.7` or `fd00::7`; of another business unit's only the
state is told. What stands in the configuration (`fixed`) can't be changed by these calls.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from libs.client.model import Partial, View
from libs.common.spec import NAME_PATTERN, Name, Strict

STATES = ("free", "allocated", "held", "cooling", "quarantined", "reserved", "excluded")
"""What an address can be, as readers are told."""


# -- what is asked ---------------------------------------------------------------------------------


def _cidr(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ValueError(f"{error}; expected e.g. 10.20.0.0/24 or fd00:20::/64") from None


def _address_text(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise ValueError(f"{error}; expected e.g. 10.20.0.7 or fd00:20::7") from None


def _range(text: str) -> str:
    first, _, last = text.partition("-")
    try:
        low, high = ip_address(first.strip()), ip_address((last or first).strip())
    except ValueError as error:
        raise ValueError(f"{error}; expected 10.20.0.7 or 10.20.0.7-10.20.0.9") from None
    if low.version != high.version or int(high) < int(low):
        raise ValueError(f"{text!r} ends before it begins")
    return text


Cidr = Annotated[str, Field(max_length=64), AfterValidator(_cidr)]
AddressText = Annotated[str, Field(max_length=64), AfterValidator(_address_text)]
Excluded = Annotated[
    tuple[Annotated[str, Field(max_length=100), AfterValidator(_range)], ...],
    Field(max_length=256, description="never given out: single addresses, or first-last"),
]
Units = Annotated[
    tuple[Name, ...], Field(max_length=1000, description="business units that it is for; none: all")
]
Environments = Annotated[
    tuple[Name, ...], Field(max_length=100, description="environments that it is for; none: all")
]
Zone = Annotated[str, Field(max_length=64, description="the zone that it is for; none: all")]


class PoolBody(Strict):
    """The body of `PUT …/pools/{pool}`: a range of addresses of one family. What it is for narrows the network's."""

    cidr: Cidr
    gateway: AddressText | None = None
    excluded: Excluded = ()
    priority: int = Field(
        0, strict=True, ge=-1000, le=1000, description="the highest is used up first"
    )
    bus: Units = ()
    environments: Environments = ()
    zone: Zone = ""


class NamedPool(PoolBody):
    """A pool among those of a network."""

    name: Name


class NetworkBody(Strict):
    """The body of `PUT /v1/networks/{network}`, whole: what is not in it will not be there any more.

    `cidr` and `cidr6` with their gateways are the short form of the pools `default` and `default6`.
    """

    vlan: int = Field(strict=True, ge=1, le=4094)
    mtu: int = Field(1500, strict=True, ge=576, le=9216)
    cidr: Cidr | None = None
    gateway: AddressText | None = None
    cidr6: Cidr | None = None
    gateway6: AddressText | None = None
    excluded: Excluded = ()
    pools: tuple[NamedPool, ...] = Field((), max_length=64)
    bus: Units = ()
    environments: Environments = ()
    zone: Zone = ""


class ReservationBody(Strict):
    """The body of `PUT …/reservations/{name}`: without `address` any of the pool, or of the network's first."""

    bu: Name | None = Field(None, description="for this business unit; None: whoever names it")
    app: Name | None = Field(None, description="of it for this app only")
    pool: str = Field("", pattern=rf"^$|{NAME_PATTERN}")
    address: str = Field("", max_length=64, description="this address")
    note: str = Field("", max_length=500)

    @field_validator("address")
    @classmethod
    def _address(cls, text: str) -> str:
        return _address_text(text) if text else ""

    @field_validator("app")
    @classmethod
    def _app(cls, app: str | None, info: ValidationInfo) -> str | None:
        if app is not None and not info.data.get("bu"):
            raise ValueError("needs `bu`, whose app it is")
        return app


class QuotaBody(Strict):
    """The body of `PUT /v1/quotas/{bu}`: how many addresses it may have, in all and in single networks."""

    limit: int | None = Field(
        None, strict=True, ge=0, le=2**40, description="over all networks; None: no limit"
    )
    networks: dict[Name, Annotated[int, Field(strict=True, ge=0, le=2**40)]] = Field(
        {}, max_length=1000, description="by network, besides"
    )


# -- what is answered ------------------------------------------------------------------------------


class PoolView(View):
    """A pool: what it is, and how many of its addresses are in which state."""

    pool: str
    cidr: str = ""
    gateway: str | None = None
    priority: int = 0
    zone: str = ""
    bus: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    usable: int = Field(0, description="all but the excluded ones")
    free: int = 0
    allocated: int = 0
    held: int = Field(0, description="kept for their owner, who may come back")
    cooling: int = Field(0, description="given back a short time ago")
    quarantined: int = Field(0, description="in use by somebody else, too")
    reserved: int = Field(0, description="kept for a name")
    excluded: int = Field(0, description="never given to anybody")


class NetworkView(View):
    """A network (a VLAN) with its pools; the counts are those of all of them."""

    network: str
    vlan: int | None = None
    mtu: int | None = None
    zone: str = ""
    bus: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    fixed: bool = Field(True, description="by the configuration; can't be changed over the API")
    version: int = 0
    pools: tuple[PoolView, ...] = ()
    usable: int = 0
    free: int = 0
    allocated: int = 0
    held: int = 0
    cooling: int = 0
    quarantined: int = 0
    reserved: int = 0
    excluded: int = 0


class Defined(View):
    """A network as it is defined now, in `definition`; after a pool was changed, too."""

    network: str
    version: int
    definition: dict[str, Any]


class Removed(View):
    """It is gone."""

    deleted: bool


class Networks(Partial):
    """Networks, by name."""

    networks: tuple[NetworkView, ...]


class Tenure(View):
    """That somebody had an address from `since` until `until`, and why it ended; of others only when."""

    instance: str = ""
    attempt: str = ""
    attachment: str = ""
    host: str = ""
    generation: int = 0
    since: float
    until: float | None = None
    why: str = ""


class AddressView(View):
    """An address. Of another business unit's only `address`, `pool` and `state` are told."""

    address: str
    pool: str = ""
    state: str
    bu: str = ""
    instance: str = ""
    attachment: str = ""
    host: str = ""
    generation: int = 0
    since: float | None = None
    free_at: float | None = Field(None, description="when it is free again, held or cooling ones")
    reservation: str = ""
    seen_mac: str = Field("", description="of the other station, when it is in quarantine")
    history: tuple[Tenure, ...] = Field((), description="newest first; when one address is asked")


class Addresses(View):
    """A page of addresses that have been used or are kept; `next` goes into `?after=` for the page after it."""

    addresses: tuple[AddressView, ...]
    next: str = ""


class Span(View):
    """`count` addresses from `first` on that are in the same state, of the same instance if one is told."""

    first: str
    count: int
    state: str
    instance: str = ""
    since: float | None = None


class AddressMap(View):
    """The addresses of a pool from `first` on, as spans without a gap; `next` is the first that is not told."""

    network: str = ""
    pool: str = ""
    cidr: str = ""
    first: str = ""
    count: int = 0
    spans: tuple[Span, ...]
    next: str = ""


class ReservationView(View):
    """An address that is kept for whoever comes by this name, and its state."""

    name: str
    pool: str = ""
    address: str = ""
    bu: str = ""
    app: str = ""
    note: str = ""
    state: str = ""
    instance: str = ""
    by: str = ""
    reserved_at: float | None = None


class Reservations(View):
    """A network's reservations, by name."""

    reservations: tuple[ReservationView, ...]


class LimitView(View):
    """How many addresses a unit may have, and has: in one network, or (network "") over all."""

    network: str = ""
    limit: int
    used: int


class QuotaView(View):
    """A business unit's limits. Allocated, held and reserved addresses count."""

    bu: str
    version: int = 0
    limits: tuple[LimitView, ...]


class Quotas(View):
    """Quotas, by business unit."""

    quotas: tuple[QuotaView, ...]
