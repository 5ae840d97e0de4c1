"""The JSON objects of the v1 API that Gantry uses, as TypedDicts.

They are views of what goes over the wire: unknown fields of the peer survive in them. Enumerations
are plain strings (`TASK_RUNNING`, `SOURCE_MASTER`), bytes are base64 strings, scalars are floats,
`cpus` in CPUs, `mem` and `disk` in MiB, times in Unix seconds unless the name says nanoseconds.
Source: include/mesos/v1/*.proto as rendered in JSON by Mesos 1.12.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NotRequired, TypedDict


class Value(TypedDict):
    """Every id and many names are wrapped so."""

    value: str


class Scalar(TypedDict):
    """A number of a resource."""

    value: float


class Range(TypedDict):
    """Both ends belong to it."""

    begin: int
    end: int


class Ranges(TypedDict):
    """E.g. of ports."""

    range: list[Range]


class SetItems(TypedDict):
    """E.g. of devices."""

    item: list[str]


class AllocationInfo(TypedDict):
    """The role a resource or offer is allocated to."""

    role: str


class Resource(TypedDict):
    """One resource; `role`, `reservations`, `allocation_info` depend on capabilities."""

    name: str
    type: Literal["SCALAR", "RANGES", "SET"]
    scalar: NotRequired[Scalar]
    ranges: NotRequired[Ranges]
    set: NotRequired[SetItems]
    role: NotRequired[str]
    reservation: NotRequired[dict[str, Any]]
    reservations: NotRequired[list[dict[str, Any]]]
    allocation_info: NotRequired[AllocationInfo]
    disk: NotRequired[dict[str, Any]]
    revocable: NotRequired[dict[str, Any]]


class Attribute(TypedDict):
    """A label of an agent."""

    name: str
    type: Literal["SCALAR", "RANGES", "SET", "TEXT"]
    text: NotRequired[Value]
    scalar: NotRequired[Scalar]
    ranges: NotRequired[Ranges]
    set: NotRequired[SetItems]


class Address(TypedDict):
    """Where a master or an agent listens."""

    port: int
    hostname: NotRequired[str]
    ip: NotRequired[str]


class Url(TypedDict):
    """Of an agent, in its offers."""

    scheme: str
    address: Address
    path: NotRequired[str]


class Offer(TypedDict):
    """Resources of one agent offered to one role of one framework."""

    id: Value
    framework_id: Value
    agent_id: Value
    hostname: str
    url: NotRequired[Url]
    resources: list[Resource]
    attributes: NotRequired[list[Attribute]]
    executor_ids: NotRequired[list[Value]]
    allocation_info: NotRequired[AllocationInfo]
    unavailability: NotRequired[dict[str, Any]]
    domain: NotRequired[dict[str, Any]]


class Variable(TypedDict):
    """One environment variable."""

    name: str
    value: NotRequired[str]
    type: NotRequired[str]


class Environment(TypedDict):
    """Of a command."""

    variables: list[Variable]


class CommandInfo(TypedDict, total=False):
    """`value` run by a shell, or by exec with `arguments` when `shell` is false."""

    value: str
    shell: bool
    arguments: list[str]
    environment: Environment
    user: str
    uris: list[dict[str, Any]]


class ExecutorInfo(TypedDict):
    """Must be equal, field by field, for all tasks under one executor id."""

    executor_id: Value
    type: NotRequired[Literal["CUSTOM", "DEFAULT"]]
    framework_id: NotRequired[Value]
    command: NotRequired[CommandInfo]
    resources: NotRequired[list[Resource]]
    name: NotRequired[str]
    source: NotRequired[str]
    data: NotRequired[str]
    labels: NotRequired[Labels]
    shutdown_grace_period: NotRequired[DurationInfo]


class DurationInfo(TypedDict):
    """A span of time."""

    nanoseconds: int


class KillPolicy(TypedDict, total=False):
    """How long to wait between TERM and KILL."""

    grace_period: DurationInfo


class Label(TypedDict):
    """A key with an optional value."""

    key: str
    value: NotRequired[str]


class Labels(TypedDict):
    """A list of them."""

    labels: list[Label]


class TaskInfo(TypedDict):
    """What LAUNCH carries: either `executor` or `command`."""

    name: str
    task_id: Value
    agent_id: Value
    resources: list[Resource]
    executor: NotRequired[ExecutorInfo]
    command: NotRequired[CommandInfo]
    data: NotRequired[str]
    labels: NotRequired[Labels]
    kill_policy: NotRequired[KillPolicy]
    discovery: NotRequired[dict[str, Any]]
    health_check: NotRequired[dict[str, Any]]
    check: NotRequired[dict[str, Any]]


class TaskStatus(TypedDict):
    """One state of a task. Without `uuid` it needs no acknowledgement."""

    task_id: Value
    state: str
    message: NotRequired[str]
    source: NotRequired[str]
    reason: NotRequired[str]
    data: NotRequired[str]
    agent_id: NotRequired[Value]
    executor_id: NotRequired[Value]
    timestamp: NotRequired[float]
    uuid: NotRequired[str]
    healthy: NotRequired[bool]
    labels: NotRequired[Labels]
    container_status: NotRequired[dict[str, Any]]
    unreachable_time: NotRequired[DurationInfo]


class Capability(TypedDict):
    """Of a framework, a master or an agent."""

    type: str


class FrameworkInfo(TypedDict):
    """`failover_timeout` in seconds; 0 removes the framework when its stream closes."""

    user: str
    name: str
    id: NotRequired[Value]
    roles: NotRequired[list[str]]
    failover_timeout: NotRequired[float]
    checkpoint: NotRequired[bool]
    hostname: NotRequired[str]
    principal: NotRequired[str]
    webui_url: NotRequired[str]
    capabilities: NotRequired[list[Capability]]
    labels: NotRequired[Labels]


class AgentInfo(TypedDict, total=False):
    """An agent as it describes itself."""

    id: Value
    hostname: str
    port: int
    resources: list[Resource]
    attributes: list[Attribute]
    domain: dict[str, Any]


class Filters(TypedDict, total=False):
    """How long declined or unused resources are not offered again; Mesos' default is 5 s."""

    refuse_seconds: float


