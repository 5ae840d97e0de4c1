"""What the master knows: frameworks, agents, offers, tasks. All of it lives in memory.

Task and status messages are kept as JSON bytes, shared with the agent when it runs in the same
process, so that a hundred thousand running tasks stay affordable.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from libs.minimesos.config import MasterConfig
from libs.minimesos.resources import NOTHING, Resources
from libs.minimesos.schema import Json
from libs.minimesos.schema_common import TERMINAL_STATES


class Task:
    """A task the master knows. `info` is the TaskInfo without its executor; `statuses` are JSON.

    `reported` is the state of the latest update that is not acknowledged yet, or of the last one.
    """

    __slots__ = (
        "agent_id",
        "executor_id",
        "framework_id",
        "info",
        "name",
        "reported",
        "reported_uuid",
        "resources",
        "state",
        "statuses",
        "task_id",
    )

    def __init__(
        self, task_id: str, name: str, framework_id: str, agent_id: str, executor_id: str
    ) -> None:
        self.task_id = task_id
        self.name = name
        self.framework_id = framework_id
        self.agent_id = agent_id
        self.executor_id = executor_id
        self.info = b"{}"
        self.resources = NOTHING
        self.state = "TASK_STAGING"
        self.reported = ""
        self.reported_uuid = ""
        self.statuses: tuple[bytes, ...] = ()

    @property
    def terminal(self) -> bool:
        """Whether the task can never run again."""
        return self.state in TERMINAL_STATES

    @property
    def removable(self) -> bool:
        """Whether the task has ended, or counts as ended because its agent is unreachable."""
        return self.state in TERMINAL_STATES or self.state == "TASK_UNREACHABLE"


@dataclass(slots=True)
class Executor:
    """A custom or default executor on an agent; `info` is its ExecutorInfo.

    `given` is the ExecutorInfo as its framework sent it, to recognise it quickly.
    """

    framework_id: str
    agent_id: str
    executor_id: str
    info: Json
    resources: Resources
    given: Json | None = None


@dataclass(slots=True)
class Offer:
    """Resources offered to a framework in one of its roles. `expires_at` None: never."""

    id: str
    framework_id: str
    agent_id: str
    role: str
    resources: Resources
    expires_at: float | None


@dataclass(slots=True)
class InverseOffer:
    """A request to leave an agent that goes into maintenance."""

    id: str
    framework_id: str
    agent_id: str
    unavailability: Json


@dataclass(slots=True)
class Framework:
    """A framework, subscribed or not. `stream` is the id of its event stream, None when away."""

    id: str
    info: Json
    registered_time: float
    reregistered_time: float | None = None
    unregistered_time: float | None = None
    stream: str | None = None
    connected: bool = False
    active: bool = False
    recovered: bool = False
    suppressed: frozenset[str] = frozenset()
    constraints: Json = field(default_factory=dict)
    capabilities: frozenset[str] = frozenset()
    roles: tuple[str, ...] = ()
    tasks: dict[str, Task] = field(default_factory=dict)
    executors: dict[tuple[str, str], Executor] = field(default_factory=dict)
    offers: dict[str, Offer] = field(default_factory=dict)
    inverse_offers: dict[str, InverseOffer] = field(default_factory=dict)
    completed: deque[Task] = field(default_factory=deque)
    unreachable: dict[tuple[str, str], Task] = field(default_factory=dict)
    used: Resources = NOTHING
    operations: dict[str, Json] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)

    def set_info(self, info: Json) -> None:
        """Take over a FrameworkInfo and what follows from it."""
        self.info = info
        self.capabilities = frozenset(
            c["type"] for c in info.get("capabilities", []) if "type" in c
        )
        if "MULTI_ROLE" in self.capabilities:
            self.roles = tuple(dict.fromkeys(info.get("roles", [])))
        else:
            self.roles = (info.get("role", "*"),)

    @property
    def multi_role(self) -> bool:
        """Whether the framework sees `allocation_info`."""
        return "MULTI_ROLE" in self.capabilities

    @property
    def refined(self) -> bool:
        """Whether the framework sees `reservations` instead of `role`."""
        return "RESERVATION_REFINEMENT" in self.capabilities

    @property
    def partition_aware(self) -> bool:
        """Whether the framework knows TASK_UNREACHABLE and its like."""
        return "PARTITION_AWARE" in self.capabilities

    @property
    def checkpoint(self) -> bool:
        """Whether agents keep this framework's tasks over a restart."""
        return bool(self.info.get("checkpoint"))

    @property
    def failover_timeout_s(self) -> float:
        """How long the framework may be away."""
        return float(self.info.get("failover_timeout", 0.0))


