"""ipam's HTTP face: hosts ask for addresses, services look at networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from libs.common.clock import Clock
from libs.common.errors import Forbidden, InvalidInput, NotFound
from libs.common.http import Access, Kind, Request, Response, Route, reply
from services.ipam.model import Address, Claim, Network, Reported
from services.ipam.store import IpamStore


class ClaimBody(BaseModel):
    """PUT /v1/attachments/{attachment}. A newer host may say more than is known here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    network: str
    instance: str
    attempt: str
    host: str
    sticky_key: str = ""
    requested: str = ""


class HeldBody(BaseModel):
    """An attachment that has an address, in a host's report."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    attachment: str = Field(min_length=1, max_length=300)
    network: str = Field(max_length=64)
    address: str = Field(max_length=64)
    generation: int = Field(ge=1, le=2**53)
    instance: str = Field("", max_length=200)
    attempt: str = Field("", max_length=200)
    sticky_key: str = Field("", max_length=200)


class LiveBody(BaseModel):
    """POST /v1/hosts/{host}/attachments: all attachments that the host has, and of those with an address which."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    live: tuple[str, ...]
    held: tuple[HeldBody, ...] | None = None


class Allocator(Protocol):
    """What the API needs of the service."""

    networks: Mapping[str, Network]
    store: IpamStore

    async def allocate(self, claim: Claim) -> tuple[Network, Address]: ...
    async def release(
        self, attachment: str, generation: int, reason: str, actor: str, host: str = ""
    ) -> bool: ...
    async def report(
        self, host: str, live: frozenset[str], held: Sequence[Reported] | None = None
    ) -> int: ...


def routes(ipam: Allocator, clock: Clock) -> Sequence[Route]:
    """All routes."""
    return (*_host_routes(ipam), *_read_routes(ipam, clock))


def _host_routes(ipam: Allocator) -> Sequence[Route]:
    async def put_attachment(request: Request) -> Response:
        body = request.parse(ClaimBody)
        _own_host(request, body.host)
        claim = Claim(attachment=request.params["attachment"], **body.model_dump())
        network, address = await ipam.allocate(claim)
        return reply(attachment_view(network, address))

    async def get_attachment(request: Request) -> Response:
        name = request.params["attachment"]
        current = await ipam.store.of_attachment(name)
        network = ipam.networks.get(current.network) if current is not None else None
        if current is None or network is None:
            raise NotFound(f"attachment {name!r} has no address")
        _own_host(request, current.host)
        return reply(attachment_view(network, current))

    async def delete_attachment(request: Request) -> Response:
        attachment = request.params["attachment"]
        generation = request.query.get("generation", "")
        if not generation.isdigit():
            raise InvalidInput.of("generation", "is missing", "the generation that PUT answered")
        current = await ipam.store.of_attachment(attachment)
        if current is not None:
            _own_host(request, current.host)
        actor = f"{request.principal.kind}:{request.principal.name}"
        reason = request.query.get("reason", "")
        principal = request.principal
        host = principal.name if principal.kind is Kind.HOST else (current.host if current else "")
        released = await ipam.release(attachment, int(generation), reason, actor, host)
        return reply({"released": released})

    async def of_host(request: Request) -> Response:
        host = request.params["host"]
        _own_host(request, host)
        return reply({"attachments": [_held_view(each) for each in await ipam.store.on_host(host)]})

    async def report(request: Request) -> Response:
        host = request.params["host"]
        _own_host(request, host)
        body = request.parse(LiveBody)
        held = None
        if body.held is not None:
            held = [Reported(**each.model_dump()) for each in body.held]
        return reply({"released": await ipam.report(host, frozenset(body.live), held)})

    attachment = "/v1/attachments/{attachment}"
    return (
        Route(
            "PUT",
            attachment,
            put_attachment,
            Access.HOST,
            "Give it an address (CNI ADD)",
            request=ClaimBody,
        ),
        Route("GET", attachment, get_attachment, Access.HOST, "The address it has (CNI CHECK)"),
        Route(
            "DELETE",
            attachment,
            delete_attachment,
            Access.HOST,
            "Take its address back (CNI DEL)",
            query={"generation": "of the allocation", "reason": "why, for the audit"},
        ),
        Route(
            "POST",
            "/v1/hosts/{host}/attachments",
            report,
            Access.HOST,
            "What a host has",
            request=LiveBody,
        ),
        Route(
            "GET", "/v1/hosts/{host}/attachments", of_host, Access.HOST, "What a host should have"
        ),
    )


def _read_routes(ipam: Allocator, clock: Clock) -> Sequence[Route]:
    async def networks(_request: Request) -> Response:
        views = [await network_view(ipam, each, clock) for each in ipam.networks.values()]
        return reply({"networks": views})

    async def network(request: Request) -> Response:
        return reply(await network_view(ipam, _network(ipam, request), clock))

    async def addresses(request: Request) -> Response:
        found = await ipam.store.in_network(_network(ipam, request).name)
        return reply({"addresses": [address_view(each) for each in found]})

    return (
        Route("GET", "/v1/networks", networks, summary="Networks with their use"),
        Route("GET", "/v1/networks/{network}", network, Access.HOST, "One network (CNI STATUS)"),
        Route("GET", "/v1/networks/{network}/addresses", addresses, summary="Its used addresses"),
    )


def _own_host(request: Request, host: str) -> None:
    principal = request.principal
    if principal.kind is Kind.HOST and principal.name != host:
        raise Forbidden(f"{principal.name} may not speak for {host}")


def _network(ipam: Allocator, request: Request) -> Network:
    name = request.params["network"]
    if name not in ipam.networks:
        raise NotFound(f"there is no network {name!r}")
    return ipam.networks[name]


def _held_view(address: Address) -> Mapping[str, Any]:
    return {
        "attachment": address.attachment,
        "network": address.network,
        "address": address.address,
        "generation": address.generation,
    }


def attachment_view(network: Network, address: Address) -> Mapping[str, Any]:
    """What hostd needs to wire an attachment."""
    gateway = network.config.gateway
    return {
        "attachment": address.attachment,
        "network": network.name,
        "address": address.address,
        "prefix_len": network.config.cidr.prefixlen,
        "gateway": str(gateway) if gateway else None,
        "vlan": network.config.vlan,
        "mtu": network.config.mtu,
        "generation": address.generation,
        "mac": None,
    }


async def network_view(ipam: Allocator, network: Network, clock: Clock) -> Mapping[str, Any]:
    """A network and how much of it is used."""
    counts = await ipam.store.counts(network.name, clock.now())
    taken = counts["allocated"] + counts["cooling"] + counts["quarantined"]
    config = network.config
    return {
        "network": network.name,
        "cidr": str(config.cidr),
        "vlan": config.vlan,
        "gateway": str(config.gateway) if config.gateway else None,
        "zone": config.zone,
        "bus": list(config.bus),
        "usable": network.usable,
        "free": network.usable - taken,
        **counts,
    }


def address_view(address: Address) -> Mapping[str, Any]:
    """An address for readers."""
    return {
        "address": address.address,
        "state": address.state.value,
        "generation": address.generation,
        "attachment": address.attachment,
        "instance": address.instance,
        "host": address.host,
        "free_at": address.free_at,
        "since": address.since,
        "claims": [f"{each.attachment} on {each.host}" for each in address.claims],
    }
