"""Routes of the scheduler's breaker: for admins of all business units, as it decides over everybody's tasks."""

from __future__ import annotations

from typing import Any

from libs.client.model import Breaker
from libs.common.http import Access, Request, Response, Role, Route, reply
from services.gateway.api_apps import IDEMPOTENT
from services.gateway.parts import Gateway, actor_of, guarded, reading, require_all
from services.gateway.peers import SCHEDULER


def breaker_routes(gateway: Gateway) -> tuple[Route, ...]:
    """Both, guarded."""

    async def look(request: Request) -> Response:
        require_all(request)
        return _shown(await gateway.peers.get(actor_of(request), SCHEDULER, "/v1/status"))

    async def release(request: Request) -> Response:
        require_all(request)

        async def perform() -> Response:
            actor, path = actor_of(request), "/v1/breaker/release"
            response = await gateway.peers.ask(actor, SCHEDULER, "POST", path)
            return _shown(response.json())

        return await gateway.operations.through(
            request, "breaker.release", "*/breaker", perform, lambda response: response.json()
        )

    end = Route(
        "POST",
        "/v1/breaker/release",
        release,
        Access.KEY,
        "Have the tasks killed that nobody knows",
        Role.ADMIN,
        response=Breaker,
        headers=IDEMPOTENT,
    )
    text = "Tasks that nobody knows, held back from being killed"
    return (
        reading(gateway, "/v1/breaker", look, text, Breaker, role=Role.ADMIN),
        guarded(gateway, end, "breaker.release"),
    )


def _shown(status: dict[str, Any]) -> Response:
    tasks = tuple(status["unknown_tasks"])
    return reply(Breaker(open=status["breaker_open"], unknown_tasks=tasks))
