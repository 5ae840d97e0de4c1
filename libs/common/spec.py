"""What a user writes about an app, and what of it travels to the host that runs an instance.

`AppSpec` is the body of `PUT /v1/apps/{bu}/{app}`. `InstanceSpec` is one release of it made concrete:
the image pinned by digest, everything the scheduler and the executor need. Unknown fields are refused,
because a misspelt `max_surge` that is ignored costs somebody a night.
"""

from __future__ import annotations

import math
import posixpath
import re
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from libs.common.wishes import NAME_PATTERN as NAME_PATTERN
from libs.common.wishes import (
    PATIENT,
    PLAIN,
    SLOT,
    Address,
    AddressWish,
    ApartFrom,
    Options,
    Priority,
    Spread,
    WhenUnreachable,
)
from libs.common.wishes import Name as Name
from libs.common.wishes import Strict as Strict

ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
PERCENT = re.compile(r"(0?\d{1,2}|100)%")
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


class HealthCheck(Strict):
    """A probe made from inside the instance's network namespace."""

    type: Literal["http", "tcp", "command"] = "http"
    port: int | None = Field(None, ge=1, le=65535)
    path: str = Field("/", pattern=r"^/")
    command: tuple[str, ...] = ()
    grace_s: float = Field(30.0, ge=0, le=3600, description="failures this early are not counted")
    interval_s: float = Field(5.0, ge=0.1, le=3600)
    timeout_s: float = Field(2.0, gt=0, le=300)
    max_consecutive_failures: int = Field(3, ge=1, le=100)

    @model_validator(mode="after")
    def _target(self) -> Self:
        if self.type == "command" and not self.command:
            raise ValueError("a command check needs `command`, a list such as ['/bin/check']")
        if self.type != "command" and self.port is None:
            raise ValueError(f"a check of type {self.type} needs `port`, 1 to 65535")
        return self


Amount = Annotated[int | str, Field(union_mode="left_to_right")]


class Strategy(Strict):
    """How a release replaces the one before: rolling, gated by health."""

    type: Literal["rolling"] = "rolling"
    max_surge: Amount = Field("25%", description="instances above the wanted number; n or 'n%'")
    max_unavailable: Amount = Field(0, description="instances that may be missing; n or 'n%'")
    min_ready_s: float = Field(
        0.0, ge=0, le=3600, description="healthy this long to count as ready"
    )
    deadline_s: float = Field(
        600.0, ge=1, le=86_400, description="without progress this long: failed"
    )
    max_failures: int = Field(
        3, ge=0, le=10_000, description="failed instances that a roll survives"
    )
    auto_rollback: bool = True

    @field_validator("max_surge", "max_unavailable")
    @classmethod
    def _amount(cls, value: int | str) -> int | str:
        return _checked(value)

    @model_validator(mode="after")
    def _can_move(self) -> Self:
        if _is_zero(self.max_surge) and _is_zero(self.max_unavailable):
            raise ValueError(
                "max_surge and max_unavailable are both 0, so no instance could ever be replaced"
            )
        return self

    def surge(self, wanted: int) -> int:
        """Instances above `wanted` that are allowed; a percentage rounds up."""
        return _resolve(self.max_surge, wanted, up=True)

    def unavailable(self, wanted: int) -> int:
        """Instances that may be missing; a percentage rounds down, unless nothing could move then."""
        floor = _resolve(self.max_unavailable, wanted, up=False)
        return floor if floor or self.surge(wanted) else 1


def _checked(value: int | str) -> int | str:
    if isinstance(value, str):
        if not PERCENT.fullmatch(value):
            raise ValueError("must be a whole number, or a percentage such as '25%' up to '100%'")
    elif value < 0:
        raise ValueError("must not be negative")
    return value


def _is_zero(amount: int | str) -> bool:
    return amount in (0, "0%", "00%", "000%")


