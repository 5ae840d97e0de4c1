"""What is asked of jobs: handed to the scheduler by event, and waited for; and what the scheduler tells of them.

A change is checked at the scheduler first, as a courtesy, if one leads; then its record and its `job.requested` are one
write. The scheduler decides, once for each request, and keeps what came of it: that is waited for, for a while.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from libs.client import jobs as told
from libs.common.actor import Actor
from libs.common.errors import NotFound, Unavailable
from libs.common.http import Request, Role, reply
from libs.common.jobs import JobSpec
from libs.common.serve import segment
from services.gateway.core import bu_of_target, incomplete
from services.gateway.model import Operation
from services.gateway.operations import JobAction
from services.gateway.parts import Gateway, actor_of
from services.gateway.peers import SCHEDULER, with_query

WAIT_S = 5.0
_ACTION = "job."  # so the actions of our operations begin
FIRST_LOOK_S, LONGEST_PAUSE_S = 0.02, 0.25


class State(StrEnum):
    """How far a change has come."""

    ACCEPTED = "accepted"  # it is written down, and the scheduler has not handled it yet
    DONE = "done"
    REFUSED = "refused"  # by the scheduler, after our check: `problem` says why


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has come of a change. `run` is the run that a run-now began; `repeated`: it was asked for before."""

    request: str
    job: str
    action: str
    state: State
    problem: str = ""
    run: str = ""
    repeated: bool = False

    @property
    def url(self) -> str:
        """Where to ask how it goes."""
        return f"/v1/job-requests/{self.request}"

    def view(self) -> told.JobRequestView:
        """The same as the API tells it."""
        return told.JobRequestView(
            request=self.request,
            job=self.job,
            action=self.action,
            state=self.state.value,
            problem=self.problem,
            run=self.run,
            url=self.url,
        )


