"""What a user writes about a job: when it runs, what it runs, and what is to happen when that does not go well.

`JobSpec` is the body of `PUT /v1/jobs/{bu}/{job}` and of `job.requested`. A run of it is an instance with an end: what
travels to the host is an `InstanceSpec`, made by `JobSpec.instance`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from libs.common.spec import InstanceSpec
from libs.common.wishes import Name, Strict
from libs.common.workload import Workload

Seconds = Annotated[float, Field(gt=0, le=366 * 86_400.0)]
OUTPUT_TAIL = 8192
"""So many bytes of a run's output, its last, are kept with its history."""
CHRONOS_NAME = "chronos.name"
"""The label of a job that came by Chronos' API: its name there."""
CHRONOS_ASYNC = "chronos.async"
"""The label, "true", of a job whose command only starts something: how a run ends is told, by Chronos' API."""


class Retry(Strict):
    """How often, and when, a run that failed is tried again. A retry is a new attempt of the same run."""

    limit: int = Field(2, ge=0, le=1000, description="tries after the first")
    delay_s: float = Field(60.0, ge=0, le=86_400, description="before the first of them")
    factor: float = Field(1.0, ge=1, le=10, description="each waits so many times longer")
    max_delay_s: float = Field(3600.0, ge=0, le=86_400)

    def wait_s(self, tries: int) -> float:
        """How long to wait after so many tries, at least one, have failed; seconds."""
        # Beyond the limit of `limit` factors a float would overflow.
        grown = self.delay_s * self.factor ** min(tries - 1, 60)
        return min(grown, self.max_delay_s) if self.factor > 1 else self.delay_s


class CatchUp(Strict):
    """What becomes of targets that passed while nothing could start: the scheduler away, or the job paused."""

    policy: Literal["none", "latest", "all"] = "latest"
    limit: int = Field(
        10, ge=1, le=1000, description="of `all`: so many, the newest; the others are missed"
    )


class JobSpec(Workload):
    """All a user says about a job. `PUT` replaces it whole; running runs go on as they began."""

    schedule: str | None = Field(
        None,
        max_length=200,
        description="ISO 8601 `Rn/start/period`, crontab of 5 or 6 fields, or `@every 5m`; "
        "none: it runs after its parents, or when asked to",
    )
    time_zone: str = Field("UTC", max_length=64, description="IANA name, such as Europe/Berlin")
    parents: tuple[Name, ...] = Field(
        (),
        max_length=100,
        description="jobs of the same business unit; it runs after newer successes of all of them",
    )
    description: str = Field("", max_length=1000)
    owner: str = Field("", max_length=200, description="whom to ask about it")
    enabled: bool = Field(True, description="false: nothing starts, not even by its parents")

    concurrency: Literal["allow", "forbid", "replace", "queue"] = Field(
        "forbid",
        description="when a target comes while a run is under way: run both, miss the new one, end the old one before"
        " the new one starts, wait",
    )
    queue_limit: int = Field(
        10, ge=1, le=1000, description="of `queue`: more than these are missed"
    )
    catch_up: CatchUp = CatchUp()
    start_deadline_s: Seconds | None = Field(
        None, description="a run that could not start so long after its target is missed"
    )
    timeout_s: Seconds | None = Field(
        None, description="a try that takes longer is ended, and has failed"
    )
    retry: Retry = Retry()
    soft_errors: bool = Field(
        False,
        description="a failed run counts neither towards `disable_after` nor as a failure for its children",
    )
    success_codes: tuple[int, ...] = Field((0,), min_length=1, max_length=256)
    disable_after: int = Field(
        0, ge=0, le=10_000, description="failed runs in a row after which it is disabled; 0: never"
    )
    reuse: Literal["shared", "never"] = Field(
        "shared",
        description="shared: its runs may use containers again; never: a fresh one for each try",
    )

    @field_validator("success_codes")
    @classmethod
    def _codes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 <= code <= 255 for code in value):
            raise ValueError("exit codes are 0 to 255")
        return value

    @model_validator(mode="after")
    def _one_cause(self) -> Self:
        if self.parents and self.schedule is not None:
            raise ValueError("give one of `schedule` and `parents`")
        if len(set(self.parents)) != len(self.parents):
            raise ValueError("a parent is given twice")
        return self

    def instance(self, image: str, *, registry_login: bool = False) -> InstanceSpec:
        """What a run of it is on a host, with its image pinned to `image`."""
        return InstanceSpec(image=image, registry_login=registry_login, **self.carried())
