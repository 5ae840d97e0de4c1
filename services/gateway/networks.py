"""Networks and addresses as somebody may see them: of other business units' addresses, the state alone.

ipam tells the gateway everything; what is left of it here is all that leaves the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from libs.client.addressmap import distance, moved
from libs.client.networks import Networks
from libs.common.actor import Actor
from libs.common.errors import NotFound
from libs.common.http import Response
from libs.common.serve import segment
from services.gateway.core import incomplete
from services.gateway.parts import Gateway
from services.gateway.peers import IPAM

Row = Mapping[str, Any]
MAX_ANSWERS = 8
OPEN_FIELDS = ("network", "pool", "address", "state")


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


def address_for(actor: Actor, row: Row) -> dict[str, Any]:
    """An address; whose it is, and was, is told to its own business unit and to those who see all."""
    if actor.bu == "*":
        return dict(row)
    if not actor.sees(str(row.get("bu") or "")):
        return {name: row[name] for name in OPEN_FIELDS if name in row} | _history_for(actor, row)
    return {**row, **_history_for(actor, row)}


def _history_for(actor: Actor, row: Row) -> dict[str, Any]:
    if "history" not in row:
        return {}
    return {"history": [each for each in row["history"] if actor.sees(str(each.get("bu") or ""))]}


def spans_for(actor: Actor, spans: Iterable[Row]) -> list[dict[str, Any]]:
    """The spans of a map; others' are their state alone, and neighbours of the same state are one."""
    shown: list[dict[str, Any]] = []
    for each in spans:
        if actor.bu == "*" or actor.sees(str(each.get("bu") or "")):
            shown.append(dict(each))
            continue
        bare = {"first": each["first"], "count": each["count"], "state": each["state"]}
        if shown and shown[-1].keys() == bare.keys() and shown[-1]["state"] == bare["state"]:
            shown[-1]["count"] += bare["count"]
        else:
            shown.append(bare)
    return shown


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


async def require_network(gateway: Gateway, actor: Actor, network: str, pool: str = "") -> None:
    """Raises NotFound unless the actor may see the network, and the pool in it if one is named."""
    if actor.bu == "*" and not pool:
        return  # ipam says itself what there is not
    row, _ = await read_network(gateway, actor, network)
    if pool and not any(each.get("pool") == pool for each in row.get("pools", ())):
        raise NotFound(f"there is no pool {pool!r} in {network}")


async def read_map(
    gateway: Gateway, actor: Actor, network: str, pool: str, query: Mapping[str, str | int]
) -> dict[str, Any]:
    """A range of a pool as spans."""
    await require_network(gateway, actor, network, pool)
    path = f"/v1/networks/{segment(network)}/pools/{segment(pool)}/map"
    told = await gateway.peers.get(actor, IPAM, path, query)
    return {**told, "spans": spans_for(actor, told.get("spans", ()))}


async def whole_map(
    gateway: Gateway, actor: Actor, network: str, pool: str, first: str, count: int
) -> dict[str, Any]:
    """The same in as many answers as it takes, but MAX_ANSWERS: `next` tells where it ends then."""
    told = await read_map(gateway, actor, network, pool, {"from": first, "count": count})
    spans, rest, last = list(told["spans"]), told.get("next", ""), moved(first, count - 1)
    for _ in range(MAX_ANSWERS - 1):
        if not rest or distance(rest, last) < 0:
            break
        query = {"from": rest, "count": distance(rest, last) + 1}
        more = await read_map(gateway, actor, network, pool, query)
        spans += more["spans"]
        rest = more.get("next", "")
    return {**told, "spans": spans, "next": rest}


async def list_addresses(
    gateway: Gateway, actor: Actor, network: str, query: Mapping[str, str | int]
) -> dict[str, Any]:
    """A page of addresses."""
    bu = str(query.get("bu", ""))
    if bu and not actor.sees(bu):
        raise NotFound(f"no business unit {bu!r} that {actor.name} may see")
    await require_network(gateway, actor, network, str(query.get("pool", "")))
    path = f"/v1/networks/{segment(network)}/addresses"
    told = await gateway.peers.get(actor, IPAM, path, query)
    return {**told, "addresses": [address_for(actor, each) for each in told.get("addresses", ())]}


async def read_address(
    gateway: Gateway, actor: Actor, network: str, address: str
) -> dict[str, Any]:
    """One address with its history."""
    await require_network(gateway, actor, network)
    path = f"/v1/networks/{segment(network)}/addresses/{segment(address_of(address))}"
    return address_for(actor, await gateway.peers.get(actor, IPAM, path))


async def list_reservations(gateway: Gateway, actor: Actor, network: str) -> dict[str, Any]:
    """A network's reservations, as far as they are the actor's business unit's."""
    await require_network(gateway, actor, network)
    told = await gateway.peers.get(actor, IPAM, f"/v1/networks/{segment(network)}/reservations")
    rows = told.get("reservations", ())
    return {"reservations": [each for each in rows if actor.sees(str(each.get("bu") or ""))]}


async def read_reservation(
    gateway: Gateway, actor: Actor, network: str, name: str
) -> tuple[Row, Response]:
    """One of them, and ipam's answer. Raises NotFound for another business unit's, too."""
    await require_network(gateway, actor, network)
    path = f"/v1/networks/{segment(network)}/reservations/{segment(name)}"
    response = await gateway.peers.ask(actor, IPAM, "GET", path)
    row = response.json()
    if not actor.sees(str(row.get("bu") or "")):
        raise NotFound(f"there is no reservation {name!r} in {network}")
    return row, response


async def list_quotas(gateway: Gateway, actor: Actor) -> dict[str, Any]:
    """Quotas: all, or the actor's business unit's."""
    told = await gateway.peers.get(actor, IPAM, "/v1/quotas")
    return {"quotas": [each for each in told.get("quotas", ()) if actor.sees(str(each["bu"]))]}