class Jobs:
    """Jobs as the gateway's routes see them, in the name of who asks.

    Changes take the caller's request: its principal must be a deployer of the business unit (NotFound for another
    unit's, Forbidden), and its Idempotency-Key, if there is one, makes repetitions one. They raise what the scheduler's
    check does, and Unavailable when our store is away; they return an Outcome, REFUSED too, ACCEPTED while none leads.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    # -- changes ---------------------------------------------------------------------------------

    async def put(
        self, request: Request, bu: str, name: str, spec: JobSpec, since: float | None = None
    ) -> Outcome:
        """Make or replace a job; `since`: see `JobRequested`. Raises InvalidInput naming the field."""
        job = f"{bu}/{name}"

        async def check() -> object:
            return await self.check(actor_of(request), job, spec)

        return await self._change(request, job, "put", check, spec=_content(spec), since=since)

    async def delete(self, request: Request, bu: str, name: str) -> Outcome:
        """Delete a job, and end what runs of it. Raises NotFound."""
        return await self._change_known(request, bu, name, "delete")

    async def run(
        self, request: Request, bu: str, name: str, command: tuple[str, ...] | None = None
    ) -> Outcome:
        """Run a job now, or `command` in its place; the outcome names the run. Raises NotFound."""
        return await self._change_known(request, bu, name, "run", command=command)

    async def succeed(self, request: Request, bu: str, name: str) -> Outcome:
        """Have a job count as having succeeded now; its children run as after that. Raises NotFound."""
        return await self._change_known(request, bu, name, "succeed")

    async def pause(self, request: Request, bu: str, name: str, *, paused: bool = True) -> Outcome:
        """Start nothing of a job any more; or, not `paused`, let a paused or disabled one go on. Raises NotFound."""
        return await self._change_known(request, bu, name, "pause" if paused else "resume")

    async def kill(self, request: Request, bu: str, name: str, run: str = "") -> Outcome:
        """End a run of a job, or ("") all that run or wait. Raises NotFound."""
        actor = actor_of(request)

        async def check() -> object:
            if not run:
                return await self.job(actor, bu, name)
            found = await self.one_run(actor, run)
            if found.job != f"{bu}/{name}":
                raise NotFound(f"{bu}/{name} has no run {run!r}")
            return found

        return await self._change(request, f"{bu}/{name}", "kill", check, run=run)

    async def report(
        self, request: Request, bu: str, name: str, run: str, tries: int, status: int
    ) -> Outcome:
        """Say how the `tries`th try, from 0 on, of a run ended that waits to be told so; 0: well. Raises NotFound."""
        fields = {"run": run, "tries": tries, "status": status}
        return await self._change_known(request, bu, name, "report", **fields)

    async def outcome(self, actor: Actor, request: str) -> Outcome:
        """What has come of an earlier change. Raises NotFound, also for another business unit's."""
        operation_id, _, _ = request.rpartition("-")
        known = await self._gateway.repository.operation(operation_id) if operation_id else None
        asked = known.operation if known is not None else None
        if (
            asked is None
            or not asked.action.startswith(_ACTION)
            or request_of(asked) != request
            or not actor.sees(asked.bu)
        ):
            raise NotFound(f"there is no request {request!r}")
        return await self._look(actor, asked, self._gateway.config.peer_timeout_s)

    # -- reads -----------------------------------------------------------------------------------

    async def jobs(self, actor: Actor, bu: str = "") -> told.Jobs:
        """The jobs that the actor sees, or those of one business unit, by name; a scheduler that is away is named.

        Their last runs are told without what they wrote.
        """
        if bu:
            actor.require(bu, Role.VIEWER)
        wanted = bu or ("" if actor.bu == "*" else actor.bu)
        part = await self._gateway.peers.part(actor, SCHEDULER, "/v1/jobs", {"bu": wanted})
        rows = [row for row in part.rows("jobs") if actor.sees(bu_of_target(str(row["job"])))]
        rows.sort(key=lambda row: str(row["job"]))
        return told.Jobs.model_validate({"jobs": rows, "incomplete": incomplete(part)})

    async def job(self, actor: Actor, bu: str, name: str) -> told.JobView:
        """One job. Raises NotFound, Unavailable."""
        actor.require(bu, Role.VIEWER)
        return told.JobView.model_validate(await self._get(actor, _path(bu, name)))

    async def runs(
        self, actor: Actor, bu: str, name: str, limit: int, before: str = ""
    ) -> told.Runs:
        """A job's runs, newest first, those before the run `before`. Raises NotFound, Unavailable."""
        actor.require(bu, Role.VIEWER)
        query: dict[str, str | int] = {"limit": limit, "before": before}
        path = with_query(f"{_path(bu, name)}/runs", query)
        return told.Runs.model_validate(await self._get(actor, path))

    async def one_run(self, actor: Actor, run: str) -> told.RunView:
        """One run. Raises NotFound, also for another business unit's; Unavailable."""
        found = told.RunView.model_validate(await self._get(actor, f"/v1/runs/{segment(run)}"))
        if not actor.sees(bu_of_target(found.job)):
            raise NotFound(f"there is no run {run!r}")
        return found

    async def stats(self, actor: Actor, bu: str, name: str) -> told.JobStats:
        """How a job's runs went. Raises NotFound, Unavailable."""
        actor.require(bu, Role.VIEWER)
        return told.JobStats.model_validate(await self._get(actor, f"{_path(bu, name)}/stats"))

    async def check(self, actor: Actor, job: str, spec: JobSpec) -> told.JobChecked:
        """What a put would find; nothing is stored. Raises InvalidInput naming the field."""
        actor.require(bu_of_target(job), Role.DEPLOYER)
        content = {"job": job, "spec": _content(spec)}
        answer = await self._gateway.peers.ask(
            actor, SCHEDULER, "POST", "/v1/jobs/check", body=reply(content).body
        )
        return told.JobChecked.model_validate(answer.json())

    # -- parts -----------------------------------------------------------------------------------

    async def _change_known(
        self, request: Request, bu: str, name: str, action: JobAction, **fields: Any
    ) -> Outcome:
        async def check() -> object:
            return await self.job(actor_of(request), bu, name)

        return await self._change(request, f"{bu}/{name}", action, check, **fields)

    async def _change(
        self,
        request: Request,
        job: str,
        action: JobAction,
        check: Callable[[], Awaitable[object]],
        **fields: Any,
    ) -> Outcome:
        actor = actor_of(request)
        actor.require(bu_of_target(job), Role.DEPLOYER)

        async def courtesy() -> None:
            with suppress(Unavailable):  # the next leader decides, and says why not
                await check()

        asked, repeated = await self._gateway.operations.ask_of_job(
            request, job, action, courtesy, request_of, **fields
        )
        return await self._wait(actor, asked, repeated)

    async def _wait(self, actor: Actor, asked: Operation, repeated: bool) -> Outcome:
        """What comes of it within WAIT_S; ACCEPTED when that is not enough."""
        clock = self._gateway.clock
        until, pause_s = clock.monotonic() + WAIT_S, FIRST_LOOK_S
        while True:
            await clock.sleep(pause_s)
            left_s = until - clock.monotonic()
            outcome = await self._look(actor, asked, max(left_s, FIRST_LOOK_S), repeated)
            if outcome.state is not State.ACCEPTED or left_s <= 0:
                return outcome
            pause_s = min(pause_s * 1.6, LONGEST_PAUSE_S)

    async def _look(
        self, actor: Actor, asked: Operation, timeout_s: float, repeated: bool = False
    ) -> Outcome:
        request, action = request_of(asked), asked.action.removeprefix(_ACTION)
        accepted = Outcome(request, asked.target, action, State.ACCEPTED, repeated=repeated)
        path = f"/v1/job-requests/{segment(request)}"
        try:
            answer = await self._gateway.peers.ask(
                actor, SCHEDULER, "GET", path, timeout_s=timeout_s
            )
        except (NotFound, Unavailable):  # not handled yet; or nobody knows whether
            return accepted
        found = answer.json()
        return Outcome(
            request,
            asked.target,
            action,
            State(found["state"]),
            str(found.get("problem", "")),
            str(found.get("run", "")),
            repeated,
        )

    async def _get(self, actor: Actor, path: str) -> Any:
        return await self._gateway.peers.get(actor, SCHEDULER, path)


def request_of(operation: Operation) -> str:
    """The name of a request: that of its operation, and when it was asked.

    An Idempotency-Key may come again once its operation is forgotten; the scheduler must not take that for the old one.
    There is no dot in it: other BUs' producers name their requests `<bu>.<name>`.
    """
    return f"{operation.id}-{int(operation.started_at * 1000)}"


def _content(spec: JobSpec) -> dict[str, Any]:
    """What is not said is left out: a scheduler of an older release need not know the fields that are new."""
    return spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _path(bu: str, name: str) -> str:
    return f"/v1/jobs/{segment(bu)}/{segment(name)}"
