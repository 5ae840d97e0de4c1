"""Routes of composed views: instances, hosts, alerts."""

from __future__ import annotations

from libs.client.doctor import NetworkDiagnosis
from libs.client.model import Alerts, Instances, Nodes
from libs.client.stats import InstanceStats
from libs.common.errors import InvalidInput, NotFound
from libs.common.http import Request, Response, Route, reply
from services.gateway.parts import Gateway, actor_of, app_filter, reading, require_all
from services.gateway.views import (
    diagnose_host,
    instance_stats,
    list_alerts,
    list_instances,
    list_nodes,
)

MAX_HOST = 253
ALERT_STATES = ("firing", "resolved")


def view_routes(gateway: Gateway) -> tuple[Route, ...]:
    """All of them, guarded."""

    async def instances(request: Request) -> Response:
        return reply(await list_instances(gateway, actor_of(request), app_filter(request)))

    async def stats(request: Request) -> Response:
        found = await instance_stats(gateway, actor_of(request), request.params["instance"])
        return reply(found)

    async def nodes(request: Request) -> Response:
        return reply(await list_nodes(gateway, actor_of(request)))

    async def doctor(request: Request) -> Response:
        require_all(request)  # it names instances of every business unit
        host = request.params["host"]
        if len(host) > MAX_HOST:
            raise NotFound("there is no host of so long a name")
        return reply(await diagnose_host(gateway, actor_of(request), host))

    async def alerts(request: Request) -> Response:
        state = request.query.get("state")
        if state not in (None, *ALERT_STATES):
            raise InvalidInput.of("state", "is not a state of alerts", "firing or resolved")
        return reply(await list_alerts(gateway, actor_of(request), state or ""))

    app = {"app": "of this app only, bu/app"}
    state = {"state": "firing or resolved"}
    text = "Instances: wanted and observed"
    return (
        reading(gateway, "/v1/instances", instances, text, Instances, query=app),
        reading(
            gateway, "/v1/instances/{instance}/stats", stats,
            "What an instance uses: processor time, memory, processes, traffic", InstanceStats,
        ),
        reading(gateway, "/v1/nodes", nodes, "Hosts, and what is reserved there", Nodes),
        reading(
            gateway, "/v1/nodes/{host}/network", doctor,
            "What is wrong with a host's network, looked at now", NetworkDiagnosis,
        ),
        reading(gateway, "/v1/alerts", alerts, "What is or was wrong", Alerts, query=state),
    )  # fmt: skip
