"""The console's pages of networks: all of them with quotas; one with its pools, reservations, and a pool's map."""

from __future__ import annotations

from dataclasses import dataclass

from libs.client.addressmap import block_size
from libs.client.networks import (
    AddressMap,
    AddressView,
    NetworkView,
    PoolView,
    Quotas,
    Reservations,
)
from libs.common.actor import Actor
from libs.common.errors import InvalidInput, NotFound, Unauthenticated, Unavailable
from libs.common.http import Access, Request, Response, Route
from libs.common.problems import Problem
from services.gateway import networks as shown
from services.gateway.console.map_view import CELLS, Detail, PoolMap, detail, pool_map, range_of
from services.gateway.console.network_view import NetworkCard, QuotaRow, card, quota_rows
from services.gateway.console.pages import Console, go, render
from services.gateway.parts import Gateway
from services.gateway.peers import with_query

# A page with a map is asked for again no sooner than this after an event: it costs ipam a look at each address.
LATELY_MS, LATELY_BLOCKS_MS = 1000, 10_000
ANSWERS = 8  # of ipam's, at most, for one map


@dataclass(frozen=True, slots=True)
class NetworksPage:
    """All networks. `incomplete` are services that did not answer."""

    networks: tuple[NetworkCard, ...]
    quotas: tuple[QuotaRow, ...]
    incomplete: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NetworkPage:
    """One network. `problem` says why the map, or the address, is not the one that was asked for."""

    card: NetworkCard
    reservations: Reservations
    map: PoolMap | None
    detail: Detail | None
    problem: str


def network_page_routes(gateway: Gateway) -> tuple[Route, ...]:
    """Open to all at the door, as the console's other routes."""
    pages = NetworkPages(gateway)
    public = Access.PUBLIC
    return (
        Route("GET", "/networks", pages.networks, public, "Networks and quotas"),
        Route("GET", "/networks/{network}", pages.network, public, "A network"),
        Route("GET", "/console/networks", pages.networks_state, public, "What that page shows now"),
        Route("GET", "/console/networks/{network}", pages.network_state, public, "The same of one"),
    )


class NetworkPages:
    """Handlers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._console = Console(gateway)

    async def networks(self, request: Request) -> Response:
        """All networks, or the way to the door."""
        try:
            _, principal = await self._console.session(request)
        except Unauthenticated:
            return go("/login")
        page = await self._networks(Actor.of_principal(principal))
        frame = self._console.frame(request, principal, "/console/networks", "networks")
        return render("networks.html", page=page, frame=frame)

    async def networks_state(self, request: Request) -> Response:
        """The live part alone. Raises Unauthenticated."""
        _, principal = await self._console.session(request)
        return render(
            "networks_state.html", page=await self._networks(Actor.of_principal(principal))
        )

    async def network(self, request: Request) -> Response:
        """One network, or why it can't be shown."""
        try:
            _, principal = await self._console.session(request)
        except Unauthenticated:
            return go("/login")
        frame = self._console.frame(request, principal, _state_of(request), "networks")
        try:
            page = await self._network(request, Actor.of_principal(principal))
        except (NotFound, Unavailable) as error:
            status = Problem.of(error).status
            back = ("/networks", "To all networks")
            told = f"Not shown: {error}."
            return render("problem.html", status, told=told, back=back, frame=frame)
        return render("network.html", page=page, lately_ms=_lately_ms(page), frame=frame)

    async def network_state(self, request: Request) -> Response:
        """The live part alone. Raises Unauthenticated, NotFound, Unavailable."""
        _, principal = await self._console.session(request)
        page = await self._network(request, Actor.of_principal(principal))
        return render("network_state.html", page=page)

    # -- parts -----------------------------------------------------------------------------------

    async def _networks(self, actor: Actor) -> NetworksPage:
        networks = await shown.list_networks(self._gateway, actor)
        missing = networks.incomplete
        try:
            quotas = Quotas.model_validate(await shown.list_quotas(self._gateway, actor))
        except Unavailable:
            quotas, missing = Quotas(quotas=()), ("ipam",)
        return NetworksPage(
            tuple(card(each) for each in networks.networks), quota_rows(quotas.quotas), missing
        )

    async def _network(self, request: Request, actor: Actor) -> NetworkPage:
        name = request.params["network"]
        row, _ = await shown.read_network(self._gateway, actor, name)
        view = NetworkView.model_validate(row)
        reservations = await shown.list_reservations(self._gateway, actor, name)
        wanted = request.query.get("pool", "")
        pool = next((each for each in view.pools if wanted in ("", each.pool)), None)
        made: PoolMap | None = None
        about: Detail | None = None
        problem = f"There is no pool {wanted} here." if wanted and pool is None else ""
        if pool is not None:
            address = request.query.get("address", "")
            made, problem = await self._map(request, actor, view.network, pool)
            if address:
                about, missing = await self._detail(actor, name, address)
                problem = problem or missing
        return NetworkPage(
            card(view, pool.pool if pool else ""),
            Reservations.model_validate(reservations),
            made,
            about,
            problem,
        )

    async def _map(
        self, request: Request, actor: Actor, network: str, pool: PoolView
    ) -> tuple[PoolMap, str]:
        first, count = request.query.get("from", "").strip(), request.query.get("count", "")
        problem = ""
        try:
            wanted = range_of(pool, first, int(count) if count.isdecimal() else 0)
        except ValueError as error:
            problem, wanted = f"Not shown: {error}.", range_of(pool, "", 0)
        blocks = block_size(wanted.count, CELLS) > 1
        asked = shown.Wanted(network, pool.pool, wanted.first, wanted.count, states=blocks)
        told = await shown.read_map(self._gateway, actor, asked, ANSWERS)
        content = AddressMap.model_validate(told)
        address = request.query.get("address", "")
        return pool_map(network, pool, wanted, content, address), problem

    async def _detail(self, actor: Actor, network: str, address: str) -> tuple[Detail | None, str]:
        try:
            told = await shown.read_address(self._gateway, actor, network, address)
        except (NotFound, InvalidInput):
            return None, f"There is no address {address} here."
        return detail(AddressView.model_validate(told)), ""


def _lately_ms(page: NetworkPage) -> int:
    return LATELY_BLOCKS_MS if page.map is not None and page.map.block > 1 else LATELY_MS


def _state_of(request: Request) -> str:
    """Where the live part of a network's page is to be had, for the same pool, range and address."""
    return with_query(f"/console{request.path}", request.query)
