"""What the executor keeps and hands around: attempts, containers, what happened and what to do.

An attempt is one Mesos task: one try at running an instance, in one container. Its life is the table
`TRANSITIONS`; `core.advance` is the only thing that moves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NewType

from pydantic import BaseModel, ConfigDict

from libs.common.task import TaskPayload
from libs.common.wishes import PLAIN, NetworkOptions

AttemptId = NewType("AttemptId", str)  # the Mesos task id
ContainerName = NewType("ContainerName", str)

LABEL_CLUSTER = "gantry.cluster"
LABEL_AGENT = "gantry.agent"
LABEL_INSTANCE = "gantry.instance"
LABEL_ATTEMPT = "gantry.attempt"
LABEL_GENERATION = "gantry.generation"
LABEL_SPEC = "gantry.spec"  # hash of the InstanceSpec
LABEL_APP = "gantry.app"
LABEL_RUN = "gantry.run"  # the executor's run that made the container
LABEL_POOL = "gantry.pool"  # the reuse key of a shared container
LABEL_JOB = "gantry.job"  # of a run's container: it ends, which somebody has yet to be told
LABEL_PAYLOAD = "gantry.payload"  # TaskPayload as JSON, without the environment


class State(StrEnum):
    """Where an attempt stands."""

    PREPARING = "preparing"  # the container is being created, the network wired
    STARTING = "starting"  # registered, started, its namespace being checked
    RUNNING = "running"
    STOPPING = "stopping"  # it got its stop signal
    REVOKING = "revoking"  # over; the leave to start is being taken back
    REMOVING = "removing"
    DETACHING = "detaching"
    DONE = "done"  # nothing of it is left on the host


_ENDING = frozenset({State.STOPPING, State.REVOKING})
TRANSITIONS: dict[State, frozenset[State]] = {
    State.PREPARING: _ENDING | {State.STARTING, State.DONE},  # DONE: nothing was made that is ours
    State.STARTING: _ENDING | {State.RUNNING, State.PREPARING},  # PREPARING: it is spoilt
    State.RUNNING: _ENDING,
    State.STOPPING: frozenset({State.REVOKING}),
    State.REVOKING: frozenset({State.REMOVING}),
    State.REMOVING: frozenset({State.DETACHING}),
    State.DETACHING: frozenset({State.DONE}),
    State.DONE: frozenset(),
}
# A run in a shared container has nothing of its own to revoke or detach.
RUN_TRANSITIONS: dict[State, frozenset[State]] = {
    State.PREPARING: frozenset({State.STARTING, State.DONE}),
    State.STARTING: frozenset({State.RUNNING, State.REMOVING}),
    State.RUNNING: frozenset({State.STOPPING, State.REMOVING}),
    State.STOPPING: frozenset({State.REMOVING}),
    State.REMOVING: frozenset({State.DONE}),
    State.DONE: frozenset(),
}
LAUNCHING = frozenset({State.PREPARING, State.STARTING})
CLEANING = frozenset({State.REVOKING, State.REMOVING, State.DETACHING, State.DONE})


class TaskState(StrEnum):
    """Mesos' names of a task's states, as far as an executor reports them."""

    STARTING = "TASK_STARTING"
    RUNNING = "TASK_RUNNING"
    FINISHED = "TASK_FINISHED"
    FAILED = "TASK_FAILED"
    KILLED = "TASK_KILLED"
    ERROR = "TASK_ERROR"
    LOST = "TASK_LOST"


ENDED = frozenset(TaskState) - {TaskState.STARTING, TaskState.RUNNING}


class StopReason(StrEnum):
    """Why an attempt is being stopped."""

    ASKED = "asked"  # KILL or SHUTDOWN
    UNHEALTHY = "unhealthy"
    TIMED_OUT = "timed out"  # a run took longer than it may
    FAULT = "fault"  # something went wrong that forbids it to run


class Op(StrEnum):
    """An operation under way whose answer the attempt waits for."""

    FETCH = "secrets"
    CREATE = "create"
    PULL = "pull"
    ATTACH = "attach"
    START = "start"
    INSPECT = "inspect"
    JOIN = "container"  # a run waits for one that it may share
    OUTPUT = "output"
    CLEAR = "what a dead engine left"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Attachment(_Value):
    """The network of a container as hostd made it."""

    ip: str
    namespace: str  # path of the network namespace
    inode: int
    host_inode: int = 0  # of the host's own namespace


class Stop(_Value):
    """A stop that was asked for. The first reason stays; `kill_at` (clock) is set with the stop signal."""

    reason: StopReason
    grace_s: float
    message: str = ""
    kill_at: float | None = None
    killed: bool = False  # KILL was sent: the grace was over


class Outcome(_Value):
    """How an attempt ended."""

    state: TaskState
    message: str
    reason: str = ""  # Mesos' TaskStatus.Reason
    exit_code: int | None = None
    oom_killed: bool = False
    timed_out: bool = False
    dead: bool = True  # False: nobody knows yet; it is told after the removal only


class CheckState(_Value):
    """What a health check has found so far."""

    failures: int = 0  # in a row
    passed: bool = False  # the last probe
    ever: bool = False  # any probe
    message: str = ""


class Pool(_Value):
    """What makes a container a shared one: which runs may join it (`key`), and how it has been used so far.

    `sponsor` is the attempt it was made for: what a pull needs is told for that. "" when none wanted it yet, or when
    nobody knows any more: then it has been used at least once. `recycle` says why nobody may join.
    """

    key: str
    sponsor: AttemptId
    uses: int = 0
    idle_since: float = 0.0
    recycle: str = ""


class Attempt(_Value):
    """One attempt with all that is known of it; what the journal keeps."""

    id: AttemptId
    payload: TaskPayload
    container: ContainerName
    launched_at: float
    state: State = State.PREPARING
    container_id: str = ""
    spoilt: tuple[str, ...] = ()  # ids of containers that an engine half started when it died
    network: Attachment | None = None
    generation: int = 0  # of the attachment: an adopted container has an older one than the payload
    adopting: bool = False  # the container runs already and is being taken over
    busy: frozenset[Op] = frozenset()
    pulled: bool = False
    started_at: float = 0.0
    stop_signal: str = "SIGTERM"
    stop: Stop | None = None
    checks: tuple[CheckState, ...] = ()
    healthy: bool | None = None
    reported: TaskState | None = None
    reported_healthy: bool | None = None
    keep: bool = False  # the container is not ours to end: nothing is cleaned up
    pool: Pool | None = None  # it is no task, but a container for runs
    shared: bool = False  # it is a run in such a container
    task: str = ""  # its name there, when that is not `id`: an earlier attempt began it
    ended_at: float = 0.0
    output: str = ""  # of a run, its last
    exit_code: int | None = None  # told by an event whose cause is still being looked into
    outcome: Outcome | None = None


# -- the engine's side ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container or task is held to, 0: to nothing.

    `cpu_shares` counts under contention, `nano_cpus` (1e-9 cores) always.
    """

    cpu_shares: int
    nano_cpus: int
    mem_bytes: int
    pids: int


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file that only the container's user can read, at `target` in the container."""

    target: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Login:
    """An account at an image's registry."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to create. `command` None: the image's own."""

    name: ContainerName
    image: str
    hostname: str
    runtime: str
    limits: Limits
    labels: dict[str, str]
    env: dict[str, str] = field(default_factory=dict, repr=False)
    secret_files: tuple[SecretFile, ...] = ()
    command: tuple[str, ...] | None = None
    user: str | None = None
    cap_add: tuple[str, ...] = ()
    init: Path | None = (
        None  # it is a shared one, with this program of the host as its first process
    )
    resolv_conf: str = ""
    log_driver: str = "json-file"
    log_max_mib: int = 10
    log_files: int = 3


