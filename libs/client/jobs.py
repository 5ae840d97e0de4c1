"""Jobs and their runs: the words of the public API, and the calls. `job` is always `bu/job`; times are Unix seconds."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
from pydantic import Field, ValidationError

from libs.client.model import Partial, View
from libs.client.transport import Transport, read
from libs.common.errors import InvalidInput
from libs.common.http import Response
from libs.common.jobs import JobSpec
from libs.common.serve import segment
from libs.common.spec import NAME_PATTERN, Strict

JOB_STATES = ("active", "paused", "disabled", "finished")
ENDED = frozenset({"succeeded", "failed", "missed", "killed", "lost"})
"""States of a run that it does not leave."""


# -- what is asked ---------------------------------------------------------------------------------


class JobCheck(Strict):
    """POST /v1/jobs/validate: what a PUT of this spec would be answered; nothing is stored."""

    job: str = Field(max_length=81, description="bu/job; it need not exist")
    spec: JobSpec


# -- what is answered ------------------------------------------------------------------------------


class RunView(View):
    """A run: one target of a job, through all its tries. `output` is the last that its last try wrote."""

    run: str
    job: str
    target: float
    cause: str = ""  # schedule, catch_up, parents or manual
    state: str  # pending, running, or one of ENDED
    tries: int = 0
    created: float | None = None
    started: float | None = None
    ended: float | None = None
    duration_s: float | None = None
    exit_code: int | None = None
    hostname: str = ""
    reason: str = ""
    output: str = ""
    soft: bool = False
    lost_tries: int = 0  # those that ended with their host
    not_before: float | None = None  # the next try
    instance: str = ""


class Runs(View):
    """Runs of a job, newest first."""

    runs: tuple[RunView, ...]


class RunCounts(View):
    """How many runs ended how, since the job was made."""

    succeeded: int = 0
    failed: int = 0
    missed: int = 0


class JobView(View):
    """A job: its spec, its state and why, when it runs next and how it went last. `image` is the pinned one.

    `spec` is what differs from the defaults; see `whole_spec`. `schedule` has its start filled in; "" when there is
    none, or a scheduler of an older release does not tell.
    """

    job: str
    bu: str
    name: str
    version: int
    spec: dict[str, Any] = {}
    schedule: str = ""
    image: str = ""
    state: str  # one of JOB_STATES
    reason: str = ""
    next: float | None = None
    running: tuple[str, ...] = ()
    queued: int = 0
    last_run: RunView | None = None
    counts: RunCounts = RunCounts()
    failures_in_a_row: int = 0
    last_success: float | None = None
    last_error: float | None = None
    created: float | None = None
    changed: float | None = None
    changed_by: str = ""


class Jobs(Partial):
    """Jobs, by name."""

    jobs: tuple[JobView, ...]


class Durations(View):
    """How long successful runs took, seconds; nothing but `count` when there is none."""

    count: int = 0
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    median: float | None = None
    p75: float | None = None
    p95: float | None = None
    p98: float | None = None
    p99: float | None = None
    p999: float | None = None


class JobStats(View):
    """How a job's runs went."""

    runs: int = 0
    succeeded: int = 0
    failed: int = 0
    missed: int = 0
    duration: Durations = Durations()


class JobChecked(View):
    """A spec that would be taken: its next times, at most five, and the fields that differ from what is stored."""

    next: tuple[float, ...] = ()
    changes: tuple[str, ...] = ()


class JobRequestView(View):
    """A change that was asked for. `url` tells how it goes; `run` is what a run-now began."""

    request: str
    job: str
    action: str
    state: str  # accepted, done or refused
    problem: str = ""
    run: str = ""
    url: str


def whole_spec(view: JobView) -> dict[str, Any]:
    """A job's spec with its defaults; as it was told when a newer server tells what can't be read here."""
    try:
        spec = JobSpec.model_validate(view.spec, extra="ignore")
    except ValidationError:
        return view.spec
    return spec.model_dump(mode="json", by_alias=True)


# -- calls -----------------------------------------------------------------------------------------


