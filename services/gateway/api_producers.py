"""Routes of producers' public keys."""

from __future__ import annotations

from libs.client.model import NewProducerKey, ProducerKeys, ProducerKeyView
from libs.common.http import Access, Request, Response, Role, Route, reply
from services.gateway.api_apps import IDEMPOTENT
from services.gateway.parts import Gateway, actor_of, guarded, reading

PATH = "/v1/producers"


def producer_routes(gateway: Gateway) -> tuple[Route, ...]:
    """All of them, guarded."""

    async def add(request: Request) -> Response:
        return await gateway.producers.add(request, request.parse(NewProducerKey))

    async def list_keys(request: Request) -> Response:
        return reply(ProducerKeys(keys=tuple(await gateway.producers.visible(actor_of(request)))))

    async def remove(request: Request) -> Response:
        return await gateway.producers.remove(request, request.params["key"])

    make = Route(
        "POST",
        PATH,
        add,
        Access.KEY,
        "Register a producer's public key",
        Role.ADMIN,
        NewProducerKey,
        ProducerKeyView,
        201,
        headers=IDEMPOTENT,
    )
    end = Route(
        "DELETE", f"{PATH}/{{key}}", remove, Access.KEY, "Remove a producer's key", Role.ADMIN,
        response=ProducerKeyView,
    )  # fmt: skip
    text = "Producers' public keys"
    return (
        guarded(gateway, make, "producer.add"),
        reading(gateway, PATH, list_keys, text, ProducerKeys, role=Role.ADMIN),
        guarded(gateway, end, "producer.remove"),
    )


def inner_routes(gateway: Gateway) -> tuple[Route, ...]:
    """What the other services ask; no part of the public API."""

    async def tell(request: Request) -> Response:
        return await gateway.producers.tell(request)

    return (Route("GET", "/v1/producer-keys/{key}", tell, Access.SERVICE, "One producer's key"),)