class MasterInfo(TypedDict, total=False):
    """The leading master."""

    id: str
    ip: int
    port: int
    pid: str
    hostname: str
    version: str
    address: Address
    capabilities: list[Capability]


class UpdateCall(TypedDict):
    """The body of an executor's UPDATE, kept until it is acknowledged."""

    status: TaskStatus


class Call(TypedDict, total=False):
    """A call of the scheduler, executor or operator API; its body is under its lower-case type."""

    type: str
    framework_id: Value
    executor_id: Value
    subscribe: dict[str, Any]
    accept: dict[str, Any]
    decline: dict[str, Any]
    revive: dict[str, Any]
    suppress: dict[str, Any]
    kill: dict[str, Any]
    shutdown: dict[str, Any]
    acknowledge: dict[str, Any]
    reconcile: dict[str, Any]
    message: dict[str, Any]
    update_framework: dict[str, Any]
    update: UpdateCall


Operation = dict[str, Any]
"""One operation of ACCEPT; LAUNCH is the one we make."""

TERMINAL_STATES: Final = frozenset(
    {
        "TASK_FINISHED",
        "TASK_FAILED",
        "TASK_KILLED",
        "TASK_ERROR",
        "TASK_LOST",
        "TASK_DROPPED",
        "TASK_GONE",
        "TASK_GONE_BY_OPERATOR",
    }
)
"""States a task never leaves. TASK_LOST is among them, though a partition-unaware framework may
see such a task return; TASK_UNREACHABLE and TASK_UNKNOWN are not."""