def _resolve(amount: int | str, wanted: int, *, up: bool) -> int:
    if isinstance(amount, int):
        return amount
    share = wanted * int(amount[:-1]) / 100
    return math.ceil(share) if up else math.floor(share)


class ConstraintOperator(StrEnum):
    """Marathon's placement operators, and IS."""

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
    value: str | None = None

    @model_validator(mode="after")
    def _value(self) -> Self:
        needs = {ConstraintOperator.LIKE, ConstraintOperator.UNLIKE, ConstraintOperator.MAX_PER}
        if self.operator in needs | {ConstraintOperator.IS} and self.value is None:
            raise ValueError(f"operator {self.operator} needs a value")
        if self.operator in (ConstraintOperator.LIKE, ConstraintOperator.UNLIKE):
            try:
                re.compile(self.value or "")
            except re.error as error:
                raise ValueError(f"value is not a regular expression: {error}") from None
        if self.operator is ConstraintOperator.MAX_PER and not (self.value or "").isdigit():
            raise ValueError("operator MAX_PER needs a whole number as its value")
        return self


class InstanceClass(StrEnum):
    """What kind of container and host: VM-like, one process, or Windows."""

    THIN = "thin"
    FAT = "fat"
    WINDOWS = "windows"


class LoadBalancer(Strict):
    """Where an instance is registered when healthy, and drained from before it is stopped."""

    driver: Literal["none", "webhook", "haproxy"] = "none"
    backend: str = Field(
        "", max_length=200, description="the load balancer's name for the app; default {bu}-{app}"
    )
    port: int | None = Field(
        None, ge=1, le=65535, description="port of the instance that gets the traffic"
    )
    drain_s: float = Field(10.0, ge=0, le=3600, description="longest wait for open requests")
    deadline_s: float = Field(
        30.0, ge=1, le=3600, description="longest wait for one answer of the driver"
    )

    @model_validator(mode="after")
    def _port(self) -> Self:
        if self.driver != "none" and self.port is None:
            raise ValueError(f"driver {self.driver} needs `port`, 1 to 65535")
        return self


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
            raise ValueError("is a path that the container needs for itself")
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


