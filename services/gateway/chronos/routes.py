"""Routes of Chronos' API, in both versions.

What Chronos answers with 400 (no such job, a wrong schedule, a change that is refused) is answered so, and a change
that is done with 204; for the rest see `face.py`. They are no part of our own API's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson

from libs.common.actor import Actor
from libs.common.errors import InvalidInput, NotFound, Refused
from libs.common.http import JSON, Access, Request, Response, Role, Route, reply
from services.gateway.chronos import telling
from services.gateway.chronos.book import Book
from services.gateway.chronos.face import BU, METRICS, PREFIX, reason, refusal
from services.gateway.chronos.model import ChronosJob, Version, read_notification
from services.gateway.chronos.names import read_task
from services.gateway.chronos.specs import read
from services.gateway.jobs import Jobs, Outcome, State
from services.gateway.parts import NAME, SAFE_METHODS, Gateway, actor_of, audit

NOTES = "X-Gantry-Notes"
"""A header that says what of a job is otherwise than with Chronos."""
_TASK = re.compile(r"ct:\d+:\d+:[^:]+:?.*", re.ASCII)
_PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with what was found out about it."""

    request: Request
    actor: Actor
    bu: str

    @property
    def name(self) -> str:
        """The job that the path names."""
        return self.request.params["job"]


Handler = Callable[[Asked], Awaitable[Response]]


def chronos_routes(gateway: Gateway) -> tuple[Route, ...]:
    """Those of the versions that are spoken; none when there are none."""
    versions = sorted({Version(each) for each in gateway.config.chronos.versions})
    if not versions:
        return ()

    async def ping(_request: Request) -> Response:
        return Response(200, b"pong\n", content_type=_PLAIN)

    async def leader(request: Request) -> Response:
        # Whoever was asked answers for all: any gateway can.
        return reply({"leader": request.headers.get("host", "")})

    book = Book(Jobs(gateway), gateway.config.chronos, gateway.clock)
    places = ("/leader", *(f"{PREFIX[version]}/leader" for version in versions))
    return (
        Route("GET", "/ping", ping, Access.PUBLIC, "Chronos: is anybody there"),
        *(Route("GET", place, leader, Access.KEY, "Chronos: who leads") for place in places),
        *(each for version in versions for each in _Routes(gateway, book, version).all()),
    )


