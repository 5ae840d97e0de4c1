"""What travels inside Mesos' `TaskInfo.data`, `TaskStatus.data` and MESSAGE, between scheduler and executor."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from libs.common.spec import InstanceSpec


class RunPayload(BaseModel):
    """What an attempt needs to know besides, when it is a try of a job's run: it ends by itself, and is not restarted.

    `reuse` "shared": it may run in a container with others, or in one that others have left; "never": in its own.
    With `TaskPayload.adopt` the same try goes on: it is taken over or, when there is nothing to take over, has failed;
    begun anew it would run twice.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str  # bu/job
    run: str
    target: float  # the time it was due, Unix seconds
    reuse: Literal["shared", "never"] = "shared"
    timeout_s: float = 0.0  # 0: none
    tries: int | None = None  # that began before this one; None: an older scheduler does not say
    hostname: str = ""  # of its host, as Mesos calls it


class TaskPayload(BaseModel):
    """One attempt at running an instance; `TaskInfo.data` is this as JSON.

    `adopt` names a container of an earlier attempt that still runs and is to be taken over, not started anew. When the
    instance is `ending`, that is done to stop it: if it does not run, nothing is begun in its place.
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
    ending: bool = Field(False, exclude_if=lambda ending: not ending)
    cleanup: bool = (
        False  # nothing is to run: the executor is to be there, and finds what nobody wants
    )
    traceparent: str = ""
    run: RunPayload | None = Field(None, exclude_if=lambda run: run is None)


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
    # Of a job's run: when the process began and ended by its host's clock, and the last that it wrote.
    started_at: float = 0.0
    ended_at: float = 0.0
    timed_out: bool = False
    output: str = ""


class TellAnew(BaseModel):
    """MESSAGE of the scheduler's to an executor: report these attempts once more, if they run. May get lost."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempts: tuple[str, ...]


class Ahead(BaseModel):
    """What runs that are about to be due have in common with all that may share a container with them.

    `spec` is an instance's, without what is a run's own: command, variables, secrets, resources.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    bu: str
    spec: InstanceSpec


class MakeReady(BaseModel):
    """MESSAGE of the scheduler's to an executor: have a container at hand for each of these. May get lost.

    Executors that do not know it take it for nothing, as it is no `TellAnew`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    ahead: tuple[Ahead, ...]


def container_name(cluster: str, attempt: str) -> str:
    """The name of the attempt's container; two clusters on one engine never collide."""
    return f"gantry-{cluster}-{attempt}"
