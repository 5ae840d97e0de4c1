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
from services.gateway.parts import Gateway, actor_of, guarded, whole

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

    admin = Role.ADMIN
    return (
        guarded(
            gateway,
            Route(
                "POST",
                "/v1/keys",
                create,
                Access.KEY,
                "Make an API key; it is shown once",
                admin,
                NewKey,
                KeyCreated,
                201,
                headers=IDEMPOTENT,
            ),
            "key.create",
        ),
        guarded(
            gateway,
            Route("GET", "/v1/keys", list_keys, Access.KEY, "API keys", admin, response=Keys),
        ),
        guarded(
            gateway,
            Route(
                "DELETE",
                "/v1/keys/{key}",
                revoke,
                Access.KEY,
                "Revoke an API key",
                admin,
                response=KeyView,
            ),
            "key.revoke",
        ),
        guarded(
            gateway,
            Route("GET", "/v1/tenants", tenants, Access.KEY, "Business units", response=Tenants),
        ),
        guarded(
            gateway,
            Route(
                "GET",
                "/v1/audit",
                audit,
                Access.KEY,
                "Who asked what, newest first",
                admin,
                response=Audit,
                query={"limit": "at most so many", "before": "the `next` of the page before"},
            ),
        ),
    )
