"""What the console shows of networks, pools and quotas, as data. Pure: from answers to bars, rows and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libs.client.networks import LimitView, NetworkView, PoolView, QuotaView
from libs.common.serve import segment
from services.gateway.peers import with_query

BAR_STATES = ("allocated", "held", "cooling", "reserved", "quarantined")
FULL_PERCENT = 90.0
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar, in percent of its length."""

    state: str
    at: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """How much of something is in which state; `text` says the same."""

    parts: tuple[Part, ...]
    percent: float
    text: str


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A pool in a table."""

    pool: str
    cidr: str
    gateway: str
    priority: int
    scope: str
    bar: Bar
    free: str
    usable: str
    others: str
    url: str
    is_shown: bool


@dataclass(frozen=True, slots=True)
class NetworkCard:
    """A network with its pools."""

    network: str
    url: str
    facts: str
    bar: Bar
    pools: tuple[PoolRow, ...]


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """A quota, over all networks or in one of them."""

    bu: str
    network: str
    used: int
    limit: str
    bar: Bar


# -- networks, pools, quotas -----------------------------------------------------------------------


def network_url(
    network: str, pool: str = "", first: str = "", count: int = 0, address: str = ""
) -> str:
    """The page of a network: with the map of a pool, of a range of it, with one address."""
    query = {"pool": pool, "from": first, "count": count or "", "address": address}
    return with_query(f"/networks/{segment(network)}", query)


def card(view: NetworkView, shown: str = "") -> NetworkCard:
    """A network; `shown` is the pool whose map is on the page."""
    facts = [f"VLAN {view.vlan}"] if view.vlan else []
    if view.mtu:
        facts.append(f"MTU {view.mtu}")
    facts += [f"zone {view.zone}"] if view.zone else []
    facts.append(f"for {', '.join(view.bus)}" if view.bus else "for all units")
    facts += [f"in {', '.join(view.environments)}"] if view.environments else []
    return NetworkCard(
        network=view.network,
        url=network_url(view.network),
        facts=" · ".join(facts),
        bar=usage_bar(view),
        pools=tuple(pool_row(view.network, each, shown) for each in view.pools),
    )


def pool_row(network: str, view: PoolView, shown: str = "") -> PoolRow:
    """A pool as a row."""
    scope = [f"zone {view.zone}"] if view.zone else []
    scope += [", ".join(view.bus)] if view.bus else []
    scope += [", ".join(view.environments)] if view.environments else []
    counts = {state: getattr(view, state) for state in BAR_STATES[1:]}
    return PoolRow(
        pool=view.pool,
        cidr=view.cidr,
        gateway=view.gateway or "",
        priority=view.priority,
        scope=" · ".join(scope),
        bar=usage_bar(view),
        free=amount(view.free),
        usable=amount(view.usable),
        others=", ".join(f"{amount(n)} {state}" for state, n in counts.items() if n),
        url=network_url(network, view.pool),
        is_shown=view.pool == shown,
    )


def usage_bar(view: NetworkView | PoolView) -> Bar:
    """Used, kept and free addresses of all that are ever given out."""
    parts: list[Part] = []
    at = 0.0
    for state in BAR_STATES:
        count = getattr(view, state)
        if count and view.usable:
            # What is there is seen, however little it is.
            width = min(100.0 - at, max(0.6, 100.0 * count / view.usable))
            parts.append(Part(state, round(at, 2), round(width, 2)))
            at += width
    used = 100.0 * (view.usable - view.free) / view.usable if view.usable else 0.0
    counts = [f"{amount(getattr(view, each))} {each}" for each in BAR_STATES if getattr(view, each)]
    told = ", ".join([*counts, f"{amount(view.free)} free"])
    return Bar(tuple(parts), round(used, 1), told)


def quota_rows(quotas: Sequence[QuotaView]) -> tuple[QuotaRow, ...]:
    """A row a limit, that over all networks first."""
    return tuple(
        QuotaRow(
            bu=each.bu,
            network=limit.network or "all networks",
            used=limit.used,
            limit=f"{limit.limit:,}",
            bar=_quota_bar(limit),
        )
        for each in quotas
        for limit in each.limits
    )


def _quota_bar(limit: LimitView) -> Bar:
    percent = min(100.0, 100.0 * limit.used / limit.limit) if limit.limit else 100.0
    state = "quarantined" if percent >= FULL_PERCENT else "allocated"
    part = Part(state, 0.0, round(percent, 2))
    return Bar((part,), round(percent, 1), f"{limit.used:,} of {limit.limit:,}")


def amount(count: int) -> str:
    """A number of addresses; those of IPv6 are beyond what anybody counts."""
    if count < 10**9:
        return f"{count:,}"
    number, _, power = f"{count:.1e}".partition("e+")
    return f"{number}·10{power.lstrip('0').translate(_RAISED)}"