class JobCalls:
    """The calls, as `GantryClient.jobs`.

    A change is answered by what it has come to or, when it takes longer than the server waits, by the request as it
    stands (`JobRequestView`, state accepted).
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def jobs(self, bu: str = "") -> Jobs:
        """All jobs that the key may see, or those of one business unit."""
        query = {"bu": bu} if bu else {}
        return read(Jobs, await self._transport.call("GET", "/v1/jobs", query=query))

    async def job(self, job: str) -> JobView:
        """One of them."""
        return read(JobView, await self._transport.call("GET", _job(job)))

    async def put(self, job: str, spec: JobSpec) -> JobView | JobRequestView:
        """Write a job, whole. Raises InvalidInput naming the field, Conflict."""
        return _changed(await self._transport.call("PUT", _job(job), body=_content(spec)))

    async def validate(self, job: str, spec: JobSpec) -> JobChecked:
        """What `put` would find. Raises InvalidInput naming the field."""
        content = orjson.dumps({"job": job, "spec": orjson.loads(_content(spec))})
        path = "/v1/jobs/validate"
        return read(JobChecked, await self._transport.call("POST", path, body=content))

    async def remove(self, job: str) -> JobRequestView:
        """Delete a job; what runs of it is ended. Raises Conflict while other jobs wait for its runs."""
        return read(JobRequestView, await self._transport.call("DELETE", _job(job)))

    async def run(self, job: str, *, key: str = "") -> RunView | JobRequestView:
        """Run a job now. `key` is an Idempotency-Key of one's own."""
        headers = {"idempotency-key": key} if key else {}
        path = f"{_job(job)}/run"
        response = await self._transport.call("POST", path, headers=headers)
        return read(JobRequestView, response) if response.status == 202 else read(RunView, response)

    async def pause(self, job: str) -> JobView | JobRequestView:
        """Start nothing of it any more; what runs goes on."""
        return _changed(await self._transport.call("POST", f"{_job(job)}/pause"))

    async def resume(self, job: str) -> JobView | JobRequestView:
        """Let a paused or disabled job go on."""
        return _changed(await self._transport.call("POST", f"{_job(job)}/resume"))

    async def kill(self, job: str) -> JobView | JobRequestView:
        """End all that runs or waits of a job; it stays."""
        return _changed(await self._transport.call("POST", f"{_job(job)}/kill"))

    async def kill_run(self, run: str) -> RunView | JobRequestView:
        """End one run."""
        response = await self._transport.call("POST", f"{_run(run)}/kill")
        return read(JobRequestView, response) if response.status == 202 else read(RunView, response)

    async def runs(self, job: str, *, limit: int = 50, before: str = "") -> Runs:
        """A job's runs, newest first, those before the run `before`."""
        query = {"limit": str(limit), **({"before": before} if before else {})}
        return read(Runs, await self._transport.call("GET", f"{_job(job)}/runs", query=query))

    async def one_run(self, run: str) -> RunView:
        """One run."""
        return read(RunView, await self._transport.call("GET", _run(run)))

    async def output(
        self, job: str, run: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Lines that a run's present try writes, or its last one wrote: {time, stream, line}.

        Raises NotFound, with `follow` also Conflict while none is under way.
        """
        query = {"follow": str(follow).lower(), **({} if tail is None else {"tail": str(tail)})}
        path = f"{_job(job)}/runs/{segment(run)}/output"
        async with aclosing(self._transport.lines(path, query)) as lines:
            async for line in lines:
                yield line

    async def stats(self, job: str) -> JobStats:
        """How a job's runs went."""
        return read(JobStats, await self._transport.call("GET", f"{_job(job)}/stats"))

    async def request(self, request: str) -> JobRequestView:
        """What a change has come to."""
        path = f"/v1/job-requests/{segment(request)}"
        return read(JobRequestView, await self._transport.call("GET", path))


def _changed(response: Response) -> JobView | JobRequestView:
    return read(JobRequestView, response) if response.status == 202 else read(JobView, response)


def _content(spec: JobSpec) -> bytes:
    return spec.model_dump_json(by_alias=True, exclude_defaults=True).encode()


def _job(job: str) -> str:
    bu, found, name = job.partition("/")
    if not found or not bu or not name or "/" in name:
        raise InvalidInput.of("job", f"{job!r} is not a job's name", f"bu/job, each {NAME_PATTERN}")
    return f"/v1/jobs/{segment(bu)}/{segment(name)}"


def _run(run: str) -> str:
    return f"/v1/runs/{segment(run)}"
