"""Networks and addresses as somebody may see them. Of other business units' addresses ipam tells the state alone.

ipam counts the addresses of a pool from 0 on; outside they are called by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from libs.client.addressmap import distance, extent, moved
from libs.client.networks import Networks
from libs.common.actor import Actor
from libs.common.errors import InvalidInput, NotFound
from libs.common.http import Response
from libs.common.serve import segment
from services.gateway.core import incomplete
from services.gateway.parts import Gateway
from services.gateway.peers import IPAM

Row = Mapping[str, Any]


def may_use(actor: Actor, thing: Row) -> bool:
    """Is the network (or pool) for the actor's business unit: one that names none is for all."""
    bus = thing.get("bus") or ()
    return actor.bu == "*" or not bus or actor.bu in bus


def network_for(actor: Actor, row: Row) -> dict[str, Any]:
    """A network without what is for others only, and without their names."""
    if actor.bu == "*":
        return dict(row)
    pools = [_own_units(actor, each) for each in row.get("pools", ()) if may_use(actor, each)]
    return {**_own_units(actor, row), "pools": pools}


def _own_units(actor: Actor, row: Row) -> dict[str, Any]:
    return {**row, "bus": [each for each in row.get("bus") or () if each == actor.bu]}


def address_of(text: str) -> str:
    """An address in the one way it is written. Raises NotFound for what is none."""
    try:
        return str(ip_address(text))
    except ValueError:
        raise NotFound(f"there is no address {text!r}") from None


# -- asked -----------------------------------------------------------------------------------------


async def list_networks(gateway: Gateway, actor: Actor) -> Networks:
    """The networks that the actor's business unit may use."""
    part = await gateway.peers.part(actor, IPAM, "/v1/networks")
    rows = [network_for(actor, row) for row in part.rows("networks") if may_use(actor, row)]
    return Networks.model_validate({"networks": rows, "incomplete": incomplete(part)})


async def read_network(gateway: Gateway, actor: Actor, network: str) -> tuple[Row, Response]:
    """One network, and ipam's answer. Raises NotFound, also for one that is not for the actor's business unit."""
    path = f"/v1/networks/{segment(network)}"
    response = await gateway.peers.ask(actor, IPAM, "GET", path)
    row = response.json()
    if not may_use(actor, row):
        raise NotFound(f"there is no network {network!r}")
    return network_for(actor, row), response


async def require_network(gateway: Gateway, actor: Actor, network: str, pool: str = "") -> Row:
    """What the actor may see of a network, and of a pool in it if one is named. Raises NotFound."""
    row, _ = await read_network(gateway, actor, network)
    if not pool:
        return row
    found = next((each for each in row["pools"] if each["pool"] == pool), None)
    if found is None:
        raise NotFound(f"there is no pool {pool!r} in {network}")
    return dict(found)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A range of a pool: `count` addresses from `first` on ("": its first). `states`: don't tell whose they are."""

    network: str
    pool: str
    first: str
    count: int
    states: bool = False


async def read_map(
    gateway: Gateway, actor: Actor, wanted: Wanted, answers: int = 1
) -> dict[str, Any]:
    """A range of a pool as spans, in at most so many answers of ipam's: `next` tells where it ends then.

    Raises NotFound, InvalidInput.
    """
    row = await require_network(gateway, actor, wanted.network, wanted.pool)
    begin, size = extent(row["cidr"])
    at = _offset(begin, size, wanted.first, row["cidr"]) if wanted.first else 0
    last = at + min(wanted.count, size - at) - 1
    path = f"/v1/networks/{segment(wanted.network)}/pools/{segment(wanted.pool)}/map"
    states = {"states": "true"} if wanted.states else {}
    spans: list[dict[str, Any]] = []
    onward: int | None = at
    for _ in range(answers):
        if onward is None:
            break
        query: dict[str, str | int] = {"from": onward, "count": last - onward + 1, **states}
        told = await gateway.peers.get(actor, IPAM, path, query)
        spans += [{**each, "first": moved(begin, each["first"])} for each in told["spans"]]
        onward = told["next"]
    return {
        "network": wanted.network,
        "pool": wanted.pool,
        "cidr": row["cidr"],
        "first": moved(begin, at),
        "count": last - at + 1,
        "spans": spans,
        "next": "" if onward is None else moved(begin, onward),
    }


def _offset(begin: str, size: int, address: str, cidr: str) -> int:
    try:
        at = distance(begin, address)
    except ValueError:
        at = -1
    if not 0 <= at < size:
        raise InvalidInput.of("from", f"{address!r} is not in the pool", f"an address of {cidr}")
    return at


async def list_addresses(
    gateway: Gateway, actor: Actor, network: str, query: Mapping[str, str | int]
) -> dict[str, Any]:
    """A page of addresses."""
    bu = str(query.get("bu", ""))
    if bu and not actor.sees(bu):
        raise NotFound(f"no business unit {bu!r} that {actor.name} may see")
    pools = await _pools(gateway, actor, network)
    pool = query.get("pool", "")
    if pool and pool not in pools:
        raise NotFound(f"there is no pool {pool!r} in {network}")
    path = f"/v1/networks/{segment(network)}/addresses"
    told = await gateway.peers.get(actor, IPAM, path, query)
    rows = [each for each in told["addresses"] if _in_sight(actor, each, pools)]
    return {"addresses": rows, "next": told["after"]}


def _in_sight(actor: Actor, address: Row, pools: set[str]) -> bool:
    """Is the address of a pool that the actor may use; who sees all sees those of pools of the past, too."""
    return actor.bu == "*" or address["pool"] in pools


async def _pools(gateway: Gateway, actor: Actor, network: str) -> set[str]:
    """The names of the pools that are for the actor. Raises NotFound."""
    row = await require_network(gateway, actor, network)
    return {str(each["pool"]) for each in row["pools"]}


async def read_address(gateway: Gateway, actor: Actor, network: str, address: str) -> Row:
    """One address with its history."""
    pools = await _pools(gateway, actor, network)
    path = f"/v1/networks/{segment(network)}/addresses/{segment(address_of(address))}"
    row = dict(await gateway.peers.get(actor, IPAM, path))
    if not _in_sight(actor, row, pools):
        raise NotFound(f"{address} is not an address of network {network}")
    return row


async def list_reservations(gateway: Gateway, actor: Actor, network: str) -> Row:
    """A network's reservations, as far as they are the actor's business unit's."""
    await require_network(gateway, actor, network)
    return dict(
        await gateway.peers.get(actor, IPAM, f"/v1/networks/{segment(network)}/reservations")
    )


async def list_quotas(gateway: Gateway, actor: Actor) -> Row:
    """Quotas: all, or the actor's business unit's."""
    return dict(await gateway.peers.get(actor, IPAM, "/v1/quotas"))
