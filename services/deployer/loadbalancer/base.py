"""What the deployer asks of a load balancer: take this endpoint in, or let it go once it is drained.

A change carries an id of the caller's; everything may be repeated. `submit` of a change that is known, or done,
tells how it stands; removing an unknown endpoint succeeds; `poll` of an unknown change answers UNKNOWN, upon
which the caller submits it again. Every driver (and the fake) passes `tests/contract/loadbalancer/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.deployer.model import Endpoint


class ChangeKind(StrEnum):
    """What a change does."""

    ADD = "add"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Change:
    """One endpoint in or out. `drain_until` (Unix seconds): until then open requests may end by themselves."""

    id: str
    kind: ChangeKind
    app: str
    instance: str
    endpoint: Endpoint
    drain_until: float = 0.0


class AnswerState(StrEnum):
    """How a change stands."""

    WAITING = "waiting"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """A driver's answer, with a word for people."""

    state: AnswerState
    message: str = ""


class LoadBalancerDriver(Protocol):
    """One kind of load balancer. All methods raise Unavailable or TimedOut when it can't be reached."""

    async def submit(self, change: Change) -> Answer:
        """Begin the change, or go on with it."""
        ...

    async def poll(self, change: Change) -> Answer:
        """How the change stands, moving it on where that is the driver's part."""
        ...

    async def cancel(self, change: Change) -> Answer:
        """Give up a change that has not succeeded; an endpoint being added is out afterwards."""
        ...

    async def present(self, backend: str) -> frozenset[tuple[str, int]] | None:
        """The (address, port) pairs that get traffic, or None when the balancer can't tell."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
