"""ipam's HTTP face towards people, through the gateway: networks, pools and addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from libs.common.actor import Actor
from libs.common.clock import Clock
from libs.common.errors import InvalidInput, NotFound
from libs.common.http import Request, Response, Route, reply
from services.ipam.catalogue import Catalogue
from services.ipam.mapping import runs
from services.ipam.model import NEVER, Address, Shown, State, unit_of
from services.ipam.pools import MAX_SPAN, Network, Pool, canonical
from services.ipam.quota_rules import Rule
from services.ipam.quotas import Quotas
from services.ipam.store import IpamStore
from services.ipam.tally import Tally
from services.ipam.views import address_view, network_view, sees, stint_view

MAX_LIMIT = 1000
HISTORY = 100
MAX_READ = 20 * MAX_LIMIT


class ForReaders(Protocol):
    """What these routes need of the service."""

    store: IpamStore
    catalogue: Catalogue
    tally: Tally
    quotas: Quotas


def read_routes(ipam: ForReaders, clock: Clock) -> Sequence[Route]:
    """Routes that change nothing."""

    async def view(network: Network) -> Mapping[str, Any]:
        return network_view(network, [await ipam.tally.of(each) for each in network.pools])

    async def networks(request: Request) -> Response:
        actor = Actor.of(request)
        await ipam.catalogue.refresh()
        return reply(
            {"networks": [await view(each) for each in ipam.catalogue if _open_to(each, actor)]}
        )

    async def network(request: Request) -> Response:
        found = await network_of(ipam.catalogue, request)
        return reply(await view(found), headers=etag(found))

    async def addresses(request: Request) -> Response:
        found = await network_of(ipam.catalogue, request)
        limit = number(request, "limit", MAX_LIMIT, 1, MAX_LIMIT)
        chosen, after = await _listed(ipam.store, found, request, clock.now(), limit)
        actor, now = Actor.of(request), clock.now()
        views = [address_view(each, now, actor) for each in chosen]
        return reply({"addresses": views, "after": after})

    async def address(request: Request) -> Response:
        found = await network_of(ipam.catalogue, request)
        name = canonical(request.params["address"])
        pool = found.pool_with(name)
        if pool is None:
            raise NotFound(f"{name} is not an address of network {found.name}")
        offset = pool.place(name)
        assert offset is not None
        usable = pool.usable_from(offset) == offset
        stored = await ipam.store.get(found.name, name)
        unused = Address(found.name, name, offset, pool=pool.name, free_at=0.0 if usable else NEVER)
        actor = Actor.of(request)
        stints = await ipam.store.history.of(found.name, name, HISTORY)
        if stored and stored.state is State.ALLOCATED:
            # Noted before it was to be released, and then it was not.
            here = stored.generation, stored.since
            stints = [each for each in stints if (each.generation, each.since) != here]
        view = address_view(stored or unused, clock.now(), actor)
        return reply({**view, "history": [stint_view(each, actor) for each in stints]})

    async def map_of(request: Request) -> Response:
        found = await network_of(ipam.catalogue, request)
        pool = pool_of(found, request)
        first = number(request, "from", 0, 0, pool.size - 1)
        count = number(request, "count", pool.size, 1, MAX_SPAN)
        last = min(first + count, pool.size) - 1
        actor = None if request.query.get("states") == "true" else Actor.of(request)
        shown, onward = await runs(ipam.store, pool, (first, last), clock.now(), actor)
        return reply(
            {
                "pool": pool.name,
                "cidr": str(pool.config.cidr),
                "size": pool.size,
                "from": first,
                "count": last - first + 1,
                "spans": [each.view() for each in shown],
                "next": onward,
            }
        )

    async def quotas(request: Request) -> Response:
        actor, views = Actor.of(request), []
        for bu, rule in sorted((await ipam.quotas.rules.all()).items()):
            if actor.sees(bu):
                views.append(await quota_view(ipam.quotas, bu, rule))
        return reply({"quotas": views})

    network_path = "/v1/networks/{network}"
    query = {
        "pool": "of this pool",
        "state": ", ".join(each.value for each in Shown),
        "bu": "of this business unit",
        "limit": f"at most so many, up to {MAX_LIMIT}",
        "after": "the address that the page before ended with",
    }
    return (
        Route("GET", "/v1/networks", networks, summary="Networks with their use"),
        Route("GET", network_path, network, summary="One network"),
        Route("GET", f"{network_path}/addresses/{{address}}", address, summary="One address"),
        Route(
            "GET",
            f"{network_path}/pools/{{pool}}/map",
            map_of,
            summary="A pool as runs of addresses",
            query={
                "from": "the first offset",
                "count": "how many addresses",
                "states": "true: whose they are is left out, so that the runs are longer",
            },
        ),
        Route("GET", "/v1/quotas", quotas, summary="Quotas of addresses and their use"),
        Route(
            "GET", f"{network_path}/addresses", addresses, summary="Its used addresses", query=query
        ),
    )


def _open_to(network: Network, actor: Actor) -> bool:
    bus = network.config.bus
    return actor.bu == "*" or not bus or actor.bu in bus


async def network_of(catalogue: Catalogue, request: Request) -> Network:
    """The network that a path names. Raises NotFound, also for one that is not the actor's to see."""
    name = request.params["network"]
    found = await catalogue.find(name)
    if found is None or not _open_to(found, Actor.of(request)):
        raise NotFound(f"there is no network {name!r}")
    return found