@dataclass(slots=True)
class Agent:
    """A registered agent. `link` is None while it is disconnected."""

    id: str
    info: Json
    registered_time: float
    link: str | None
    total: Resources
    reregistered_time: float | None = None
    version: str = ""
    capabilities: tuple[str, ...] = ()
    tasks: dict[tuple[str, str], Task] = field(default_factory=dict)
    executors: dict[tuple[str, str], Executor] = field(default_factory=dict)
    offers: dict[str, Offer] = field(default_factory=dict)
    inverse_offers: dict[str, InverseOffer] = field(default_factory=dict)
    used: Resources = NOTHING
    ping_timeouts: int = 0
    ping_pending: bool = False
    killed: dict[tuple[str, str], Json] = field(default_factory=dict)
    operations: dict[str, Json] = field(default_factory=dict)
    unavailability: Json | None = None
    answers: list[Json] = field(default_factory=list)
    drain: Json | None = None
    deactivated: bool = False
    pid_text: str = ""
    attributes_json: list[Json] = field(default_factory=list)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the agent."""
        return self.link is not None

    @property
    def active(self) -> bool:
        """Whether the agent's resources may be offered."""
        return self.link is not None and not self.deactivated

    @property
    def hostname(self) -> str:
        """The agent's host name."""
        return str(self.info["hostname"])

    @property
    def ip(self) -> str:
        """The address part of the agent's libprocess pid."""
        return self.pid_text.partition("@")[2].rpartition(":")[0]

    @property
    def port(self) -> int:
        """The port part of the agent's libprocess pid."""
        return int(self.pid_text.rpartition(":")[2])


@dataclass(slots=True)
class State:
    """Everything the master holds in memory apart from the allocator's own books."""

    config: MasterConfig
    id: str
    start_time: float
    frameworks: dict[str, Framework] = field(default_factory=dict)
    completed_frameworks: dict[str, Framework] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    offers: dict[str, Offer] = field(default_factory=dict)
    inverse_offers: dict[str, InverseOffer] = field(default_factory=dict)
    streams: dict[str, str] = field(default_factory=dict)
    next_framework: int = 0
    next_agent: int = 0
    next_offer: int = 0

    @property
    def pid_text(self) -> str:
        """The master's libprocess pid."""
        return f"master@{self.config.ip}:{self.config.port}"

    def all_tasks(self) -> Iterator[Task]:
        """Tasks of registered frameworks that have not ended."""
        for framework in self.frameworks.values():
            yield from framework.tasks.values()


def master_info(state: State) -> Json:
    """The MasterInfo message; `ip` is the address as a little-endian number, as Mesos has it."""
    config = state.config
    octets = [int(x) for x in config.ip.split(".")]
    return {
        "id": state.id,
        "ip": sum(octet << (8 * i) for i, octet in enumerate(octets)),
        "port": config.port,
        "pid": state.pid_text,
        "hostname": config.host,
        "version": "1.12.0",
        "address": {"hostname": config.host, "ip": config.ip, "port": config.port},
        "capabilities": [
            {"type": "AGENT_UPDATE"},
            {"type": "AGENT_DRAINING"},
            {"type": "QUOTA_V2"},
        ],
    }


def id_json(value: str) -> Json:
    """An id message."""
    return {"value": value}


def dumps(value: object) -> bytes:
    """Compact JSON."""
    return orjson.dumps(value)
