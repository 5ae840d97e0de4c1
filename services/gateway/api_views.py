"""Routes of composed views: instances, hosts, networks, alerts."""

from __future__ import annotations

from libs.client.model import Alerts, Instances, Networks, NetworkView, Nodes
from libs.common.errors import InvalidInput
from libs.common.http import Access, Request, Response, Route, reply
from services.gateway.parts import Gateway, actor_of, app_filter, guarded
from services.gateway.views import (
    list_alerts,
    list_instances,
    list_networks,
    list_nodes,
    read_network,
)

ALERT_STATES = ("", "firing", "resolved")


def view_routes(gateway: Gateway) -> tuple[Route, ...]:
    """All of them, guarded."""

    async def instances(request: Request) -> Response:
        return reply(await list_instances(gateway, actor_of(request), app_filter(request)))

    async def nodes(request: Request) -> Response:
        return reply(await list_nodes(gateway, actor_of(request)))

    async def networks(request: Request) -> Response:
        return reply(await list_networks(gateway, actor_of(request)))

    async def network(request: Request) -> Response:
        return reply(await read_network(gateway, actor_of(request), request.params["network"]))

    async def alerts(request: Request) -> Response:
        state = request.query.get("state", "")
        if state not in ALERT_STATES:
            raise InvalidInput.of("state", "is not a state of alerts", "firing or resolved")
        return reply(await list_alerts(gateway, actor_of(request), state))

    app = {"app": "of this app only, bu/app"}
    made = (
        Route(
            "GET",
            "/v1/instances",
            instances,
            Access.KEY,
            "Instances: wanted and observed",
            response=Instances,
            query=app,
        ),
        Route(
            "GET",
            "/v1/nodes",
            nodes,
            Access.KEY,
            "Hosts, what they have and what is reserved",
            response=Nodes,
        ),
        Route(
            "GET",
            "/v1/networks",
            networks,
            Access.KEY,
            "Networks and their use",
            response=Networks,
        ),
        Route(
            "GET",
            "/v1/networks/{network}",
            network,
            Access.KEY,
            "One network",
            response=NetworkView,
        ),
        Route(
            "GET",
            "/v1/alerts",
            alerts,
            Access.KEY,
            "Alerts",
            response=Alerts,
            query={"state": "firing or resolved"},
        ),
    )
    return tuple(guarded(gateway, route) for route in made)
