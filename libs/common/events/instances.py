"""Events of instances, from wanted to gone, and of the containers that they run in."""

from __future__ import annotations

from typing import ClassVar

from libs.common.events.base import Event
from libs.common.spec import InstanceSpec


class _OfInstance(Event):
    instance: str
    app: str

    def subject(self) -> str:
        """The instance."""
        return self.instance


class InstanceRequested(_OfInstance):
    """An instance should exist."""

    TOPIC: ClassVar[str] = "instance.requested"

    release: int
    deployment: str
    spec: InstanceSpec


class InstanceStopRequested(_OfInstance):
    """An instance should no longer exist; its load balancer has let it go already."""

    TOPIC: ClassVar[str] = "instance.stop_requested"

    reason: str


class InstanceMoveRequested(_OfInstance):
    """An instance should leave its host, which is drained: now when `forced`, else as its app can spare it.

    Its deployer replaces it. `withdrawn`: it may stay after all.
    """

    TOPIC: ClassVar[str] = "instance.move_requested"

    hostname: str
    reason: str = ""
    forced: bool = False
    withdrawn: bool = False


class OfferAccepted(_OfInstance):
    """An instance was placed; `attempt` is its task's id."""

    TOPIC: ClassVar[str] = "offer.accepted"

    attempt: str
    offer: str
    agent: str
    hostname: str
    zone: str = ""
    network: str = ""
    cpus: float
    mem_mib: int


class PlacementDelayed(_OfInstance):
    """An instance is not placed: agents seen, and how many failed each filter (the first it failed)."""

    TOPIC: ClassVar[str] = "placement.delayed"

    agents: int
    failed: dict[str, int]
    message: str


class _OfContainer(_OfInstance):
    attempt: str
    agent: str
    hostname: str = ""
    container: str = ""
    address: str = ""
    returned: bool = False  # an older attempt goes on: its host came back, and its app wants that


class ContainerStarted(_OfContainer):
    """The instance's process runs, its network is up."""

    TOPIC: ClassVar[str] = "container.started"


class ContainerHealthy(_OfContainer):
    """The health checks pass (or there are none)."""

    TOPIC: ClassVar[str] = "container.healthy"


class ContainerUnhealthy(_OfContainer):
    """The health checks fail."""

    TOPIC: ClassVar[str] = "container.unhealthy"

    message: str = ""


class ContainerExited(_OfContainer):
    """The attempt ended; the instance may get another."""

    TOPIC: ClassVar[str] = "container.exited"

    state: str  # Mesos' terminal state, e.g. TASK_FAILED
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    wanted: bool = False  # it was asked to stop
    final: bool = False  # no further attempt will be made


class ContainerLost(_OfContainer):
    """The host can't be reached; the container may still run."""

    TOPIC: ClassVar[str] = "container.lost"

    reason: str = ""
