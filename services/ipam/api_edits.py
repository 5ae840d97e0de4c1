"""ipam's HTTP face towards administrators, through the gateway: what they change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from libs.common.actor import Actor
from libs.common.clock import Clock
from libs.common.errors import Forbidden, InvalidInput
from libs.common.http import Request, Response, Role, Route, reply
from services.ipam.api_networks import etag, network_of, quota_view
from services.ipam.catalogue import Catalogue
from services.ipam.definition import NetworkConfig, PoolConfig, dumped
from services.ipam.editing import Editing
from services.ipam.model import Address
from services.ipam.pools import Network, canonical
from services.ipam.quota_rules import QuotaBody
from services.ipam.quotas import Quotas
from services.ipam.releases import Releases
from services.ipam.reservations import ReservationBody, Reservations
from services.ipam.views import address_view

NETWORK = "/v1/networks/{network}"
POOL = NETWORK + "/pools/{pool}"
RESERVATION = NETWORK + "/reservations/{name}"
MATCH = {"If-Match": "the ETag of what is changed"}


class ForEditors(Protocol):
    """What these routes need of the service."""

    catalogue: Catalogue
    editing: Editing
    reservations: Reservations
    releases: Releases
    quotas: Quotas


class Definition(BaseModel):
    """A network or a pool, but for its name; the whole is looked at with it."""

    model_config = ConfigDict(extra="allow", frozen=True)


def edit_routes(ipam: ForEditors, clock: Clock) -> Sequence[Route]:
    """Routes that change things."""
    return (
        *_network_routes(ipam),
        *_reservation_routes(ipam, clock),
        *_quota_routes(ipam),
    )


def _network_routes(ipam: ForEditors) -> Sequence[Route]:
    async def put_network(request: Request) -> Response:
        actor, name = admin(request), request.params["network"]
        made, created = await ipam.editing.put_network(
            name, _body(request), actor.name, versions(request)
        )
        return _defined(made, created)

    async def delete_network(request: Request) -> Response:
        actor, name = admin(request), request.params["network"]
        await ipam.editing.delete_network(name, actor.name, versions(request))
        return reply({"network": name, "deleted": True})

    async def put_pool(request: Request) -> Response:
        actor, params = admin(request), request.params
        made, created = await ipam.editing.put_pool(
            params["network"], params["pool"], _body(request), actor.name, versions(request)
        )
        return _defined(made, created)

    async def delete_pool(request: Request) -> Response:
        actor, params = admin(request), request.params
        network, pool = params["network"], params["pool"]
        await ipam.editing.delete_pool(network, pool, actor.name, versions(request))
        return reply({"network": network, "pool": pool, "deleted": True})

    return (
        Route(
            "PUT",
            NETWORK,
            put_network,
            summary="Define a network",
            request=NetworkConfig,
            headers=MATCH,
        ),
        Route("DELETE", NETWORK, delete_network, summary="Delete an unused one", headers=MATCH),
        Route("PUT", POOL, put_pool, summary="Define a pool", request=PoolConfig, headers=MATCH),
        Route("DELETE", POOL, delete_pool, summary="Delete an unused one", headers=MATCH),
    )


def _reservation_routes(ipam: ForEditors, clock: Clock) -> Sequence[Route]:
    def row(address: Address, actor: Actor) -> Mapping[str, Any]:
        reserved = address.reserved
        assert reserved is not None
        shown = address_view(address, clock.now(), actor)
        more = {"bu": reserved.bu, "app": reserved.app, "note": reserved.note, "by": reserved.by}
        return {**shown, "name": reserved.name, **more, "reserved_at": reserved.since}

    def view(address: Address, actor: Actor, status: int = 200) -> Response:
        return reply(row(address, actor), status, {"ETag": f'"{address.version}"'})

    async def list_all(request: Request) -> Response:
        actor, network = Actor.of(request), await network_of(ipam.catalogue, request)
        found = await ipam.reservations.all(network)
        seen = [each for each in found if each.reserved and actor.sees(each.reserved.bu)]
        return reply({"reservations": [row(each, actor) for each in seen]})

    async def put(request: Request) -> Response:
        actor, body = admin(request), request.parse(ReservationBody)
        network, must_be = await network_of(ipam.catalogue, request), versions(request)
        made, created = await ipam.reservations.put(
            network, request.params["name"], body, actor.name, must_be
        )
        return view(made, actor, 201 if created else 200)

    async def get(request: Request) -> Response:
        actor = Actor.of(request)
        network = await network_of(ipam.catalogue, request)
        found = await ipam.reservations.get(network, request.params["name"])
        actor.require(found.reserved.bu if found.reserved else "", Role.VIEWER)
        return view(found, actor)

    async def delete(request: Request) -> Response:
        actor, name = admin(request), request.params["name"]
        network = await network_of(ipam.catalogue, request)
        await ipam.reservations.delete(network, name, actor.name, versions(request))
        return reply({"network": network.name, "reservation": name, "deleted": True})

    async def release(request: Request) -> Response:
        actor = admin(request)
        network = await network_of(ipam.catalogue, request)
        address = canonical(request.params["address"])
        gone = request.query.get("gone", "")
        freed = await ipam.releases.by_hand(network.name, address, actor.name, gone)
        return reply(address_view(freed, clock.now(), actor))

    return (
        Route(
            "PUT",
            RESERVATION,
            put,
            summary="Reserve an address",
            request=ReservationBody,
            headers=MATCH,
        ),
        Route("GET", f"{NETWORK}/reservations", list_all, summary="A network's reservations"),
        Route("GET", RESERVATION, get, summary="A reservation"),
        Route("DELETE", RESERVATION, delete, summary="Reserve it no more", headers=MATCH),
        Route(
            "POST",
            NETWORK + "/addresses/{address}/release",
            release,
            summary="Let a quarantined or held address go",
        ),
    )


def _quota_routes(ipam: ForEditors) -> Sequence[Route]:
    async def put(request: Request) -> Response:
        actor, bu = admin(request), request.params["bu"]
        body = request.parse(QuotaBody)
        rule, created = await ipam.quotas.rules.put(bu, body, actor.name, versions(request))
        content = await quota_view(ipam.quotas, bu, rule)
        return reply(content, 201 if created else 200, {"ETag": f'"{rule.version}"'})

    async def delete(request: Request) -> Response:
        actor, bu = admin(request), request.params["bu"]
        await ipam.quotas.rules.delete(bu, actor.name, versions(request))
        return reply({"bu": bu, "deleted": True})

    path = "/v1/quotas/{bu}"
    return (
        Route("PUT", path, put, summary="Set quotas", request=QuotaBody, headers=MATCH),
        Route("DELETE", path, delete, summary="No limit any more", headers=MATCH),
    )


def admin(request: Request) -> Actor:
    """Who asks. Raises Forbidden unless they administer the whole cluster."""
    actor = Actor.of(request)
    if actor.bu != "*" or actor.role is not Role.ADMIN:
        raise Forbidden(f"{actor.name} does not administer the cluster")
    return actor


def versions(request: Request) -> frozenset[int] | None:
    """The versions that If-Match allows; None for any. Raises InvalidInput."""
    header = request.headers.get("if-match", "").strip()
    if not header or header == "*":
        return frozenset() if header else None
    found = [re.fullmatch(r'(?:W/)?"?(\d+)"?', part.strip()) for part in header.split(",")]
    if not all(found):
        raise InvalidInput.of("If-Match", "not an ETag of this", '"3"')
    return frozenset(int(each.group(1)) for each in found if each)


def _body(request: Request) -> Mapping[str, Any]:
    content = request.parse(Definition).model_dump()
    name = request.params.get("pool", request.params["network"])
    if content.pop("name", name) != name:
        raise InvalidInput.of("name", "is not the one in the path", "leave it out")
    return content


def _defined(network: Network, created: bool) -> Response:
    content = {"network": network.name, "version": network.version, "fixed": network.fixed}
    definition = {"definition": dumped(network.config)}
    return reply({**content, **definition}, 201 if created else 200, etag(network))
