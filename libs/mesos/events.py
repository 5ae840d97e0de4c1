"""Typed events of the scheduler and executor streams, and how JSON becomes them.

`Disconnected` is the client's own: it stands where the stream broke or an attempt to subscribe
failed. Operator events have two dozen types with one body each, so they stay `OperatorEvent`.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from libs.mesos.errors import RecordError
from libs.mesos.messages import (
    AgentInfo,
    ExecutorInfo,
    FrameworkInfo,
    KillPolicy,
    MasterInfo,
    Offer,
    TaskInfo,
    TaskStatus,
)

Json = dict[str, Any]
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The subscription is down; the next attempt starts in `retry_in_s` seconds."""

    reason: str
    was_subscribed: bool
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The peer is alive."""


@dataclass(frozen=True, slots=True)
class Error:
    """The peer ends the subscription for good; nothing follows.

    A master says `Framework failed over` or `Framework has been removed`.
    """

    message: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event of a type this client does not know."""

    type: str
    body: Json


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The scheduler is subscribed; the id has to survive it."""

    framework_id: str
    heartbeat_interval_s: float
    master: MasterInfo


@dataclass(frozen=True, slots=True)
class Offers:
    """New offers, of any agents."""

    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class InverseOffers:
    """Agents that shall be given back (maintenance)."""

    inverse_offers: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class Rescind:
    """An offer is gone."""

    offer_id: str


@dataclass(frozen=True, slots=True)
class RescindInverseOffer:
    """An inverse offer is gone."""

    inverse_offer_id: str


@dataclass(frozen=True, slots=True)
class Update:
    """A task's state; to be acknowledged when it carries a uuid."""

    status: TaskStatus


@dataclass(frozen=True, slots=True)
class Message:
    """Bytes from an executor (scheduler stream) or from the scheduler (executor stream)."""

    data: bytes
    agent_id: str | None = None
    executor_id: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An agent (no executor id) or an executor ended; `status` is a wait status."""

    agent_id: str | None
    executor_id: str | None
    status: int | None


@dataclass(frozen=True, slots=True)
class ExecutorSubscribed:
    """The agent took this executor in."""

    executor: ExecutorInfo
    framework: FrameworkInfo
    agent: AgentInfo
    container_id: str | None


@dataclass(frozen=True, slots=True)
class Launch:
    """Start this task."""

    task: TaskInfo


@dataclass(frozen=True, slots=True)
class LaunchGroup:
    """Start all of these tasks or none."""

    tasks: tuple[TaskInfo, ...]


@dataclass(frozen=True, slots=True)
class Kill:
    """Stop this task."""

    task_id: str
    kill_policy: KillPolicy | None


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The scheduler has taken this update (`uuid` base64, as sent)."""

    task_id: str
    uuid: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Stop all tasks and exit. `reason` is empty when the agent said it."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class OperatorEvent:
    """One event of the operator stream: `body` is what stands under its lower-case type."""

    type: str
    body: Json


SchedulerEvent = (
    Subscribed
    | Offers
    | InverseOffers
    | Rescind
    | RescindInverseOffer
    | Update
    | Message
    | Failure
    | Heartbeat
    | Error
    | Unknown
    | Disconnected
)
ExecutorEvent = (
    ExecutorSubscribed
    | Launch
    | LaunchGroup
    | Kill
    | Acknowledged
    | Message
    | Shutdown
    | Heartbeat
    | Error
    | Unknown
    | Disconnected
)


def decode(record: bytes) -> Json:
    """The JSON object of a record. Raises `RecordError`."""
    try:
        event = orjson.loads(record)
    except ValueError as error:
        raise RecordError(f"event is not JSON: {error}") from error
    return checked(event)


def checked(event: object) -> Json:
    """The event, if it is an object with a type. Raises `RecordError`."""
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise RecordError("event is not an object with a type")
    return event


def _id(body: Mapping[str, Any], name: str) -> str | None:
    return str(body[name]["value"]) if name in body else None


_SCHEDULER: dict[str, Callable[[Json], SchedulerEvent]] = {
    "SUBSCRIBED": lambda e: Subscribed(
        e["subscribed"]["framework_id"]["value"],
        float(e["subscribed"].get("heartbeat_interval_seconds", 15.0)),
        e["subscribed"].get("master_info", {}),
    ),
    "OFFERS": lambda e: Offers(tuple(e["offers"]["offers"])),
    "INVERSE_OFFERS": lambda e: InverseOffers(tuple(e["inverse_offers"]["inverse_offers"])),
    "RESCIND": lambda e: Rescind(e["rescind"]["offer_id"]["value"]),
    "RESCIND_INVERSE_OFFER": lambda e: RescindInverseOffer(
        e["rescind_inverse_offer"]["inverse_offer_id"]["value"]
    ),
    "UPDATE": lambda e: Update(e["update"]["status"]),
    "MESSAGE": lambda e: Message(
        b64decode(e["message"].get("data", "")),
        _id(e["message"], "agent_id"),
        _id(e["message"], "executor_id"),
    ),
    "FAILURE": lambda e: Failure(
        _id(e["failure"], "agent_id"),
        _id(e["failure"], "executor_id"),
        e["failure"].get("status"),
    ),
    "HEARTBEAT": lambda _: Heartbeat(),
    "ERROR": lambda e: Error(e["error"]["message"]),
}
_EXECUTOR: dict[str, Callable[[Json], ExecutorEvent]] = {
    "SUBSCRIBED": lambda e: ExecutorSubscribed(
        e["subscribed"]["executor_info"],
        e["subscribed"]["framework_info"],
        e["subscribed"]["agent_info"],
        _id(e["subscribed"], "container_id"),
    ),
    "LAUNCH": lambda e: Launch(e["launch"]["task"]),
    "LAUNCH_GROUP": lambda e: LaunchGroup(tuple(e["launch_group"]["task_group"]["tasks"])),
    "KILL": lambda e: Kill(e["kill"]["task_id"]["value"], e["kill"].get("kill_policy")),
    "ACKNOWLEDGED": lambda e: Acknowledged(
        e["acknowledged"]["task_id"]["value"], e["acknowledged"]["uuid"]
    ),
    "MESSAGE": lambda e: Message(b64decode(e["message"].get("data", ""))),
    "SHUTDOWN": lambda _: Shutdown(),
    "HEARTBEAT": lambda _: Heartbeat(),
    "ERROR": lambda e: Error(e["error"]["message"]),
}


def _parse(table: Mapping[str, Callable[[Json], E]], event: Json) -> E | Unknown:
    parser = table.get(event["type"])
    if parser is None:
        return Unknown(event["type"], event)
    try:
        return parser(event)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{event['type']} event lacks or spoils {error}") from error


def scheduler_event(event: Json) -> SchedulerEvent:
    """The typed event. Raises `RecordError` when a field it must have is missing."""
    return _parse(_SCHEDULER, event)


def executor_event(event: Json) -> ExecutorEvent:
    """The typed event. Raises `RecordError` when a field it must have is missing."""
    return _parse(_EXECUTOR, event)


def operator_event(event: Json) -> OperatorEvent:
    """The event with its body, {} when it has none."""
    return OperatorEvent(event["type"], event.get(event["type"].lower(), {}))