def pool_of(network: Network, request: Request) -> Pool:
    """The pool that a path names. Raises NotFound."""
    name = request.params["pool"]
    found = network.pool(name)
    if found is None:
        raise NotFound(f"network {network.name} has no pool {name!r}")
    return found


async def quota_view(quotas: Quotas, bu: str, rule: Rule) -> Mapping[str, Any]:
    """A business unit's quotas and what is used of them."""
    limits = [
        {"network": each.network, "limit": each.limit, "used": await quotas.used(each)}
        for each in rule.quotas(bu)
    ]
    return {"bu": bu, "version": rule.version, "limits": limits}


def etag(network: Network) -> Mapping[str, str]:
    """Of a network that the API made."""
    return {} if network.fixed else {"ETag": f'"{network.version}"'}


def number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """A number of the query. Raises InvalidInput."""
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or not least <= int(text) <= most:
        raise InvalidInput.of(name, "not a number in range", f"{least} to {most}")
    return int(text)


async def _listed(
    store: IpamStore, network: Network, request: Request, now: float, limit: int
) -> tuple[list[Address], str]:
    """A page of a network's used addresses, by pool and number, and where the next one begins ("" at the end)."""
    query, actor = request.query, Actor.of(request)
    state = query.get("state", "")
    if state and state not in set(Shown):
        raise InvalidInput.of(
            "state", f"unknown state {state!r}", ", ".join(each.value for each in Shown)
        )
    pools = sorted(network.pools, key=lambda each: (each.family, int(each.config.cidr[0])))
    wanted = query.get("pool", "")
    if wanted:
        pools = [each for each in pools if each.name == wanted]
        if not pools:
            raise NotFound(f"network {network.name} has no pool {wanted!r}")
    after = query.get("after", "")
    if after:
        at = next((n for n, each in enumerate(pools) if each.place(after) is not None), None)
        if at is None:
            raise InvalidInput.of("after", "is not an address of the network", "one that was told")
        pools = pools[at:]
    chosen: list[Address] = []
    read = 0
    for pool in pools:
        first, last = after or pool.address(0), pool.address(pool.size - 1)
        while True:
            page = await store.between(network.name, first, last, MAX_LIMIT, after=bool(after))
            for each in page:
                if _matches(each, query.get("bu", ""), state, now, actor):
                    chosen.append(each)
                if len(chosen) == limit:
                    return chosen, each.address
            read += len(page)
            if len(page) < MAX_LIMIT:
                break
            first = after = page[-1].address
            if read >= MAX_READ:  # who looks for few among many gets them in several turns
                return chosen, first
        after = ""
    return chosen, ""


def _matches(address: Address, bu: str, state: str, now: float, actor: Actor) -> bool:
    if state and address.shown(now) != state:
        return False
    if not bu:
        return True
    return sees(actor, address) and (address.bu or unit_of(address)) == bu
