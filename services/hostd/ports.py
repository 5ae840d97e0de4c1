"""What hostd's service needs from outside. Each has a real adapter and a fake that pass one contract suite.

Every method raises Unavailable (or TimedOut) when the other side can't do it now.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from libs.common.delivery import Delivery
from libs.common.disk import Space
from services.hostd.model import (
    Address,
    Attachment,
    ContainerView,
    Life,
    LinkCounters,
    LinkState,
    Namespace,
    NetworkView,
    PendingRelease,
    PortView,
    Probe,
    Registration,
    SwitchPort,
    SwitchReport,
    Wire,
    WireView,
)


class NetworkDriver(Protocol):
    """Namespaces and links of this cluster on this host."""

    async def ensure(self, wire: Wire) -> Namespace:
        """Make the namespace, the link into it, its address and route; what exists as wanted stays.

        A caller's namespace (`wire.netns`) is only entered, and nothing in it replaced: raises Conflict when the
        interface's name or the default route is taken.
        """
        ...

    async def inode_of(self, netns: str) -> int | None:
        """Inode of the network namespace at a caller's path, None when there is none. Raises Conflict: the host's."""
        ...

    async def complaints(self, wire: Wire) -> tuple[str, ...]:
        """What is not (any more) as `ensure` left it, in words."""
        ...

    async def find(self, namespace: str) -> Namespace | None:
        """The namespace if it exists."""
        ...

    async def remove_namespace(self, name: str) -> None:
        """Remove it with all that is in it; no error when there is none."""
        ...

    async def set_down(self, link: str) -> bool:
        """Set the host's end of a link down: nothing passes by it until `ensure` sets it up. False: there is none."""
        ...

    async def remove_link(self, name: str) -> None:
        """Remove the host's end of a link, and so the other; no error when there is none."""
        ...

    async def view(self) -> NetworkView:
        """All of this cluster that exists."""
        ...

    async def inspect(self, wire: Wire) -> WireView:
        """Look, and change nothing: what there is of a wire; without its namespace, nothing inside."""
        ...

    async def link(self, name: str) -> LinkState | None:
        """An interface of the host, None when there is none of that name."""
        ...

    async def counters(self, link: str) -> LinkCounters | None:
        """Traffic by a link, None when there is none of that name."""
        ...

    async def host_inode(self) -> int:
        """Inode of the host's own network namespace."""
        ...


class SwitchDriver(Protocol):
    """The cluster's bridge on this host."""

    async def ensure(self, ports: Sequence[SwitchPort]) -> tuple[PortView, ...]:
        """Have these ports with these flows, in one transaction, and announce their addresses in their VLANs.

        A port that failed tells so in its `error`.
        """
        ...

    async def remove(self, names: Sequence[str]) -> None:
        """Remove ports and their flows; no error for one that is not there."""
        ...

    async def ping(self) -> None:
        """Returns when it has answered. Raises Unavailable."""
        ...

    async def view(self) -> tuple[PortView, ...]:
        """All ports with an attachment's mark."""
        ...

    async def restore_flows(self, wanted: Callable[[], Sequence[SwitchPort]]) -> None:
        """Have the flows of the wanted ports and of no others, without interrupting traffic.

        `wanted` is asked when no other change is under way: a port that is being added must not look stale.
        """
        ...

    async def inspect(self, wanted: Callable[[], Sequence[SwitchPort]]) -> SwitchReport:
        """Look, and change nothing: what of the wanted is there, and what is there besides.

        `wanted` is asked when no change is under way.
        """
        ...

    async def probe(self, probes: Sequence[Probe]) -> Mapping[Probe, str]:
        """Ask beyond the uplinks who has these addresses (RFC 5227; for IPv6 as duplicate detection does), three times.

        Answers those that a station claims, with its MAC; nothing at once when there are no uplinks: the ports of this
        bridge can't claim what isn't theirs.
        """
        ...

    async def run(self) -> None:
        """Keep the connections until cancelled; calls are answered while this runs."""
        ...

    async def restarted(self) -> None:
        """Wait until the switch was started (anew) since the last call: it may have no flows."""
        ...

    def is_connected(self) -> bool:
        """Can it be reached now?"""
        ...


