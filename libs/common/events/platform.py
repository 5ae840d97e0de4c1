"""Events of what apps stand on and are watched by: hosts, images, alerts, the audit trail."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from libs.common.events.base import Event


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
