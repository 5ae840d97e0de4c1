"""Events of jobs, cron or one-off, and of their runs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from libs.common.events.base import Event


class JobRequested(Event):
    """A job is put, deleted, run now, paused, resumed or enabled again, a run killed; or it is to count as having
    succeeded now, with what follows for its children (`succeed`), or how a run ended that waits to be told so
    (`report`). Subject: the job, `bu/job`.

    `request` names the asking: who asks again under the same one asks nothing new. `spec` is a JobSpec, of a put.
    `run` is the run to kill, "" all of them; `command` is what a run-now runs instead of the job's own command.
    Of a report, `status` is 0 when the `tries`th try of `run`, from 0 on, has gone well. Of a put with another
    schedule, or of one that enables the job, `since` (Unix seconds) has one run made up for the times that passed after
    it, and before the event's own time.
    """

    TOPIC: ClassVar[str] = "job.requested"

    job: str
    action: Literal["put", "delete", "run", "pause", "resume", "kill", "succeed", "report"]
    actor: str
    spec: dict[str, Any] | None = None
    request: str = ""
    run: str = ""
    command: tuple[str, ...] | None = None
    status: int | None = None
    tries: int | None = None
    since: float | None = None
    actor_bu: str = (
        ""  # what the actor may do, where one of Gantry's services asks for it; "" is not said
    )
    actor_role: str = ""

    def subject(self) -> str:
        """The job."""
        return self.job


class _OfRun(Event):
    job: str
    run: str
    target: float  # the time it was due, Unix seconds

    def subject(self) -> str:
        """The job."""
        return self.job


class JobRunStarted(_OfRun):
    """A run of the job began."""

    TOPIC: ClassVar[str] = "job.run.started"

    hostname: str = ""
    instance: str = ""
    attempt: str = ""
    tries: int = 1  # of this run so far, this one included


class JobRunFinished(_OfRun):
    """A run ended well."""

    TOPIC: ClassVar[str] = "job.run.finished"

    exit_code: int = 0
    hostname: str = ""
    duration_s: float = 0.0


class JobRunFailed(_OfRun):
    """A run failed, and won't be tried again; or (`again`) a try was lost with its host, and another follows."""

    TOPIC: ClassVar[str] = "job.run.failed"

    exit_code: int | None = None
    reason: str = ""
    hostname: str = ""
    soft: bool = False  # it counts for nothing: see JobSpec.soft_errors
    host_lost: bool = False  # nobody can tell how far it came: its host died
    again: bool = False


class JobRunMissed(_OfRun):
    """A due run was not started, and why."""

    TOPIC: ClassVar[str] = "job.run.missed"

    reason: str = ""
