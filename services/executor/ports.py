"""What the executor needs from outside. Each has a real adapter and a fake that pass one contract suite.

Besides what is named, every method raises Unavailable (or TimedOut) when the other side can't do it now.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from libs.common.delivery import Delivery
from libs.common.disk import Space
from libs.common.spec import HealthCheck
from libs.mesos.events import ExecutorEvent
from libs.mesos.messages import TaskInfo, TaskStatus, UpdateCall
from services.executor.model import (
    Attachment,
    AttachmentSpec,
    AttemptId,
    ContainerName,
    ContainerSpec,
    EngineEvent,
    Image,
    Login,
    ProbeResult,
    ProbeTarget,
    Record,
    Ref,
    Summary,
    View,
)
from services.executor.runs.model import ImageConfig, TaskStart, Told


class Engine(Protocol):
    """The container engine, as one executor uses it."""

    async def create(self, spec: ContainerSpec) -> str:
        """Create a container, its secret files beside it; its id. Raises NameTaken, ImageMissing, Refused."""
        ...

    async def pull(self, image: str, login: Login | None = None) -> None:
        """Get an image from its registry, as this account or as anybody. Raises ImageMissing, Refused."""
        ...

    async def start(self, container: Ref, hosts: str) -> None:
        """Start it with `hosts` as its /etc/hosts; one that runs is left as it is. Raises NotFound, StartRefused."""
        ...

    async def has_leftover(self, container: Ref) -> bool:
        """Is something of one that does not run there all the same, as an engine died while it started it?"""
        ...

    async def end_leftover(self, container: Ref) -> bool:
        """End that; was there anything?"""
        ...

    async def inspect(self, container: Ref) -> View:
        """A close look. Raises NotFound."""
        ...

    async def signal(self, container: Ref, name: str) -> None:
        """Send a signal such as SIGTERM; no error when it does not run or does not exist."""
        ...

    async def remove(self, container: Ref) -> None:
        """Kill and remove it with its anonymous volumes and secret files; no error when there is none."""
        ...

    async def containers(self) -> tuple[Summary, ...]:
        """All containers with this cluster's and agent's labels."""
        ...

    def events(self, since: float) -> AsyncIterator[EngineEvent]:
        """What happens to our containers from `since` (clock) on; may tell something twice. Ends or raises when cut."""
        ...

    async def image_config(self, image: str) -> ImageConfig:
        """What an image on this host says of its containers. Raises ImageMissing."""
        ...

    async def output(self, container: Ref) -> str:
        """The last that its process wrote, at most OUTPUT_TAIL bytes. Raises NotFound."""
        ...


class Inits(Protocol):
    """The first processes of shared containers: they start tasks, and tell of them until they are forgotten."""

    def follow(self, container: Ref) -> AsyncIterator[Told]:
        """All tasks there are, Listed, then what becomes of them. Raises Unavailable when cut, NotFound.

        The other methods work while somebody follows, and raise Unavailable else.
        """
        ...

    async def start(self, container: ContainerName, task: TaskStart) -> None:
        """Have it started; one that is known already is not. What comes of it is told. Raises InvalidInput."""
        ...

    async def kill(self, container: ContainerName, task: str, name: str, grace_s: float) -> None:
        """Send a signal such as SIGTERM to its processes, KILL after the grace; no error when it has ended."""
        ...

    async def forget(self, container: ContainerName, task: str) -> None:
        """Clear away what is left of a task that has ended."""
        ...


class Images(Protocol):
    """The images of the host's engine, whoever brought them."""

    async def images(self) -> tuple[Image, ...]:
        """All of them."""
        ...

    async def remove_image(self, name: str) -> bool:
        """Remove it by one of its names, or its id. False: a container has it. One that is not there is removed."""
        ...

    async def root(self) -> Path:
        """The directory of the engine's data, as this host sees it."""
        ...


class UseLedger(Protocol):
    """When images that Gantry brought here were last of use, by name; kept over restarts."""

    def load(self) -> dict[str, float]:
        """All there is; nothing when it can't be read."""
        ...

    def save(self, used_at: Mapping[str, float]) -> None:
        """Put it in place of what there was. Raises Unavailable."""
        ...


Measure = Callable[[Path], Space]
"""The room where a path is. Raises Unavailable."""


class Network(Protocol):
    """hostd, as one executor uses it."""

    async def attach(self, spec: AttachmentSpec) -> Attachment:
        """Have namespace, address and port made; the same however often asked.

        Raises NotFound (no such network), TooMany (no address left), Stale, Conflict, InvalidInput.
        """
        ...

    async def register(self, container: ContainerName, container_id: str, generation: int) -> None:
        """Give leave for one start. Raises NotFound, Stale."""
        ...

    async def revoke(self, container: ContainerName) -> None:
        """Take the leave back; unknown ones are fine."""
        ...

    async def detach(self, container: ContainerName) -> None:
        """Take all down and give the address back; unknown ones are fine."""
        ...


class Deliveries(Protocol):
    """What attempts need to start besides their spec."""

    async def of_attempt(self, attempt: AttemptId) -> Delivery:
        """Its secrets and registry login. Raises NotFound, Conflict; none of them tells a value."""
        ...


class Prober(Protocol):
    """Makes health checks from inside a container's network namespace."""

    async def probe(self, target: ProbeTarget, check: HealthCheck) -> ProbeResult:
        """One probe, within the check's time-out; whatever goes wrong is a result."""
        ...


class Journal(Protocol):
    """What outlives the worker: quick local writes, safe from kill -9 of the process when a call returns."""

    def load(self) -> list[Record]:
        """All records, sorted by attempt."""
        ...

    def put(self, record: Record) -> None:
        """Save one attempt's record."""
        ...

    def drop(self, attempt: AttemptId) -> None:
        """Forget it; no error when there is none."""
        ...


class ExecutorDriver(Protocol):
    """The agent's executor API."""

    def subscribe(
        self, tasks: Sequence[TaskInfo], updates: Sequence[UpdateCall]
    ) -> AbstractAsyncContextManager[AsyncIterator[ExecutorEvent]]:
        """Events, re-subscribing inside; `tasks` and `updates` are what nobody has acknowledged yet."""
        ...

    def make_status(self, task_id: str, state: str, fields: Mapping[str, Any]) -> TaskStatus:
        """A complete status with a uuid of its own."""
        ...

    async def update(self, status: TaskStatus) -> None:
        """Send it; kept and sent again until it is acknowledged. Raises BadCall when the agent finds it invalid."""
        ...

    @property
    def shutdown_grace_s(self) -> float:
        """The agent's patience between SHUTDOWN and KILL."""
        ...
