"""What the agent knows: frameworks, executors, tasks, and updates on their way to the master."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from libs.minimesos.resources import NOTHING, Resources
from libs.minimesos.schema import Json
from libs.minimesos.schema_common import TERMINAL_STATES

CAPABILITIES = (
    "MULTI_ROLE",
    "HIERARCHICAL_ROLE",
    "RESERVATION_REFINEMENT",
    "RESOURCE_PROVIDER",
    "RESIZE_VOLUME",
    "AGENT_OPERATION_FEEDBACK",
    "AGENT_DRAINING",
    "TASK_RESOURCE_LIMITS",
)


class ExecutorState(StrEnum):
    """REGISTERING → RUNNING → TERMINATING → TERMINATED; each may jump to TERMINATED."""

    REGISTERING = "REGISTERING"
    RUNNING = "RUNNING"
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"


class Update(NamedTuple):
    """A status update: `seq` orders those of a task, `status` is JSON."""

    seq: int
    uuid: str
    state: str
    status: bytes
    source: str
    reason: str


class Task:
    """A task on this agent. `info` is the TaskInfo without its executor."""

    __slots__ = (
        "acked",
        "info",
        "name",
        "pending",
        "resources",
        "retry_s",
        "seen",
        "seq",
        "state",
        "statuses",
        "task_id",
    )

    def __init__(self, task_id: str, name: str, info: bytes, resources: Resources) -> None:
        self.task_id = task_id
        self.name = name
        self.info = info
        self.resources = resources
        self.state = "TASK_STAGING"
        self.statuses: tuple[bytes, ...] = ()
        self.pending: tuple[Update, ...] = ()
        self.seen: tuple[str, ...] = ()
        self.acked = (0, "")
        self.seq = 0
        self.retry_s = 0.0

    @property
    def terminal(self) -> bool:
        """Whether the task has ended."""
        return self.state in TERMINAL_STATES


class Termination(NamedTuple):
    """Why an executor is being ended: what its tasks will be told."""

    state: str
    reason: str
    message: str


@dataclass(slots=True)
class Executor:
    """An executor and its container. `command_task`: made by the agent for one command task.

    `queued` tasks wait for the executor to subscribe; `tasks` were sent to it; `ended` are over
    but not acknowledged yet; `strays` are tasks that it reports and nobody knows; `completed` are
    history.
    """

    framework_id: str
    executor_id: str
    container_id: str
    info: Json
    command_task: bool
    checkpoint: bool
    sandbox: str
    state: ExecutorState = ExecutorState.REGISTERING
    stream: str | None = None
    pid: int | None = None
    start_ticks: int = 0
    virtual: bool = False
    resources: Resources = NOTHING
    queued: dict[str, Task] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    ended: dict[str, Task] = field(default_factory=dict)
    groups: list[tuple[str, ...]] = field(default_factory=list)
    strays: dict[str, Task] = field(default_factory=dict)
    completed: list[Task] = field(default_factory=list)
    termination: Termination | None = None
    kill_wanted: bool = False

    @property
    def alive(self) -> bool:
        """Whether its container may still run."""
        return self.state is not ExecutorState.TERMINATED

    @property
    def idle(self) -> bool:
        """Whether it has nothing left to do or to tell."""
        return not (self.queued or self.tasks or self.ended)

    def active_tasks(self) -> Iterator[Task]:
        """Tasks that have not ended."""
        yield from self.queued.values()
        yield from self.tasks.values()

    def reporting(self) -> list[Task]:
        """Tasks that may have updates on their way."""
        return [*self.tasks.values(), *self.ended.values(), *self.strays.values()]

    def used(self) -> Resources:
        """What executor and unfinished tasks hold."""
        total = self.resources if self.alive else NOTHING
        for task in self.active_tasks():
            total = total + task.resources
        return total


@dataclass(slots=True)
class Framework:
    """A framework with executors here."""

    id: str
    info: Json
    executors: dict[str, Executor] = field(default_factory=dict)
    completed: deque[Executor] = field(default_factory=deque)
    terminating: bool = False

    @property
    def checkpoint(self) -> bool:
        """Whether its executors outlive the agent."""
        return bool(self.info.get("checkpoint"))

    @property
    def partition_aware(self) -> bool:
        """Whether it knows TASK_DROPPED and its like."""
        capabilities = self.info.get("capabilities", [])
        return any(c.get("type") == "PARTITION_AWARE" for c in capabilities)


def command_text(info: Json) -> str:
    """A task's command as the name of its command executor shows it (15 characters at most)."""
    command = info.get("command", {})
    if not command.get("shell", True):
        text = " ".join([command.get("value", ""), *command.get("arguments", [])[1:]])
        return _shorten(text)
    return "sh -c '" + _shorten(str(command.get("value", ""))) + "'"


def _shorten(text: str) -> str:
    return text if len(text) <= 15 else text[:12] + "..."
