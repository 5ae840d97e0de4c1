"""Inputs of an attempt's machine, and the actions that come out of it.

Every action that waits for the world ends in one input; `core.advance` says what follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from libs.common.task import TaskReport
from services.executor.model import (
    Attachment,
    Attempt,
    Begun,
    ContainerName,
    Destroyed,
    Died,
    ProbeResult,
    TaskState,
    View,
)
from services.executor.runs.model import TaskView

# -- inputs --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetched:
    """The secrets are here. Their values are no part of any input: those are kept, and told in logs."""


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """They can't be had."""

    message: str


@dataclass(frozen=True, slots=True)
class Created:
    """The container exists and was never started."""

    container_id: str


@dataclass(frozen=True, slots=True)
class CreateFailed:
    """It could not be created; `image_missing`: a pull may help."""

    message: str
    image_missing: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What has the name we wanted to create, or the container to adopt; None: nothing.

    `half_started`: an engine that died has begun to start it, and knows nothing of what runs.
    """

    view: View | None
    half_started: bool = False


@dataclass(frozen=True, slots=True)
class Pulled:
    """The image is here."""


@dataclass(frozen=True, slots=True)
class PullFailed:
    """The image can't be had."""

    message: str


@dataclass(frozen=True, slots=True)
class Attached:
    """The network is ready."""

    network: Attachment


@dataclass(frozen=True, slots=True)
class AttachFailed:
    """There is no network to be had."""

    message: str


@dataclass(frozen=True, slots=True)
class Rewired:
    """hostd had given up the network of a container that was long in coming, and has made another."""

    network: Attachment


@dataclass(frozen=True, slots=True)
class Spoilt:
    """It did not start, as an engine that died in the middle of an earlier start has left something of that."""

    message: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """The spoilt container is gone, with all that ran of it."""


@dataclass(frozen=True, slots=True)
class Started:
    """The engine says that it runs."""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """It did not start; without `certain` it may run all the same."""

    message: str
    certain: bool


@dataclass(frozen=True, slots=True)
class Inspected:
    """A close look at the container; None: there is none."""

    view: View | None


@dataclass(frozen=True, slots=True)
class Suspect:
    """The sweep saw it not running."""


@dataclass(frozen=True, slots=True)
class AskedAnew:
    """The scheduler has lost what it was told."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """By KILL or SHUTDOWN. `grace_s` None: the spec's."""

    grace_s: float | None
    message: str


@dataclass(frozen=True, slots=True)
class Broken:
    """An error that nobody foresaw came up in what was done for it."""

    message: str


@dataclass(frozen=True, slots=True)
class Due:
    """A time that was asked for by `Wake` has come."""


@dataclass(frozen=True, slots=True)
class Probed:
    """The result of health check number `index`."""

    index: int
    result: ProbeResult


@dataclass(frozen=True, slots=True)
class Revoked:
    """Nobody has leave to start the container any more."""


@dataclass(frozen=True, slots=True)
class Removed:
    """The container does not exist any more."""


@dataclass(frozen=True, slots=True)
class Detached:
    """Its network is gone, the address given back."""


@dataclass(frozen=True, slots=True)
class OutputRead:
    """The last that a run's own container has written."""

    text: str


@dataclass(frozen=True, slots=True)
class Joined:
    """A shared container has a place for the run; `task`: it is in there already, by that name."""

    container: ContainerName
    network: Attachment
    task: str = ""


@dataclass(frozen=True, slots=True)
class NoContainer:
    """There is no shared container to be had, or none any more in which it is said to have `started`."""

    message: str
    started: bool = False


@dataclass(frozen=True, slots=True)
class TaskSeen:
    """The run's task, as the init of its container tells it."""

    view: TaskView


@dataclass(frozen=True, slots=True)
class TaskUnknown:
    """The init of its container knows no such task."""


@dataclass(frozen=True, slots=True)
class TaskLost:
    """It did not start, or nobody can tell any more how it ended; `started`: it may have run."""

    message: str
    started: bool = True


@dataclass(frozen=True, slots=True)
class TaskJoined:
    """To a shared container: a run is in it now."""


@dataclass(frozen=True, slots=True)
class TaskLeft:
    """To a shared container: none is in it any more, since now (`idle`), and how the last one left it."""

    idle: bool
    recycle: str = ""


Input = (
    Fetched
    | FetchFailed
    | Created
    | CreateFailed
    | Found
    | Pulled
    | PullFailed
    | Attached
    | AttachFailed
    | Rewired
    | Spoilt
    | Cleared
    | Started
    | StartFailed
    | Inspected
    | Suspect
    | Died
    | Destroyed
    | Begun
    | AskedAnew
    | StopAsked
    | Broken
    | Due
    | Probed
    | Revoked
    | Removed
    | Detached
    | OutputRead
    | Joined
    | NoContainer
    | TaskSeen
    | TaskUnknown
    | TaskLost
    | TaskJoined
    | TaskLeft
)

# -- actions -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask for the attempt's secrets -> Fetched or FetchFailed."""


@dataclass(frozen=True, slots=True)
class Create:
    """Create the container -> Created, CreateFailed or Found."""


@dataclass(frozen=True, slots=True)
class Find:
    """Look for the container to adopt -> Found."""


@dataclass(frozen=True, slots=True)
class Pull:
    """Get the image -> Pulled or PullFailed."""


@dataclass(frozen=True, slots=True)
class Attach:
    """Have the network made -> Attached or AttachFailed."""


@dataclass(frozen=True, slots=True)
class Start:
    """Register with hostd, then start -> Started, StartFailed, Rewired or Spoilt. `again`: it may have been tried."""

    again: bool = False


@dataclass(frozen=True, slots=True)
class Inspect:
    """Look at the container after a while -> Inspected."""

    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to the container; its end comes as Died."""

    name: str


@dataclass(frozen=True, slots=True)
class Wake:
    """-> Due."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Probe:
    """Run a health check -> Probed."""

    index: int
    after_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """Tell Mesos. Reports of an attempt go out in order."""

    state: TaskState
    message: str
    reason: str
    healthy: bool | None
    report: TaskReport


@dataclass(frozen=True, slots=True)
class Revoke:
    """-> Revoked."""


@dataclass(frozen=True, slots=True)
class Remove:
    """-> Removed."""


@dataclass(frozen=True, slots=True)
class Clear:
    """Clear the spoilt container away, but not its network -> Cleared."""


@dataclass(frozen=True, slots=True)
class Detach:
    """-> Detached."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Revoke, remove and detach a container that no attempt wants."""

    container: ContainerName
    container_id: str


@dataclass(frozen=True, slots=True)
class ReadOutput:
    """Read what a run's own container has written -> OutputRead."""


@dataclass(frozen=True, slots=True)
class BeginTask:
    """Have the run started in its shared container -> TaskLost; what else becomes of it is told as TaskSeen."""


@dataclass(frozen=True, slots=True)
class KillTask:
    """Send a signal (""; its image's own) to the run's processes, and KILL after the grace."""

    name: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class ForgetTask:
    """Clear away what a run left in its shared container -> Removed."""


Action = (
    Fetch
    | Create
    | Find
    | Pull
    | Attach
    | Start
    | Inspect
    | Signal
    | Wake
    | Probe
    | Report
    | Revoke
    | Remove
    | Clear
    | Detach
    | Discard
    | ReadOutput
    | BeginTask
    | KillTask
    | ForgetTask
)


@dataclass(frozen=True, slots=True)
class Step:
    """What an input made of an attempt, and what is to be done in this order."""

    attempt: Attempt
    actions: tuple[Action, ...] = ()
