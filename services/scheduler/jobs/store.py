"""Documents of jobs, of their runs that are over, and of what was asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from libs.common.events.base import seal
from libs.common.events.model import AuditRecorded
from libs.common.gathering import Gathering
from libs.common.store.base import (
    Collection,
    CollectionSpec,
    Doc,
    Fence,
    Index,
    Op,
    OutboxEvent,
    Query,
    Schema,
    Where,
    Write,
    eq,
)
from libs.common.store.shapes import fields
from services.scheduler.jobs.book import JobDraft
from services.scheduler.jobs.model import (
    Job,
    Outcome,
    Record,
    job_body,
    job_of,
    record_body,
    record_of,
)
from services.scheduler.jobs.run import JobId
from services.scheduler.writing import delete_all, replace_all

JOBS = CollectionSpec(
    "scheduler_jobs",
    (Index("deleted", ("deleted",)),),
    Schema(known=lambda body: job_body(job_of("", 0, body)) | {"bu": body["bu"]}),
)
RUNS = CollectionSpec(
    "scheduler_runs",
    (Index("job", ("job", "number")), Index("at", ("at",))),
    Schema(known=lambda body: record_body(record_of("", 0, body))),
)
REQUESTS = CollectionSpec(
    "scheduler_job_requests",
    (Index("at", ("at",)),),
    Schema(known=fields("job", "action", "state", "problem", "run", "at")),
)
_PAGE = 2000
NEWEST = 5000
"""So many of the newest records a new leader looks at: more than one batch leaves behind."""


class JobStore:
    """Every write carries the leader's fence."""

    def __init__(
        self, jobs: Collection, runs: Collection, requests: Collection, fence: Fence
    ) -> None:
        self.jobs = jobs
        self.runs = runs
        self.requests = requests
        self._fence = fence
        self._asked = Gathering(requests.get_many)

    async def save(self, draft: JobDraft, now: float) -> list[OutboxEvent]:
        """Records, then jobs, then outcomes; the events that went with them. May be repeated. Raises Fenced."""
        fresh = [record for record in draft.records.values() if not record.version]
        kept = [Write(record.run, 0, record_body(record)) for record in fresh]
        await replace_all(self.runs, kept, self._fence)
        writes = [_write(job, draft, now) for job in draft.changed.values()]
        await replace_all(self.jobs, writes, self._fence)
        asked = [_answer(*each, now) for each in draft.outcomes.values()]
        await replace_all(self.requests, asked, self._fence)
        return [event for write in (*writes, *asked) for event in write.events]

    # -- runs

    async def records(self, runs: Sequence[str]) -> dict[str, Record]:
        """Those of the runs that are over, by id."""
        found: dict[str, Record] = {}
        for at in range(0, len(runs), _PAGE):
            docs = await self.runs.get_many(runs[at : at + _PAGE])
            found.update((doc.id, _record(doc)) for doc in docs.values())
        return found

    async def newest(self) -> dict[str, Record]:
        """The newest records of all jobs."""
        page = await self.runs.find(Query(order="at", descending=True, limit=NEWEST))
        return {doc.id: _record(doc) for doc in page.docs}

    async def history(self, job: JobId, limit: int, before: int | None = None) -> list[Record]:
        """A job's records, newest first, those before a number."""
        older = () if before is None else (Where("number", Op.LT, before),)
        where = (eq("job", job), *older)
        page = await self.runs.find(Query(where, order="number", descending=True, limit=limit))
        return [_record(doc) for doc in page.docs]

    async def request(self, request: str) -> dict[str, Any] | None:
        """What came of a request; None when it was not handled, or long ago."""
        doc = await self._asked.get(request)
        return {"request": doc.id, **doc.body} if doc is not None else None

    # -- cleaning

    async def forget_requests(self, before: float, limit: int = 500) -> int:
        """Delete outcomes older than that; returns how many."""
        return await self._forget_older(self.requests, "at", before, limit)

    async def forget_records(self, before: float, limit: int = 500) -> int:
        """Delete records older than that; returns how many."""
        return await self._forget_older(self.runs, "at", before, limit)

    async def forget_surplus(
        self, job: JobId, keep: int, before: float, lost_before: float, limit: int = 500
    ) -> int:
        """Delete a job's oldest records but `keep`, unless they are newer than that; returns how many.

        As long as a run's instance is stored its record must be, and that of one which was lost stays for longer.
        """
        surplus = await self.runs.count((eq("job", job),)) - keep
        if surplus <= 0:
            return 0
        query = Query((eq("job", job),), order="number", limit=min(surplus, limit))
        found = (await self.runs.find(query)).docs
        old = [d for d in found if d.body["at"] < (lost_before if d.body["lost"] else before)]
        return await delete_all(self.runs, old, self._fence)

    async def forget_deleted(self, before: float, limit: int = 500) -> list[JobId]:
        """Delete documents of jobs that were deleted before that; which."""
        query = Query((Where("deleted", Op.LT, before),), order="deleted", limit=limit)
        docs = (await self.jobs.find(query)).docs
        gone = [doc for doc in docs if not doc.body["running"]]
        await delete_all(self.jobs, gone, self._fence)
        return [JobId(doc.id) for doc in gone]

    async def _forget_older(
        self, collection: Collection, field: str, before: float, limit: int
    ) -> int:
        page = await collection.find(
            Query((Where(field, Op.LT, before),), order=field, limit=limit)
        )
        return await delete_all(collection, page.docs, self._fence)


def _record(doc: Doc) -> Record:
    return record_of(doc.id, doc.version, doc.body)


def _write(job: Job, draft: JobDraft, now: float) -> Write:
    events = draft.events.get(job.id, ())
    sealed = seal(events, source="scheduler", sequence=job.version + 1, now=now)
    return Write(job.id, job.version, job_body(job), sealed)


def _answer(job: JobId, action: str, actor: str, outcome: Outcome, now: float) -> Write:
    body = {
        "job": job,
        "action": action,
        "state": outcome.state,
        "problem": outcome.problem,
        "run": outcome.run,
        "at": now,
    }
    audit = AuditRecorded(
        actor=actor,
        action=f"job.{action}",
        target=job,
        allowed=outcome.state == "done",
        detail=outcome.problem,
        request_id=outcome.request,
    )
    sealer = partial(seal, source="scheduler", sequence=1, now=now)
    return Write(outcome.request, 0, body, sealer([audit], aggregate=f"job {outcome.request}"))
