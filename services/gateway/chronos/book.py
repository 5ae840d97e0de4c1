"""What is asked of `services/gateway/jobs.py` in the terms of Chronos: jobs are found by its names, put with their
parents, and deleted without leaving children behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from libs.client.jobs import ENDED, JobStats, JobView, RunView
from libs.common.actor import Actor
from libs.common.clock import Clock
from libs.common.errors import InvalidInput, NotFound, Unavailable
from libs.common.http import Request
from libs.common.jobs import JobSpec
from services.gateway.chronos import schedules
from services.gateway.chronos.model import ChronosJob, Version
from services.gateway.chronos.names import (
    Task,
    candidates,
    check_name,
    chronos_name,
    our_name,
)
from services.gateway.chronos.specs import Timing, command_of, deadline_s, to_spec
from services.gateway.chronos.telling import Entry, names_of, spec_told
from services.gateway.jobs import Jobs, Outcome, State
from services.gateway.model import ChronosConfig
from services.gateway.parts import actor_of

AT_ONCE = 16  # so many questions to the scheduler for one of ours
AT_A_TIME = 100  # so many jobs are read in one go, some ten milliseconds
HISTORY = 50  # runs of a job that are told of


@dataclass(frozen=True)
class Book:
    """The jobs of business units, by Chronos' names."""

    jobs: Jobs
    config: ChronosConfig
    clock: Clock

    # -- reads -----------------------------------------------------------------------------------

    async def all(self, actor: Actor, bu: str) -> list[Entry]:
        """All jobs of a business unit. Raises Unavailable: half a list would be taken for all there are."""
        answer = await self.jobs.jobs(actor, bu)
        if answer.incomplete:
            raise Unavailable(f"{', '.join(answer.incomplete)}: no answer; try again")
        names, entries = names_of(answer.jobs), []
        for number, view in enumerate(answer.jobs, 1):
            entries.append(Entry.of(view, names))
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)  # others are waiting, too
        return sorted(entries, key=lambda each: each.job.name)

    async def one(self, actor: Actor, bu: str, name: str) -> Entry:
        """A job. Raises NotFound."""
        view = await self.view(actor, bu, name)
        parents = spec_told(view).parents
        # Only a name that was made for a job tells nothing of the job's own.
        made = [each for each in parents if our_name(each) != each]
        return Entry.of(view, names_of([await self.jobs.job(actor, bu, each) for each in made]))

    async def view(self, actor: Actor, bu: str, name: str) -> JobView:
        """Our view of a job by its Chronos name. Raises NotFound."""
        for ours in candidates(name):
            try:
                view = await self.jobs.job(actor, bu, ours)
            except NotFound:
                continue
            if chronos_name(view.name, view.spec.get("labels", {})) == name:
                return view
        raise NotFound(f"Job '{name}' not found")

    async def runs(self, actor: Actor, bu: str, entry: Entry) -> Sequence[RunView]:
        """Its last runs, newest first."""
        return (await self.jobs.runs(actor, bu, entry.view.name, HISTORY)).runs

    async def stats(self, actor: Actor, bu: str, entries: Sequence[Entry]) -> dict[str, JobStats]:
        """How the runs of jobs went, by Chronos' name."""
        found = {each.job.name: JobStats() for each in entries}
        # Who never ran through has no figures: most scrapes of a new cluster ask for nothing.
        asked = [each for each in entries if each.view.counts.succeeded]
        for start in range(0, len(asked), AT_ONCE):
            some = asked[start : start + AT_ONCE]
            answers = await asyncio.gather(
                *(self.jobs.stats(actor, bu, each.view.name) for each in some),
                return_exceptions=True,
            )
            for each, answer in zip(some, answers, strict=True):
                if isinstance(answer, NotFound):  # deleted since
                    del found[each.job.name]
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    found[each.job.name] = answer
        return found

    # -- changes ---------------------------------------------------------------------------------

    async def put(
        self, request: Request, bu: str, job: ChronosJob, version: Version
    ) -> tuple[Outcome, tuple[str, ...]]:
        """Make or replace a job; what came of it, and what is otherwise than with Chronos. Raises InvalidInput."""
        actor, before, now = actor_of(request), None, self.clock.now()
        try:
            before = Entry.of(await self.view(actor, bu, job.name), {})
            ours = before.view.name
        except NotFound:
            check_name(job.name, version)
            ours = await self._free_name(actor, bu, job.name)
        parents = {name: await self._parent(actor, bu, name) for name in job.parents or ()}
        job, timing = timed(job, before, now)
        translated = to_spec(job, bu, parents, self.config, timing)
        spec = translated.spec
        since = schedules.since(spec, version, now) if self.config.overdue else now
        outcome = await self.jobs.put(request, bu, ours, spec, since)
        return outcome, translated.notes

    async def run(self, request: Request, bu: str, name: str, arguments: str) -> Outcome:
        """Run a job now, its command with more arguments in place of its own. Raises NotFound."""
        entry = await self.one(actor_of(request), bu, name)
        command = command_of(entry.job, arguments) if arguments.strip() else None
        return await self.jobs.run(request, bu, entry.view.name, command)

    async def purge(self, request: Request, bu: str) -> Outcome | None:
        """End all runs that wait: for a place, for their next try, or for the run before. None: it is done."""
        actor = actor_of(request)
        for entry in await self.all(actor, bu):
            if not entry.view.running and not entry.view.queued:
                continue
            for run in await self.runs(actor, bu, entry):
                if run.state != "pending":
                    continue
                name = entry.view.name
                outcome = await self.jobs.kill(_unnamed(request), bu, name, run.run)
                if outcome.state is State.ACCEPTED:
                    return outcome  # REFUSED: it waits no more
        return None

    async def report(self, request: Request, bu: str, task: Task, status: int) -> Outcome | str:
        """Say how a task of an `async` job ended, 0: well; or why nothing comes of that. Raises NotFound."""
        actor = actor_of(request)
        entry = await self.one(actor, bu, task.job)
        for run in await self.runs(actor, bu, entry):
            if run.state not in ENDED and round(run.target * 1000) == task.due_ms:
                name = entry.view.name
                return await self.jobs.report(request, bu, name, run.run, task.tries, status)
        return f"no run of {task.job} that was due then is under way"

    async def delete(self, request: Request, bu: str, name: str) -> Outcome:
        """Delete a job. Its children get its parents, or its schedule when they have no other cause.

        Raises NotFound.
        """
        actor = actor_of(request)
        entry = await self.one(actor, bu, name)
        ours = entry.view.name
        for child in await self.all(actor, bu):
            if ours in child.spec.parents:
                spec = orphaned(child, entry)
                outcome = await self.jobs.put(_unnamed(request), bu, child.view.name, spec)
                if outcome.state is not State.DONE:
                    return outcome
        return await self.jobs.delete(request, bu, ours)

    async def _parent(self, actor: Actor, bu: str, name: str) -> str:
        try:
            return (await self.view(actor, bu, name)).name
        except NotFound:
            raise InvalidInput.of(
                "parents", f"there is no job '{name}'", "jobs that exist"
            ) from None

    async def _free_name(self, actor: Actor, bu: str, name: str) -> str:
        ours = our_name(name)
        try:
            other = await self.jobs.job(actor, bu, ours)
        except NotFound:
            return ours
        taken = chronos_name(other.name, other.spec.get("labels", {}))
        raise InvalidInput.of("name", f"stands for the job '{taken}' already: both are {ours}")