@dataclass(frozen=True, slots=True)
class Ref:
    """A container: its name, and its id once that is known."""

    name: ContainerName
    id: str = ""

    @property
    def key(self) -> str:
        """What to ask the engine for."""
        return self.id or self.name


class Phase(StrEnum):
    """A container's state in the engine's eyes."""

    CREATED = "created"  # never started
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Summary:
    """A container in the engine's list."""

    id: str
    name: ContainerName
    phase: Phase
    created_at: float
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class View:
    """A container looked at closely. `netns_inode` None: it doesn't run, or its process is gone by now."""

    id: str
    name: ContainerName
    phase: Phase
    runtime: str
    labels: dict[str, str]
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    stop_signal: str = "SIGTERM"
    started_at: float = 0.0
    ended_at: float = 0.0
    netns_inode: int | None = None
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the engine has. `used`: a container has it, running or not, whoever's that is."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()  # such as registry/web@sha256:…
    used: bool = False


@dataclass(frozen=True, slots=True)
class Died:
    """A container's first process has ended."""

    container_id: str
    name: ContainerName
    exit_code: int
    oom_killed: bool
    at: float


@dataclass(frozen=True, slots=True)
class Destroyed:
    """A container was removed."""

    container_id: str
    name: ContainerName
    at: float


@dataclass(frozen=True, slots=True)
class Begun:
    """A container was started, by whomever."""

    container_id: str
    name: ContainerName
    at: float


EngineEvent = Died | Destroyed | Begun


@dataclass(frozen=True, slots=True)
class AttachmentSpec:
    """A network attachment to be made."""

    container: ContainerName
    network: str
    instance: str
    attempt: AttemptId
    generation: int
    sticky_key: str = ""
    ip: str = ""
    reservation: str = ""
    app: str = ""
    environment: str = ""
    options: NetworkOptions = PLAIN


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """Where a health check knocks."""

    container_id: str
    ip: str
    namespace: str


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What it found; `message` says why not."""

    passed: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose executor this is: containers are told apart by cluster and agent, `run` is this executor's run."""

    cluster: str
    agent: str
    run: str = ""


# -- the journal ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """What must survive the worker: the attempt, and what Mesos has yet to acknowledge.

    `task` is the TaskInfo until an update was acknowledged; `updates` are TaskStatus in the order made.
    """

    attempt: Attempt
    task: dict[str, Any] | None = None
    updates: tuple[dict[str, Any], ...] = ()
