"""Routes of the scheduler's standing at Mesos: for admins of all business units, whose instances are all at stake."""

from __future__ import annotations

from typing import Any

from libs.client.scheduling import SchedulerStatus
from libs.common.http import Access, Request, Response, Role, Route, reply
from services.gateway.api_apps import IDEMPOTENT
from services.gateway.parts import Gateway, actor_of, guarded, reading, require_all
from services.gateway.peers import SCHEDULER

PATH = "/v1/scheduler"


def scheduler_routes(gateway: Gateway) -> tuple[Route, ...]:
    """Both, guarded."""

    async def look(request: Request) -> Response:
        require_all(request)
        return _shown(await gateway.peers.get(actor_of(request), SCHEDULER, "/v1/status"))

    async def reregister(request: Request) -> Response:
        require_all(request)

        async def perform() -> Response:
            actor, path = actor_of(request), "/v1/framework/reregister"
            response = await gateway.peers.ask(actor, SCHEDULER, "POST", path)
            return _shown(response.json(), 202)

        return await gateway.operations.through(
            request,
            "scheduler.reregister",
            "*/scheduler",
            perform,
            lambda response: response.json(),
        )

    begin = Route(
        "POST",
        f"{PATH}/reregister",
        reregister,
        Access.KEY,
        "Begin as a new framework after Mesos has removed the old one, and place everything anew",
        Role.ADMIN,
        response=SchedulerStatus,
        status=202,
        headers=IDEMPOTENT,
    )
    text = "Is the scheduler subscribed to Mesos, and as which framework"
    return (
        reading(gateway, PATH, look, text, SchedulerStatus, role=Role.ADMIN),
        guarded(gateway, begin, "scheduler.reregister"),
    )


def _shown(status: dict[str, Any], code: int = 200) -> Response:
    # A scheduler of the release before says nothing of a removal, and its subscription may be missing.
    shown = SchedulerStatus(
        framework=status["framework"],
        subscribed=status.get("subscribed", False),
        removed=status.get("framework_removed", False),
        alarm=status.get("alarm", ""),
    )
    return reply(shown, code)
