"""What placement is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from libs.common.spec import Constraint, ConstraintOperator, InstanceClass, InstanceSpec
from services.scheduler.model import AgentId, Amounts, InstanceId

Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

Sizes = tuple[float, float, float]
"""An amount of each resource."""

EPSILON = 1e-9
"""Below a thousandth of what Mesos counts in (it rounds CPUs to 0.001): absorbs binary fractions."""

UNBOUNDED = np.int64(1 << 40)

RESOURCES = ("cpus", "mem", "disk")
"""The order of resources in all vectors: cores, MiB of memory, MiB of disk."""

RELATIONAL = frozenset(
    {
        ConstraintOperator.UNIQUE,
        ConstraintOperator.GROUP_BY,
        ConstraintOperator.MAX_PER,
        ConstraintOperator.CLUSTER,
    }
)
"""Operators for which it matters where the app's other instances are."""

NOWHERE: Siblings = {}
"""Nothing runs yet."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent with what is free on it. `full`: its host says that there is no room on its disk."""

    agent: AgentId
    hostname: str
    attributes: Mapping[str, str]
    free: Amounts
    full: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """All that placement looks at: instances of one shape are interchangeable.

    `agent` pins it (an adoption can happen on one agent only), or `hostname` does. `sticky`: it takes an address
    over, or asks for one by name.
    """

    app: str
    cpus: float
    mem_mib: float
    disk_mib: float
    instance_class: InstanceClass = InstanceClass.THIN
    constraints: tuple[Constraint, ...] = ()
    spread: tuple[str, ...] = ()
    apart_from: tuple[str, ...] = ()
    network: str = ""
    environment: str = ""
    sticky: bool = False
    priority: int = 0
    agent: AgentId | None = None
    hostname: str = ""
    _hash: int = field(default=0, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        sizes = (self.cpus, self.mem_mib, self.disk_mib)
        what = (self.app, sizes, self.instance_class, self.constraints, self.spread)
        where = (self.apart_from, self.network, self.environment, self.agent, self.hostname)
        object.__setattr__(self, "_hash", hash((what, where, self.sticky, self.priority)))

    def __hash__(self) -> int:
        """Worked out once: shapes are looked up all the time."""
        return self._hash

    @classmethod
    def of(
        cls, app: str, spec: InstanceSpec, agent: AgentId | None = None, hostname: str = ""
    ) -> Shape:
        """The shape of an instance."""
        need = spec.resources
        return cls(
            app,
            need.cpus,
            float(need.mem_mib),
            float(need.disk_mib),
            spec.instance_class,
            spec.constraints,
            spec.spread,
            apart_of(app, spec),
            spec.network,
            spec.environment,
            bool(spec.sticky_key) or spec.address is not None,
            spec.priority,
            agent,
            hostname,
        )

    @property
    def bu(self) -> str:
        """The business unit that it belongs to."""
        return self.app.partition("/")[0]

    @property
    def pinned(self) -> bool:
        """Is there one place only where it may go, whatever its constraints say by now."""
        return self.agent is not None or bool(self.hostname)

    @property
    def relational(self) -> bool:
        """Does it matter where the app's other instances are."""
        return (
            bool(self.spread)
            or bool(self.apart_from)
            or any(each.operator in RELATIONAL for each in self.constraints)
        )

    @property
    def amounts(self) -> Amounts:
        """What one takes."""
        return Amounts(self.cpus, self.mem_mib, self.disk_mib)

    @property
    def sizes(self) -> Sizes:
        """The same in the order of RESOURCES."""
        return self.cpus, self.mem_mib, self.disk_mib

    @property
    def vector(self) -> Vector:
        """The same as a vector."""
        return np.array(self.sizes)


def apart_of(app: str, spec: InstanceSpec) -> tuple[str, ...]:
    """The apps, by their full names, that an instance keeps apart from: of its own business unit, it binds both."""
    if not spec.apart_from:
        return ()
    bu = app.partition("/")[0]
    return tuple(f"{bu}/{each}" for each in spec.apart_from)


@dataclass(frozen=True, slots=True)
class Need:
    """A pending instance."""

    id: InstanceId
    shape: Shape


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an instance is not placed: of `agents`, how many failed which filter first, and the nearest miss in words."""

    agents: int
    failed: Mapping[str, int]
    nearest: str


@dataclass(slots=True)
class Placement:
    """Who goes where, and why the others go nowhere."""

    placed: dict[InstanceId, AgentId] = field(default_factory=dict)
    refused: dict[InstanceId, Refusal] = field(default_factory=dict)


Siblings = Mapping[str, Sequence[Mapping[str, str]]]
"""Per app, the attributes (with `hostname`) of the agents that its live instances are on, one entry each."""
