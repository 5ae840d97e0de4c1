"""The console's pages of jobs: all of them with the graph of those that depend on each other; one with its history."""

from __future__ import annotations

from dataclasses import dataclass

from libs.client.jobs import JOB_STATES, RunView
from libs.common.actor import Actor
from libs.common.errors import NotFound, Unauthenticated, Unavailable
from libs.common.http import Access, Principal, Request, Response, Route
from libs.common.problems import Problem
from services.gateway.api_streams import TOPIC_NAMES
from services.gateway.console.job_view import (
    HISTORY,
    ROWS,
    JobPage,
    JobRow,
    Picture,
    job_page,
    job_row,
    picture,
)
from services.gateway.console.pages import Console, Frame, go, render
from services.gateway.jobs import Jobs
from services.gateway.parts import Gateway
from services.gateway.peers import with_query

JOB_TOPICS = tuple(each for each in TOPIC_NAMES if each.startswith("job.run."))
EVENTS = "/console/job-events"


@dataclass(frozen=True, slots=True)
class JobsPage:
    """Jobs. `units` there are, `bu` and `state` are the filter; `more` jobs are not shown."""

    rows: tuple[JobRow, ...]
    more: int
    units: tuple[str, ...]
    bu: str
    state: str
    picture: Picture | None
    incomplete: tuple[str, ...]
    states: tuple[str, ...] = JOB_STATES


def job_page_routes(gateway: Gateway) -> tuple[Route, ...]:
    """Open to all at the door, as the console's other routes."""
    pages = JobPages(gateway)
    public, job = Access.PUBLIC, "jobs/{bu}/{job}"
    return (
        Route("GET", "/jobs", pages.jobs, public, "Jobs"),
        Route("GET", f"/{job}", pages.job, public, "A job"),
        Route("GET", "/console/jobs", pages.jobs_state, public, "What that page shows now"),
        Route("GET", f"/console/{job}", pages.job_state, public, "The same of one"),
        Route("GET", EVENTS, pages.events, public, "What happens to runs, as it happens"),
    )


class JobPages:
    """Handlers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._console = Console(gateway)
        self._jobs = Jobs(gateway)

    async def jobs(self, request: Request) -> Response:
        """All jobs, or the way to the door."""
        try:
            _, principal = await self._console.session(request)
        except Unauthenticated:
            return go("/login")
        page = await self._list(request, Actor.of_principal(principal))
        return render("jobs.html", page=page, frame=self._frame(request, principal))

    async def jobs_state(self, request: Request) -> Response:
        """The live part alone. Raises Unauthenticated."""
        _, principal = await self._console.session(request)
        page = await self._list(request, Actor.of_principal(principal))
        return render("jobs_state.html", page=page)

    async def job(self, request: Request) -> Response:
        """One job, or why it can't be shown."""
        try:
            _, principal = await self._console.session(request)
        except Unauthenticated:
            return go("/login")
        actor, frame = Actor.of_principal(principal), self._frame(request, principal)
        try:
            page = await self._job(request, actor)
            family = await self._jobs.jobs(actor, request.params["bu"])
        except (NotFound, Unavailable) as error:
            status = Problem.of(error).status
            back = ("/jobs", "To all jobs")
            return render("problem.html", status, told=str(error), back=back, frame=frame)
        drawn = picture(family.jobs, page.row.job)
        return render("job.html", page=page, picture=drawn, frame=frame)

    async def job_state(self, request: Request) -> Response:
        """The live part alone. Raises Unauthenticated, NotFound, Unavailable."""
        _, principal = await self._console.session(request)
        return render(
            "job_state.html", page=await self._job(request, Actor.of_principal(principal))
        )

    async def events(self, request: Request) -> Response:
        """Events of runs for the pages. Raises Unauthenticated, TooMany."""
        return await self._console.stream(request, JOB_TOPICS)

    # -- parts -----------------------------------------------------------------------------------

    def _frame(self, request: Request, principal: Principal) -> Frame:
        state = with_query(f"/console{request.path}", request.query)
        return self._console.frame(request, principal, state, "jobs", EVENTS, JOB_TOPICS)

    async def _list(self, request: Request, actor: Actor) -> JobsPage:
        bu, state = request.query.get("bu", ""), request.query.get("state", "")
        answer = await self._jobs.jobs(actor)
        kept = [each for each in answer.jobs if bu in ("", each.bu)]
        found = [each for each in kept if state in ("", each.state)]
        return JobsPage(
            rows=tuple(job_row(each) for each in found[:ROWS]),
            more=max(0, len(found) - ROWS),
            units=tuple(sorted({each.bu for each in answer.jobs})),
            bu=bu,
            state=state,
            picture=picture(kept),
            incomplete=answer.incomplete,
        )

    async def _job(self, request: Request, actor: Actor) -> JobPage:
        bu, name = request.params["bu"], request.params["job"]
        view = await self._jobs.job(actor, bu, name)
        runs = (
            await self._jobs.runs(actor, bu, name, HISTORY, request.query.get("before", ""))
        ).runs
        stats = await self._jobs.stats(actor, bu, name)
        run = await self._shown(actor, view.job, request.query.get("run", ""), runs)
        return job_page(view, runs, stats, run)

    async def _shown(
        self, actor: Actor, job: str, wanted: str, runs: tuple[RunView, ...]
    ) -> RunView | None:
        """The run that was asked for; else the newest that has begun. None when there is none such."""
        if not wanted:
            return next((each for each in runs if each.started), None)
        try:
            run = await self._jobs.one_run(actor, wanted)
        except NotFound:
            return None
        return run if run.job == job else None
