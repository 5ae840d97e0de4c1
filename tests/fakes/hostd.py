"""hostd as its callers see it: the real service and API on a FakeHost, called with serialised bytes and no socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from libs.common.clock import Clock, RngIds
from libs.common.errors import Unavailable
from libs.common.http import Access, HttpApp, Response
from libs.common.telemetry import Telemetry, make_log
from services.hostd.api import SocketAuthenticator, socket_routes
from services.hostd.main import make_app
from services.hostd.service import HostdService
from services.hostd.settings import HostdConfig
from tests.fakes.ipam import FakeIpam
from tests.fakes.network import FakeHost, fake_ports


class HostdClient:
    """A `ServiceClient` that knows one hostd. Calls fail with Unavailable while it is `down`."""

    def __init__(self, service: HostdService) -> None:
        self.service = service
        self.down = False
        authenticate = SocketAuthenticator(service.settings.host_name())
        self._app: HttpApp = make_app(
            service, socket_routes(service), authenticate, metrics=Access.HOST
        )

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """See ServiceClient."""
        if self.down:
            raise Unavailable("hostd can't be reached")
        return await self._app.dispatch(method, path, headers or {}, body)


@asynccontextmanager
async def fake_hostd(
    host: FakeHost, ipam: FakeIpam, clock: Clock, rng: Random, **settings: object
) -> AsyncIterator[HostdClient]:
    """A hostd at work on the host; leaving the context is its death."""
    service = HostdService(
        host.cluster,
        fake_ports(host, ipam),
        HostdConfig.model_validate({"host": "host-1", **settings}),
        data_dir=Path("/var/lib/gantry"),
        clock=clock,
        ids=RngIds(rng),
        rng=rng,
        telemetry=Telemetry("hostd", make_log("hostd", level="critical")),
    )
    async with service.running():
        yield HostdClient(service)
