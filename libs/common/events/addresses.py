"""Events of addresses: their lifecycle, each with its generation."""

from __future__ import annotations

from typing import ClassVar

from libs.common.events.base import Event


class _OfAddress(Event):
    network: str
    address: str
    generation: int
    attachment: str = ""

    def subject(self) -> str:
        """Network and address."""
        return f"{self.network}/{self.address}"


class IpAllocated(_OfAddress):
    """An attachment got the address."""

    TOPIC: ClassVar[str] = "ip.allocated"

    instance: str = ""
    host: str = ""


class IpReleased(_OfAddress):
    """The address is no longer in use; it cools down."""

    TOPIC: ClassVar[str] = "ip.released"

    reason: str = ""


class IpConflicted(_OfAddress):
    """Somebody else answers at the address; it is quarantined."""

    TOPIC: ClassVar[str] = "ip.conflicted"

    seen_mac: str = ""
