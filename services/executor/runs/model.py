"""What is known of shared containers and of the tasks in them."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.executor.model import ContainerName, Limits


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of its containers. `command` is entry point and arguments."""

    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    directory: str = "/"
    stop_signal: str = "SIGTERM"


@dataclass(frozen=True, slots=True)
class TaskStart:
    """A task for a shared container. After `timeout_s` (0: never) it gets `stop_signal`, and KILL after the grace."""

    task: str
    command: tuple[str, ...]
    user: str
    directory: str
    env: tuple[str, ...] = field(repr=False)
    limits: Limits
    timeout_s: float
    grace_s: float
    stop_signal: str


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as its init tells it, and as the host knows it besides (`oom_killed`, `output`). Times are Unix seconds.

    `ended_at` 0: it runs. `failed`: it never ran, and why. `exit_code` is 128 and the number for a signal's.
    """

    task: str
    cell: str
    began_at: float
    ended_at: float = 0.0
    exit_code: int = 0
    failed: str = ""
    timed_out: bool = False
    leaked: bool = False
    oom_killed: bool = False
    user_s: float = 0.0
    system_s: float = 0.0
    max_rss_kib: int = 0
    output: str = ""

    @property
    def running(self) -> bool:
        """Has it not ended yet?"""
        return self.ended_at == 0.0 and not self.failed


@dataclass(frozen=True, slots=True)
class Listed:
    """All tasks that an init knew when it was asked have been told."""

    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskRefused:
    """The init would not start a task."""

    task: str
    why: str


Told = TaskView | Listed | TaskRefused


@dataclass(frozen=True, slots=True)
class Member:
    """A shared container in the planner's eyes. `tasks` are in it now, or about to be."""

    id: str
    container: ContainerName
    key: str
    ready: bool
    tasks: int
    uses: int
    made_at: float
    idle_since: float
    recycle: str = ""
    ahead: bool = False  # made before a run wanted it


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run that waits for a container."""

    attempt: str
    key: str
