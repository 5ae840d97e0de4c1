"""Operations: each change that is asked for, with its idempotency, its audit line, and its event.

A deploy is one compare-and-set write that holds the idempotency record, the gateway's own record of the deployment
and its events. What goes through to an owner is written down as running first, and finished with its answer; where none
came, or nobody was left to keep it, the audit trail says that nobody knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from libs.client.model import Accepted
from libs.common.clock import Clock, Ids
from libs.common.direct import Courier
from libs.common.errors import Conflict, GantryError, Unavailable
from libs.common.events import Cause, Event, seal
from libs.common.events import model as ev
from libs.common.http import Request, Response
from libs.common.outbox import Relay
from libs.common.store.base import OutboxEvent, VersionConflict
from libs.common.telemetry import current_traceparent
from services.gateway.core import (
    STALE_RUN_S,
    bu_of_target,
    fingerprint,
    finish,
    is_repetition,
    operation_id,
    short_of,
)
from services.gateway.model import Operation, OperationId, OperationState
from services.gateway.store import Repository, Versioned

WRITE_TRIES = 8
FORGOTTEN_BATCH = 100
KEPT_HEADERS = ("etag", "location")

UNKNOWN = "no answer: it may have been done or not"

JobAction = Literal["put", "delete", "run", "pause", "resume", "kill", "succeed", "report"]
Check = Callable[[], Awaitable[object]]
Perform = Callable[[], Awaitable[Response]]
Tell = Callable[[Response], dict[str, Any]]
"""What the audit trail keeps of an answer."""


@dataclass(frozen=True)
class Operations:
    """Begins, repeats and finishes operations."""

    repository: Repository
    relay: Relay
    courier: Courier
    clock: Clock
    ids: Ids

    async def deploy(
        self, request: Request, app: str, action: ev.DeployAction, check: Check, **fields: Any
    ) -> Response:
        """Ask for a deployment of `app` and answer 202; `check` may refuse it. Repetitions get the same answer.

        With `break_glass` among the event's fields the deployer has it when this returns: it was handed over besides.
        Raises Unavailable when it could not be; it is kept then, and the same request again hands it over again.
        """
        for _ in range(WRITE_TRIES):
            asked = self._asked(request, f"deploy.{action}", app)
            known = await self._known(asked)
            if known is not None and is_repetition(known.operation, asked):
                if known.operation.break_glass:
                    await self.courier.deliver(known.unsent)
                return replayed(known.operation)
            await check()
            glass = fields.get("break_glass")
            deployment = f"dep-{self.ids.short()}"
            url = f"/v1/deployments/{deployment}"
            answer = Accepted(deployment=deployment, app=app, action=action, url=url)
            done = finish(
                asked,
                OperationState.DONE,
                deployment=deployment,
                status=202,
                answer=answer.model_dump_json(),
                headers={"location": url},
                break_glass=glass is not None,
            )
            principal = request.principal
            wanted = ev.DeployRequested(
                deployment=deployment,
                app=app,
                action=action,
                actor=principal.name,
                actor_bu=principal.bu,
                actor_role=principal.role,
                **fields,
            )
            after = wanted.model_dump(
                mode="json", exclude_none=True, include={*fields, "deployment"}
            )
            detail = "accepted" if glass is None else f"BREAK GLASS: {glass}"
            audit = _audit(done, allowed=True, detail=detail, after=after)
            try:
                events = await self._save(done, known, (wanted, audit))
            except VersionConflict:
                continue  # the same key, at the same time: see what the other one made of it
            if glass is not None:
                await self.courier.deliver(events)
            return _answer(done)
        raise Unavailable(f"{app} is being deployed by too many at once")

    async def ask_of_job(
        self,
        request: Request,
        job: str,
        action: JobAction,
        check: Check,
        request_of: Callable[[Operation], str],
        **fields: Any,
    ) -> tuple[Operation, bool]:
        """Ask the scheduler for a change of `job`; `check` may refuse it. The operation, and whether it was known.

        `request_of` names the request in the event; `fields` are the event's others. What comes of it, the scheduler
        keeps: there is no answer in the operation.
        """
        for _ in range(WRITE_TRIES):
            asked = self._asked(request, f"job.{action}", job)
            known = await self._known(asked)
            if known is not None and is_repetition(known.operation, asked):
                return known.operation, True
            await check()
            done = finish(asked, OperationState.DONE, status=202)
            wanted = ev.JobRequested(
                job=job,
                action=action,
                actor=asked.actor,
                actor_bu=request.principal.bu,
                actor_role=request.principal.role.value,
                request=request_of(asked),
                **fields,
            )
            audit = _audit(done, allowed=True, detail="accepted", after=_shown(wanted))
            try:
                await self._save(done, known, (wanted, audit))
            except VersionConflict:
                continue
            return done, False
        raise Unavailable(f"{job} is being changed by too many at once")

    async def through(
        self,
        request: Request,
        action: str,
        target: str,
        perform: Perform,
        tell: Tell | None = None,
    ) -> Response:
        """Have the owner do it; the answer is kept for repetitions if the request has an Idempotency-Key."""
        asked, version = await self._begin(request, action, target)
        if asked.state is OperationState.DONE:
            return replayed(asked)
        try:
            response = await perform()
        except GantryError as error:
            failed = finish(asked, OperationState.FAILED)
            doubt: tuple[Event, ...] = ()
            if isinstance(error, Unavailable):
                doubt = (_audit(failed, allowed=True, detail=f"{UNKNOWN}: {error}"[:500]),)
            with suppress(GantryError, VersionConflict):  # else `close_forgotten` finds it
                await self._save(failed, Versioned(asked, version), doubt)
            raise
        done = finish(
            asked,
            OperationState.DONE,
            status=response.status,
            answer=response.body.decode(),
            headers={
                name: response.headers[name] for name in KEPT_HEADERS if name in response.headers
            },
        )
        after = tell(response) if tell else None
        audit = _audit(done, allowed=True, detail=f"answered {response.status}", after=after)
        with suppress(VersionConflict):  # we took so long that a repetition took over: it audits
            await self._save(done, Versioned(asked, version), (audit,))
        return _answer(done)

    async def close_forgotten(self) -> int:
        """End operations that nobody is at work on any more (a gateway died, or the store was away); how many.

        What came of them nobody knows, and the audit trail says so.
        """
        before = self.clock.now() - STALE_RUN_S
        forgotten = await self.repository.running_since(before, FORGOTTEN_BATCH)
        for known in forgotten:
            failed = finish(known.operation, OperationState.FAILED)
            with suppress(VersionConflict):  # another gateway was first, or it was taken up again
                await self._save(failed, known, (_audit(failed, allowed=True, detail=UNKNOWN),))
        return len(forgotten)

    def id_for(self, request: Request) -> str:
        """An id, as `Ids.short`, for what a request makes: a repetition by Idempotency-Key makes the same again."""
        asked = self._asked(request, "", "")
        return short_of(asked.id)

    async def refused(self, request: Request, action: str, target: str, error: GantryError) -> None:
        """Record that somebody asked for what they may not have."""
        asked = self._asked(request, action, target, anew=True)
        failed = finish(asked, OperationState.FAILED)
        detail = f"{type(error).__name__}: {error}"[:500]
        await self._save(failed, None, (_audit(failed, allowed=False, detail=detail),))

    async def noted(self, request: Request, action: str, target: str) -> None:
        """Record that somebody was shown what not everybody may see."""
        seen = finish(self._asked(request, action, target, anew=True), OperationState.DONE)
        await self._save(seen, None, (_audit(seen, allowed=True, detail="shown"),))

    def line(
        self, request: Request, action: str, target: str, detail: str
    ) -> tuple[OutboxEvent, ...]:
        """The audit line of a change, to be written with that change's own document."""
        done = finish(self._asked(request, action, target, anew=True), OperationState.DONE)
        return self._seal(done, (_audit(done, allowed=True, detail=detail),))

    async def _begin(self, request: Request, action: str, target: str) -> tuple[Operation, int]:
        """A running operation and its version, or the finished one that this request repeats."""
        for _ in range(WRITE_TRIES):
            asked = self._asked(request, action, target)
            known = await self._known(asked)
            if known is not None and is_repetition(known.operation, asked):
                return known.operation, known.version
            version = known.version if known else 0
            try:
                return asked, await self.repository.save_operation(asked, version)
            except VersionConflict:
                continue
        raise Unavailable(f"{target} is being changed by too many at once")

    def _asked(
        self, request: Request, action: str, target: str, *, anew: bool = False
    ) -> Operation:
        actor = request.principal.name
        key = None if anew else request.headers.get("idempotency-key")
        return Operation(
            id=OperationId(f"o-{self.ids.uuid()}" if key is None else operation_id(actor, key)),
            actor=actor,
            bu=bu_of_target(target),
            action=action,
            target=target,
            fingerprint=fingerprint(request.method, request.path, request.body),
            state=OperationState.RUNNING,
            started_at=self.clock.now(),
            request_id=request.headers.get("x-request-id", ""),
        )

    async def _known(self, asked: Operation) -> Versioned | None:
        if asked.id.startswith("o-"):
            return None
        return await self.repository.operation(asked.id)

    async def _save(
        self, operation: Operation, known: Versioned | None, events: Sequence[Event]
    ) -> tuple[OutboxEvent, ...]:
        sealed = self._seal(operation, events)
        await self.repository.save_operation(operation, known.version if known else 0, sealed)
        self.relay.kick()
        return sealed

    def _seal(self, operation: Operation, events: Sequence[Event]) -> tuple[OutboxEvent, ...]:
        # Many operations speak about one app (and one actor), so there is no version of the subject to
        # go by: the time in microseconds grows, and the operation's id makes the event's id its own.
        now = self.clock.now()
        cause = Cause(operation.request_id, "", current_traceparent())
        return seal(
            events,
            source="gateway",
            sequence=int(now * 1_000_000),
            now=now,
            cause=cause,
            aggregate=operation.id,
        )


