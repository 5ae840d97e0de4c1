"""Every event Gantry speaks: the classes are in modules by what they are about, `ALL` is the contract.

Who may write which topic and what it means: ARCHITECTURE.md, "Events". A compatible change adds an
optional field; anything else is a new class with VERSION 2 beside the old one.

The names are exported from here so that everybody says `ev.DeployRequested`, wherever its class is written.
"""

from __future__ import annotations

from libs.common.events.addresses import (
    IpAllocated,
    IpConflicted,
    IpReleased,
)
from libs.common.events.base import Event
from libs.common.events.deployments import (
    Counts,
    DeployAction,
    DeployFailed,
    DeployProgressed,
    DeployRequested,
    DeploySucceeded,
)
from libs.common.events.instances import (
    ContainerExited,
    ContainerHealthy,
    ContainerLost,
    ContainerStarted,
    ContainerUnhealthy,
    InstanceMoveRequested,
    InstanceRequested,
    InstanceStopRequested,
    OfferAccepted,
    PlacementDelayed,
)
from libs.common.events.jobs import (
    JobRequested,
    JobRunFailed,
    JobRunFinished,
    JobRunMissed,
    JobRunStarted,
)
from libs.common.events.platform import (
    AlertRaised,
    AlertResolved,
    AuditRecorded,
    ImagePushed,
    NodeDrained,
    NodeJoined,
    NodeLost,
)

__all__ = [
    "ALL",
    "AlertRaised",
    "AlertResolved",
    "AuditRecorded",
    "ContainerExited",
    "ContainerHealthy",
    "ContainerLost",
    "ContainerStarted",
    "ContainerUnhealthy",
    "Counts",
    "DeployAction",
    "DeployFailed",
    "DeployProgressed",
    "DeployRequested",
    "DeploySucceeded",
    "ImagePushed",
    "InstanceMoveRequested",
    "InstanceRequested",
    "InstanceStopRequested",
    "IpAllocated",
    "IpConflicted",
    "IpReleased",
    "JobRequested",
    "JobRunFailed",
    "JobRunFinished",
    "JobRunMissed",
    "JobRunStarted",
    "NodeDrained",
    "NodeJoined",
    "NodeLost",
    "OfferAccepted",
    "PlacementDelayed",
]

ALL: tuple[type[Event], ...] = (
    DeployRequested,
    DeployProgressed,
    DeploySucceeded,
    DeployFailed,
    InstanceRequested,
    InstanceStopRequested,
    InstanceMoveRequested,
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
