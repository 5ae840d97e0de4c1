"""What a user writes about an app, and what of it travels to the host that runs an instance.

`AppSpec` is the body of `PUT /v1/apps/{bu}/{app}`. `InstanceSpec` is one release of it made concrete:
the image pinned by digest, everything the scheduler and the executor need. Unknown fields are refused,
because a misspelt `max_surge` that is ignored costs somebody a night.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from libs.common.wishes import NAME_PATTERN as NAME_PATTERN
from libs.common.wishes import (
    PATIENT,
    PLAIN,
    SLOT,
    Address,
    AddressWish,
    ApartFrom,
    Environment,
    Options,
    Priority,
    Spread,
    WhenUnreachable,
)
from libs.common.wishes import Name as Name
from libs.common.wishes import Strict as Strict
from libs.common.workload import ENV_NAME as ENV_NAME
from libs.common.workload import IMAGE as IMAGE
from libs.common.workload import MAX_SECRET_REFS as MAX_SECRET_REFS
from libs.common.workload import Constraint as Constraint
from libs.common.workload import ConstraintOperator as ConstraintOperator
from libs.common.workload import InstanceClass as InstanceClass
from libs.common.workload import Resources as Resources
from libs.common.workload import SecretRef as SecretRef
from libs.common.workload import SecretRefs as SecretRefs
from libs.common.workload import Workload as Workload

PERCENT = re.compile(r"(0?\d{1,2}|100)%")


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
                "max_surge and max_unavailable are both 0, so no instance could ever be replaced; "
                "expected one of them to be 1 or more"
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
        raise ValueError("must be 0 or more")
    return value


def _is_zero(amount: int | str) -> bool:
    return amount in (0, "0%", "00%", "000%")


def _resolve(amount: int | str, wanted: int, *, up: bool) -> int:
    if isinstance(amount, int):
        return amount
    share = wanted * int(amount[:-1]) / 100
    return math.ceil(share) if up else math.floor(share)


def budget_of(budgeted: tuple[int, int], wanted: int) -> int:
    """How many of `wanted` a budget is, given as a number or, where that is not 0, in percent; rounded down."""
    count, percent = budgeted
    return wanted * percent // 100 if percent else count


def _percent(amount: int | str) -> int:
    return int(amount[:-1]) if isinstance(amount, str) else 0


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


class AppSpec(Workload):
    """All a user says about an app. `PUT` replaces it whole; `deploy` makes a release of it."""

    instances: int = Field(1, ge=0, le=10_000)
    health: tuple[HealthCheck, ...] = ()
    strategy: Strategy = Strategy()
    disruption_budget: Amount = Field(
        0,
        description="instances that may be missing while others take their place or a host is drained; n or 'n%'",
        exclude_if=lambda budget: budget == 0,
    )
    unreachable: WhenUnreachable = PATIENT
    load_balancer: LoadBalancer = LoadBalancer()
    keep_address: bool = Field(
        False, description="a replacement takes over its predecessor's address"
    )
    address: Address = Field(None, description="a reserved or certain address instead of any")

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

    @field_validator("address")
    @classmethod
    def _address(cls, wish: AddressWish | None, info: ValidationInfo) -> AddressWish | None:
        strategy, instances = info.data.get("strategy"), info.data.get("instances")
        if wish is None or strategy is None or instances is None:
            return wish
        if instances > 1 and not wish.many:
            raise ValueError(
                f"is for one instance; expected reservations named with {SLOT} for more"
            )
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
    environment: Environment = ""
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
    disruption_budget_pct: int = Field(
        0,
        description="the same in percent of what there is to be of its app by then; 0: it was not given so",
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

    @property
    def budgeted(self) -> tuple[int, int]:
        """Its app's disruption budget, as `budget_of` takes it: however many a release began with."""
        return self.disruption_budget, self.disruption_budget_pct

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
            health=spec.health,
            disruption_budget=spec.budget(spec.instances),
            disruption_budget_pct=_percent(spec.disruption_budget),
            unreachable=spec.unreachable,
            sticky_key=sticky_key,
            address=spec.address.of_slot(slot) if spec.address else None,
            registry_login=registry_login,
            **spec.carried(),
        )