@dataclass(frozen=True)
class _Routes:
    """The routes of one version."""

    gateway: Gateway
    book: Book
    version: Version

    def all(self) -> tuple[Route, ...]:
        return (
            *self._jobs(),
            *self._graphs(),
            *self._statistics(),
            *self._puts(),
            *self._changes(),
        )

    # -- reads -----------------------------------------------------------------------------------

    def _jobs(self) -> tuple[Route, ...]:
        async def jobs(asked: Asked) -> Response:
            entries = await self.book.all(asked.actor, asked.bu)
            return reply([telling.told(each, self.version, mirrored=True) for each in entries])

        async def search(asked: Asked) -> Response:
            query = asked.request.query
            words = (query.get(each, "") for each in ("name", "command", "any"))
            entries = telling.found(await self.book.all(asked.actor, asked.bu), *words)
            start = _number(query.get("offset"), 0)
            some = entries[start : start + _number(query.get("limit"), 10)]
            return reply([telling.told(each, self.version) for each in some])

        async def summary(asked: Asked) -> Response:
            return reply(telling.summary(await self.book.all(asked.actor, asked.bu)))

        async def one(asked: Asked) -> Response:
            entry = await self.book.one(asked.actor, asked.bu, asked.name)
            return reply(telling.told(entry, self.version))

        return (
            self._route("GET", "/jobs", jobs),
            self._route("GET", "/jobs/search", search),
            self._route("GET", "/jobs/summary", summary),
            self._route("GET", "/job/{job}", one),
        )

    def _graphs(self) -> tuple[Route, ...]:
        async def dot(asked: Asked) -> Response:
            text = telling.dot(await self.book.all(asked.actor, asked.bu))
            return Response(200, text.encode(), content_type=_PLAIN)

        async def csv(asked: Asked) -> Response:
            text = telling.csv(await self.book.all(asked.actor, asked.bu))
            return Response(200, text.encode(), content_type=_PLAIN)

        return (
            self._route("GET", "/graph/dot", dot),
            self._route("GET", "/graph/csv", csv),
        )

    def _statistics(self) -> tuple[Route, ...]:
        async def ranking(asked: Asked) -> Response:
            entries = await self.book.all(asked.actor, asked.bu)
            stats = await self.book.stats(asked.actor, asked.bu, entries)
            return reply(telling.ranking(stats, asked.request.params["figure"]))

        async def of_one(asked: Asked) -> Response:
            entry = await self.book.one(asked.actor, asked.bu, asked.name)
            stats = await self.book.stats(asked.actor, asked.bu, [entry])
            runs = await self.book.runs(asked.actor, asked.bu, entry)
            histogram = telling.histogram(stats[entry.job.name])
            content = {"histogram": histogram, "taskStatHistory": telling.history(entry, runs)}
            return reply(content)

        async def metrics(asked: Asked) -> Response:
            entries = await self.book.all(asked.actor, asked.bu)
            stats = await self.book.stats(asked.actor, asked.bu, entries)
            return reply(telling.metrics(entries, stats))

        return (
            self._route("GET", "/stats/{figure}", ranking),
            self._route("GET", "/job/stat/{job}", of_one),
            self._route("GET", METRICS, metrics),
        )

    # -- changes ---------------------------------------------------------------------------------

    def _puts(self) -> tuple[Route, ...]:
        async def put(asked: Asked, *, dependent: bool) -> Response:
            if not _is_json(asked.request):
                return refusal(self.version, 415, "Content-Type must be application/json")
            job = read(asked.request.body, self.version, self.book.config)
            _check_kind(job, dependent)
            done, notes = await self.book.put(asked.request, asked.bu, job, self.version)
            return self._answer(done, notes)

        async def scheduled(asked: Asked) -> Response:
            return await put(asked, dependent=False)

        async def dependent(asked: Asked) -> Response:
            return await put(asked, dependent=True)

        # 3.x has dropped PUT, but no client of it relies on being refused.
        return tuple(
            self._route(method, path, handler, "job.put")
            for method in ("POST", "PUT")
            for path, handler in (("/iso8601", scheduled), ("/dependency", dependent))
        )

    def _changes(self) -> tuple[Route, ...]:
        async def run(asked: Asked) -> Response:
            arguments = asked.request.query.get("arguments", "")
            outcome = await self.book.run(asked.request, asked.bu, asked.name, arguments)
            if outcome.state is State.REFUSED:
                # Chronos takes it all the same, and drops it later: when it is disabled, or under way.
                return _done(outcome.problem)
            return self._answer(outcome)

        async def delete(asked: Asked) -> Response:
            return self._answer(await self.book.delete(asked.request, asked.bu, asked.name))

        async def kill(asked: Asked) -> Response:
            view = await self.book.view(asked.actor, asked.bu, asked.name)
            return self._answer(await self.book.jobs.kill(asked.request, asked.bu, view.name))

        async def succeed(asked: Asked) -> Response:
            try:
                view = await self.book.view(asked.actor, asked.bu, asked.name)
            except NotFound:
                return self._marked(asked.name, False)
            outcome = await self.book.jobs.succeed(asked.request, asked.bu, view.name)
            if outcome.state is not State.DONE:
                return self._answer(outcome)
            return self._marked(asked.name, True)

        async def told(asked: Asked) -> Response:
            if not _is_json(asked.request):
                return refusal(self.version, 415, "Content-Type must be application/json")
            status = read_notification(asked.request.body).status_code
            task = read_task(asked.request.params["task"])
            if task is None:
                return _done("this is no id of a task")  # which Chronos logs, and takes
            try:
                outcome = await self.book.report(asked.request, asked.bu, task, status)
            except NotFound as error:
                return _done(reason(error))
            if isinstance(outcome, str):
                return _done(outcome)
            if outcome.state is State.REFUSED:
                return _done(outcome.problem)
            return self._answer(outcome)

        async def purge(asked: Asked) -> Response:
            outcome = await self.book.purge(asked.request, asked.bu)
            return self._answer(outcome) if outcome is not None else _done()

        async def progress(asked: Asked) -> Response:
            entry = await self.book.one(asked.actor, asked.bu, asked.name)
            _check_progress(entry, asked.request)
            # As Chronos does without a Cassandra: nobody counts.
            return Response(204)

        # 3.x has none of these.
        of_v2 = (
            self._route("PUT", "/task/{task}", told, "job.report"),
            self._route("DELETE", "/task/all", purge, "job.kill"),
        )
        return (
            *(of_v2 if self.version is Version.V2 else ()),
            self._route("PUT", "/job/{job}", run, "job.run"),
            self._route("DELETE", "/job/{job}", delete, "job.delete"),
            self._route("DELETE", "/task/kill/{job}", kill, "job.kill"),
            self._route("PUT", "/job/success/{job}", succeed, "job.succeed"),
            self._route("POST", "/job/{job}/task/{task}/progress", progress, "job.progress"),
        )

    def _marked(self, name: str, success: bool) -> Response:
        text = f"marked job {name} as successful: {str(success).lower()}"
        return Response(200, text.encode(), content_type=_PLAIN)

    def _answer(self, outcome: Outcome, notes: tuple[str, ...] = ()) -> Response:
        if outcome.state is State.REFUSED:
            return refusal(self.version, 400, outcome.problem)
        if outcome.state is State.ACCEPTED:
            text = f"{outcome.action} of {outcome.job} is written down, and not done yet: {outcome.url}"
            return refusal(self.version, 202, text)
        return _done(*notes)

    # -- in front of each ------------------------------------------------------------------------

    def _route(self, method: str, path: str, handler: Handler, action: str = "") -> Route:
        role = Role.VIEWER if method in SAFE_METHODS else Role.DEPLOYER

        async def guarded(request: Request) -> Response:
            try:
                actor = actor_of(request)
                bu = business_unit(request, self.book.config.bu)
                actor.require(bu, role)
                return await handler(Asked(request, actor, bu))
            except Refused as error:
                if action:
                    target = f"{request.principal.bu}{request.path}"
                    await audit(self.gateway, request, action, target, error)
                if isinstance(error, NotFound):
                    return refusal(self.version, 400, reason(error))
                raise

        text = f"Chronos {self.version}.x"
        return Route(method, f"{PREFIX[self.version]}{path}", guarded, Access.KEY, text, role)


