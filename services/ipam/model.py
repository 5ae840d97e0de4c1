"""Addresses and what is asked about them.

An address is a document from its first use on; those never used yet cost nothing, so a /8 is as cheap as a /26. Each
allocation has a generation, one more than the address' last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.ipam.definition import DEFAULT, NetworkConfig, clashes

NEVER = 1e15
"""`free_at` of a released address that is not to be given out by chance: it is reserved, or excluded by now."""


SOON_S = 5.0


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
    quarantine_s: float = Field(
        86_400.0, ge=1, description="an address that somebody else answers for is kept back so long"
    )
    history_s: float = Field(
        90 * 86_400.0, ge=0, description="who had an address is remembered so long"
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        clash = clashes(self.networks)
        if clash:
            raise ValueError(clash)
        return self


class State(StrEnum):
    """Of an address that has been used. Released ones cool down (or are held) until `free_at`."""

    ALLOCATED = "allocated"
    RELEASED = "released"
    QUARANTINED = "quarantined"


class Shown(StrEnum):
    """What readers are told. Free and excluded ones need no document."""

    FREE = "free"
    ALLOCATED = "allocated"
    HELD = "held"  # sticky, waiting for its owner
    COOLING = "cooling"
    QUARANTINED = "quarantined"
    RESERVED = "reserved"
    EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True)
class Claimed:
    """That a host says its attachment has an address, which is in quarantine because somebody else seems to as well.

    The last four say whose the attachment is, as far as that is known: what it is given back with.
    """

    host: str
    attachment: str
    generation: int
    since: float
    missing_since: float | None = None
    instance: str = ""
    attempt: str = ""
    sticky_key: str = ""
    app: str = ""

    @property
    def who(self) -> tuple[str, str]:
        """Host and attachment."""
        return self.host, self.attachment


@dataclass(frozen=True, slots=True)
class Reserved:
    """That an address is kept for somebody. `bu` and `app` say who may have it; without them whoever asks by name."""

    name: str
    bu: str = ""
    app: str = ""  # without the business unit
    note: str = ""
    by: str = ""
    since: float = 0.0

    def owned_by(self, instance: str, app: str = "") -> bool:
        """May this instance (`bu-app-…`) have it; its app (`bu/app`) says it better, where it is known."""
        if app and self.bu:
            return app == f"{self.bu}/{self.app}" if self.app else app.startswith(f"{self.bu}/")
        owner = f"{self.bu}-{self.app}-" if self.app else f"{self.bu}-"
        return not self.bu or instance.startswith(owner)


@dataclass(frozen=True, slots=True)
class Address:
    """One address; a document. Times are Unix seconds.

    `bu` is the business unit whose quota it counts for, while it does. `pinned`: it was asked for, so no other will do.
    `seen_mac` is the station that answered for it when it went into quarantine. `app` (`bu/app`) is who has it or had
    it last, where its host knows.
    """

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
    pool: str = DEFAULT
    bu: str = ""
    environment: str = ""
    zone: str = ""
    pinned: bool = False
    seen_mac: str = ""
    app: str = ""
    reserved: Reserved | None = None

    @property
    def id(self) -> str:
        """The document's id, also the subject of its events."""
        return f"{self.network}/{self.address}"

    @property
    def family(self) -> int:
        """4 or 6."""
        return family_of(self.address)

    def counts_for(self, bu: str, now: float) -> bool:
        """Does it count for the business unit's quota already, and go on to do so for a while."""
        return self.state is State.RELEASED and self.bu == bu and self.free_at > now + SOON_S

    def shown(self, now: float) -> Shown:
        """Its state for readers."""
        if self.state is not State.RELEASED:
            return Shown(self.state.value)
        if self.reserved is not None:
            return Shown.RESERVED
        if self.free_at <= now:
            return Shown.FREE
        if self.free_at >= NEVER:
            return Shown.EXCLUDED
        return Shown.HELD if self.sticky_key else Shown.COOLING


def family_of(address: str) -> int:
    """4 or 6, of a valid address."""
    return 6 if ":" in address else 4


def place_key(address: str) -> str:
    """Sorts addresses of a family by number, as text."""
    given = ip_address(address)
    return f"{given.version}:{given.packed.hex()}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What an attachment asks for. No `families`: one address of each that the network has."""

    attachment: str
    network: str
    instance: str
    attempt: str
    host: str
    sticky_key: str = ""
    requested: str = ""
    environment: str = ""
    zone: str = ""
    reservation: str = ""
    families: tuple[int, ...] = ()
    app: str = ""  # "bu/app", when the host knows it


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
    app: str = ""

    @property
    def id(self) -> str:
        """The address' document."""
        return f"{self.network}/{self.address}"


