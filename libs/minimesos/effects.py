"""What goes into the cores (inputs) and what they want done (effects).

A core performs nothing itself. Whoever drives it applies all `Put` and `Delete` of a batch to the
disk first and performs the other effects, in order, only after that: so nothing is said to
anyone that a crash could make untrue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Message = dict[str, Any]


# ---- inputs -------------------------------------------------------------------------------------
class HttpRequest(NamedTuple):
    """One HTTP request; header names are lower case, `query` holds the first value of each key."""

    conn: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class StreamClosed(NamedTuple):
    """The client closed the streaming response `stream`."""

    stream: str


class LinkMessage(NamedTuple):
    """A message from the other side (agent or master) over `link`."""

    link: str
    message: Message


class LinkUp(NamedTuple):
    """The agent reached a master."""

    link: str


class LinkDown(NamedTuple):
    """The connection between agent and master broke."""

    link: str


class ExecutorExited(NamedTuple):
    """The process of a container ended; `status` is a wait status, None if nobody could reap it."""

    container_id: str
    status: int | None


class ExecutorLaunched(NamedTuple):
    """The launcher started the process of a container. `start_ticks` guards against pid reuse."""

    container_id: str
    pid: int
    start_ticks: int


class LaunchFailed(NamedTuple):
    """The launcher could not start a container. `stage` is "directory" or "container"."""

    container_id: str
    stage: str
    text: str


class RecoveredAlive(NamedTuple):
    """After a restart the launcher says which recovered containers still run."""

    alive: frozenset[str]


class Unregister(NamedTuple):
    """The agent is asked to leave the cluster for good (SIGUSR1)."""


class Tick(NamedTuple):
    """Nothing but time passed."""


Input = (
    HttpRequest
    | StreamClosed
    | LinkMessage
    | LinkUp
    | LinkDown
    | ExecutorExited
    | ExecutorLaunched
    | LaunchFailed
    | RecoveredAlive
    | Unregister
    | Tick
)


# ---- effects ------------------------------------------------------------------------------------
class Respond(NamedTuple):
    """Answer request `conn`; a `str` value of `body` is never used, only bytes."""

    conn: str
    status: int
    headers: dict[str, str]
    body: bytes


class OpenStream(NamedTuple):
    """Answer request `conn` with 200 and an endless body; later `Send`s go to `stream`."""

    conn: str
    stream: str
    headers: dict[str, str]


class Send(NamedTuple):
    """One record (JSON, without RecordIO framing) on `stream`."""

    stream: str
    data: bytes


class CloseStream(NamedTuple):
    """End the streaming response."""

    stream: str


class LinkSend(NamedTuple):
    """A message to the other side over `link`."""

    link: str
    message: Message


class LinkClose(NamedTuple):
    """Drop the connection to the other side."""

    link: str


class Put(NamedTuple):
    """Make `key` = `value` durable."""

    key: str
    value: bytes


class Delete(NamedTuple):
    """Forget `key` and every key below `key + "/"`."""

    key: str


class Launch(NamedTuple):
    """Start the process of a container."""

    container_id: str
    sandbox: str
    command: Message
    environment: dict[str, str]
    user: str
    builtin: bool
    task: bytes


class Kill(NamedTuple):
    """Kill the whole process tree of a container with SIGKILL."""

    container_id: str
    pid: int


class Forget(NamedTuple):
    """The container is over: the launcher may drop what it holds about it."""

    container_id: str


class Stop(NamedTuple):
    """The node is to leave (an agent that was shut down by its master)."""

    reason: str


class WatchRecovered(NamedTuple):
    """Containers found in the checkpoint: (container id, pid, start ticks); watch or report."""

    containers: tuple[tuple[str, int, int], ...]


Effect = (
    Respond
    | OpenStream
    | Send
    | CloseStream
    | LinkSend
    | LinkClose
    | Put
    | Delete
    | Launch
    | Kill
    | Forget
    | Stop
    | WatchRecovered
)
