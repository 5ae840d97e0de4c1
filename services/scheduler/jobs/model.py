"""Jobs, what is kept of their runs, and what is asked of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from libs.common.jobs import JobSpec
from services.scheduler.jobs.run import JobId, RunState

if TYPE_CHECKING:
    from services.scheduler.model import AgentId, Instance

Action = Literal["put", "delete", "run", "pause", "resume", "kill", "succeed", "report"]
REQUESTS_KEPT = 16
"""A job remembers so many requests: those whose outcome may not be saved yet."""


class Due(NamedTuple):
    """A run that is to be made, or that waits for the one before."""

    run: str
    target: float
    cause: str  # schedule, catch_up, parents or manual
    command: tuple[str, ...] = ()  # instead of the job's own


class Told(NamedTuple):
    """What of a run under way has been told: tries that began, and tries that were lost with their host."""

    begun: int = 0
    lost: int = 0


class Outcome(NamedTuple):
    """What came of a request."""

    request: str
    state: Literal["done", "refused"]
    problem: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A job; a document. Times are Unix seconds, 0: never.

    **Invariant**: no target up to `cursor` is considered again. `running` are its runs that have not ended, those that
    wait for a place or for their next try included; `consumed` is how new its parents' successes were when it last ran.
    """

    id: JobId
    spec: JobSpec
    image: str  # pinned
    login: bool = False  # the registry wants one
    version: int = 0
    text: str = ""  # the schedule, anchored
    cursor: float = 0.0
    look: float | None = None  # when time alone may bring something about
    paused: bool = False
    disabled: str = ""  # why it was disabled without anybody saying so
    deleted: float = 0.0
    running: Mapping[str, Told] = field(default_factory=dict)
    queue: tuple[Due, ...] = ()
    succeeded: int = 0
    failed: int = 0
    missed: int = 0
    failures_in_a_row: int = 0
    last_success: float = 0.0
    last_error: float = 0.0
    passed: float = 0.0  # when it was last known that children may go on; each time is later
    last_run: str = ""
    home: AgentId | Literal[""] = ""  # where its newest run began, if it may share a container
    home_at: float = 0.0  # that run's target
    recorded: int = 0  # records of runs so far: the newest one's number
    consumed: Mapping[str, float] = field(default_factory=dict)
    created: float = 0.0
    changed: float = 0.0
    changed_by: str = ""
    handled: tuple[Outcome, ...] = ()

    @property
    def bu(self) -> str:
        """The business unit that it belongs to."""
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """Its name within it."""
        return self.id.partition("/")[2]

    @property
    def parents(self) -> tuple[JobId, ...]:
        """Its parents' ids."""
        return tuple(JobId(f"{self.bu}/{each}") for each in self.spec.parents)

    @property
    def off(self) -> bool:
        """Does nothing start, not even by its parents or when asked to."""
        return bool(self.deleted or self.disabled or not self.spec.enabled)

    def outcome_of(self, request: str) -> Outcome | None:
        """What came of a request that it remembers."""
        return next((each for each in self.handled if each.request == request), None)

    def after(self, outcome: Outcome) -> Job:
        """The job that remembers this."""
        return replace(self, handled=(*self.handled, outcome)[-REQUESTS_KEPT:])

    def without(self, run: str) -> Job:
        """The job when a run is over."""
        return replace(self, running={n: t for n, t in self.running.items() if n != run})

    def having(self, run: str, told: Told) -> Job:
        """The job with a run under way."""
        return replace(self, running={**self.running, run: told})


@dataclass(frozen=True, slots=True)
class Record:
    """A run that is over, as it is kept; a document by the run's id. Times are Unix seconds, None: never."""

    run: str
    job: JobId
    target: float
    cause: str
    state: RunState
    created: float
    tries: int = 0
    started: float | None = None
    began: float | None = None
    ended: float | None = None
    settled: float = 0.0  # when the scheduler knew that; what ran has its other times from its host
    exit_code: int | None = None
    hostname: str = ""
    reason: str = ""
    output: str = ""
    soft: bool = False
    begun: int = 0
    lost: int = 0
    number: int = 0  # of the job's records, rising
    job_version: int = 0  # the job's document that counts it
    at: float = 0.0
    version: int = 0

    @property
    def duration_s(self) -> float | None:
        """How long the last try took."""
        return self.ended - self.began if self.began and self.ended else None

    @classmethod
    def of(cls, instance: Instance) -> Record:
        """What is kept of a run's instance that has ended."""
        run = instance.run
        assert run is not None
        return cls(
            run=instance.id,
            job=run.job,
            target=run.target,
            cause=run.cause,
            state=RunState(run.outcome or RunState.KILLED),
            created=run.created,
            tries=run.tries,
            started=run.started or None,
            began=run.began or None,
            ended=run.ended or instance.since,
            settled=instance.since,
            exit_code=run.exit_code,
            hostname=instance.hostname,
            reason=run.reason,
            output=run.output,
            soft=run.soft,
            begun=run.begun,
            lost=run.lost,
        )


@dataclass(frozen=True, slots=True)
class JobAsked:
    """Something is asked of a job. `problem`: it can't be taken whatever the job says.

    `at` is when it was asked, by the asker's clock; 0: that is not known. `since`: see `JobRequested`.
    """

    request: str
    job: JobId
    action: Action
    actor: str
    spec: JobSpec | None = None
    image: str = ""
    login: bool = False
    run: str = ""
    command: tuple[str, ...] = ()
    status: int = 0
    tries: int = 0
    problem: str = ""
    at: float = 0.0
    since: float | None = None


# -- documents -----------------------------------------------------------------------------------------

_OWN = ("id", "version", "spec", "running", "queue", "handled", "consumed", "deleted")
_PLAIN = tuple(each.name for each in fields(Job) if each.name not in _OWN)


def job_body(job: Job) -> dict[str, Any]:
    """The job as a document's body; the document has its id."""
    return {
        **{name: getattr(job, name) for name in _PLAIN},
        "bu": job.bu,
        "spec": job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "running": [[run, *told] for run, told in job.running.items()],
        "queue": [list(each if each.command else each[:-1]) for each in job.queue],
        "consumed": dict(job.consumed),
        "handled": [list(each) for each in job.handled],
        "deleted": job.deleted or None,
    }


def job_of(doc_id: str, version: int, body: Mapping[str, Any]) -> Job:
    """The job of a document. What a newer release has put at the end of a list is passed over."""
    told, due, outcome = (len(each._fields) for each in (Told, Due, Outcome))
    return Job(
        id=JobId(doc_id),
        version=version,
        spec=JobSpec.model_validate(body["spec"], extra="ignore"),
        running={run: Told(*kept[:told]) for run, *kept in body["running"]},
        queue=tuple(Due(*each[:3], *map(tuple, each[3:due])) for each in body["queue"]),
        consumed=body["consumed"],
        handled=tuple(Outcome(*each[:outcome]) for each in body["handled"]),
        deleted=body["deleted"] or 0.0,
        **{name: body[name] for name in _PLAIN if name in body},
    )


_RECORD = tuple(each.name for each in fields(Record) if each.name not in ("run", "version"))


def record_body(record: Record) -> dict[str, Any]:
    """The record as a document's body."""
    body = asdict(record)
    return {**{name: body[name] for name in _RECORD}, "state": record.state.value}


def record_of(doc_id: str, version: int, body: Mapping[str, Any]) -> Record:
    """The record of a document."""
    known = {name: body[name] for name in _RECORD if name in body}
    known["state"] = RunState(body["state"])
    return Record(run=doc_id, version=version, **known)
