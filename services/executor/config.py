"""The executor's configuration: one file, given on the command line by whoever makes the ExecutorInfo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from libs.common.errors import InvalidInput
from libs.common.problems import invalid
from libs.common.spec import Name

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class ExecutorConfig(BaseModel):
    """All an executor can be told. Every field has a default; unknown ones are refused.

    `agent` labels the containers: the Mesos agent's id when empty. Give it a name that outlives the agent's id
    (its host's), so that containers can be adopted when the agent comes back as a new one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: Name = "gantry"
    agent: str = Field("", max_length=200)
    docker: str = "unix:///var/run/docker.sock"
    hostd: str = Field("", description="unix:/path; empty: /run/gantry/<cluster>/hostd.sock")
    runtime: str = Field("gantry", description="the OCI runtime that joins hostd's namespaces")
    secrets_dir: Path | None = Field(
        None,
        description="files of secrets, on a tmpfs; empty: beside hostd's socket. One is mounted where none is",
    )
    data_dir: Path = Field(
        Path("/var/lib/gantry/executor"), description="hosts and resolv.conf of containers"
    )
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    log_driver: Literal["json-file", "local"] = Field(
        "json-file", description="of containers; `local` is smaller, and for Docker alone to read"
    )
    log_max_mib: int = Field(10, ge=1, le=10_000, description="of each file of a container's log…")
    log_files: int = Field(3, ge=1, le=100, description="…and how many of them there are")
    cpu_burst_floor: float = Field(
        0.5,
        ge=0,
        le=256,
        description="cores that even a smaller instance may use when they are free",
    )
    log_level: str = "info"
    trace_file: Path | None = Field(None, description="gets finished spans as JSON lines")

    launches: int = Field(8, ge=1, le=64, description="at a time, from create to started")
    attaches: int = Field(32, ge=1, le=256, description="network attachments at a time")
    pulls: int = Field(3, ge=1, le=16, description="image pulls at a time")

    init: Path = Field(
        Path("/opt/gantry/bin/gantry-init"), description="first process of containers for runs"
    )
    pool_tasks: int = Field(16, ge=1, le=128, description="runs in a shared container at a time")
    pool_uses: int = Field(1000, ge=1, description="runs after which a container is replaced…")
    pool_age_s: Seconds = Field(21_600.0, description="…or its age")
    pool_idle_s: Seconds = Field(300.0, description="a container without runs goes after so long,")
    pool_warm_s: Seconds = Field(
        3600.0, description="but waits for runs that come at least so often"
    )
    pool_ahead: int = Field(
        8,
        ge=0,
        le=128,
        description="shared containers that are made before their first run, at a time",
    )
    pool_closes: int = Field(4, ge=1, le=64, description="shared containers removed at a time")
    pool_output_kib: int = Field(
        1024, ge=16, le=1_048_576, description="of a run's output are kept while it runs"
    )

    starting_after_s: Seconds = 10.0
    first_probe_s: Seconds = 0.02
    report_after_s: Seconds = Field(
        0.25, description="RUNNING waits so long for a first success of the health checks"
    )
    image_cleanup: Literal["own", "all", "off"] = Field(
        "own",
        description="which unused images may go: those this cluster pulled, or whatever is there",
    )
    image_high_pct: float = Field(85, gt=0, le=100, description="disk in use from which they go…")
    image_low_pct: float = Field(
        80, ge=0, le=100, description="…the longest unused first, down to this"
    )
    image_min_age_s: float = Field(600, ge=0, description="but none that was of use so recently")
    clean_s: Seconds = 60.0
    min_free_mib: int = Field(512, ge=0, description="with less nothing new is started; 0: always")
    min_free_inodes_pct: float = Field(2, ge=0, le=100)

    launch_timeout_s: Seconds = 600.0
    pull_timeout_s: Seconds = 300.0
    network_deadline_s: Seconds = 60.0
    secrets_deadline_s: Seconds = 60.0
    engine_deadline_s: Seconds = 60.0
    kill_retry_s: Seconds = 5.0
    sweep_s: Seconds = 30.0
    stray_grace_s: Seconds = 60.0
    orphan_grace_s: Seconds = Field(
        900.0, description="how long a container whose task is over may wait to be adopted"
    )
    shutdown_margin_s: Seconds = 1.5
    silent_s: float = Field(
        120.0, ge=5, le=86_400, description="a worker that stands still for so long is killed"
    )

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        if self.image_low_pct > self.image_high_pct:
            raise ValueError("image_low_pct is above image_high_pct")
        return self

    @property
    def secret_files(self) -> Path:
        """Where files of secrets lie while their containers are there."""
        return self.secrets_dir or Path(self.hostd_socket).parent / "secrets"

    @property
    def hostd_socket(self) -> str:
        """Path of hostd's unix socket."""
        return self.hostd.removeprefix("unix:") or f"/run/gantry/{self.cluster}/hostd.sock"


def load(file: Path) -> ExecutorConfig:
    """Read JSON or YAML. Raises InvalidInput naming each wrong or unknown field."""
    try:
        content = yaml.safe_load(file.read_text()) or {}
        return ExecutorConfig.model_validate(content)
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput.of(str(file), f"can't be read: {error}") from None
    except ValidationError as error:
        raise invalid(error, prefix="executor.") from None
