"""The HTTP face of jobs: reads from the leader's memory, and from the store what is over. Changes come by event."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from libs.common.errors import InvalidInput, NotFound
from libs.common.http import Request, Response, Route, reply
from libs.common.jobs import JobSpec
from libs.common.schedule import parse
from libs.common.spec import Strict
from services.scheduler.cluster import Cluster
from services.scheduler.jobs.asking import check
from services.scheduler.jobs.book import named
from services.scheduler.jobs.model import Job
from services.scheduler.jobs.run import JobId
from services.scheduler.jobs.stats import stats_of
from services.scheduler.jobs.store import JobStore
from services.scheduler.jobs.views import job_view, live_view, queued_view, run_view, trouble_of
from services.scheduler.model import InstanceId

MOST_RUNS = 1000
NEXT = 5


class CheckRequest(Strict):
    """POST /v1/jobs/check: would a job be taken so."""

    job: str = Field(max_length=100)
    spec: JobSpec


class Reader:
    """What is known of jobs and runs."""

    def __init__(self, cluster: Cluster, store: JobStore) -> None:
        self._cluster = cluster
        self._store = store

    def job(self, name: str) -> Job:
        """A job that is not deleted. Raises NotFound."""
        job = self._cluster.jobs.jobs.get(JobId(name))
        if job is None or job.deleted:
            raise NotFound(f"there is no job {name!r}")
        return job

    async def views(self, jobs: Sequence[Job], outputs: bool = True) -> list[Mapping[str, Any]]:
        """Jobs with their last runs, which are read together; what they wrote would be megabytes for many jobs."""
        last = {job.id: self.under_way(job, job.last_run) for job in jobs if job.last_run}
        over = [job.last_run for job in jobs if job.last_run and not last[job.id]]
        found = await self._store.records(over) if over else {}
        views = []
        for job in jobs:
            record = found.get(job.last_run)
            view = last.get(job.id) or (run_view(record) if record else None)
            views.append(job_view(job, view if outputs or not view else {**view, "output": ""}))
        return views

    def under_way(self, job: Job, run: str) -> Mapping[str, Any] | None:
        """A run of the job's that is not over."""
        instance = self._cluster.instances.get(InstanceId(run))
        if instance is not None and instance.run is not None:
            return live_view(instance)
        waiting = next((each for each in job.queue if each.run == run), None)
        return queued_view(job, waiting) if waiting is not None else None

    async def run(self, run: str) -> Mapping[str, Any]:
        """A run, over or not. Raises NotFound."""
        instance = self._cluster.instances.get(InstanceId(run))
        if instance is not None and instance.run is not None:
            return live_view(instance)
        record = (await self._store.records([run])).get(run)
        if record is not None:
            return run_view(record)
        for job in self._cluster.jobs.jobs.values():
            for due in job.queue:
                if due.run == run:
                    return queued_view(job, due)
        raise NotFound(f"there is no run {run!r}")

    async def runs(self, job: Job, limit: int, before: str) -> list[Mapping[str, Any]]:
        """A job's runs, newest first, those before the run `before`."""
        waiting = [queued_view(job, due) for due in reversed(job.queue)]
        live = [view for run in reversed(list(job.running)) if (view := self.under_way(job, run))]
        first = [*waiting, *live]
        number = None
        if before:
            places = [n for n, view in enumerate(first) if view["run"] == before]
            if places:
                first = first[places[0] + 1 :]
            else:
                first = []
                known = (await self._store.records([before])).get(before)
                if known is None or known.job != job.id:
                    raise InvalidInput.of("before", f"{job.id} has no run {before!r}")
                number = known.number
        if len(first) >= limit:
            return first[:limit]
        records = await self._store.history(job.id, limit, number)
        # A record is there before memory knows of it, and some may have come while they were read.
        over = {each.run for each in records}
        live = [view for view in first if view["run"] not in over]
        return [*live, *map(run_view, records)][:limit]


def routes(
    cluster: Cluster, store: JobStore, now: Callable[[], float], keep_runs: int
) -> Sequence[Route]:
    """All of them. `now` tells the time."""
    reader = Reader(cluster, store)

    def name_of(request: Request) -> str:
        return f"{request.params['bu']}/{request.params['job']}"

    async def jobs(request: Request) -> Response:
        found = named(cluster.jobs.jobs, request.query.get("bu", ""))
        return reply({"jobs": await reader.views(found, outputs=False)})

    async def trouble(_request: Request) -> Response:
        every = cluster.jobs.jobs.values()
        return reply({"jobs": {each.id: why for each in every if (why := trouble_of(each))}})

    async def job(request: Request) -> Response:
        (view,) = await reader.views([reader.job(name_of(request))])
        return reply(view)

    async def runs(request: Request) -> Response:
        text = request.query.get("limit", "50")
        if not text.isdigit() or not 1 <= int(text) <= MOST_RUNS:
            raise InvalidInput.of("limit", f"is {text[:20]!r}", f"1 to {MOST_RUNS}")
        found = reader.job(name_of(request))
        before = request.query.get("before", "")
        return reply({"runs": await reader.runs(found, int(text), before)})

    async def run(request: Request) -> Response:
        return reply(await reader.run(request.params["run"]))

    async def stats(request: Request) -> Response:
        found = reader.job(name_of(request))
        return reply(stats_of(await store.history(found.id, keep_runs)))

    async def checked(request: Request) -> Response:
        asked = request.parse(CheckRequest)
        check(cluster.jobs.jobs.get, JobId(asked.job), asked.spec)
        known = cluster.jobs.jobs.get(JobId(asked.job))
        before = known.spec if known is not None and not known.deleted else None
        return reply({"next": _next(asked, now()), "changes": changes(before, asked.spec)})

    async def request_(request: Request) -> Response:
        found = await store.request(request.params["id"])
        if found is None:
            raise NotFound(f"there is no request {request.params['id']!r} that was handled")
        return reply(found)

    one = "/v1/jobs/{bu}/{job}"
    paging = {"limit": f"1 to {MOST_RUNS}, 50", "before": "only runs older than this one"}
    return (
        Route("GET", "/v1/jobs", jobs, summary="Jobs", query={"bu": "of this business unit"}),
        Route(
            "GET",
            "/v1/job-trouble",
            trouble,
            summary="Why somebody should look at a job, by those of which there is something to say",
        ),
        Route(
            "POST",
            "/v1/jobs/check",
            checked,
            summary="Would a job be taken so",
            request=CheckRequest,
        ),
        Route("GET", one, job, summary="One of them"),
        Route("GET", f"{one}/runs", runs, summary="Its runs, newest first", query=paging),
        Route("GET", f"{one}/stats", stats, summary="How its runs went"),
        Route("GET", "/v1/runs/{run}", run, summary="One run"),
        Route("GET", "/v1/job-requests/{id}", request_, summary="What came of a request"),
    )


def changes(before: JobSpec | None, after: JobSpec) -> list[str]:
    """The fields that differ from what is stored; of a new job, those that are not as usual."""
    new = after.model_dump(mode="json", by_alias=True)
    old = before.model_dump(mode="json", by_alias=True) if before is not None else None
    if old is None:
        return sorted(after.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    return sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))


def _next(asked: CheckRequest, now: float) -> list[float]:
    spec = asked.spec
    if spec.schedule is None:
        return []
    zone, salt = spec.time_zone, asked.job
    schedule = parse(parse(spec.schedule, zone, salt=salt).anchored(now), zone, salt=salt)
    found: list[float] = []
    at: float | None = schedule.after(now)
    while at is not None and len(found) < NEXT:
        found.append(at)
        at = schedule.after(at)
    return found
