"""A deployment as it goes, step by step: from events to lines and a table. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from libs.client.model import EventView

TOPICS = ("deploy.*", "instance.*", "offer.accepted", "placement.delayed", "container.*")


# In which order events of one version happened.
_ORDER = {
    topic: n
    for n, topic in enumerate(
        (
            "instance.requested",
            "placement.delayed",
            "offer.accepted",
            "container.started",
            "container.healthy",
            "container.unhealthy",
            "container.lost",
            "container.exited",
            "instance.stop_requested",
        )
    )
}
_LEAVING = ("stopping", "stopped")
_LAST_TOPICS = ("container.exited", "instance.stop_requested")


@dataclass(frozen=True, slots=True)
class Step:
    """Where an instance stands."""

    instance: str
    state: str
    detail: str = ""
    host: str = ""
    address: str = ""
    release: str = ""


@dataclass
class Progress:
    """What is known of one deployment of an app."""

    deployment: str
    app: str
    steps: dict[str, Step] = field(default_factory=dict)
    seen: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    state: str = "accepted"
    reason: str = ""

    def observe(self, event: EventView) -> str:
        """Take an event in; the line to tell of it, "" for one that says nothing new."""
        if event.topic.startswith("deploy."):
            return self._deployment(event)
        instance = str(event.data.get("instance", ""))
        if not instance or event.data.get("app") != self.app:
            return ""
        known = self.steps.get(instance, Step(instance, ""))
        place = (event.sequence, _ORDER.get(event.topic, 0))
        if place < self.seen.get((instance, event.source), (-1, 0)):
            return ""  # it comes late: topics have no order among each other
        self.seen[(instance, event.source)] = place
        if known.state in _LEAVING and event.topic not in _LAST_TOPICS:
            return ""
        step = _step(known, event)
        self.steps[instance] = step
        if (step.state, step.detail) == (known.state, known.detail):
            return ""
        return line(step)

    def _deployment(self, event: EventView) -> str:
        data = event.data
        if data.get("deployment") != self.deployment or "counts" not in data:
            return ""
        before = (self.state, self.counts)
        self.state, self.counts = str(data["state"]), dict(data["counts"])
        self.reason = str(data.get("reason", ""))
        if (self.state, self.counts) == before or event.topic != "deploy.progressed":
            return ""
        return f"{self.state}: {self.summary()}"

    def summary(self) -> str:
        """How far it is, in a few words."""
        counts = self.counts
        if not counts:
            return self.state
        text = f"{counts.get('ready', 0)} of {counts.get('wanted', 0)} ready"
        for name in ("old", "failed"):
            if counts.get(name):
                text += f", {counts[name]} {name}"
        return text


def _step(known: Step, event: EventView) -> Step:
    data: dict[str, Any] = event.data
    host = str(data.get("hostname") or known.host)
    address = str(data.get("address") or known.address)
    release = f"r{data['release']}" if data.get("release") is not None else known.release
    state, detail = _state(event.topic, data)
    return replace(
        known,
        state=state,
        detail=detail,
        host=host,
        address=address,
        release=release,
    )


def _state(topic: str, data: dict[str, Any]) -> tuple[str, str]:
    message = str(data.get("message") or data.get("reason") or "")
    match topic:
        case "instance.requested":
            return "requested", ""
        case "instance.stop_requested":
            return "stopping", message
        case "offer.accepted":
            return "placed", ""
        case "placement.delayed":
            return "waiting", message
        case "container.exited":
            code = data.get("exit_code")
            shown = f"exit code {code}" if code is not None else str(data.get("state", ""))
            wanted = bool(data.get("wanted"))
            return ("stopped", "") if wanted else ("exited", f"{shown} {message}".strip())
        case _:
            return topic.partition(".")[2], message


def line(step: Step) -> str:
    """One step as a line."""
    parts = [step.instance, step.state]
    if step.state in ("placed", "started", "healthy", "unhealthy"):
        parts.append(" ".join(each for each in (step.address, f"on {step.host}") if each.strip()))
    if step.detail:
        parts.append(f"({step.detail})")
    return "  ".join(part for part in parts if part)
