"""Routes of API keys, business units and the audit trail."""

from __future__ import annotations

import re

from libs.client.model import (
    Audit,
    AuditView,
    KeyCreated,
    Keys,
    KeyView,
    NewKey,
    Tenants,
    TenantView,
)
from libs.common.errors import InvalidInput
from libs.common.http import Access, Request, Response, Role, Route, reply
from services.gateway.api_apps import IDEMPOTENT
from services.gateway.model import KeyId
from services.gateway.parts import Gateway, actor_of, guarded, reading, whole

CURSOR = re.compile(r"[0-9a-f-]{1,80}")


def key_routes(gateway: Gateway) -> tuple[Route, ...]:
    """All of them, guarded."""

    async def create(request: Request) -> Response:
        return await gateway.keys.create(request, request.parse(NewKey))

    async def list_keys(request: Request) -> Response:
        return reply(Keys(keys=tuple(await gateway.keys.visible(actor_of(request)))))

    async def revoke(request: Request) -> Response:
        return await gateway.keys.revoke(request, KeyId(request.params["key"]))

    async def tenants(request: Request) -> Response:
        actor = actor_of(request)
        known = await gateway.repository.list_tenants()
        views = tuple(TenantView(**each.model_dump()) for each in known if actor.sees(each.bu))
        return reply(Tenants(tenants=views))

    async def audit(request: Request) -> Response:
        before = request.query.get("before", "")
        if before and not CURSOR.fullmatch(before):
            raise InvalidInput.of("before", "is not a cursor", "`next` of the page before")
        entries, more = await gateway.repository.list_audit(
            actor_of(request).bu, before, whole(request, "limit")
        )
        views = tuple(AuditView(**entry.model_dump(exclude={"bu"})) for entry in entries)
        return reply(Audit(entries=views, next=entries[-1].id if more and entries else ""))

    make = Route(
        "POST",
        "/v1/keys",
        create,
        Access.KEY,
        "Make an API key; it is shown once",
        Role.ADMIN,
        NewKey,
        KeyCreated,
        201,
        headers=IDEMPOTENT,
    )
    end = Route(
        "DELETE", "/v1/keys/{key}", revoke, Access.KEY, "Revoke an API key", Role.ADMIN,
        response=KeyView,
    )  # fmt: skip
    pages = {"limit": "at most so many", "before": "the `next` of the page before"}
    text = "Who asked what, newest first"
    return (
        guarded(gateway, make, "key.create"),
        reading(gateway, "/v1/keys", list_keys, "API keys", Keys, role=Role.ADMIN),
        guarded(gateway, end, "key.revoke"),
        reading(gateway, "/v1/tenants", tenants, "Business units", Tenants),
        reading(gateway, "/v1/audit", audit, text, Audit, role=Role.ADMIN, query=pages),
    )
