"""How much of the networks' addresses is left, by ipam's word: which pools run low, and why. Pure but for the asking.

Pools that one instance may get an address from stand in for each other: the one with the highest priority is used up
first, and that is no trouble while the others have some. So they are judged together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libs.common.errors import Unavailable
from libs.common.http import ServiceClient, call_json
from services.monitor.model import MonitorConfig

SMALL_SHARE = 0.25  # of a small pool, no more than this is called little
RELIEF = 1.25  # an alert ends when this much more than little is free: no flutter at the limit
STATES = ("cooling", "held", "quarantined", "reserved")


@dataclass(frozen=True, slots=True)
class Stock:
    """What pools that stand in for each other have together. `other` are addresses that are neither free nor in use."""

    network: str
    pools: tuple[str, ...]
    free: int
    usable: int
    other: Mapping[str, int]

    @property
    def place(self) -> str:
        """Its name, such as `blue/default` or `blue/new+old`."""
        return f"{self.network}/{'+'.join(self.pools)}"


def stocks(networks: Sequence[Mapping[str, Any]]) -> list[Stock]:
    """The stocks of ipam's `GET /v1/networks`."""
    found: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for network in networks:
        for pool in network.get("pools", ()):
            scope = (
                network["network"],
                ":" in pool["cidr"],
                pool.get("zone", ""),
                *(tuple(sorted(pool.get(name, ()))) for name in ("bus", "environments")),
            )
            found.setdefault(scope, []).append(pool)
    return [
        Stock(
            network=str(scope[0]),
            pools=tuple(sorted(str(each["pool"]) for each in pools)),
            free=sum(each["free"] for each in pools),
            usable=sum(each["usable"] for each in pools),
            other={name: sum(each.get(name, 0) for each in pools) for name in STATES},
        )
        for scope, pools in found.items()
    ]


def little(usable: int, config: MonitorConfig) -> float:
    """With fewer free addresses a stock of so many is low."""
    share = usable * config.pool_low_pct / 100
    return max(share, min(config.pool_low_count, usable * SMALL_SHARE))


def why_low(stock: Stock, config: MonitorConfig, firing: bool) -> str:
    """Why it is low, "" when it is not; one whose alert fires already must have some more to be well again."""
    limit = little(stock.usable, config) * (RELIEF if firing else 1.0)
    if stock.usable == 0 or stock.free >= min(limit, stock.usable):
        return ""
    told = f"{stock.place}: {stock.free} of {stock.usable} addresses are free"
    other = ", ".join(f"{count} {name}" for name, count in stock.other.items() if count)
    return f"{told} ({other})" if other else told


async def ask(client: ServiceClient, timeout_s: float) -> list[Stock]:
    """All stocks. Raises Unavailable when ipam does not tell."""
    answer = await call_json(client, "ipam", "GET", "/v1/networks", timeout_s=timeout_s)
    try:
        return stocks(answer["networks"])
    except (KeyError, TypeError) as error:
        raise Unavailable(f"ipam's answer can't be read: {error!r}") from None
