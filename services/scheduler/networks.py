"""What ipam says of its networks, as the core takes it. Pure."""

from __future__ import annotations

from typing import Any

from services.scheduler.model import Pools


def pools_of(answer: Any) -> Pools:
    """What ipam answered, as the core takes it. Raises LookupError, TypeError, ValueError."""
    networks = answer["networks"]
    return Pools({str(n["network"]): (_free(n), str(n.get("zone", ""))) for n in networks})


def _free(network: Any) -> int:
    """For how many instances there are addresses: each takes one of every family that the network has."""
    by_family: dict[int, int] = {}
    for pool in network["pools"]:
        family = int(pool["family"])
        by_family[family] = by_family.get(family, 0) + int(pool["free"])
    return min(by_family.values(), default=0)
