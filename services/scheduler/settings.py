"""What the scheduler is told: the section `scheduler` of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from libs.common.spec import InstanceSpec


class Quota(BaseModel):
    """What the instances of a business unit may have together. 0: no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus: float = 0.0
    mem_mib: float = 0.0
    disk_mib: float = 0.0


class JobsConfig(BaseModel):
    """What concerns jobs: `scheduler.jobs`. Times are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    late_s: float = (
        60.0  # a target that is looked at no later is on time, others are caught up with
    )
    most: int = 100_000  # jobs of the cluster
    looks: int = 500  # jobs looked at in one decision; the next one goes on
    keep_runs: int = 100  # records of each job…
    keep_runs_s: float = 90 * 86_400.0  # …and no longer than this
    keep_instances_s: float = 120.0  # documents of runs' instances, after their end
    keep_requests_s: float = 86_400.0  # outcomes of what was asked
    keep_deleted_s: float = (
        30 * 86_400.0
    )  # a deleted job's document: versions go on if it is put again
    clean_every_s: float = 15.0
    warm_s: float = 20.0  # so long before a run its last host is told of it; 0: it is not…
    warm_after_s: float = 240.0  # …nor when one began so lately that its container is still there
    resolve_s: float = 20.0  # so long, the deployer may take to pin an image
    trusted_sources: tuple[str, ...] = ("/gantry/gateway",)


class SchedulerConfig(BaseModel):
    """The section `scheduler`. Times are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    masters: tuple[str, ...] = ("127.0.0.1:5050",)
    driver: Literal["libs", "pymesos"] = "libs"  # which client speaks to Mesos: docs/adr/0024
    principal: str = ""
    credential_file: Path | None = None
    roles: tuple[str, ...] = Field(("gantry",), min_length=1)  # the dearest first: docs/adr/0038
    framework_name: str = "gantry"
    failover_timeout_s: float = 7 * 86_400.0
    executor_command: str = ""  # default: this interpreter, `-m services.executor`
    executor_config: Path | None = None
    restart_backoff_s: float = 1.0
    restart_backoff_factor: float = 1.15
    restart_backoff_max_s: float = 300.0
    max_attempts: int = 0  # in a row without getting healthy; 0: no end
    healthy_reset_s: float = 60.0  # so long a healthy life forgives half of the failures
    unreachable_after_s: float = 300.0
    adoption_deadline_s: float = 60.0
    staged_timeout_s: float = 30.0
    kill_retry_s: float = 10.0
    reconcile_interval_s: float = 300.0
    full_pause_s: float = 15.0  # a host without room on its disk gets nothing new for so long…
    full_pause_max_s: float = 300.0  # …doubled each time, up to this
    quotas: Mapping[str, Quota] = {}  # by business unit
    max_priorities: Mapping[str, int] = {}  # by business unit; any, where nothing is said
    launches_per_s: float = 10_000.0  # of the whole cluster, twice as many at once; 0: no limit
    launching_per_agent: int = 250  # so many may be on their way to run on one agent; 0: no limit
    place_slice: int = 1000  # instances placed in one decision; the next one goes on
    pools_every_s: float = 15.0  # ipam is asked for free addresses so often…
    pools_fresh_s: float = 60.0  # …and what it said limits nothing any more after so long
    preempt_after_s: float = 5.0  # what waits so long for room may take that of less important ones
    set_aside_after_s: float = 600.0  # what waits so long for room has an agent set aside; 0: never
    offer_hold_s: float = 5.0
    decline_s: float = 5.0
    delayed_every_s: float = 10.0
    breaker_limit: int = 0  # so many tasks of instances that are not stored are killed unasked
    keep_ended_s: float = 86_400.0  # documents of instances, after their end
    leader_lease_s: float = (
        0.0  # 0: the only scheduler there is; otherwise standbys wait for the lease
    )
    tick_s: float = 0.5
    jobs: JobsConfig = JobsConfig()

    @model_validator(mode="before")
    @classmethod
    def _one_role(cls, given: Any) -> Any:
        """`role: gantry` is how older configurations say `roles: [gantry]`."""
        if isinstance(given, dict) and "role" in given and "roles" not in given:
            given = {**given, "roles": (given["role"],)}
            del given["role"]
        return given

    @field_validator("roles")
    @classmethod
    def _each_once(cls, roles: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(roles)) < len(roles):
            raise ValueError("names a role twice")
        return roles

    def within(self, bu: str, spec: InstanceSpec) -> InstanceSpec:
        """The spec with no higher priority than its business unit may give."""
        most = self.max_priorities.get(bu, spec.priority)
        return spec if spec.priority <= most else spec.model_copy(update={"priority": most})
