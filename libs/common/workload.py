"""What specs of apps and of jobs have in common: an image, what it is run with, and where."""

from __future__ import annotations

import posixpath
import re
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from libs.common.patterns import pattern
from libs.common.wishes import (
    PLAIN,
    ApartFrom,
    Environment,
    Name,
    Options,
    Priority,
    Spread,
    Strict,
)

COUNT = re.compile(r"[0-9]{1,9}")
ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
IMAGE = re.compile(
    r"^(?P<registry>[a-z0-9.-]+(:\d+)?/)?(?P<path>[a-z0-9]+([._/-]+[a-z0-9]+)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?$"
)


class Resources(Strict):
    """What one instance is promised and held to."""

    cpus: float = Field(0.1, gt=0, le=256, description="CPU cores")
    mem_mib: int = Field(128, ge=4, le=4_194_304, description="memory limit, MiB")
    disk_mib: int = Field(0, ge=0, description="disk, MiB")
    pids: int = Field(256, ge=1, le=4_194_304, description="processes and threads")


class ConstraintOperator(StrEnum):
    """Marathon's placement operators. An agent that lacks the attribute passes UNLIKE only."""

    UNIQUE = "UNIQUE"
    CLUSTER = "CLUSTER"
    GROUP_BY = "GROUP_BY"
    LIKE = "LIKE"
    UNLIKE = "UNLIKE"
    MAX_PER = "MAX_PER"
    IS = "IS"


class Constraint(Strict):
    """A rule over an agent attribute (`hostname`, `zone`, …)."""

    attribute: str = Field(min_length=1, max_length=100)
    operator: ConstraintOperator
    value: str | None = Field(None, max_length=1000)

    @model_validator(mode="after")
    def _value(self) -> Self:
        needs = {ConstraintOperator.LIKE, ConstraintOperator.UNLIKE, ConstraintOperator.MAX_PER}
        if self.operator in needs | {ConstraintOperator.IS} and self.value is None:
            raise ValueError(f"operator {self.operator} needs a value")
        if self.operator in (ConstraintOperator.LIKE, ConstraintOperator.UNLIKE):
            try:
                pattern(self.value or "")
            except ValueError as error:
                wrong = f"value is not a regular expression of RE2: {error}"
                raise ValueError(f"{wrong}; expected one such as rack-[0-9]+") from None
        counts = {ConstraintOperator.MAX_PER, ConstraintOperator.GROUP_BY}
        if self.operator in counts and self.value and not COUNT.fullmatch(self.value):
            raise ValueError("value is not a number; expected a whole one of at most 9 digits")
        if self.operator is ConstraintOperator.MAX_PER and not self.value:
            raise ValueError("operator MAX_PER needs a whole number as its value")
        return self


class InstanceClass(StrEnum):
    """What kind of container and host: VM-like, one process, or Windows."""

    THIN = "thin"
    FAT = "fat"
    WINDOWS = "windows"


MAX_SECRET_REFS = 32
SECRET_PATH = re.compile(r"(/[A-Za-z0-9_.-]+)+")
_TAKEN = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


class SecretRef(Strict):
    """A secret of the app's business unit, by name, and where an instance finds its value."""

    name: Name = Field(description="the secret's name, see `gantry bu-secret`")
    env: str | None = Field(
        None, pattern=ENV_NAME.pattern, max_length=200, description="as this environment variable"
    )
    file: str | None = Field(
        None, max_length=255, description="as this file, readable by the container's user alone"
    )

    @field_validator("file")
    @classmethod
    def _file(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not SECRET_PATH.fullmatch(value) or posixpath.normpath(value) != value:
            raise ValueError("must be a plain absolute path such as /run/secrets/password")
        if any(value == each or value.startswith(f"{each}/") for each in _TAKEN):
            raise ValueError("is one of the container's own paths; expected another")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("give one of `env` (a variable's name) and `file` (a path)")
        return self


SecretRefs = Annotated[
    tuple[SecretRef, ...],
    # Left out when there are none: older executors refuse what they don't know, and tell containers by the spec's hash.
    Field(max_length=MAX_SECRET_REFS, exclude_if=lambda refs: not refs),
]


class Workload(Strict):
    """What is run, with what, and where it may be."""

    image: str = Field(
        description="name:tag or name@sha256:…; a tag is resolved once, when it is taken"
    )
    network: Name = Field(description="the network (VLAN) whose addresses it gets")
    network_options: Options = PLAIN
    environment: Environment = ""
    resources: Resources = Resources()
    instance_class: InstanceClass = Field(InstanceClass.THIN, alias="class")
    command: tuple[str, ...] | None = Field(None, description="instead of the image's own command")
    user: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?$")
    env: dict[str, str] = {}
    secrets: SecretRefs = ()
    labels: dict[str, str] = {}
    constraints: tuple[Constraint, ...] = ()
    spread: Spread = ()
    apart_from: ApartFrom = ()
    priority: Priority = 0
    stop_grace_s: float = Field(10.0, ge=0, le=3600, description="between TERM and KILL")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def carried(self) -> dict[str, Any]:
        """What of it travels to the host as it is, by name: all but the image, which is pinned."""
        return {name: getattr(self, name) for name in Workload.model_fields if name != "image"}

    @field_validator("image")
    @classmethod
    def _image(cls, value: str) -> str:
        if not IMAGE.fullmatch(value):  # `match` would let a newline at the end pass
            raise ValueError(
                "not an image reference; expected e.g. registry.example:5000/team/web:1.2"
            )
        return value

    @field_validator("env")
    @classmethod
    def _env(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not ENV_NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} is not an environment variable name; expected letters, digits and _"
                )
        return value

    @field_validator("secrets")
    @classmethod
    def _secrets(cls, refs: tuple[SecretRef, ...], info: ValidationInfo) -> tuple[SecretRef, ...]:
        variables = set(info.data.get("env", ()))
        files: list[str] = []
        for ref in refs:
            if ref.env is not None:
                if ref.env in variables:
                    raise ValueError(
                        f"the environment variable {ref.env} is given twice; expected once"
                    )
                variables.add(ref.env)
            if ref.file is not None:
                for other in files:
                    if f"{ref.file}/".startswith(f"{other}/") or other.startswith(f"{ref.file}/"):
                        raise ValueError(
                            f"{ref.file} and {other} are in each other's way; expected paths apart"
                        )
                files.append(ref.file)
        return refs
