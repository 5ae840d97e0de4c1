"""What the scheduler knows: instances and their attempts, offers and agents, and what it may do.

An instance is not a task. It lives through successive attempts, each one a Mesos task; the attempt's state only
moves forward, the instance goes on in the next attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from operator import attrgetter
from typing import NewType

from libs.common.spec import InstanceSpec
from libs.common.task import Ahead
from libs.mesos.messages import Resource, TaskInfo, TaskStatus
from services.scheduler.jobs.run import Run

InstanceId = NewType("InstanceId", str)
AttemptId = NewType("AttemptId", str)
AgentId = NewType("AgentId", str)
OfferId = NewType("OfferId", str)


class State(StrEnum):
    """Where an instance is. The table below says what may follow what."""

    PENDING = "pending"  # wanted; waits for an offer or for its back-off
    STAGED = "staged"  # launched; nothing heard yet
    STARTING = "starting"  # the executor is at it
    RUNNING = "running"
    UNREACHABLE = "unreachable"  # its host is silent; it may still run
    ORPHANED = (
        "orphaned"  # its task failed, but its container still runs; the next attempt adopts it
    )
    ENDED = "ended"  # no further attempt


_LIVE_NEXT = {State.PENDING, State.UNREACHABLE, State.ORPHANED, State.ENDED}
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.STAGED, State.ENDED}),
    State.STAGED: frozenset({State.STARTING, State.RUNNING} | _LIVE_NEXT),
    State.STARTING: frozenset({State.RUNNING} | _LIVE_NEXT),
    State.RUNNING: frozenset(_LIVE_NEXT),
    State.UNREACHABLE: frozenset({State.STARTING, State.RUNNING} | _LIVE_NEXT),
    State.ORPHANED: frozenset({State.PENDING, State.STAGED, State.ENDED}),
    State.ENDED: frozenset(),
}
LIVE = frozenset({State.STAGED, State.STARTING, State.RUNNING, State.UNREACHABLE})
"""States in which there is a task that Mesos knows, or should."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One wanted instance and its current attempt; a document of the scheduler's.

    `generation` counts attempts; `attempt` is `<id>.<number>`, the number its generation unless an older one returned.
    `adopt` is the container of an earlier attempt that this one is to take over, `orphaned_at` from when on it may.
    Times are Unix seconds.
    """

    id: InstanceId
    app: str
    release: int
    deployment: str
    spec: InstanceSpec
    version: int = 0
    state: State = State.PENDING
    stop: bool = False
    generation: int = 0
    agent: AgentId = AgentId("")
    hostname: str = ""
    address: str = ""
    container: str = ""
    healthy: bool | None = None
    failures: int = 0
    not_before: float = 0.0
    since: float = 0.0
    adopt: str = ""
    orphaned_at: float = 0.0
    message: str = ""
    delayed: str = ""
    delayed_at: float = 0.0
    strays: tuple[tuple[AttemptId, AgentId], ...] = ()
    cleanup: bool = False  # not an instance of anybody's: see `cleaning.py`
    traceparent: str = ""
    correlation: str = ""
    asked: int = 0  # the newest ce_sequence of what was asked of it: older requests are copies
    direct_until: float = 0.0  # until then its events do not wait for the bus
    yields_to: str = ""  # its attempt is asked to end for this more important instance
    returned: int = (
        0  # the attempt that is current although a newer one was made: its host came back
    )
    may_return: AttemptId = AttemptId("")  # the replaced one that goes on when its host comes back
    return_host: str = ""  # and that host's name
    leaving: str = ""  # it is asked to move off its host: see `nodes.py`
    run: Run | None = None  # a job's run, which ends: see `runs.py`
    attributes: Mapping[str, str] | None = (
        None  # its agent's; None: it was placed by an older release
    )

    @property
    def number(self) -> int:
        """Which attempt is the current one."""
        return self.returned or self.generation

    @property
    def attempt(self) -> AttemptId:
        """The id of the current attempt's task."""
        return attempt_id(self.id, self.number)

    @property
    def live(self) -> bool:
        """Is there a task of it."""
        return self.state in LIVE

    @property
    def untold(self) -> bool:
        """A run that only waits to be told how it ended, until `not_before`: nothing of it is to be placed."""
        return self.state is State.PENDING and self.run is not None and self.run.untold

    @property
    def ending(self) -> bool:
        """Is its task to be killed. A run has nobody to replace it first when its host is drained by force."""
        forced = self.run is not None and self.leaving == "forced"
        return self.stop or bool(self.yields_to) or forced

    def asked_by(self, request: Unwant | Retell) -> Instance:
        """The instance with what it takes over from a request."""
        return replace(
            self,
            asked=max(self.asked, request.asked),
            direct_until=max(self.direct_until, request.direct_until),
        )


_NAMES = tuple(each.name for each in fields(Instance))
_values = attrgetter(*_NAMES)
_setters = tuple(getattr(Instance, name).__set__ for name in _NAMES)
_places = {name: n for n, name in enumerate(_NAMES)}


def changed(instance: Instance, changes: Mapping[str, object]) -> Instance:
    """As `dataclasses.replace`, five times as fast: for what is done to each of thousands in one decision."""
    values = list(_values(instance))
    for name, value in changes.items():
        values[_places[name]] = value
    twin = object.__new__(Instance)
    for put, value in zip(_setters, values, strict=True):
        put(twin, value)
    return twin


def settle(instance: Instance, version: int, spec: InstanceSpec) -> Instance:
    """An instance of a draft as it was saved. It is changed in place: nobody but the draft has had it."""
    _setters[_places["version"]](instance, version)
    _setters[_places["spec"]](instance, spec)
    return instance


