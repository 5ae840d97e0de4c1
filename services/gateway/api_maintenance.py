"""Routes that close and open hosts: for admins of all business units, as everybody's instances are moved."""

from __future__ import annotations

from typing import Any

import orjson

from libs.client.maintenance import Cordon, Drain, NodeDoor
from libs.common.errors import NotFound, Unavailable
from libs.common.http import Access, Request, Response, Role, Route, reply
from libs.common.serve import segment
from services.gateway.api_apps import IDEMPOTENT
from services.gateway.parts import Gateway, actor_of, guarded, require_all
from services.gateway.peers import SCHEDULER
from services.gateway.views import list_nodes

_TEXTS = {
    "drain": "Place nothing new on a host, and move its instances as their apps can spare them",
    "cordon": "Place nothing new on a host",
    "undrain": "Open a host again",
}


def maintenance_routes(gateway: Gateway) -> tuple[Route, ...]:
    """All three, guarded."""

    async def drain(request: Request) -> Response:
        asked = request.parse(Drain)
        return await change(request, "drain", {"door": "draining", **asked.model_dump()})

    async def cordon(request: Request) -> Response:
        asked = request.parse(Cordon)
        return await change(request, "cordon", {"door": "cordoned", **asked.model_dump()})

    async def undrain(request: Request) -> Response:
        return await change(request, "undrain", {"door": "open"})

    async def change(request: Request, what: str, wanted: dict[str, Any]) -> Response:
        require_all(request)
        host, actor = request.params["host"], actor_of(request)

        async def perform() -> Response:
            if wanted["door"] != "open":  # one that has gone for good can be opened all the same
                await _check(gateway, request, host)
            path, body = f"/v1/nodes/{segment(host)}", orjson.dumps(wanted)
            answer = await gateway.peers.ask(actor, SCHEDULER, "PUT", path, body=body)
            return reply(NodeDoor.model_validate(answer.json()))

        target = f"*/nodes/{host}"
        return await gateway.operations.through(
            request, f"node.{what}", target, perform, lambda response: response.json()
        )

    handlers = {"drain": (drain, Drain), "cordon": (cordon, Cordon), "undrain": (undrain, None)}
    routes = []
    for what, (handler, body) in handlers.items():
        route = Route(
            "POST",
            f"/v1/nodes/{{host}}/{what}",
            handler,
            Access.KEY,
            _TEXTS[what],
            Role.ADMIN,
            request=body,
            response=NodeDoor,
            headers=IDEMPOTENT,
        )
        routes.append(guarded(gateway, route, f"node.{what}"))
    return tuple(routes)


async def _check(gateway: Gateway, request: Request, host: str) -> None:
    """A misspelt host must not be taken for a closed one."""
    nodes = await list_nodes(gateway, actor_of(request))
    if any(each.hostname == host for each in nodes.nodes):
        return
    if nodes.incomplete:
        raise Unavailable(f"{', '.join(nodes.incomplete)}: no answer; try again")
    raise NotFound(f"there is no host {host!r}")