def business_unit(request: Request, default: str | None) -> str:
    """The one that a request is about: its key's, or the one that it names with a key for all. Raises InvalidInput."""
    if request.principal.bu != "*":
        return request.principal.bu
    named = request.headers.get(BU) or default
    if not named or not NAME.fullmatch(named):
        raise InvalidInput.of(
            "business unit",
            "the key is for all of them, and the request names none",
            "one as the user of HTTP Basic, or in X-Gantry-BU",
        )
    return named


def _done(*notes: str) -> Response:
    """204, with what there is to say in a header, which takes no other than plain words."""
    text = " ".join("; ".join(notes).encode("ascii", "replace").decode().split())
    return Response(204, headers={NOTES: text} if text else {})


def _is_json(request: Request) -> bool:
    """Chronos takes nothing else. Nor do we: a browser, which remembers HTTP Basic, sends none from another's page."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == JSON


def _check_kind(job: ChronosJob, dependent: bool) -> None:
    if dependent and not job.parents:
        raise InvalidInput.of("parents", "Error, parent does not exist", "jobs that exist")
    if not dependent and job.parents is not None:
        raise InvalidInput.of("parents", "is for dependent jobs", "none here, or /dependency")


def _check_progress(entry: telling.Entry, request: Request) -> None:
    name, task = entry.job.name, request.params["task"]
    if not _TASK.fullmatch(task):
        raise InvalidInput.of("task", f"Invalid task id format {task}")
    if not entry.job.data_processing_job_type:
        raise InvalidInput.of("job", f"Job '{name}' is not enabled to track data")
    try:
        number = int(orjson.loads(request.body).get("numAdditionalElementsProcessed") or 0)
    except (ValueError, TypeError, AttributeError):
        raise InvalidInput.of("numAdditionalElementsProcessed", "is no number") from None
    if number < 0:
        raise InvalidInput.of("numAdditionalElementsProcessed", f"({number}) is not positive")


def _number(text: str | None, default: int) -> int:
    """A number in a query. Raises InvalidInput."""
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise InvalidInput.of("limit, offset", f"{text!r} is no number")
    return int(text)
