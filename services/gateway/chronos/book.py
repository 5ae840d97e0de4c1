"""What is asked of `services/gateway/jobs.py` in the terms of Chronos: jobs are found by its names, put with their
parents, and deleted without leaving children behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from services.gateway.chronos.specs import command_of, to_spec
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
        actor, before = actor_of(request), None
        try:
            view = await self.view(actor, bu, job.name)
            ours, before = view.name, spec_told(view)
        except NotFound:
            check_name(job.name, version)
            ours = await self._free_name(actor, bu, job.name)
        parents = {name: await self._parent(actor, bu, name) for name in job.parents or ()}
        translated = to_spec(job, bu, parents, self.config)
        spec, now = translated.spec, self.clock.now()
        outcome = await self.jobs.put(request, bu, ours, spec)
        anew = before is None or _cause(before) != _cause(spec)
        done = outcome.state is State.DONE and not outcome.repeated
        if done and anew and self.config.overdue and schedules.overdue(spec, version, now):
            await self.jobs.run(_unnamed(request), bu, ours)
        return outcome, translated.notes

    async def run(self, request: Request, bu: str, name: str, arguments: str) -> Outcome:
        """Run a job now, its command with more arguments in place of its own. Raises NotFound."""
        entry = await self.one(actor_of(request), bu, name)
        command = command_of(entry.job, arguments) if arguments.strip() else None
        return await self.jobs.run(request, bu, entry.view.name, command)

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
                spec = orphaned(child.spec, ours, entry.spec)
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


def _cause(spec: JobSpec) -> tuple[str | None, str]:
    return spec.schedule, spec.time_zone


def orphaned(spec: JobSpec, parent: str, of_parent: JobSpec) -> JobSpec:
    """What becomes of a job when one of its parents is deleted."""
    others = [each for each in spec.parents if each != parent]
    parents = tuple(dict.fromkeys((*others, *of_parent.parents)))
    changes: dict[str, Any] = {"parents": parents}
    if not parents:
        changes |= {"schedule": of_parent.schedule, "time_zone": of_parent.time_zone}
    return spec.model_copy(update=changes)
