"""What travels inside Mesos' `TaskInfo.data`, `TaskStatus.data` and MESSAGE, between scheduler and executor."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from libs.common.spec import InstanceSpec


class TaskPayload(BaseModel):
    """One attempt at running an instance; `TaskInfo.data` is this as JSON.

    `adopt` names a container of an earlier attempt that still runs and is to be taken over, not started anew.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    cluster: str
    app: str
    instance: str
    attempt: str
    generation: int  # of the instance: grows with each attempt
    release: int
    deployment: str = ""
    spec: InstanceSpec
    adopt: str = ""
    cleanup: bool = (
        False  # nothing is to run: the executor is to be there, and finds what nobody wants
    )
    traceparent: str = ""


class TaskReport(BaseModel):
    """What the executor knows about an attempt; `TaskStatus.data` is this as JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    container: str = ""
    address: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    healthy: bool | None = None  # None: not known yet
    detail: str = ""
    refused: str = ""  # "disk": the host has no room, and nothing of the attempt was begun


class TellAnew(BaseModel):
    """MESSAGE of the scheduler's to an executor: report these attempts once more, if they run. May get lost."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempts: tuple[str, ...]


def container_name(cluster: str, attempt: str) -> str:
    """The name of the attempt's container; two clusters on one engine never collide."""
    return f"gantry-{cluster}-{attempt}"