class Registry(Protocol):
    """Leave to start, as the runtime shim reads it. A registration is good for one start."""

    async def register(self, container_id: str, namespace: Namespace) -> Registration:
        """Register under the namespace's present generation; a second time is the same as once."""
        ...

    async def revoke(self, container_id: str | None, namespace: str) -> bool:
        """Advance the namespace's generation, which voids all its registrations, and remove this one.

        False: it had been used by a start, or never been there.
        """
        ...

    async def forget(self, namespace: str) -> None:
        """Drop the generation of a namespace that is gone."""
        ...

    async def registered(self) -> tuple[tuple[str, str], ...]:
        """The registrations nobody has used, as (container id, namespace)."""
        ...


class StateStore(Protocol):
    """The desired state, on disk when a call returns."""

    async def load(self) -> tuple[list[Attachment], list[PendingRelease]]:
        """All there is."""
        ...

    async def save(self, changes: Sequence[Change]) -> None:
        """Apply all changes, or none."""
        ...


Change = Attachment | PendingRelease | tuple[str, str]
"""Put an attachment or a pending release; or drop ("attachment", id) or ("release", ipam key)."""


class IpamPort(Protocol):
    """Addresses. Errors of ipam's own come as Refused: NotFound (network), TooMany (full), Conflict (taken)."""

    async def allocate(self, attachment: Attachment) -> Address:
        """The attachment's address; the same one however often it is asked."""
        ...

    async def report_live(self, keys: Sequence[str], held: Sequence[Attachment] = ()) -> None:
        """Tell all attachments of this host (by ipam's keys), and of those that are `held` which address they have.

        So ipam finds leaked addresses, and gives none away that is in use.
        """
        ...

    async def holds(self, attachment: Attachment) -> bool:
        """Does the attachment have its address, by ipam's books, in the generation that we know?"""
        ...

    async def room(self, network: str) -> int:
        """How many addresses could be given now. Raises NotFound (no such network)."""
        ...

    async def release(self, pending: PendingRelease) -> None:
        """Give it back; one that ipam does not know (any more) is no error."""
        ...

    async def conflict(self, attachment: Attachment, address: str, seen_mac: str) -> None:
        """Another station answers for this address of the attachment: it gets another one, which `allocate` tells.

        Raises Refused when it can't have another.
        """
        ...

    async def known(self) -> Mapping[str, frozenset[tuple[str, int]]]:
        """What ipam believes this host to have: ipam key -> (address, generation) of each. Raises Refused, too."""
        ...


class DeliveryPort(Protocol):
    """What attempts placed on this host need to start. Nothing of it is kept or logged here."""

    async def of_attempt(self, attempt: str) -> Delivery:
        """All of an attempt's values. Raises NotFound (no such attempt here, or a secret is missing), Conflict."""
        ...


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which lines of a log: the last `tail` (None: all), those after `since` (Unix seconds), and those to come."""

    tail: int | None = None
    since: int | None = None
    follow: bool = False


class Engine(Protocol):
    """The container engine, as far as hostd looks at it."""

    async def ping(self) -> None:
        """Returns when it has answered. Raises Unavailable."""
        ...

    async def containers(self) -> tuple[ContainerView, ...]:
        """All containers with this cluster's label, stopped ones too."""
        ...

    async def exists(self, container: str) -> bool:
        """Is there a container of this name or id, running or not?"""
        ...

    async def life(self, container: str) -> Life:
        """How far the container of this name or id has come."""
        ...

    async def root(self) -> Path:
        """The directory of the engine's data."""
        ...

    async def kill(self, container: str) -> None:
        """Kill it; no error when it does not run."""
        ...

    async def stats(self, container: str) -> Mapping[str, Any]:
        """CPU, memory and pids. Raises NotFound."""
        ...

    async def logs(self, container: str, query: LogQuery) -> AsyncIterator[bytes]:
        """JSON lines {time, stream, line}. Raises NotFound."""
        ...


class OutputPort(Protocol):
    """What runs of jobs write in containers that they share: the engine knows nothing of it."""

    async def of_run(self, container: str, run: str, query: LogQuery) -> AsyncIterator[bytes]:
        """JSON lines {time, stream, line} of the run's newest try, until it ends. Raises NotFound."""
        ...


Measure = Callable[[Path], Space]
"""The room where a path is. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Ports:
    """All of them."""

    network: NetworkDriver
    switch: SwitchDriver
    registry: Registry
    state: StateStore
    ipam: IpamPort
    engine: Engine
    outputs: OutputPort
    deliveries: DeliveryPort
    measure: Measure
