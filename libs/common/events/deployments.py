"""Events of deployments: what is asked of an app, and how that goes."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from libs.common.events.base import Event


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


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
    break_glass: str = ""  # why an admin has it done without waiting for the bus; takes over, too

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