def unit_of(claim: Claim | Address, known: frozenset[str] = frozenset()) -> str:
    """The business unit that an address counts for.

    An instance's name is `bu-app-…`, and both may have dashes: who knows the app, or made the sticky key of it, says
    so; else the longest `known` one that fits, else the shortest that may be.
    """
    owner = claim.app or claim.sticky_key
    told = owner.partition("/")[0] if "/" in owner else ""
    if told and (claim.app or claim.instance.startswith(f"{told}-")):
        return told
    fitting = [each for each in known if claim.instance.startswith(f"{each}-")]
    return max(fitting, key=len) if fitting else claim.instance.partition("-")[0]


def allocated(address: Address, claim: Claim, now: float, bu: str = "") -> Address:
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
        bu=bu,
        environment=claim.environment,
        zone=claim.zone,
        pinned=bool(claim.requested or claim.reservation),
        seen_mac="",
        app=claim.app,
    )


def released(address: Address, now: float, cooldown_s: float, hold_s: float) -> Address:
    """The address given back: it cools down, and longer if somebody may come back for it."""
    rest_s = max(cooldown_s, hold_s) if address.sticky_key else cooldown_s
    reserved = address.reserved
    return replace(
        address,
        state=State.RELEASED,
        attachment="",
        free_at=NEVER if reserved else now + rest_s,
        since=now,
        missing_since=None,
        bu=reserved.bu if reserved else address.bu if address.sticky_key else "",
        pinned=False,
        seen_mac="",
        claims=(),
    )


_PLAIN = (
    *("network", "address", "offset", "generation", "instance", "attempt", "host", "sticky_key"),
    *("free_at", "since", "missing_since"),
)
_OPTIONAL = ("bu", "environment", "zone", "pinned", "seen_mac", "app")
ATTACHMENT = {4: "attachment", 6: "attachment6"}
"""The field of the attachment, a family: each is unique."""


def to_body(address: Address) -> dict[str, Any]:
    """The document's body; the attachment is absent unless allocated, since its index is unique.

    So is what says nothing, and the pool's name if it is the first one's: documents from before there were pools
    have none.
    """
    body: dict[str, Any] = {name: getattr(address, name) for name in _PLAIN}
    body["state"] = address.state.value
    body["place"] = place_key(address.address)
    body |= {name: value for name in _OPTIONAL if (value := getattr(address, name))}
    if address.pool != DEFAULT:
        body["pool"] = address.pool
    if address.claims:
        body["claims"] = [_claim_body(each) for each in address.claims]
    if address.reserved:
        body["reserved"] = asdict(address.reserved)
    if address.attachment:
        body[ATTACHMENT[address.family]] = address.attachment
    return body


def from_body(version: int, body: Mapping[str, Any]) -> Address:
    """The address of a document."""
    reserved = body.get("reserved")
    body = {**body, "app": _app(body)}
    return Address(
        version=version,
        state=State(body["state"]),
        attachment=body.get(ATTACHMENT[family_of(body["address"])], ""),
        claims=tuple(_claimed(each) for each in body.get("claims", ())),
        pool=body.get("pool", DEFAULT),
        reserved=_reserved(reserved) if reserved else None,
        **{name: body[name] for name in _PLAIN},
        **{name: body[name] for name in _OPTIONAL if name in body},
    )


def _app(body: Mapping[str, Any]) -> str:
    """Older code leaves the last holder's app there when it gives the address to another instance."""
    app = str(body.get("app", ""))
    return app if str(body["instance"]).startswith(f"{app.replace('/', '-')}-") else ""


def from_first(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a document from before there were pools and quotas."""
    fresh = {**body, "place": place_key(body["address"])}
    if body["state"] == State.ALLOCATED.value:
        fresh["bu"] = unit_of(from_body(0, body))
    return fresh


_CLAIMED = tuple(each.name for each in fields(Claimed))
_WHOSE = ("instance", "attempt", "sticky_key", "app")
_RESERVED = tuple(each.name for each in fields(Reserved))


def _claimed(body: Mapping[str, Any]) -> Claimed:
    return Claimed(**{name: body[name] for name in _CLAIMED if name in body})


def _claim_body(claim: Claimed) -> dict[str, Any]:
    """Without what says nothing: claims of before did not tell whose they are."""
    return {name: value for name, value in asdict(claim).items() if value or name not in _WHOSE}


def _reserved(body: Mapping[str, Any]) -> Reserved:
    return Reserved(**{name: body[name] for name in _RESERVED})