def made_another(what: str) -> Conflict:
    """Why a request can't make this one: the id that is made of its Idempotency-Key is another's, see `id_for`."""
    return Conflict(f"this Idempotency-Key has made another {what}; use a fresh one")


def _audit(
    operation: Operation, *, allowed: bool, detail: str, after: dict[str, Any] | None = None
) -> ev.AuditRecorded:
    return ev.AuditRecorded(
        actor=operation.actor,
        action=operation.action,
        target=operation.target,
        allowed=allowed,
        detail=detail,
        after=after,
        request_id=operation.request_id,
    )


def _shown(wanted: ev.JobRequested) -> dict[str, Any]:
    """A request for the audit trail: which variables and labels a spec has, not what is in them."""
    told = {"request", "spec", "run", "command", "status", "tries"}
    shown = wanted.model_dump(mode="json", exclude_none=True, include=told)
    spec = shown.get("spec", {})
    for field in ("env", "labels"):
        if field in spec:
            spec[field] = dict.fromkeys(spec[field], "***")
    return shown


def _answer(operation: Operation) -> Response:
    return Response(operation.status, operation.answer.encode(), operation.headers)


def replayed(operation: Operation) -> Response:
    """The answer that an operation got the first time."""
    headers = {**operation.headers, "idempotency-replayed": "true"}
    return Response(operation.status, operation.answer.encode(), headers)
