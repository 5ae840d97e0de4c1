"""How ipam's answers look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from libs.common.actor import Actor
from libs.common.errors import Unavailable
from services.ipam.history import Stint
from services.ipam.jobs import Allocation
from services.ipam.model import Address, Shown
from services.ipam.pools import Network, Pool
from services.ipam.tally import Count


def attachment_view(allocation: Allocation) -> Mapping[str, Any]:
    """What hostd needs to wire an attachment: all its addresses, and the first one in words of its own."""
    network, primary = allocation.network, allocation.primary
    config = network.config
    addresses = [_given(network, each) for each in allocation.addresses]
    return {
        "attachment": primary.attachment,
        "network": network.name,
        "address": primary.address,
        "prefix_len": addresses[0]["prefix_len"],
        "gateway": addresses[0]["gateway"],
        "vlan": config.vlan,
        "mtu": config.mtu,
        "generation": primary.generation,
        "mac": None,
        "addresses": addresses,
    }


def held_view(address: Address) -> Mapping[str, Any]:
    """One address of an attachment, for its host."""
    return {
        "attachment": address.attachment,
        "network": address.network,
        "address": address.address,
        "generation": address.generation,
    }


def _given(network: Network, address: Address) -> dict[str, Any]:
    pool = network.pool_with(address.address)
    if pool is None:  # the configuration has been changed under it
        raise Unavailable(f"network {network.name} has no pool with {address.address} any more")
    gateway = pool.config.gateway
    return {
        "family": address.family,
        "address": address.address,
        "prefix_len": pool.config.cidr.prefixlen,
        "gateway": str(gateway) if gateway else None,
        "generation": address.generation,
        "pool": pool.name,
    }


def pool_view(pool: Pool, count: Count, closing: bool) -> Mapping[str, Any]:
    """A pool and how much of it is used."""
    config = pool.config
    return {
        "pool": pool.name,
        "family": pool.family,
        "cidr": str(config.cidr),
        "gateway": str(config.gateway) if config.gateway else None,
        "priority": config.priority,
        "zone": config.zone,
        "bus": list(config.bus),
        "environments": list(config.environments),
        "size": pool.size,
        "closing": closing,
        **count.view(),
    }


def network_view(network: Network, counts: Sequence[Count]) -> Mapping[str, Any]:
    """A network with its pools (`counts` in their order) and the totals."""
    config = network.config
    first = min(network.pools, key=lambda each: (each.family, each.name != "default"))
    views = [each.view() for each in counts]
    totals = {name: sum(view[name] for view in views) for name in views[0]}
    pools = zip(network.pools, counts, strict=True)
    return {
        "network": network.name,
        "cidr": str(first.config.cidr),
        "vlan": config.vlan,
        "mtu": config.mtu,
        "gateway": str(first.config.gateway) if first.config.gateway else None,
        "zone": config.zone,
        "bus": list(config.bus),
        "environments": list(config.environments),
        "families": list(network.families),
        "fixed": network.fixed,
        "version": network.version,
        **totals,
        "pools": [pool_view(pool, count, pool.name in network.closing) for pool, count in pools],
    }


def address_view(address: Address, now: float, actor: Actor) -> Mapping[str, Any]:
    """An address for readers; of another business unit's no more than its state."""
    shown = address.shown(now)
    view: dict[str, Any] = {
        "address": address.address,
        "family": address.family,
        "pool": address.pool,
        "state": shown.value,
    }
    if not sees(actor, address):
        return view
    reserved = address.reserved
    return {
        **view,
        "generation": address.generation,
        "attachment": address.attachment,
        "instance": address.instance,
        "attempt": address.attempt,
        "host": address.host,
        "bu": address.bu,
        "sticky_key": address.sticky_key,
        "free_at": None if shown in (Shown.RESERVED, Shown.EXCLUDED) else address.free_at,
        "since": address.since,
        "seen_mac": address.seen_mac,
        "reservation": reserved.name if reserved else "",
        "claims": [f"{each.attachment} on {each.host}" for each in address.claims],
    }


def sees(actor: Actor, address: Address) -> bool:
    """May the actor know whose it is, or for whom it is held or reserved. Nobody's own tells its past elsewhere.

    Never by the instance's name: that of unit `a-b` begins as those of unit `a` do.
    """
    reserved = address.reserved
    owner = address.bu or (reserved.bu if reserved else "")
    return actor.bu == "*" or (owner != "" and owner == actor.bu)


def stint_view(stint: Stint, actor: Actor) -> Mapping[str, Any]:
    """Who had an address; of another business unit's no more than when."""
    when = {"since": stint.since, "until": stint.until, "generation": stint.generation}
    if not actor.sees(stint.bu):
        return when
    return {
        **when,
        "instance": stint.instance,
        "attempt": stint.attempt,
        "attachment": stint.attachment,
        "host": stint.host,
        "why": stint.why,
    }