def _unnamed(request: Request) -> Request:
    """The request for something that goes with it: an Idempotency-Key stands for one thing alone."""
    headers = {k: v for k, v in request.headers.items() if k != "idempotency-key"}
    return replace(request, headers=headers)


def timed(job: ChronosJob, before: Entry | None, now: float) -> tuple[ChronosJob, Timing]:
    """A job that is put, with its schedule's start filled in; and schedule and time zone in our words.

    What was told of the job `before` stands for what is stored, which Chronos need not have words for. Raises
    InvalidInput.
    """
    if job.schedule is None:
        return job, (None, "UTC")
    told = before.job if before is not None else None
    if told is not None and told.schedule == job.schedule and before is not None:
        same_zone = told.schedule_time_zone == job.schedule_time_zone
        if same_zone and not schedules.begins_at_put(job.schedule):
            return job, (before.spec.schedule, before.spec.time_zone)
    text, zone = schedules.our_schedule(job.schedule, job.schedule_time_zone)
    if text is not None and schedules.begins_at_put(text):
        text = schedules.begun(text, zone, now)
        job = job.model_copy(update={"schedule": text})
    return job, (text, zone)


def orphaned(child: Entry, parent: Entry) -> JobSpec:
    """What becomes of a job when one of its parents is deleted."""
    others = [each for each in child.spec.parents if each != parent.view.name]
    parents = tuple(dict.fromkeys((*others, *parent.spec.parents)))
    if parents:
        return child.spec.model_copy(update={"parents": parents})
    # As it goes on there: a schedule without a start would begin again, and one that is over is over for its children.
    over = parent.view.state == "finished"
    changes = {
        "parents": (),
        "schedule": None if over else parent.view.schedule or parent.spec.schedule,
        "time_zone": parent.spec.time_zone,
        "start_deadline_s": deadline_s(child.job.epsilon),
    }
    return child.spec.model_copy(update=changes)
