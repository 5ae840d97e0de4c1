"""What the scheduler says when asked, for events that never came. Pure.

Events are the rule; retention, a lost bus or a lost document may still take one away for good. So the scheduler's
rows are compared with ours now and then. A row that is newer than what we have heard stands for the events in
between; an instance it no longer lists has ended, unless it lists so few that its own memory is in doubt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from libs.common.events import model as ev
from services.deployer.model import Instance, State, Wanted
from services.deployer.observe import ObservedEvent, observe


class Row(BaseModel):
    """One instance as the scheduler lists it; `version` is the sequence of its newest events."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    instance: str
    app: str
    state: str
    version: int | None = None
    attempt: str = ""
    agent: str = ""
    hostname: str = ""
    address: str = ""
    container: str = ""
    returned: bool = False
    leaving: str = ""
    healthy: bool | None = None
    waiting: str = ""
    message: str = ""


def caught_up(instance: Instance, row: Row, now: float) -> Instance:
    """The instance with what the row knows and no event has told; itself when there is nothing."""
    if row.version is None:
        return instance
    event = _event_of(row) if row.version > instance.seen else None
    known = instance if event is None else observe(instance, event, row.version, now)
    known = _located(known, row)
    newest = max(instance.seen, instance.leave_seen)
    if known.leaving == row.leaving or row.version < newest or known.state is State.GONE:
        return known
    why = f"{row.hostname} is drained" if row.leaving else ""
    asked = {"leaving": row.leaving, "leave_reason": why, "leave_host": row.hostname}
    return known.model_copy(update={**asked, "leave_seen": row.version})


def _located(instance: Instance, row: Row) -> Instance:
    """With where it runs, when no event has told: without an address nobody can send it anything."""
    if row.attempt != instance.attempt or (row.version or 0) < instance.seen:
        return instance
    told = {"address": row.address, "container": row.container}
    gaps = {name: value for name, value in told.items() if value and not getattr(instance, name)}
    return instance.model_copy(update=gaps) if gaps else instance


def _event_of(row: Row) -> ObservedEvent | None:
    place = row.model_dump(
        include={
            *("instance", "app", "attempt", "agent", "hostname", "container", "address"),
            "returned",
        }
    )
    match row.state, row.healthy:
        case "running", True:
            return ev.ContainerHealthy(**place)
        case "running", False:
            return ev.ContainerUnhealthy(**place, message=row.message)
        case "running", None:
            return ev.ContainerStarted(**place)
        case "unreachable", _:
            return ev.ContainerLost(**place)
        case (("staged" | "starting"), _):
            return ev.OfferAccepted(**place, offer="", cpus=0.0, mem_mib=0)
        case "pending", _ if row.attempt:
            # Its end was not told: whether it failed can't be known, so it does not count as a failure.
            return ev.ContainerExited(**place, state="TASK_LOST", message=row.message)
        case "pending", _ if row.waiting:
            return ev.PlacementDelayed(
                instance=row.instance, app=row.app, agents=0, failed={}, message=row.waiting
            )
        case _:
            return None


def unlisted(
    fleet: Sequence[Instance], rows: Mapping[str, Row], asked_s: float, now: float
) -> list[str]:
    """Instances that have ended though nobody told: not listed, and no request is on its way for `asked_s`."""
    missing: list[str] = []
    listed = 0
    for each in fleet:
        if each.state is State.GONE:
            continue
        if each.id in rows:
            listed += 1
        elif _settled(each, asked_s, now):
            missing.append(each.id)
    stops: list[str] = [
        each.id for each in fleet if each.id in missing and each.wanted is Wanted.STOP
    ]
    # A scheduler that has lost its memory lists nothing: that must not look like the death of a fleet.
    return missing if len(missing) <= listed else list(stops)


def _settled(instance: Instance, asked_s: float, now: float) -> bool:
    if instance.wanted is Wanted.STOP:
        return instance.stop_sent_at is not None and now - instance.stop_sent_at >= asked_s
    return instance.seen >= 0 and now - instance.changed_at >= asked_s


def ended(instance: Instance, now: float) -> Instance:
    """Gone, as far as anybody knows."""
    return instance.model_copy(
        update={
            "state": State.GONE,
            "changed_at": now,
            "healthy_since": None,
            "last_exit": "the scheduler no longer knows it",
        }
    )
