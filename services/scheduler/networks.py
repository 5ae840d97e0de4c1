"""What ipam says of its networks: whose addresses are left where, as ipam itself would give them. Pure.

`Scope` follows `services/ipam/pools.py`, which has the last word: a test holds the two together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from services.scheduler.model import Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whom something is for. Empty: everybody."""

    zone: str = ""
    bus: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()

    def open_to(self, bu: str, environment: str) -> bool:
        """May instances of a business unit and an environment ("": they name none) use it, where it serves."""
        return (not self.bus or bu in self.bus) and (
            not self.environments or environment in self.environments
        )

    def serves(self, zone: str) -> bool:
        """May hosts of a zone use it; a host that names none is let in."""
        return not self.zone or not zone or zone == self.zone


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPool(Scope):
    """A range of a network's addresses, of family 4 or 6, and how many are free."""

    family: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Network(Scope):
    """Its pools in the order in which ipam uses them up, as ipam told at a time, less what has been placed since.

    An instance takes an address of each of `families`.
    """

    families: tuple[int, ...]
    pools: tuple[AddressPool, ...]
    told_at: float = 0.0

    def pools_for(self, bu: str, environment: str) -> tuple[AddressPool, ...]:
        """Those that instances may have addresses of, on hosts of whatever zone."""
        if not self.open_to(bu, environment):
            return ()
        return tuple(each for each in self.pools if each.open_to(bu, environment))

    def refuses(self, bu: str, environment: str) -> bool:
        """Is there a family without any pool for such instances: then ipam gives them nothing, wherever they are."""
        mine = {each.family for each in self.pools_for(bu, environment)}
        return not mine.issuperset(self.families)

    def room(self, bu: str, environment: str) -> int:
        """For how many instances there are addresses at most, wherever they go: of the scarcer family."""
        left = dict.fromkeys(self.families, 0)
        for each in self.pools_for(bu, environment):
            left[each.family] = left.get(each.family, 0) + each.free
        return min(left.values(), default=0)

    def without(self, bu: str, environment: str, zone: str, count: int) -> Network:
        """With so many instances more on hosts of a zone: each pool is used up before the next one."""
        due = dict.fromkeys(self.families, count)
        mine = {id(each) for each in self.pools_for(bu, environment) if each.serves(zone)}
        pools = list(self.pools)
        for n, each in enumerate(pools):
            taken = min(due.get(each.family, 0), each.free) if id(each) in mine else 0
            if taken > 0:
                due[each.family] -= taken
                pools[n] = replace(each, free=each.free - taken)
        return replace(self, pools=tuple(pools))


@dataclass(frozen=True, slots=True)
class Pools:
    """What ipam says of its networks, by name."""

    networks: Mapping[str, Network]


def pools_of(answer: Any) -> Pools:
    """What ipam answers to `GET /v1/networks`. Raises LookupError, TypeError, ValueError.

    An ipam that does not tell whom pools are for is taken at its word: for all.
    """
    return Pools({str(each["network"]): _network(each) for each in answer["networks"]})


def _network(told: Any) -> Network:
    pools = sorted(told["pools"], key=lambda each: -int(each.get("priority", 0)))
    families = {int(each["family"]) for each in pools}  # also those of which all pools are closing
    return Network(
        families=tuple(sorted(families)),
        pools=tuple(
            AddressPool(family=int(each["family"]), free=max(0, int(each["free"])), **_scope(each))
            for each in pools
            if not each.get("closing", False)
        ),
        **_scope(told),
    )


def _scope(told: Any) -> dict[str, Any]:
    return {
        "zone": str(told.get("zone", "")),
        "bus": tuple(str(each) for each in told.get("bus", ())),
        "environments": tuple(str(each) for each in told.get("environments", ())),
    }


def told(pools: Pools, coming: Iterable[Instance], now: float) -> dict[str, Network]:
    """Addresses that are free and not on their way to somebody: who was placed may not have asked for its own yet.

    `coming` are those that do not run yet: of one that starts nobody says whether it has its address by now.
    """
    known = {name: replace(each, told_at=now) for name, each in pools.networks.items()}
    due = Counter(
        (
            each.spec.network,
            each.app.partition("/")[0],
            each.spec.environment,
            (each.attributes or {}).get("zone", ""),
        )
        for each in coming
        if not each.address
    )
    for (name, bu, environment, zone), count in due.items():
        if name in known:
            known[name] = known[name].without(bu, environment, zone, count)
    return known
