"""What hostd keeps and hands around: attachments, wires, switch ports, registrations.

An attachment is one interface of one container. It is found by (container name, interface name), so that it can be made
while the engine still makes the container, and known by an id of its own, fresh with each ADD after a DEL: what another
incarnation left behind can't touch it. Callers of CNI give their container id as the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, NewType

from pydantic import BaseModel, ConfigDict, Field

AttachmentId = NewType("AttachmentId", str)
CONTAINER = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,199}$")
ENGINE_ID = re.compile(r"^[0-9a-f]{64}$")
IFNAME = re.compile(r"^[a-z][a-z0-9._-]{0,14}$")

DEFAULT_MTU = 1500


class Phase(StrEnum):
    """How far an attachment has come. `TRANSITIONS` says what may follow what."""

    ADDRESSING = "addressing"  # ipam may have given an address; we don't know which
    ADDRESSED = "addressed"  # the address is known; namespace, link and port may exist
    RELEASING = "releasing"  # DEL has begun: all of it goes


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.ADDRESSING: frozenset({Phase.ADDRESSED, Phase.RELEASING}),
    Phase.ADDRESSED: frozenset({Phase.RELEASING}),
    Phase.RELEASING: frozenset(),
}


class Owner(StrEnum):
    """Who knows whether the container of an attachment still exists."""

    DOCKER = "docker"  # the engine does: an attachment whose container is gone is collected
    CNI = "cni"  # only the caller does: nothing is collected before its DEL or GC


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Address(_Value):
    """What ipam gave: an IPv4 address with its network, and the generation that a release must carry."""

    ip: str
    prefix: int = Field(ge=1, le=32)
    gateway: str | None = None
    vlan: int = Field(ge=1, le=4094)
    mtu: int | None = None
    mac: str | None = None
    generation: int


class AttachmentSpec(BaseModel):
    """The body of an ADD. `generation` is the attempt's; a lower one than known is refused as stale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str = Field(min_length=1, max_length=64)
    instance: str = Field("", max_length=200)
    attempt: str = Field("", max_length=200)
    generation: int = Field(0, ge=0)
    sticky_key: str = Field(
        "", max_length=200, description="ipam holds the address for the same key"
    )
    ip: str | None = Field(
        None, pattern=r"^[0-9A-Fa-f.:]{2,45}$", description="this address only, of either family"
    )
    # Left out of what is saved, where it can be: an older hostd refuses a spec with fields it does not know.
    reservation: str = Field(
        "",
        max_length=64,
        description="the address that ipam keeps under this name",
        exclude_if=lambda name: not name,
    )
    app: str = Field(
        "", max_length=100, description="bu/app: whose address it will be", exclude=True
    )
    mtu: Annotated[int, Field(ge=576, le=9000)] | None = None
    owner: Owner = Owner.DOCKER
    inherit_from: str | None = Field(
        None, description="container whose namespace, port and address this one takes over"
    )


class Attachment(_Value):
    """The desired state of one interface of one container, as it is saved."""

    id: AttachmentId
    container: str
    ifname: str
    ipam_key: str  # what ipam knows it by; stays when another container takes over
    spec: AttachmentSpec
    phase: Phase
    created_at: float
    address: Address | None = None
    ofport: int | None = None

    def moved(self, phase: Phase) -> Attachment:
        """The same in `phase`. Raises ValueError when the table forbids it."""
        if phase not in TRANSITIONS[self.phase]:
            raise ValueError(f"attachment {self.id}: {self.phase} -> {phase}")
        return self.model_copy(update={"phase": phase})


class PendingRelease(_Value):
    """An address that ipam has yet to be told is free; kept on disk until it has been."""

    ipam_key: str
    spec: AttachmentSpec
    generation: int | None  # None: ipam's answer never came
    since: float


@dataclass(frozen=True, slots=True)
class Wire:
    """A namespace with one interface, and the link by which the host reaches it."""

    namespace: str
    link: str
    ifname: str
    mac: str
    ip: str
    prefix: int
    gateway: str | None
    mtu: int


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace that exists: where it is bound, and its inode."""

    name: str
    path: str
    inode: int


@dataclass(frozen=True, slots=True)
class SwitchPort:
    """A port of the bridge, with the sender addresses that may come in by it."""

    name: str
    vlan: int
    ofport: int
    mac: str
    ip: str
    attachment: str
    container: str


@dataclass(frozen=True, slots=True)
class PortView:
    """A port as the switch has it. `ofport` is None before the switch took it, `error` says why it did not."""

    name: str
    vlan: int | None
    ofport: int | None
    attachment: str
    container: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """Leave for one start of a container (by the engine's id) in a namespace.

    It is void when `generation` is not the namespace's present one.
    """

    container_id: str
    namespace: Namespace
    generation: int


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """Traffic as the container sees it, since its interface was made."""

    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    rx_dropped: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class NetworkView:
    """What of ours the kernel has: namespaces, and the host's ends of links."""

    namespaces: frozenset[str]
    links: frozenset[str]


@dataclass(frozen=True, slots=True)
class Actual:
    """What of this cluster exists on the host, whoever made it."""

    network: NetworkView = NetworkView(frozenset(), frozenset())
    ports: tuple[PortView, ...] = ()
    registered: tuple[tuple[str, str], ...] = ()  # (container id, namespace)

    def with_ports(self, ports: tuple[PortView, ...]) -> Actual:
        """The same with other ports."""
        return replace(self, ports=ports)


@dataclass(frozen=True, slots=True)
class ContainerView:
    """A container that carries this cluster's label, as the engine tells."""

    id: str
    name: str
    running: bool
    runtime: str
    pid: int
    netns_inode: int | None  # None: it can't be told (any more)
    labels: tuple[tuple[str, str], ...] = ()


class AttachmentView(_Value):
    """The answer to an ADD, and an entry of the list."""

    attachment: str
    container: str
    ifname: str
    network: str
    instance: str
    attempt: str
    generation: int = Field(description="of the attempt, as asked for")
    phase: Phase
    ready: bool
    registered: bool
    namespace: str = Field(description="path of the network namespace")
    inode: int = Field(description="of the namespace, 0 while there is none")
    ip: str = ""
    prefix: int = 0
    gateway: str | None = None
    mac: str = ""
    vlan: int = 0
    mtu: int = DEFAULT_MTU
    address_generation: int = Field(0, description="of the address; ipam's releases carry it")
    host_inode: int = Field(0, description="of the host's own network namespace")


class RegistrationSpec(BaseModel):
    """The body of a registration: the engine's container id; the generation must be the attachment's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    container_id: str = Field(pattern=ENGINE_ID.pattern)
    generation: int = Field(0, ge=0)