class AppSpec(Strict):
    """All a user says about an app. `PUT` replaces it whole; `deploy` makes a release of it."""

    image: str = Field(description="name:tag or name@sha256:…; a tag is resolved once, at deploy")
    instances: int = Field(1, ge=0, le=10_000)
    network: Name = Field(description="the network (VLAN) whose addresses the instances get")
    network_options: Options = PLAIN
    resources: Resources = Resources()
    instance_class: InstanceClass = Field(InstanceClass.THIN, alias="class")
    command: tuple[str, ...] | None = Field(None, description="instead of the image's own command")
    user: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?$")
    env: dict[str, str] = {}
    secrets: SecretRefs = ()
    labels: dict[str, str] = {}
    health: tuple[HealthCheck, ...] = ()
    strategy: Strategy = Strategy()
    constraints: tuple[Constraint, ...] = ()
    spread: Spread = ()
    apart_from: ApartFrom = ()
    priority: Priority = 0
    disruption_budget: Amount = Field(
        0,
        description="instances that may be missing while others take their place or a host is drained; n or 'n%'",
        exclude_if=lambda budget: budget == 0,
    )
    unreachable: WhenUnreachable = PATIENT
    load_balancer: LoadBalancer = LoadBalancer()
    stop_grace_s: float = Field(10.0, ge=0, le=3600, description="between TERM and KILL")
    keep_address: bool = Field(
        False, description="a replacement takes over its predecessor's address"
    )
    address: Address = Field(None, description="a reserved or certain address instead of any")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

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
                    f"{name!r} is not an environment variable name (letters, digits, _)"
                )
        return value

    @field_validator("disruption_budget")
    @classmethod
    def _budget(cls, value: int | str) -> int | str:
        return _checked(value)

    def budget(self, wanted: int) -> int:
        """Instances of `wanted` that may be missing for the sake of others; a percentage rounds down."""
        return _resolve(self.disruption_budget, wanted, up=False)

    @model_validator(mode="after")
    def _one_has_the_address(self) -> Self:
        own = self.keep_address or self.address is not None
        if own and self.unreachable.keep == "first":
            raise ValueError(
                "unreachable.keep must be newest where an address is kept or wished for: the replacement has it"
            )
        return self

    @field_validator("secrets")
    @classmethod
    def _secrets(cls, refs: tuple[SecretRef, ...], info: ValidationInfo) -> tuple[SecretRef, ...]:
        variables = set(info.data.get("env", ()))
        files: list[str] = []
        for ref in refs:
            if ref.env is not None:
                if ref.env in variables:
                    raise ValueError(f"the environment variable {ref.env} is given twice")
                variables.add(ref.env)
            if ref.file is not None:
                for other in files:
                    if f"{ref.file}/".startswith(f"{other}/") or other.startswith(f"{ref.file}/"):
                        raise ValueError(f"{ref.file} and {other} are in each other's way")
                files.append(ref.file)
        return refs

    @field_validator("address")
    @classmethod
    def _address(cls, wish: AddressWish | None, info: ValidationInfo) -> AddressWish | None:
        strategy, instances = info.data.get("strategy"), info.data.get("instances")
        if wish is None or strategy is None or instances is None:
            return wish
        if instances > 1 and not wish.many:
            raise ValueError(f"is for one instance; name reservations with {SLOT} for more of them")
        if strategy.surge(max(1, instances)):
            raise ValueError(
                "needs strategy.max_surge 0 and max_unavailable 1 or more: "
                "a replacement can have the address only after its predecessor has gone"
            )
        return wish


class InstanceSpec(Strict):
    """What one instance of a release is: everything that the scheduler and the host need, by value."""

    image: str = Field(description="name@sha256:…")
    network: str
    network_options: Options = PLAIN
    resources: Resources
    instance_class: InstanceClass = InstanceClass.THIN
    command: tuple[str, ...] | None = None
    user: str | None = None
    env: dict[str, str] = {}
    secrets: SecretRefs = ()
    labels: dict[str, str] = {}
    health: tuple[HealthCheck, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    spread: Spread = ()
    apart_from: ApartFrom = ()
    priority: Priority = 0
    disruption_budget: int = Field(
        0,
        description="instances of its app that may be missing while more important ones take their place",
        exclude_if=lambda budget: budget == 0,
    )
    unreachable: WhenUnreachable = PATIENT
    stop_grace_s: float = 10.0
    sticky_key: str = Field(
        "", description="instances with the same key take over the same address"
    )
    address: Address = None
    registry_login: bool = Field(
        False,
        description="the image is pulled with the business unit's login",
        exclude_if=lambda needed: not needed,
    )

    @classmethod
    def of(
        cls,
        spec: AppSpec,
        image: str,
        sticky_key: str = "",
        *,
        slot: int = 0,
        registry_login: bool = False,
    ) -> InstanceSpec:
        """The instance of `spec` in `slot`, with its image pinned to `image`."""
        return cls(
            image=image,
            network=spec.network,
            network_options=spec.network_options,
            resources=spec.resources,
            instance_class=spec.instance_class,
            command=spec.command,
            user=spec.user,
            env=spec.env,
            secrets=spec.secrets,
            labels=spec.labels,
            health=spec.health,
            constraints=spec.constraints,
            spread=spec.spread,
            apart_from=spec.apart_from,
            priority=spec.priority,
            disruption_budget=spec.budget(spec.instances),
            unreachable=spec.unreachable,
            stop_grace_s=spec.stop_grace_s,
            sticky_key=sticky_key,
            address=spec.address.of_slot(slot) if spec.address else None,
            registry_login=registry_login,
        )
