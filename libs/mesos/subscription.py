"""The life of one event stream as a state machine, sans I/O.

    WAITING --tick at the deadline--> CONNECTING --opened--> OPENED --record--> SUBSCRIBED
       ^                                  |                     |                  |
       '---- failed: back-off, next peer -+---------------------+------------------'

Inputs are the methods of `Subscription`, each with the monotonic time `now` in seconds; each
returns outputs to carry out in order. `deadline` says when `tick` is due. ENDED is never left.
Silence: no record for `silence_factor` heartbeats means that the peer is dead, whatever TCP says.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from libs.common.backoff import Backoff
from libs.mesos.errors import (
    AccessDenied,
    BadCall,
    CallRefused,
    GaveUp,
    MesosError,
    NotLeader,
    NotSubscribed,
)


class Phase(StrEnum):
    """Where the subscription stands."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    OPENED = "opened"
    SUBSCRIBED = "subscribed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Options:
    """Bounds of one subscription; all times in seconds.

    `heartbeat_s` None: the peer sends no heartbeats worth supervising (an agent to its executor).
    `give_up_s` bounds the time without a subscription; None tries for ever.
    """

    heartbeat_s: float | None = 15.0
    silence_factor: float = 5.0
    connect_timeout_s: float = 10.0
    subscribe_timeout_s: float = 15.0
    backoff_min_s: float = 0.25
    backoff_max_s: float = 30.0
    max_redirects: int = 5
    give_up_s: float | None = None


@dataclass(frozen=True, slots=True)
class Connect:
    """Open the stream at this base URL."""

    url: str


@dataclass(frozen=True, slots=True)
class Close:
    """Cut the connection, if there is one."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Tell the owner: down, next attempt in `retry_in_s` seconds."""

    reason: str
    was_subscribed: bool
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Fail:
    """Tell the owner: ended with this error."""

    error: MesosError


Output = Connect | Close | Lost | Fail
_ALIVE = (Phase.CONNECTING, Phase.OPENED, Phase.SUBSCRIBED)


class Subscription:
    """One subscription to whichever of `peers` (base URLs) leads."""

    def __init__(self, peers: Sequence[str], options: Options, rng: random.Random) -> None:
        if not peers:
            raise ValueError("a subscription needs at least one peer")
        self._peers = tuple(peers)
        self._options = options
        self._rng = rng
        self._backoff = Backoff(options.backoff_min_s, options.backoff_max_s)
        self._next_peer = 0
        self._redirected_to: str | None = None
        self._redirects = 0
        self._failures = 0
        self._heartbeat_s = options.heartbeat_s
        self._down_since: float | None = None
        self.phase = Phase.WAITING
        self.deadline: float | None = None

    def start(self, now: float) -> list[Output]:
        """Begin. Only once."""
        self._down_since = now
        return self._connect(now)

    def opened(self, now: float) -> list[Output]:
        """The peer answered 200; events are to come."""
        if self.phase is Phase.CONNECTING:
            self.phase = Phase.OPENED
            self.deadline = now + self._options.subscribe_timeout_s
        return []

    def record(self, now: float, kind: str, heartbeat_s: float | None = None) -> list[Output]:
        """An event of type `kind` came; SUBSCRIBED may say the heartbeat interval."""
        if self.phase not in (Phase.OPENED, Phase.SUBSCRIBED):
            return []
        if kind == "ERROR":
            return self._end()
        if kind == "SUBSCRIBED":
            self.phase = Phase.SUBSCRIBED
            self._failures = self._redirects = 0
            self._down_since = None
            if self._options.heartbeat_s is not None and heartbeat_s:
                self._heartbeat_s = heartbeat_s
        if self.phase is Phase.SUBSCRIBED:
            self.deadline = self._silence_deadline(now)
        return []

    def resumed(self, now: float) -> list[Output]:
        """The owner reads again, maybe after a pause of its own, which is no silence of the peer.

        Whatever was buffered meanwhile gets one more heartbeat's time to be read.
        """
        if self.phase is Phase.SUBSCRIBED and self.deadline is not None and self._heartbeat_s:
            self.deadline = max(self.deadline, now + self._heartbeat_s)
        return []

    def closed(self, now: float, reason: str) -> list[Output]:
        """The connection failed or ended."""
        return self._failed(now, reason) if self.phase in _ALIVE else []

    def refused(self, now: float, error: CallRefused) -> list[Output]:
        """The peer answered something other than 200."""
        if self.phase is not Phase.CONNECTING:
            return []
        if isinstance(error, NotLeader):
            self._redirected_to = error.location
            self._redirects += 1
            if self._redirects <= self._options.max_redirects:
                return [Close(), *self._connect(now)]
            return self._failed(now, f"{self._redirects} redirects in a row")
        if isinstance(error, (BadCall, AccessDenied, NotSubscribed)):
            return self._end(error)
        return self._failed(now, str(error))

    def tick(self, now: float) -> list[Output]:
        """Time passed; does something only when `deadline` is reached."""
        if self.deadline is None or now < self.deadline:
            return []
        if self.phase is Phase.WAITING:
            if self._gave_up(now):
                return self._end(GaveUp(f"not subscribed for {self._options.give_up_s} s"))
            return self._connect(now)
        reasons = {
            Phase.CONNECTING: "no answer to SUBSCRIBE in time",
            Phase.OPENED: "no SUBSCRIBED event in time",
            Phase.SUBSCRIBED: "silence: no record for too long",
        }
        return self._failed(now, reasons[self.phase])

    def _connect(self, now: float) -> list[Output]:
        url = self._redirected_to or self._peers[self._next_peer % len(self._peers)]
        self.phase = Phase.CONNECTING
        self.deadline = now + self._options.connect_timeout_s
        return [Connect(url)]

    def _failed(self, now: float, reason: str) -> list[Output]:
        was_subscribed = self.phase is Phase.SUBSCRIBED
        if self._redirected_to is None:
            self._next_peer += 1
        # A redirect is a hint for once: after a failure the configured peers are asked again.
        self._redirected_to = None
        self._redirects = 0
        self._failures += 1
        if self._down_since is None:
            self._down_since = now
        wait_s = self._backoff.delay_s(self._failures, self._rng)
        self.phase = Phase.WAITING
        self.deadline = now + wait_s
        if self._options.give_up_s is not None:
            self.deadline = min(self.deadline, self._down_since + self._options.give_up_s)
        return [Close(), Lost(reason, was_subscribed, self.deadline - now)]

    def _gave_up(self, now: float) -> bool:
        give_up_s, since = self._options.give_up_s, self._down_since
        return give_up_s is not None and since is not None and now >= since + give_up_s

    def _end(self, error: MesosError | None = None) -> list[Output]:
        self.phase = Phase.ENDED
        self.deadline = None
        return [Close(), Fail(error)] if error else [Close()]

    def _silence_deadline(self, now: float) -> float | None:
        if self._heartbeat_s is None:
            return None
        return now + self._heartbeat_s * self._options.silence_factor
