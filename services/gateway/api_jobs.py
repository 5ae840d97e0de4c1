"""Routes of jobs and their runs.

A change answers with what it has come to, or 202 and where to ask when that takes longer than a few seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic import BaseModel

from libs.client.jobs import (
    JobCheck,
    JobChecked,
    JobRequestView,
    JobStats,
    JobView,
    Runs,
    RunView,
)
from libs.client.jobs import Jobs as JobList
from libs.common.errors import Conflict, InvalidInput, NotFound, Unavailable
from libs.common.http import Access, Request, Response, Role, Route, problem, reply
from libs.common.jobs import JobSpec
from services.gateway.api_apps import IDEMPOTENT
from services.gateway.api_streams import NDJSON
from services.gateway.auth import key_id_of
from services.gateway.jobs import Jobs, Outcome, State
from services.gateway.outputs import Asked, open_output
from services.gateway.parts import (
    NAME,
    Gateway,
    Target,
    actor_of,
    flag,
    guarded,
    own_target,
    reading,
    whole,
)

JOBS = "/v1/jobs"
JOB = f"{JOBS}/{{bu}}/{{job}}"
RUN = "/v1/runs/{run}"
JOB_REQUEST = "/v1/job-requests/{request}"
Act = Callable[[Request, str, str], Awaitable[Outcome]]
"""A change of the job of a business unit that has a name."""


def job_routes(gateway: Gateway) -> tuple[Route, ...]:
    """All of them, guarded."""
    jobs = Jobs(gateway)
    return (*_reads(gateway, jobs), *_changes(gateway, jobs), *_runs(gateway, jobs))


def job_of(request: Request) -> str:
    """The job that the path names, `bu/job`."""
    return f"{request.params['bu']}/{request.params['job']}"


def _reads(gateway: Gateway, jobs: Jobs) -> tuple[Route, ...]:
    async def all_jobs(request: Request) -> Response:
        bu = request.query.get("bu", "")
        if bu and not NAME.fullmatch(bu):
            raise InvalidInput.of("bu", "is not a business unit", NAME.pattern)
        return reply(await jobs.jobs(actor_of(request), bu))

    async def one(request: Request) -> Response:
        return reply(await jobs.job(actor_of(request), *_names(request)))

    async def stats(request: Request) -> Response:
        return reply(await jobs.stats(actor_of(request), *_names(request)))

    async def validate(request: Request) -> Response:
        asked = request.parse(JobCheck)
        bu, _, name = asked.job.partition("/")
        if not NAME.fullmatch(bu) or not NAME.fullmatch(name):
            raise InvalidInput.of("job", f"{asked.job!r} is not a job's name", "bu/job")
        return reply(await jobs.check(actor_of(request), asked.job, asked.spec))

    async def asked(request: Request) -> Response:
        return reply((await jobs.outcome(actor_of(request), request.params["request"])).view())

    checking = Route(
        "POST",
        f"{JOBS}/validate",
        validate,
        Access.KEY,
        "What a PUT of this spec would find; nothing is stored",
        role=Role.DEPLOYER,
        request=JobCheck,
        response=JobChecked,
    )
    page = {"bu": "of this business unit only"}
    return (
        reading(
            gateway, JOBS, all_jobs, "Jobs, with their next and last runs", JobList, query=page
        ),
        guarded(gateway, checking, "job.validate"),
        reading(gateway, JOB, one, "One job", JobView),
        reading(gateway, f"{JOB}/stats", stats, "How its runs went", JobStats),
        reading(gateway, JOB_REQUEST, asked, "What a change has come to", JobRequestView),
    )


def _changes(gateway: Gateway, jobs: Jobs) -> tuple[Route, ...]:
    def change(
        method: str,
        path: str,
        act: Act,
        text: str,
        response: type[BaseModel],
        body: type[BaseModel] | None = None,
    ) -> Route:
        action = (
            "put"
            if method == "PUT"
            else "delete"
            if method == "DELETE"
            else path.rpartition("/")[2]
        )

        async def handler(request: Request) -> Response:
            return await _answer(jobs, request, await act(request, *_names(request)))

        made = Route(
            method,
            path,
            handler,
            Access.KEY,
            text,
            role=Role.DEPLOYER,
            request=body,
            response=response,
            headers=IDEMPOTENT,
        )
        return guarded(gateway, made, f"job.{action}", job_of)

    async def put(request: Request, bu: str, name: str) -> Outcome:
        return await jobs.put(request, bu, name, request.parse(JobSpec))

    async def resume(request: Request, bu: str, name: str) -> Outcome:
        return await jobs.pause(request, bu, name, paused=False)

    ended = "Delete a job, and end what runs of it"
    return (
        change("PUT", JOB, put, "Write a job, whole", JobView, JobSpec),
        change("DELETE", JOB, jobs.delete, ended, JobRequestView),
        change("POST", f"{JOB}/run", jobs.run, "Run it now", RunView),
        change("POST", f"{JOB}/pause", jobs.pause, "Start nothing of it any more", JobView),
        change("POST", f"{JOB}/resume", resume, "Let a paused or disabled job go on", JobView),
        change("POST", f"{JOB}/kill", jobs.kill, "End all that runs or waits of it", JobView),
    )


def _runs(gateway: Gateway, jobs: Jobs) -> tuple[Route, ...]:
    async def runs(request: Request) -> Response:
        limit, before = whole(request, "limit"), request.query.get("before", "")
        return reply(await jobs.runs(actor_of(request), *_names(request), limit, before))

    async def one(request: Request) -> Response:
        return reply(await jobs.one_run(actor_of(request), request.params["run"]))

    async def kill(request: Request) -> Response:
        run = request.params["run"]
        bu, _, name = (await jobs.one_run(actor_of(request), run)).job.partition("/")
        return await _answer(jobs, request, await jobs.kill(request, bu, name, run), run)

    killing = Route(
        "POST",
        f"{RUN}/kill",
        kill,
        Access.KEY,
        "End a run",
        role=Role.DEPLOYER,
        response=RunView,
        headers=IDEMPOTENT,
    )
    target: Target = own_target
    page = {"limit": "at most so many", "before": "the run that the page before ended with"}
    part = {
        "follow": "go on as more is written, until this try of it ends",
        "tail": "at most so many of the last lines",
    }

    async def output(request: Request) -> Response:
        asked = Asked(
            job_of(request), request.params["run"], flag(request, "follow"), _tail(request)
        )
        return await open_output(
            gateway, jobs, actor_of(request), key_id_of(request.principal), asked
        )

    return (
        reading(gateway, f"{JOB}/runs", runs, "Its runs, newest first", Runs, query=page),
        reading(
            gateway, f"{JOB}/runs/{{run}}/output", output, "What a run writes, and the last that it wrote",
            None, query=part, produces=NDJSON,
        ),
        reading(gateway, RUN, one, "One run", RunView),
        guarded(gateway, killing, "job.kill", target),
    )  # fmt: skip


def _tail(request: Request) -> int | None:
    return whole(request, "tail") if "tail" in request.query else None


def _names(request: Request) -> tuple[str, str]:
    return request.params["bu"], request.params["job"]


async def _answer(jobs: Jobs, request: Request, outcome: Outcome, run: str = "") -> Response:
    """What a change has come to: the job, or the run that it is about, as it is now."""
    headers = {"idempotency-replayed": "true"} if outcome.repeated else {}
    if outcome.state is State.REFUSED:  # not raised: the scheduler has told the audit trail
        return problem(Conflict(outcome.problem))
    if outcome.state is State.DONE:
        try:
            return reply(await _now(jobs, request, outcome, run), headers=headers)
        except (NotFound, Unavailable):  # changed again since, or nobody can tell now
            pass
    return reply(outcome.view(), 202, {**headers, "location": outcome.url})


async def _now(jobs: Jobs, request: Request, outcome: Outcome, run: str) -> BaseModel:
    actor = actor_of(request)
    if outcome.action == "delete":
        return outcome.view()
    if run or outcome.run:
        return await jobs.one_run(actor, run or outcome.run)
    return await jobs.job(actor, *outcome.job.split("/"))
