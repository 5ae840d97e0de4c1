"""Events of jobs, cron or one-off, and of their runs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from libs.common.events.base import Event


class JobRequested(Event):
    """A job is put, deleted or run now. Subject: the job, `bu/job`."""

    TOPIC: ClassVar[str] = "job.requested"

    job: str
    action: Literal["put", "delete", "run"]
    actor: str
    spec: dict[str, Any] | None = None

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


class JobRunFinished(_OfRun):
    """A run ended well."""

    TOPIC: ClassVar[str] = "job.run.finished"

    exit_code: int = 0


class JobRunFailed(_OfRun):
    """A run failed, and won't be tried again."""

    TOPIC: ClassVar[str] = "job.run.failed"

    exit_code: int | None = None
    reason: str = ""


class JobRunMissed(_OfRun):
    """A due run was not started, and why."""

    TOPIC: ClassVar[str] = "job.run.missed"

    reason: str = ""
