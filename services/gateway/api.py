"""The gateway's HTTP face: all of its routes, in the order of the API's documentation."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.http import Access, Request, Response, Route
from services.gateway.api_apps import app_routes
from services.gateway.api_breaker import breaker_routes
from services.gateway.api_dead import dead_routes
from services.gateway.api_hosts import host_routes, inner_host_routes
from services.gateway.api_jobs import job_routes
from services.gateway.api_keys import key_routes
from services.gateway.api_maintenance import maintenance_routes
from services.gateway.api_networks import network_routes
from services.gateway.api_producers import inner_routes, producer_routes
from services.gateway.api_scheduler import scheduler_routes
from services.gateway.api_streams import stream_routes
from services.gateway.api_vault import vault_routes
from services.gateway.api_views import view_routes
from services.gateway.chronos.routes import chronos_routes
from services.gateway.console.job_pages import job_page_routes
from services.gateway.console.network_pages import network_page_routes
from services.gateway.console.pages import console_routes
from services.gateway.openapi import document_bytes
from services.gateway.parts import Gateway


def public_routes(gateway: Gateway) -> tuple[Route, ...]:
    """The public API, as it is documented."""
    return (
        *app_routes(gateway),
        *job_routes(gateway),
        *view_routes(gateway),
        *network_routes(gateway),
        *stream_routes(gateway),
        *breaker_routes(gateway),
        *maintenance_routes(gateway),
        *scheduler_routes(gateway),
        *key_routes(gateway),
        *dead_routes(gateway),
        *producer_routes(gateway),
        *host_routes(gateway),
        *vault_routes(gateway),
    )


def routes(gateway: Gateway) -> Sequence[Route]:
    """The public API with its documentation, the console, Chronos' API, and what other services ask."""
    public = public_routes(gateway)
    text = document_bytes(public)

    async def openapi(_request: Request) -> Response:
        return Response(200, text)

    return (
        *public,
        Route("GET", "/v1/openapi.json", openapi, Access.PUBLIC, "This API as OpenAPI 3.1"),
        *console_routes(gateway),
        *job_page_routes(gateway),
        *network_page_routes(gateway),
        *chronos_routes(gateway),
        *inner_routes(gateway),
        *inner_host_routes(gateway),
    )
