"""All jobs, in memory: what is due is found without looking at the others. Changed by `commit` alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from libs.common.events import Event
from libs.common.spec import InstanceSpec
from services.scheduler.agenda import Agenda
from services.scheduler.jobs.model import Job, Outcome, Record
from services.scheduler.jobs.run import JobId
from services.scheduler.model import AgentId

SPECS_KEPT = 10_000
ANSWERS_KEPT = 10_000


class JobBook:
    """The jobs of a leader. `left` are runs that are over and were not counted yet by who led before.

    `known` are ids of runs that are over, as far back as one could be decided on again; `known` of a run under way is
    its instance.
    """

    def __init__(
        self,
        jobs: Iterable[Job] = (),
        left: Iterable[Record] = (),
        known: Collection[str] = (),
    ) -> None:
        self.jobs: dict[JobId, Job] = {}
        self.agenda: Agenda[JobId] = Agenda()
        self.ahead: Agenda[JobId] = Agenda()  # the same times, until they were foreseen
        self.children: dict[JobId, dict[JobId, None]] = {}
        self.left = list(left)
        self.known = frozenset(known)
        self.answered: dict[str, None] = {}  # the last requests that this leader has handled
        self._specs: dict[JobId, tuple[Job, InstanceSpec]] = {}
        for each in jobs:
            self._put(each)
            if each.spec.parents:
                # They may have gone on, and a crash come before it did.
                self.look_by(each.id, float("-inf"))

    def commit(self, draft: JobDraft) -> None:
        """Take over what was saved."""
        for name in draft.foreseen:  # some have got another time by now
            self.ahead.remove(name)
        for job in draft.changed.values():
            self._put(replace(job, version=job.version + 1))
        for name in draft.looked_at:
            if name not in draft.changed and name in self.jobs:
                self._schedule(self.jobs[name])
        if draft.left_taken:
            self.left = []
        self.answered.update(dict.fromkeys(draft.outcomes))
        while len(self.answered) > ANSWERS_KEPT:
            del self.answered[next(iter(self.answered))]

    def forget(self, name: JobId) -> None:
        """Its document is gone."""
        self.jobs.pop(name, None)
        self.agenda.remove(name)
        self.ahead.remove(name)

    def look_by(self, name: JobId, time: float) -> None:
        """It is to be looked at no later than that, if it is there."""
        job, known = self.jobs.get(name), self.agenda.time_of(name)
        if job is not None and not job.deleted and (known is None or known > time):
            self.agenda.put(name, time)

    def spec_of(self, job: Job) -> InstanceSpec:
        """What its runs are on hosts: the same object as long as the job is the same."""
        made = self._specs.get(job.id)
        if made is not None and (made[0].spec, made[0].image, made[0].login) == (
            job.spec,
            job.image,
            job.login,
        ):
            return made[1]
        if len(self._specs) >= SPECS_KEPT:
            self._specs.clear()
        spec = job.spec.instance(job.image, registry_login=job.login)
        self._specs[job.id] = (job, spec)
        return spec

    def _put(self, job: Job) -> None:
        before = self.jobs.get(job.id)
        old = set(before.parents) if before is not None and not before.deleted else set()
        new = set(() if job.deleted else job.parents)
        for parent in sorted(old - new):
            self.children[parent].pop(job.id)
            if not self.children[parent]:
                del self.children[parent]
        for parent in sorted(new - old):
            self.children.setdefault(parent, {})[job.id] = None
        self.jobs[job.id] = job
        self._schedule(job)

    def _schedule(self, job: Job) -> None:
        if job.look is None or job.deleted:
            self.agenda.remove(job.id)
            self.ahead.remove(job.id)
        elif self.agenda.put(job.id, job.look):
            self.ahead.put(job.id, job.look)


class JobDraft:
    """Changes of jobs in the making; part of a `Draft`."""

    def __init__(self, book: JobBook) -> None:
        self.book = book
        self.changed: dict[JobId, Job] = {}
        self.events: dict[JobId, list[Event]] = {}
        self.records: dict[str, Record] = {}
        self.outcomes: dict[str, tuple[JobId, str, str, Outcome]] = {}  # job, action, actor
        self.looked_at: dict[JobId, None] = {}
        self.foreseen: dict[JobId, None] = {}  # their next time is near, and was looked at for that
        self.expected: dict[
            JobId, tuple[float, AgentId]
        ] = {}  # of them, those for whose target a host makes itself ready, and which
        self._rewired: dict[JobId, None] = {}  # they may have other parents than before
        self.left_taken = False

    def __bool__(self) -> bool:
        return bool(self.changed or self.records or self.outcomes)

    def get(self, name: JobId) -> Job | None:
        """The job as this draft has it, deleted or not."""
        return self.changed.get(name) or self.book.jobs.get(name)

    def put(self, job: Job, *events: Event) -> None:
        """Change a job, with the events that tell of it."""
        before = self.get(job.id)
        if before != job:
            self.changed[job.id] = job
        if before is None or before.spec is not job.spec:
            self._rewired[job.id] = None
        if events:
            self.changed.setdefault(job.id, job)
            self.events.setdefault(job.id, []).extend(events)

    def children(self, name: JobId) -> list[Job]:
        """Those that run after it."""
        known = {**self.book.children.get(name, {}), **self._rewired}
        found = map(self.get, known)
        return [each for each in found if each and not each.deleted and name in each.parents]

    def due(self, now: float, limit: int) -> list[JobId]:
        """Those to be looked at now, the earliest first, no more than `limit`."""
        return self.book.agenda.earliest(now, limit)


def named(jobs: Mapping[JobId, Job], bu: str) -> list[Job]:
    """The jobs of a business unit, or of all (""), by id, without deleted ones."""
    return sorted(
        (each for each in jobs.values() if not each.deleted and bu in ("", each.bu)),
        key=lambda each: each.id,
    )
