"""ipam's HTTP face towards hosts: addresses for attachments. What people ask is in api_networks.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator

from libs.common.clock import Clock
from libs.common.errors import Forbidden, GantryError, InvalidInput, NotFound
from libs.common.http import Access, Kind, Request, Response, Route, reply
from libs.common.problems import Problem
from libs.common.telemetry import current_traceparent
from services.ipam.api_edits import ForEditors, edit_routes
from services.ipam.api_networks import ForReaders, read_routes
from services.ipam.catalogue import Catalogue
from services.ipam.jobs import Allocation
from services.ipam.model import Claim, Reported
from services.ipam.pools import canonical
from services.ipam.releases import Ending
from services.ipam.store import IpamStore
from services.ipam.tally import Tally
from services.ipam.views import attachment_view, held_view

MAX_CLAIMS = 500

Short = Annotated[str, Field(max_length=64)]
Long = Annotated[str, Field(max_length=200)]


class ClaimBody(BaseModel):
    """PUT /v1/attachments/{attachment}. A newer host may say more than is known here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    network: Short
    instance: Long
    attempt: Long
    host: Long
    sticky_key: Long = ""
    requested: Short = ""
    environment: Short = ""
    zone: Short = ""
    reservation: Short = ""
    families: tuple[int, ...] = Field((), max_length=2)
    app: Long = Field("", description="bu/app")

    @field_validator("families")
    @classmethod
    def _families(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not set(value) <= {4, 6}:
            raise ValueError("families are 4 and 6")
        return tuple(sorted(set(value)))

    @field_validator("requested")
    @classmethod
    def _requested(cls, value: str) -> str:
        return canonical(value)

    def claim(self, attachment: str) -> Claim:
        """Of an attachment."""
        return Claim(attachment=attachment, **self.model_dump())


class NamedClaim(ClaimBody):
    """A claim of many."""

    attachment: str = Field(min_length=1, max_length=300)

    def of_it(self) -> Claim:
        """With the attachment's own name."""
        return Claim(**self.model_dump())


class ClaimsBody(BaseModel):
    """POST /v1/attachments: a burst of claims."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    claims: tuple[NamedClaim, ...] = Field(max_length=MAX_CLAIMS)


class HeldBody(BaseModel):
    """An address that an attachment has, in a host's report; an attachment may come once a family."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    attachment: str = Field(min_length=1, max_length=300)
    network: str = Field(max_length=64)
    address: str = Field(max_length=64)
    generation: int = Field(ge=1, le=2**53)
    instance: str = Field("", max_length=200)
    attempt: str = Field("", max_length=200)
    sticky_key: str = Field("", max_length=200)
    app: str = Field("", max_length=200)

    @field_validator("address")
    @classmethod
    def _address(cls, value: str) -> str:
        return canonical(value)


class LiveBody(BaseModel):
    """POST /v1/hosts/{host}/attachments: all attachments that the host has, and of those with an address which."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    live: tuple[str, ...]
    held: tuple[HeldBody, ...] | None = None


class ConflictBody(BaseModel):
    """POST /v1/attachments/{attachment}/conflicts: another station answers for its address."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    address: str = Field(max_length=64)
    generation: int = Field(ge=1, le=2**53)
    seen_mac: str = Field(min_length=1, max_length=64)


class ForHosts(Protocol):
    """What these routes need of the service."""

    store: IpamStore
    catalogue: Catalogue
    tally: Tally

    async def allocate(self, claim: Claim) -> Allocation: ...
    async def allocate_many(self, claims: Sequence[Claim]) -> list[Allocation | GantryError]: ...
    async def conflict(
        self, attachment: str, address: str, generation: int, seen_mac: str
    ) -> Allocation: ...
    async def release(self, ending: Ending) -> bool: ...
    async def report(
        self, host: str, live: frozenset[str], held: Sequence[Reported] | None = None
    ) -> int: ...


class Served(ForHosts, ForReaders, ForEditors, Protocol):
    """What all routes need of the service."""


def routes(ipam: Served, clock: Clock) -> Sequence[Route]:
    """All routes."""
    return (*host_routes(ipam), *read_routes(ipam, clock), *edit_routes(ipam, clock))


def host_routes(ipam: ForHosts) -> Sequence[Route]:
    """Routes that hosts call."""

    async def put_attachment(request: Request) -> Response:
        body = request.parse(ClaimBody)
        own_host(request, body.host)
        return reply(attachment_view(await ipam.allocate(body.claim(_attachment(request)))))

    async def put_many(request: Request) -> Response:
        claims = [each.of_it() for each in request.parse(ClaimsBody).claims]
        for each in claims:
            own_host(request, each.host)
        results = await ipam.allocate_many(claims)
        return reply(
            {
                "results": [
                    _result(claim.attachment, each)
                    for claim, each in zip(claims, results, strict=True)
                ]
            }
        )

    async def delete_attachment(request: Request) -> Response:
        attachment, principal = _attachment(request), request.principal
        generation = _generation(request, "generation")
        if generation is None:
            raise InvalidInput.of("generation", "is missing", "the generation that PUT answered")
        current = await ipam.store.of_attachment(attachment)
        for each in current:
            own_host(request, each.host)
        ours = principal.kind is Kind.HOST
        host = principal.name if ours else (current[0].host if current else "")
        ending = Ending(
            attachment,
            generation,
            request.query.get("reason", ""),
            f"{principal.kind}:{principal.name}",
            host,
            _generation(request, "generation6"),
            current_traceparent(),
        )
        return reply({"released": await ipam.release(ending)})

    async def conflict(request: Request) -> Response:
        attachment, body = _attachment(request), request.parse(ConflictBody)
        for each in await ipam.store.of_attachment(attachment):
            own_host(request, each.host)
        address = canonical(body.address)
        found = await ipam.conflict(attachment, address, body.generation, body.seen_mac)
        own_host(request, found.primary.host)
        return reply(attachment_view(found))

    async def report(request: Request) -> Response:
        host = request.params["host"]
        own_host(request, host)
        body = request.parse(LiveBody)
        held = None
        if body.held is not None:
            held = [Reported(**each.model_dump()) for each in body.held]
        return reply({"released": await ipam.report(host, frozenset(body.live), held)})

    async def of_host(request: Request) -> Response:
        host = request.params["host"]
        own_host(request, host)
        return reply({"attachments": [held_view(each) for each in await ipam.store.on_host(host)]})

    async def room(request: Request) -> Response:
        name = request.params["network"]
        network = await ipam.catalogue.find(name)
        if network is None:
            raise NotFound(f"there is no network {name!r}")
        zone = request.query.get("zone", "")
        free = dict.fromkeys(network.families, 0)
        for pool in network.pools:
            if pool.config.zone in ("", zone):
                free[pool.family] += (await ipam.tally.of(pool)).free
        return reply({"free": min(free.values())})

    attachment = "/v1/attachments/{attachment}"
    query = {
        "generation": "of the first address' allocation",
        "generation6": "of the IPv6 address' when there is one of each family",
        "reason": "why, for the audit",
    }
    return (
        Route("PUT", attachment, put_attachment, Access.HOST, "CNI ADD", request=ClaimBody),
        Route("POST", "/v1/attachments", put_many, Access.HOST, "A burst", request=ClaimsBody),
        Route(
            "POST",
            f"{attachment}/conflicts",
            conflict,
            Access.HOST,
            "Somebody else answers for its address",
            request=ConflictBody,
        ),
        Route("DELETE", attachment, delete_attachment, Access.HOST, "CNI DEL", query=query),
        Route(
            "POST",
            "/v1/hosts/{host}/attachments",
            report,
            Access.HOST,
            "What a host has",
            request=LiveBody,
        ),
        Route(
            "GET",
            "/v1/hosts/{host}/attachments",
            of_host,
            Access.HOST,
            "What a host should have, by the store",
        ),
        Route(
            "GET",
            "/v1/networks/{network}/room",
            room,
            Access.HOST,
            "For how many attachments there are addresses (CNI STATUS)",
            query={"zone": "of the host; pools of other zones don't count"},
        ),
    )


def _attachment(request: Request) -> str:
    return request.params["attachment"]


def _generation(request: Request, name: str) -> int | None:
    text = request.query.get(name, "")
    if not text:
        return None
    if not text.isdecimal():
        raise InvalidInput.of(name, "is not a number", "the generation that PUT answered")
    return int(text)


def _result(attachment: str, result: Allocation | GantryError) -> dict[str, Any]:
    if isinstance(result, GantryError):
        told = Problem.of(result)
        problem = {"status": told.status, "type": told.slug, "detail": told.detail}
        return {"attachment": attachment, "problem": problem}
    return {"attachment": attachment, "allocation": attachment_view(result)}


def own_host(request: Request, host: str) -> None:
    """Raises Forbidden when a host speaks for another one."""
    principal = request.principal
    if principal.kind is Kind.HOST and principal.name != host:
        raise Forbidden(f"{principal.name} may not speak for {host}")