def attempt_id(instance: InstanceId, generation: int) -> AttemptId:
    """The Mesos task id of an attempt."""
    return AttemptId(f"{instance}.{generation}")


def split_attempt(task_id: str) -> tuple[InstanceId, int] | None:
    """The instance and generation of a task id, or None when it isn't one of ours."""
    instance, dot, generation = task_id.rpartition(".")
    if not dot or not instance or not generation.isdigit():
        return None
    return InstanceId(instance), int(generation)


@dataclass(frozen=True, slots=True)
class Amounts:
    """Scalar resources: cores, and MiB of memory and disk."""

    cpus: float = 0.0
    mem_mib: float = 0.0
    disk_mib: float = 0.0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.cpus + other.cpus, self.mem_mib + other.mem_mib, self.disk_mib + other.disk_mib
        )

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.cpus - other.cpus, self.mem_mib - other.mem_mib, self.disk_mib - other.disk_mib
        )

    @classmethod
    def of(cls, spec: InstanceSpec) -> Amounts:
        """What an instance of `spec` takes."""
        need = spec.resources
        return cls(need.cpus, float(need.mem_mib), float(need.disk_mib))

    @classmethod
    def sum_of(cls, specs: Sequence[InstanceSpec]) -> Amounts:
        """What instances of these take together."""
        needs = [spec.resources for spec in specs]
        mem, disk = sum(each.mem_mib for each in needs), sum(each.disk_mib for each in needs)
        return cls(sum(each.cpus for each in needs), float(mem), float(disk))


EXECUTOR_AMOUNTS = Amounts(0.01, 32.0, 0.0)
"""Set aside for the executor itself on each agent (Mesos refuses less than 0.01 CPUs, 32 MiB)."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An outstanding offer, read once from Mesos' form."""

    id: OfferId
    agent: AgentId
    hostname: str
    free: Amounts
    attributes: Mapping[str, str]
    received_at: float
    resources: tuple[Resource, ...] = ()  # what `free` is the sum of, with their reservations
    unreserved: Amounts = Amounts()  # of them, what is reserved for nobody
    role: str = ""  # the one of our roles in which it is offered
    reserved_for: tuple[str, ...] = ()  # roles for which something of it is reserved
    executor: bool = False  # our executor is there


@dataclass(frozen=True, slots=True)
class Agent:
    """What the last offer said of an agent, for the people who ask why."""

    id: AgentId
    hostname: str
    attributes: Mapping[str, str]
    last_free: Amounts
    seen_at: float


class Door(StrEnum):
    """Does a host take anything new, and what of those that are there."""

    OPEN = "open"
    CORDONED = "cordoned"  # nothing new
    DRAINING = "draining"  # nothing new, and all are asked to move


@dataclass(frozen=True, slots=True)
class Node:
    """A host that a person has closed, now or once; a document. Times are Unix seconds, 0: never."""

    hostname: str
    door: Door
    reason: str = ""
    by: str = ""
    since: float = 0.0
    deadline_at: float = 0.0
    force: bool = False  # after its deadline nothing is spared
    drained_at: float = 0.0  # since then it is empty
    overdue_at: float = 0.0  # that its deadline had passed was told
    version: int = 0


# -- what the scheduler asks of Mesos ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    """ACCEPT the offers (all of one agent) with these tasks."""

    offers: tuple[OfferId, ...]
    agent: AgentId
    tasks: tuple[TaskInfo, ...]


@dataclass(frozen=True, slots=True)
class Decline:
    """DECLINE, and don't offer the same for `refuse_s`."""

    offers: tuple[OfferId, ...]
    refuse_s: float


@dataclass(frozen=True, slots=True)
class Kill:
    """KILL a task with the grace it has between TERM and KILL."""

    task: AttemptId
    agent: AgentId | None
    grace_s: float


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """ACKNOWLEDGE updates, now that they are saved."""

    statuses: tuple[TaskStatus, ...]


@dataclass(frozen=True, slots=True)
class AskAnew:
    """MESSAGE to the agent's executor: report these attempts once more, with where they are."""

    attempts: tuple[AttemptId, ...]
    agent: AgentId


@dataclass(frozen=True, slots=True)
class Prepare:
    """MESSAGE to the agent's executor: runs that could share such containers are about to be due."""

    ahead: tuple[Ahead, ...]
    agent: AgentId


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Ask for the state of these tasks; of all when empty."""

    tasks: tuple[tuple[AttemptId, AgentId | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Revive:
    """Offers are wanted again."""


@dataclass(frozen=True, slots=True)
class Suppress:
    """No offers are wanted."""


Action = Launch | Decline | Kill | Acknowledge | AskAnew | Prepare | Reconcile | Revive | Suppress


# -- inputs that don't come from Mesos -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Want:
    """An instance should exist."""

    instance: Instance


@dataclass(frozen=True, slots=True)
class Unwant:
    """An instance should not exist."""

    id: InstanceId
    app: str
    reason: str
    asked: int = 0
    direct_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Retell:
    """Somebody who should know better asks (again): events may have been lost. `instance` is as it is stored."""

    instance: Instance
    asked: int = 0
    direct_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Recall:
    """Instances of unknown tasks that are stored as ended, with their documents' versions."""

    ended: Mapping[InstanceId, int]


@dataclass(frozen=True, slots=True)
class NodeSet:
    """A host is open or closed from now on; it is saved."""

    node: Node


@dataclass(frozen=True, slots=True)
class ReleaseBreaker:
    """A person says that the unknown tasks may be killed."""


@dataclass(frozen=True, slots=True)
class Reregister:
    """A person says that the framework, which Mesos has removed, begins anew: nothing of it runs any more."""
