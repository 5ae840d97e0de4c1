"""What specs and other things that people write are built of; what an app may wish of its network and of its place."""

from __future__ import annotations

import math
import re
from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
"""BU, app and network names: DNS labels of at most 40 characters."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Strict(BaseModel):
    """Base of what users write: frozen, and every unknown field is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


SLOT = "{slot}"
LAST = "9999"  # the longest number that an instance may have


class AddressWish(Strict):
    """An address of one's own: one that was reserved, or a certain one. `keep_address` keeps whichever was given."""

    reservation: str | None = Field(
        None,
        max_length=60,
        description="name of a reservation in the network; {slot} in it is the instance's number, from 0",
    )
    requested: str | None = Field(None, max_length=45, description="this address, IPv4 or IPv6")

    @field_validator("reservation")
    @classmethod
    def _reservation(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(NAME_PATTERN, value.replace(SLOT, LAST)):
            raise ValueError(f"must be a reservation's name such as db or db-{SLOT}")
        return value

    @field_validator("requested")
    @classmethod
    def _requested(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            if "%" not in value:  # the name of an interface means nothing elsewhere
                return str(ip_address(value))
        except ValueError:
            pass
        raise ValueError("must be an address such as 10.0.0.7 or fd00::7")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.reservation is None) == (self.requested is None):
            raise ValueError("give one of `reservation` (a name) and `requested` (an address)")
        return self

    @property
    def many(self) -> bool:
        """Is it another address for each instance."""
        return self.reservation is not None and SLOT in self.reservation

    def of_slot(self, slot: int) -> AddressWish:
        """What the instance in `slot` asks for."""
        if self.reservation is None:
            return self
        return AddressWish(reservation=self.reservation.replace(SLOT, str(slot)))


Address = Annotated[
    AddressWish | None,
    # Left out when there is none, for the same reason as with secrets.
    Field(exclude_if=lambda wish: wish is None),
]


class Bandwidth(Strict):
    """Limits of one instance's interface; left out: none."""

    egress_kbit: int | None = Field(
        None, ge=64, le=32_000_000, description="what the instance sends, kbit/s"
    )
    ingress_kbit: int | None = Field(
        None, ge=64, le=32_000_000, description="what the instance receives, kbit/s"
    )


class NetworkOptions(Strict):
    """How an instance is attached to its network, where that is not as for all."""

    mtu: int | None = Field(None, ge=576, le=9000, description="default: the network's")
    bandwidth: Bandwidth = Bandwidth()


PLAIN = NetworkOptions()

Options = Annotated[
    NetworkOptions,
    # Left out when there are none: older services and executors refuse what they don't know.
    Field(exclude_if=lambda options: options == PLAIN),
]


Environment = Annotated[
    Literal[""] | Name,
    Field(
        description="prod, lab, …: lets it use networks and pools that are for certain environments only",
        # Left out when there is none, as with the others.
        exclude_if=lambda name: not name,
    ),
]
Attribute = Annotated[str, Field(min_length=1, max_length=100)]
Priority = Annotated[
    int,
    Field(
        ge=-100,
        le=100,
        description="higher ones are placed first, and lower ones may have to make room",
        exclude_if=lambda priority: priority == 0,
    ),
]
Spread = Annotated[
    tuple[Attribute, ...],
    Field(
        max_length=4,
        description="agent attributes (`zone`, `hostname`, …) over which instances are kept even, if there is room",
        exclude_if=lambda attributes: not attributes,
    ),
]
ApartFrom = Annotated[
    tuple[Name, ...],
    Field(
        max_length=16,
        description="apps of the same business unit, with whose instances none shares a host",
        exclude_if=lambda apps: not apps,
    ),
]


Seconds = Annotated[float, Field(ge=0, le=30 * 86_400.0)]


class Unreachable(Strict):
    """What becomes of an instance whose host can't be reached, and of its two when the host comes back."""

    replace_after_s: Seconds | Literal["never"] | None = Field(
        None, description="silent for so long, it gets a replacement; default: the cluster's"
    )
    keep: Literal["newest", "first"] = Field(
        "newest", description="who goes on when it comes back: its replacement, or itself"
    )

    def patience_s(self, usual_s: float) -> float:
        """For how long its host may be silent before a replacement is made; `usual_s` is the cluster's."""
        wish = self.replace_after_s
        if wish is None:
            return usual_s
        return math.inf if isinstance(wish, str) else wish


PATIENT = Unreachable()

WhenUnreachable = Annotated[
    Unreachable,
    # Left out when there is nothing to say, as with the others.
    Field(exclude_if=lambda wish: wish == PATIENT),
]
