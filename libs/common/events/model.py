"""Every event Gantry speaks, a class each, grouped by what it is about.

Who may write which topic and what it means: ARCHITECTURE.md, "Events". A compatible change adds an
optional field; anything else is a new class with VERSION 2 beside the old one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from libs.common.events.base import Event
from libs.common.spec import InstanceSpec


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


# -- deployments ---------------------------------------------------------------------------------


class DeployAction(StrEnum):
    """What a deployment is asked to do."""

    RELEASE = "release"
    SCALE = "scale"
    ROLLBACK = "rollback"
    RESTART = "restart"
    STOP = "stop"


class DeployRequested(Event):
    """A release, scale, rollback, restart or stop is asked for. Subject: the app, `bu/app`."""

    TOPIC: ClassVar[str] = "deploy.requested"

    deployment: str
    app: str
    action: DeployAction
    actor: str
    actor_bu: str = ""  # the BU the actor may act for; "*" is all
    actor_role: str = ""  # viewer, deployer or admin
    image: str | None = None  # RELEASE: by digest when the gateway could resolve it
    instances: int | None = None  # SCALE
    release: int | None = None  # ROLLBACK: to this release; None is the one before
    force: bool = False  # take over from a deployment in progress

    def subject(self) -> str:
        """The app."""
        return self.app


class Counts(_Part):
    """Instances of a deployment, by where they are."""

    wanted: int
    old: int = 0
    new: int = 0
    started: int = 0
    healthy: int = 0
    ready: int = 0
    failed: int = 0


class _DeployState(Event):
    deployment: str
    app: str
    release: int
    state: str
    counts: Counts
    reason: str = ""

    def subject(self) -> str:
        """The app."""
        return self.app


class DeployProgressed(_DeployState):
    """A deployment moved on."""

    TOPIC: ClassVar[str] = "deploy.progressed"


class DeploySucceeded(_DeployState):
    """A deployment did what was asked."""

    TOPIC: ClassVar[str] = "deploy.succeeded"


class DeployFailed(_DeployState):
    """A deployment ended otherwise; `reason` says why and `state` whether it was rolled back."""

    TOPIC: ClassVar[str] = "deploy.failed"


# -- instances -----------------------------------------------------------------------------------


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


# -- addresses -----------------------------------------------------------------------------------


class _OfAddress(Event):
    network: str
    address: str
    generation: int
    attachment: str = ""

    def subject(self) -> str:
        """Network and address."""
        return f"{self.network}/{self.address}"


class IpAllocated(_OfAddress):
    """An attachment got the address."""

    TOPIC: ClassVar[str] = "ip.allocated"

    instance: str = ""
    host: str = ""


class IpReleased(_OfAddress):
    """The address is no longer in use; it cools down."""

    TOPIC: ClassVar[str] = "ip.released"

    reason: str = ""


class IpConflicted(_OfAddress):
    """Somebody else answers at the address; it is quarantined."""

    TOPIC: ClassVar[str] = "ip.conflicted"

    seen_mac: str = ""


# -- containers ----------------------------------------------------------------------------------


class _OfContainer(_OfInstance):
    attempt: str
    agent: str
    hostname: str = ""
    container: str = ""
    address: str = ""


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


# -- jobs ----------------------------------------------------------------------------------------


class JobRequested(Event):
    """A job is put, deleted or run now. Subject: the job, `bu/job`."""

    TOPIC: ClassVar[str] = "job.requested"

    job: str
    action: Literal["put", "delete", "run"]
    actor: str
    spec: dict[str, Any] | None = None

    def subject(self) -> str:
        """The job."""
        return self.job


class _OfRun(Event):
    job: str
    run: str
    target: float  # the time it was due, Unix seconds

    def subject(self) -> str:
        """The job."""
        return self.job


class JobRunStarted(_OfRun):
    """A run of the job began."""

    TOPIC: ClassVar[str] = "job.run.started"

    hostname: str = ""


class JobRunFinished(_OfRun):
    """A run ended well."""

    TOPIC: ClassVar[str] = "job.run.finished"

    exit_code: int = 0


class JobRunFailed(_OfRun):
    """A run failed, and won't be tried again."""

    TOPIC: ClassVar[str] = "job.run.failed"

    exit_code: int | None = None
    reason: str = ""


class JobRunMissed(_OfRun):
    """A due run was not started, and why."""

    TOPIC: ClassVar[str] = "job.run.missed"

    reason: str = ""


# -- hosts, images, alerts, audit ----------------------------------------------------------------


class _OfNode(Event):
    agent: str
    hostname: str

    def subject(self) -> str:
        """The agent."""
        return self.agent


class NodeJoined(_OfNode):
    """A host registered (or came back)."""

    TOPIC: ClassVar[str] = "node.joined"

    attributes: dict[str, str] = {}
    cpus: float = 0.0
    mem_mib: float = 0.0


class NodeLost(_OfNode):
    """A host can't be reached, or left."""

    TOPIC: ClassVar[str] = "node.lost"

    reason: str = ""


class NodeDrained(_OfNode):
    """A host has been emptied for maintenance."""

    TOPIC: ClassVar[str] = "node.drained"


class ImagePushed(Event):
    """A new artifact is in the registry. Subject: the repository."""

    TOPIC: ClassVar[str] = "image.pushed"

    repository: str
    digest: str
    tag: str = ""
    actor: str = ""

    def subject(self) -> str:
        """The repository."""
        return self.repository


class _OfAlert(Event):
    alert: str
    rule: str
    severity: Literal["info", "warning", "critical"]
    labels: dict[str, str] = {}
    summary: str = ""

    def subject(self) -> str:
        """The alert."""
        return self.alert


class AlertRaised(_OfAlert):
    """Something is wrong."""

    TOPIC: ClassVar[str] = "alert.raised"


class AlertResolved(_OfAlert):
    """It is over."""

    TOPIC: ClassVar[str] = "alert.resolved"


class AuditRecorded(Event):
    """Who asked what, and what came of it. Subject: the actor."""

    TOPIC: ClassVar[str] = "audit.recorded"

    actor: str
    action: str
    target: str
    allowed: bool
    detail: str = ""
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    request_id: str = ""

    def subject(self) -> str:
        """The actor."""
        return self.actor


ALL: tuple[type[Event], ...] = (
    DeployRequested,
    DeployProgressed,
    DeploySucceeded,
    DeployFailed,
    InstanceRequested,
    InstanceStopRequested,
    OfferAccepted,
    PlacementDelayed,
    IpAllocated,
    IpReleased,
    IpConflicted,
    ContainerStarted,
    ContainerHealthy,
    ContainerUnhealthy,
    ContainerExited,
    ContainerLost,
    JobRequested,
    JobRunStarted,
    JobRunFinished,
    JobRunFailed,
    JobRunMissed,
    NodeJoined,
    NodeLost,
    NodeDrained,
    ImagePushed,
    AlertRaised,
    AlertResolved,
    AuditRecorded,
)
