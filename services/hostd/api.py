"""hostd's HTTP face: everything on its socket, what the gateway may read on a port besides.

The socket's file mode (0600) is its authentication; calls by the port carry a service's token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from libs.common.delivery import Delivery
from libs.common.errors import InvalidInput
from libs.common.http import Access, Kind, Principal, Request, Response, Role, Route, reply
from services.hostd.answers import AttachmentView
from services.hostd.core import link_name
from services.hostd.doctor import Diagnosis
from services.hostd.examine import Examiner
from services.hostd.executors import Sign
from services.hostd.model import AttachmentSpec, RegistrationSpec
from services.hostd.ports import LogQuery
from services.hostd.service import HostdService

NDJSON = "application/x-ndjson"
ATTACHMENT = "/v1/attachments/{container}/{ifname}"
EXECUTOR = "/v1/executors/{agent}"
MAX_TAIL = 100_000


class SocketAuthenticator:
    """Whoever may open the socket is this host."""

    def __init__(self, host: str) -> None:
        self._principal = Principal(Kind.HOST, host, "*", Role.ADMIN)

    async def __call__(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Principal:
        """This host."""
        return self._principal


def socket_routes(service: HostdService) -> Sequence[Route]:
    """All there is: for the executor and the CNI shim."""
    handlers = Handlers(service)
    return (
        Route(
            "PUT", ATTACHMENT, handlers.add, Access.HOST, "ADD: have the interface",
            request=AttachmentSpec, response=AttachmentView,
        ),
        Route("DELETE", ATTACHMENT, handlers.delete, Access.HOST, "DEL: have no such interface"),
        Route(
            "POST", f"{ATTACHMENT}/registration", handlers.register, Access.HOST,
            "Give leave for one start", request=RegistrationSpec, response=AttachmentView,
        ),
        Route("DELETE", f"{ATTACHMENT}/registration", handlers.revoke, Access.HOST, "Take leave back"),
        Route(
            "GET", "/v1/attempts/{attempt}/delivery", handlers.deliver, Access.HOST,
            "Secrets and registry login of an attempt placed here", response=Delivery,
        ),
        Route(
            "PUT", EXECUTOR, handlers.sign, Access.HOST, "An executor's worker lives",
            request=Sign, traced=False,
        ),
        Route(
            "DELETE", f"{EXECUTOR}/{{worker}}", handlers.take_back, Access.HOST,
            "A worker ends in order", traced=False,
        ),
        *read_routes(service, Access.HOST),
    )  # fmt: skip


def read_routes(service: HostdService, access: Access = Access.SERVICE) -> Sequence[Route]:
    """What may be read from elsewhere."""
    handlers = Handlers(service)
    log_query = {
        "tail": "only the last so many lines",
        "since": "only lines after this time, Unix seconds",
        "follow": "1: go on with new lines until the container ends",
    }
    return (
        Route("GET", "/v1/attachments", handlers.list, access, "All attachments of the host"),
        Route("GET", ATTACHMENT, handlers.get, access, "One attachment", response=AttachmentView),
        Route(
            "GET", "/v1/containers/{container}/logs", handlers.logs, access,
            "A container's output, a JSON object a line", query=log_query, produces=NDJSON,
        ),
        Route(
            "GET", "/v1/containers/{container}/runs/{run}/output", handlers.output, access,
            "What a run writes in a container that it shares", produces=NDJSON,
            query={"tail": log_query["tail"], "follow": "1: go on with new lines until the run ends"},
        ),
        Route("GET", "/v1/containers/{container}/stats", handlers.stats, access, "A container's use"),
        Route(
            "GET", "/v1/doctor", handlers.doctor, access, "What is wrong with the host's network",
            response=Diagnosis,
        ),
    )  # fmt: skip


class Handlers:
    """Requests to calls of the service, results to answers."""

    def __init__(self, service: HostdService) -> None:
        self._service = service

    async def add(self, request: Request) -> Response:
        """PUT an attachment."""
        spec = request.parse(AttachmentSpec)
        with self._service.telemetry.span("hostd.add", attempt=spec.attempt):
            return reply(await self._service.add(*_key(request), spec))

    async def get(self, request: Request) -> Response:
        """GET an attachment."""
        return reply(self._service.get(*_key(request)))

    async def delete(self, request: Request) -> Response:
        """DELETE an attachment."""
        return reply({"removed": await self._service.delete(*_key(request))})

    async def register(self, request: Request) -> Response:
        """POST a registration."""
        spec = request.parse(RegistrationSpec)
        return reply(await self._service.register(*_key(request), spec))

    async def revoke(self, request: Request) -> Response:
        """DELETE a registration."""
        return reply({"revoked": await self._service.revoke(*_key(request))})

    async def deliver(self, request: Request) -> Response:
        """GET an attempt's values."""
        return reply(await self._service.ports.deliveries.of_attempt(request.params["attempt"]))

    async def sign(self, request: Request) -> Response:
        """PUT a sign of life."""
        self._service.executors.sign(request.params["agent"], request.parse(Sign))
        return reply({})

    async def take_back(self, request: Request) -> Response:
        """DELETE a worker."""
        self._service.executors.take_back(request.params["agent"], request.params["worker"])
        return reply({})

    async def list(self, _request: Request) -> Response:
        """GET all attachments."""
        views = [self._service.view(each) for each in self._service.table.all()]
        return reply({"attachments": views})

    async def doctor(self, _request: Request) -> Response:
        """GET a diagnosis."""
        it = self._service
        examiner = Examiner(it.owner, it.ports, it.table, it.settings.uplinks)
        return reply(await examiner.diagnose(it.settings.host_name(), it.clock.now()))

    async def logs(self, request: Request) -> Response:
        """GET a container's log."""
        query = LogQuery(
            tail=_number(request, "tail", MAX_TAIL),
            since=_number(request, "since", 2**40),
            follow=_follow(request),
        )
        lines = await self._service.ports.engine.logs(request.params["container"], query)
        return replace(Response(content_type=NDJSON), stream=lines)

    async def output(self, request: Request) -> Response:
        """GET what a run writes."""
        query = LogQuery(tail=_number(request, "tail", MAX_TAIL), follow=_follow(request))
        container, run = request.params["container"], request.params["run"]
        lines = await self._service.ports.outputs.of_run(container, run, query)
        return replace(Response(content_type=NDJSON), stream=lines)

    async def stats(self, request: Request) -> Response:
        """GET a container's numbers and when (`at`); its traffic is counted at the host's end of its link."""
        name = request.params["container"]
        ports = self._service.ports
        numbers = {"at": self._service.clock.now(), **await ports.engine.stats(name)}
        every = (a for a in self._service.table.all() if a.parked_at is None)
        known = next((a for a in every if a.container == name), None)
        link = link_name(self._service.owner, known.id) if known else ""
        counters = await ports.network.counters(link) if link else None
        return reply({**numbers, "network": asdict(counters) if counters else None})


def _key(request: Request) -> tuple[str, str]:
    return request.params["container"], request.params["ifname"]


def _follow(request: Request) -> bool:
    return request.query.get("follow", "0") in ("1", "true")


def _number(request: Request, name: str, most: int) -> int | None:
    text = request.query.get(name)
    if text is None or text == "all":
        return None
    if not text.isdecimal() or int(text) > most:
        raise InvalidInput.of(name, "is not a number in range", f"0 to {most}")
    return int(text)
