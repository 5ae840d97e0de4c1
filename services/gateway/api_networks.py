"""Routes of networks, pools, addresses, reservations and quotas.

Everybody reads what their business unit may use; what is changed here concerns all of them, so it is for admins of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel

from libs.client.networks import (
    STATES,
    Addresses,
    AddressMap,
    AddressView,
    Defined,
    NetworkBody,
    Networks,
    NetworkView,
    PoolBody,
    QuotaBody,
    Quotas,
    QuotaView,
    Removed,
    ReservationBody,
    Reservations,
    ReservationView,
)
from libs.common.errors import InvalidInput
from libs.common.http import Access, Request, Response, Role, Route, reply
from services.gateway import networks as shown
from services.gateway.api_apps import IDEMPOTENT, passed_on
from services.gateway.parts import (
    Gateway,
    actor_of,
    flag,
    guarded,
    own_target,
    reading,
    require_all,
    whole,
)
from services.gateway.peers import IPAM, with_query

NETWORKS = "/v1/networks"
NETWORK = f"{NETWORKS}/{{network}}"
POOL = f"{NETWORK}/pools/{{pool}}"
ADDRESS = f"{NETWORK}/addresses/{{address}}"
RESERVATIONS = f"{NETWORK}/reservations"
RESERVATION = f"{RESERVATIONS}/{{reservation}}"
QUOTAS = "/v1/quotas"
QUOTA = f"{QUOTAS}/{{bu}}"
SLOW_S = 25.0  # ipam lets no pool go before all its replicas have heard that it closes
_MATCH = {"If-Match": "the ETag of what this replaces"}


def network_routes(gateway: Gateway) -> tuple[Route, ...]:
    """All of them, guarded."""
    return (
        *_network_routes(gateway),
        *_address_routes(gateway),
        *_reservation_routes(gateway),
        *_quota_routes(gateway),
    )


def _network_routes(gateway: Gateway) -> tuple[Route, ...]:
    async def networks(request: Request) -> Response:
        return reply(await shown.list_networks(gateway, actor_of(request)))

    async def network(request: Request) -> Response:
        row, answer = await shown.read_network(
            gateway, actor_of(request), request.params["network"]
        )
        return _with_etag(NetworkView.model_validate(row), answer)

    return (
        reading(gateway, NETWORKS, networks, "Networks, their pools and their use", Networks),
        reading(gateway, NETWORK, network, "One network", NetworkView),
        _write(gateway, "PUT", NETWORK, "network.put", "Make or change a network", Defined, NetworkBody),
        _write(gateway, "DELETE", NETWORK, "network.remove", "Remove an unused network", Removed),
        _write(gateway, "PUT", POOL, "pool.put", "Make or change a pool", Defined, PoolBody),
        _write(gateway, "DELETE", POOL, "pool.remove", "Remove an unused pool", Removed),
    )  # fmt: skip


def _address_routes(gateway: Gateway) -> tuple[Route, ...]:
    async def pool_map(request: Request) -> Response:
        wanted = shown.Wanted(
            request.params["network"],
            request.params["pool"],
            request.query.get("from", ""),
            whole(request, "count"),
            flag(request, "states"),
        )
        content = await shown.read_map(gateway, actor_of(request), wanted)
        return reply(AddressMap.model_validate(content))

    async def addresses(request: Request) -> Response:
        state = request.query.get("state", "")
        if state not in ("", *STATES):
            raise InvalidInput.of("state", "is not a state of addresses", ", ".join(STATES))
        query: dict[str, str | int] = {
            **{name: request.query.get(name, "") for name in ("pool", "bu", "after")},
            "state": state,
            "limit": whole(request, "limit"),
        }
        content = await shown.list_addresses(
            gateway, actor_of(request), request.params["network"], query
        )
        return reply(Addresses.model_validate(content))

    async def address(request: Request) -> Response:
        params = request.params
        content = await shown.read_address(
            gateway, actor_of(request), params["network"], params["address"]
        )
        return reply(AddressView.model_validate(content))

    page = {
        "pool": "of this pool only",
        "state": "in this state only",
        "bu": "of this business unit only",
        "limit": "at most so many",
        "after": "the address that the page before ended with",
    }
    some = {
        "from": "the first address",
        "count": "so many addresses",
        "states": "don't tell whose they are: neighbours in the same state are one span",
    }
    return (
        reading(gateway, f"{POOL}/map", pool_map, "A pool's addresses, as spans", AddressMap, query=some),
        reading(gateway, f"{NETWORK}/addresses", addresses, "Addresses in use, or kept", Addresses, query=page),
        reading(gateway, ADDRESS, address, "One address, and who had it", AddressView),
        _write(
            gateway, "POST", f"{ADDRESS}/release", "address.release",
            "Free an address that is held or in quarantine, or of a host that is gone", AddressView,
            headers=IDEMPOTENT, query={"gone": "the host that has it, and will not come back"},
        ),
    )  # fmt: skip


def _reservation_routes(gateway: Gateway) -> tuple[Route, ...]:
    async def reservations(request: Request) -> Response:
        content = await shown.list_reservations(
            gateway, actor_of(request), request.params["network"]
        )
        return reply(Reservations.model_validate(content))

    async def reservation(request: Request) -> Response:
        await shown.require_network(gateway, actor_of(request), request.params["network"])
        answer = await gateway.peers.ask(actor_of(request), IPAM, "GET", request.path)
        return _with_etag(ReservationView.model_validate_json(answer.body), answer)

    return (
        reading(gateway, RESERVATIONS, reservations, "A network's reservations", Reservations),
        reading(gateway, RESERVATION, reservation, "One reservation", ReservationView),
        _write(
            gateway, "PUT", RESERVATION, "address.reserve",
            "Keep an address for a name", ReservationView, ReservationBody,
        ),
        _write(
            gateway, "DELETE", RESERVATION, "address.unreserve",
            "Give a reserved address back", Removed,
        ),
    )  # fmt: skip


def _quota_routes(gateway: Gateway) -> tuple[Route, ...]:
    async def quotas(request: Request) -> Response:
        return reply(Quotas.model_validate(await shown.list_quotas(gateway, actor_of(request))))

    text = "How many addresses business units may have, and have"
    return (
        reading(gateway, QUOTAS, quotas, text, Quotas),
        _write(gateway, "PUT", QUOTA, "quota.put", "Write a quota", QuotaView, QuotaBody),
        _write(gateway, "DELETE", QUOTA, "quota.remove", "Remove a quota", Removed),
    )


def _with_etag(content: BaseModel, answer: Response) -> Response:
    return reply(content, headers=passed_on(answer).headers)


def _write(
    gateway: Gateway,
    method: str,
    pattern: str,
    action: str,
    text: str,
    view: type[BaseModel],
    body: type[BaseModel] | None = None,
    headers: Mapping[str, str] = _MATCH,
    query: Mapping[str, str] = MappingProxyType({}),
) -> Route:
    """A change that goes through to ipam, which decides, and knows the things by the same paths."""

    async def handler(request: Request) -> Response:
        require_all(request)
        if body is not None:
            request.parse(body)
        if "address" in request.params:
            shown.address_of(request.params["address"])
        given = request.headers.get("if-match", "")
        path = with_query(request.path, {name: request.query.get(name, "") for name in query})

        async def perform() -> Response:
            return passed_on(
                await gateway.peers.ask(
                    actor_of(request),
                    IPAM,
                    method,
                    path,
                    body=request.body,
                    headers={"if-match": given} if given else {},
                    request_id=request.headers.get("x-request-id", ""),
                    timeout_s=SLOW_S if method == "DELETE" else 0.0,
                )
            )

        return await gateway.operations.through(request, action, _target(request), perform)

    route = Route(
        method, pattern, handler, Access.KEY, text, Role.ADMIN, body, view, query=query, headers=headers
    )  # fmt: skip
    return guarded(gateway, route, action, _target)


def _target(request: Request) -> str:
    """What a change is about, for the audit trail; a quota is its business unit's."""
    bu = request.params.get("bu")
    return own_target(request) if bu is None else f"{bu}/quota"
