"""What is asked of jobs by event: whose word it is, which image it means, and into the loop with it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, ValidationError

from libs.common.bus.base import Record
from libs.common.clock import Clock
from libs.common.errors import Forbidden, GantryError, NotFound, Refused, Unavailable
from libs.common.events import Envelope, seal, to_record
from libs.common.events import model as ev
from libs.common.http import Role, ServiceClient, call_json
from libs.common.jobs import JobSpec
from libs.common.problems import invalid
from libs.common.producers import ProducerKeys
from libs.common.runtime import Runtime
from libs.common.spec import NAME_PATTERN
from libs.common.trust import Writers, named_by
from services.scheduler.jobs.model import JobAsked
from services.scheduler.jobs.run import JobId
from services.scheduler.jobs.store import JobStore
from services.scheduler.settings import JobsConfig

NAME_CHARS = 200  # of a stranger's words, so much is passed on
_JOB = re.compile(rf"{NAME_PATTERN[:-1]}/{NAME_PATTERN[1:]}")


class Pinned(BaseModel):
    """The deployer's answer."""

    model_config = ConfigDict(extra="ignore")

    image: str
    registry_login: bool = False


@dataclass
class JobIntake:
    """Requests, once each. `submit` returns when what they lead to is saved."""

    store: JobStore
    writers: Writers
    peers: ServiceClient
    clock: Clock
    submit: Callable[[JobAsked], Awaitable[None]]
    publish: Callable[[Sequence[Record]], Awaitable[None]]
    resolve_s: float

    @classmethod
    def of(
        cls,
        rt: Runtime,
        config: JobsConfig,
        store: JobStore,
        submit: Callable[[JobAsked], Awaitable[None]],
    ) -> JobIntake:
        """The intake of a leader."""
        producers = ProducerKeys(rt.peers, rt.clock)
        writers = Writers(rt.secret, config.trusted_sources, producers)
        resolve_s = config.resolve_s
        return cls(store, writers, rt.peers, rt.clock, submit, rt.bus.publish, resolve_s)

    async def on_job_requested(self, event: ev.JobRequested, envelope: Envelope) -> None:
        """Take or refuse; either is an outcome that can be read under the request's name.

        Of a request that is not its true author's, or not the author's to make, only the audit trail hears.
        """
        try:
            event = await self._admit(event, envelope)
        except Forbidden as error:
            await self._turn_away(event, envelope, str(error))
            return
        request = event.request or envelope.id
        if await self.store.request(request) is None:
            await self.submit(await self._asked(event, request, envelope.time))

    async def _admit(self, event: ev.JobRequested, envelope: Envelope) -> ev.JobRequested:
        """The request in the name of its true actor. Raises Forbidden, Unavailable."""
        key = await self.writers.writer(envelope)
        if key is not None:
            named = {"actor": key.actor, "actor_bu": key.bu, "actor_role": Role.DEPLOYER.value}
            event = event.model_copy(update=named)
            if not named_by(key, event.request):
                raise Forbidden(f"request: must be {key.bu}.<a name of yours>, in lower case")
        if not _JOB.fullmatch(event.job):
            raise Forbidden(f"job: {event.job[:NAME_CHARS]!r} is not bu/job")
        bu = event.job.partition("/")[0]
        if event.actor_bu not in ("", "*", bu):
            raise Forbidden(f"{event.actor} may not act for business unit {bu}")
        if event.actor_role == Role.VIEWER.value:
            raise Forbidden(f"{event.actor} is viewer in {bu}; this needs deployer")
        return event

    async def _asked(self, event: ev.JobRequested, request: str, at: float) -> JobAsked:
        asked = JobAsked(
            request,
            JobId(event.job),
            event.action,
            event.actor,
            run=event.run,
            command=event.command or (),
            status=event.status or 0,
            problem=_lacks(event),
            tries=event.tries or 0,
            at=at,
            since=event.since,
        )
        if event.action != "put":
            return asked
        try:
            spec = JobSpec.model_validate(event.spec or {})
            pinned = await self._pin(asked.job.partition("/")[0], spec)
        except ValidationError as error:
            return replace(asked, problem=str(invalid(error, "spec.")))
        except Refused as error:
            return replace(asked, problem=str(error))
        return replace(asked, spec=spec, image=pinned.image, login=pinned.registry_login)

    async def _pin(self, bu: str, spec: JobSpec) -> Pinned:
        """The image by digest, as the deployer says. Raises Refused, Unavailable."""
        content: dict[str, object] = {"bu": bu, "image": spec.image}
        if spec.secrets:
            content["secrets"] = [each.model_dump(mode="json") for each in spec.secrets]
        try:
            found = await call_json(
                self.peers,
                "deployer",
                "POST",
                "/v1/images/resolve",
                content,
                timeout_s=self.resolve_s,
            )
            return Pinned.model_validate(found)
        except NotFound as error:
            raise NotFound(f"image: {spec.image}: {error}") from None
        except (Refused, Unavailable):
            raise
        except (GantryError, ValidationError) as error:  # its fault or ours, not the asker's
            raise Unavailable(f"the deployer did not pin {spec.image}: {error}") from None

    async def _turn_away(self, event: ev.JobRequested, envelope: Envelope, reason: str) -> None:
        """Tell the audit trail, and nobody else: no request's record, and no event of the job."""
        audit = ev.AuditRecorded(
            actor=f"unproven:{event.actor}"[:NAME_CHARS],
            action=f"job.{event.action}",
            target=event.job[:NAME_CHARS],
            allowed=False,
            detail=f"{reason} (ce_source {envelope.source[:NAME_CHARS]})",
            request_id=event.request[:NAME_CHARS],
        )
        # No document changes, so no outbox can carry it: it is published before the request's offset is committed.
        sealed = seal(
            [audit],
            source="scheduler/refusals",
            sequence=1,
            now=self.clock.now(),
            cause=envelope.caused(),
            aggregate=f"{envelope.id} {event.request[:NAME_CHARS]}",
        )
        await self.publish([to_record(each) for each in sealed])


def _lacks(event: ev.JobRequested) -> str:
    """What a report must say and does not; "" when nothing lacks."""
    if event.action == "report" and (event.status is None or event.tries is None or not event.run):
        return "a report names run, tries (the number of the try, from 0 on) and status (0: it went well)"
    return ""
