"""The console's pages of jobs: all of them with the graph of those that depend on each other; one with its history,
with what a run of it writes, and with buttons for those who may change it.

A button sends a form to its own path. What it asks for goes the API's way, in the name of the session's key: with the
same guard, the form's own Idempotency-Key, and the same audit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import orjson

from libs.client.jobs import ENDED, JOB_STATES, RunView
from libs.common.actor import Actor
from libs.common.errors import GantryError, NotFound, Unauthenticated, Unavailable
from libs.common.http import Access, Principal, Request, Response, Role, Route, reply
from libs.common.problems import Problem
from services.gateway.api_jobs import job_of
from services.gateway.api_streams import TOPIC_NAMES
from services.gateway.console.job_view import (
    HISTORY,
    ROWS,
    JobPage,
    JobRow,
    Picture,
    job_page,
    job_row,
    job_url,
    picture,
)
from services.gateway.console.pages import Console, Frame, go, render
from services.gateway.jobs import Jobs, Outcome, State
from services.gateway.model import KeyId
from services.gateway.outputs import Asked, open_output
from services.gateway.parts import Gateway, guarded
from services.gateway.peers import whole, with_query

ACTIONS = {"run": "Run it now", "pause": "Start nothing of it", "resume": "Let it go on"}
JOB_TOPICS = tuple(each for each in TOPIC_NAMES if each.startswith("job.run."))
EVENTS = "/console/job-events"
TAIL = 200
"""So many of the last lines of a run that is under way."""
TAIL_S = 2.0
"""A page waits no longer for a host to tell them."""
ONCE_BYTES = 64


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
        Route(
            "GET", f"/console/{job}/runs/{{run}}/output", pages.output, public, "What one writes"
        ),
        *(
            Route("POST", f"/{job}/{action}", partial(pages.act, action), public, text)
            for action, text in ACTIONS.items()
        ),
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
            key_id, principal = await self._console.session(request)
        except Unauthenticated:
            return go("/login")
        actor, frame = Actor.of_principal(principal), self._frame(request, principal)
        try:
            page = await self._job(request, key_id, actor)
            family = await self._jobs.jobs(actor, request.params["bu"])
        except (NotFound, Unavailable) as error:
            status = Problem.of(error).status
            back = ("/jobs", "To all jobs")
            told = f"Not shown: {error}."
            return render("problem.html", status, told=told, back=back, frame=frame)
        drawn = picture(family.jobs, page.row.job)
        once = self._gateway.operations.ids.uuid()
        return render("job.html", page=page, picture=drawn, frame=frame, once=once)

    async def job_state(self, request: Request) -> Response:
        """The live part alone. Raises Unauthenticated, NotFound, Unavailable."""
        key_id, principal = await self._console.session(request)
        actor = Actor.of_principal(principal)
        return render("job_state.html", page=await self._job(request, key_id, actor))

    async def output(self, request: Request) -> Response:
        """What a run writes, as it writes it. Raises Unauthenticated, and what `open_output` does."""
        key_id, principal = await self._console.session(request)
        asked = Asked(job_of(request), request.params["run"], follow=True, tail=TAIL)
        actor = Actor.of_principal(principal)
        return await open_output(self._gateway, self._jobs, actor, key_id, asked)

    async def act(self, action: str, request: Request) -> Response:
        """Do what a button asks for, then show the job; or why it can't be done. Raises Forbidden for others' forms."""
        form = self._console.form(request)
        try:
            _, principal = await self._console.session(request)
        except Unauthenticated:
            return go("/login")
        headers = dict(request.headers)
        headers.pop("idempotency-key", None)
        if once := form.get("once"):  # a form that is sent twice asks for one thing
            headers["idempotency-key"] = f"{once[:ONCE_BYTES]}.{action}"
        asked = replace(request, headers=headers, principal=principal)
        job = job_of(request)
        try:
            done = (await self._guarded(action).handler(asked)).json()
        except GantryError as error:
            status, told = Problem.of(error).status, f"Not done: {error}."
        else:
            if done["state"] == State.DONE:
                run = str(done["run"])
                return go(f"{job_url(job, run)}#run" if run else job_url(job))
            status, told = 202, "It is written down, and will be done when the scheduler is there."
            if done["state"] == State.REFUSED:
                status, told = 409, f"Not done: {done['problem']}."
        back, frame = (job_url(job), "To the job"), self._frame(request, principal)
        return render("problem.html", status, told=told, back=back, frame=frame)

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

    def _guarded(self, action: str) -> Route:
        """A change as the API has it, with its answer as data."""
        jobs = self._jobs

        async def resume(request: Request, bu: str, name: str) -> Outcome:
            return await jobs.pause(request, bu, name, paused=False)

        acts: Mapping[str, Callable[[Request, str, str], Awaitable[Outcome]]] = {
            "run": jobs.run,
            "pause": jobs.pause,
            "resume": resume,
        }

        async def handler(request: Request) -> Response:
            bu, name = request.params["bu"], request.params["job"]
            return reply((await acts[action](request, bu, name)).view())

        route = Route("POST", "/", handler, Access.KEY, role=Role.DEPLOYER)
        return guarded(self._gateway, route, f"job.{action}", job_of)

    async def _job(self, request: Request, key_id: KeyId, actor: Actor) -> JobPage:
        bu, name = request.params["bu"], request.params["job"]
        view = await self._jobs.job(actor, bu, name)
        runs = (
            await self._jobs.runs(actor, bu, name, HISTORY, request.query.get("before", ""))
        ).runs
        stats = await self._jobs.stats(actor, bu, name)
        run = await self._shown(actor, view.job, request.query.get("run", ""), runs)
        tail = await self._tail(key_id, actor, run) if run is not None else None
        return job_page(view, runs, stats, run, tail, may=actor.may(bu, Role.DEPLOYER))

    async def _tail(self, key_id: KeyId, actor: Actor, run: RunView) -> str | None:
        """What a run under way wrote last; None when that can't be had now, or it is not under way."""
        if run.state in ENDED:
            return None
        asked = Asked(run.job, run.run, follow=False, tail=TAIL)
        try:
            async with asyncio.timeout(TAIL_S):
                opened = await open_output(self._gateway, self._jobs, actor, key_id, asked)
                answer = await whole(opened, TAIL_S)
            return "\n".join(str(orjson.loads(each)["line"]) for each in answer.body.splitlines())
        except (GantryError, TimeoutError, ValueError, LookupError):
            return None

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
