"""What specs and other things that people write are built of; and the wish for an address of one's own."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Self

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
