"""What hostd keeps and hands around: attachments, wires, switch ports, registrations.

An attachment is one interface of one container. It is found by (container name, interface name), so that it can be made
while the engine still makes the container, and known by an id of its own, fresh with each ADD after a DEL: what another
incarnation left behind can't touch it. Callers of CNI give their container id as the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, NewType, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

AttachmentId = NewType("AttachmentId", str)
CONTAINER = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,199}$")
ENGINE_ID = re.compile(r"^[0-9a-f]{64}$")
IFNAME = re.compile(r"^[a-z][a-z0-9._-]{0,14}$")

DEFAULT_MTU = 1500
MIN_MTU6 = 1280  # RFC 8200, section 5: Linux takes IPv6 off an interface with less


class Phase(StrEnum):
    """How far an attachment has come. `TRANSITIONS` says what may follow what."""

    ADDRESSING = "addressing"  # ipam may have given an address; we don't know which
    ADDRESSED = "addressed"  # the address is known; namespace, link and port may exist
    PARKED = "parked"  # its container is gone, its wiring waits for an heir; the link is down
    RELEASING = "releasing"  # DEL has begun: all of it goes


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.ADDRESSING: frozenset({Phase.ADDRESSED, Phase.RELEASING}),
    # Back to the beginning when another station has the address: ipam gives another one.
    Phase.ADDRESSED: frozenset({Phase.ADDRESSING, Phase.RELEASING}),
    # Only a DEL parks: whoever dies in the middle of it finds it begun, and no link that is down by mistake.
    Phase.RELEASING: frozenset({Phase.PARKED}),
    Phase.PARKED: frozenset({Phase.ADDRESSED, Phase.RELEASING}),
}


class Owner(StrEnum):
    """Who knows whether the container of an attachment still exists."""

    DOCKER = "docker"  # the engine does: an attachment whose container is gone is collected
    CNI = "cni"  # only the caller does: nothing is collected before its DEL or GC


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Address6(_Value):
    """The IPv6 part of what ipam gave; its generation is its own. The address is in its shortest form."""

    ip: str
    prefix: int = Field(ge=1, le=128)
    gateway: str | None = None
    generation: int


class Address(_Value):
    """What ipam gave: an address with its network, and the generation that a release must carry.

    In an IPv6-only network `ip` is empty (so `prefix`, `gateway`, `generation` say nothing) and `ip6` is all there is.
    """

    ip: str = ""
    prefix: int = Field(0, ge=0, le=32)
    gateway: str | None = None
    vlan: int = Field(ge=1, le=4094)
    mtu: int | None = None
    mac: str | None = None
    generation: int = 0
    ip6: Address6 | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.ip and self.ip6 is None:
            raise ValueError("neither an IPv4 nor an IPv6 address")
        if self.ip:
            IPv4Address(self.ip)
        if self.ip6 is not None and str(IPv6Address(self.ip6.ip)) != self.ip6.ip:
            raise ValueError(f"{self.ip6.ip} is not the shortest form of an IPv6 address")
        return self

    def generations(self) -> tuple[int, int | None]:
        """What a release must carry: the primary address' and, when there are two, the IPv6 one's."""
        first, *rest = self.parts()
        return first.generation, rest[0].generation if rest else None

    def parts(self) -> tuple[FamilyAddress, ...]:
        """One entry a family, the primary one (IPv4 if there is one) first."""
        found = []
        if self.ip:
            found.append(FamilyAddress(4, self.ip, self.prefix, self.gateway, self.generation))
        if self.ip6 is not None:
            six = self.ip6
            found.append(FamilyAddress(6, six.ip, six.prefix, six.gateway, six.generation))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class FamilyAddress:
    """An attachment's address of one family (4 or 6), as ipam and callers name it."""

    family: int
    address: str
    prefix_len: int
    gateway: str | None
    generation: int


class Bandwidth(BaseModel):
    """Limits of one interface, in kbit/s as its container sees it; None: no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    egress_kbit: Annotated[int, Field(ge=64, le=32_000_000)] | None = Field(
        None, description="what the container sends"
    )
    ingress_kbit: Annotated[int, Field(ge=64, le=32_000_000)] | None = Field(
        None, description="what the container receives"
    )


NO_LIMITS = Bandwidth()


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
        "",
        max_length=100,
        description="bu/app: whose address it will be",
        exclude_if=lambda app: not app,
    )
    environment: str = Field(
        "",
        max_length=64,
        description="which networks and pools it may use, of those for certain environments",
        exclude_if=lambda name: not name,
    )
    mtu: Annotated[int, Field(ge=576, le=9000)] | None = None
    # Left out when there is none: an older hostd refuses a saved spec with fields it doesn't know.
    bandwidth: Bandwidth = Field(NO_LIMITS, exclude_if=lambda limits: limits == NO_LIMITS)
    owner: Owner = Owner.DOCKER


class Hop(_Value):
    """A route of an attachment: to `dst` (a network) by `gw`, else by the gateway of its address, if that has one."""

    dst: str
    gw: str | None = None


class Caller(_Value):
    """What a runtime that speaks CNI brought along: the container's namespace is its, and so are some choices.

    Kept beside the spec, so that a hostd of before CNI can read the state.
    """

    conf: str  # name of its network configuration: a GC is for one of them
    netns: str = ""  # path of its namespace; "": it wires by itself and only wants an address
    inode: int = 0  # of that namespace: another one at the same path is not this container's
    mac: str | None = None
    default_route: bool = True
    routes: tuple[Hop, ...] = ()
    given: Address | None = None  # by another IPAM plugin; ipam knows nothing of it
    dns: dict[str, Any] = Field(default_factory=dict)  # for the answer only


class Attachment(_Value):
    """The desired state of one interface of one container, as it is saved."""

    id: AttachmentId
    container: str
    ifname: str
    ipam_key: str  # what ipam knows it by, "" when it does not (any more)
    spec: AttachmentSpec
    phase: Phase
    created_at: float
    parked_at: float | None = None
    address: Address | None = None
    ofport: int | None = None
    caller: Caller | None = None  # None: the namespace is ours

    @property
    def key(self) -> tuple[str, str]:
        """Whose lock it is under: its container's and interface's, or its own when no container is left to name it."""
        return (self.container, self.ifname) if self.parked_at is None else ("", self.id)

    @property
    def wired(self) -> bool:
        """Does hostd make an interface for it."""
        return self.caller is None or bool(self.caller.netns)

    @property
    def given(self) -> Address | None:
        """Its address if another IPAM plugin gave it."""
        return self.caller.given if self.caller is not None else None

    def moved(self, phase: Phase) -> Attachment:
        """The same in `phase`. Raises ValueError when the table forbids it."""
        if phase not in TRANSITIONS[self.phase]:
            raise ValueError(f"attachment {self.id}: {self.phase} -> {phase}")
        return self.model_copy(update={"phase": phase})


class PendingRelease(_Value):
    """An address that ipam has yet to be told is free; kept on disk until it has been."""

    ipam_key: str
    spec: AttachmentSpec
    generation: int | None  # the primary address'; None: ipam's answer never came
    generation6: int | None = None  # the IPv6 address', when it is the second one
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
    ip6: Address6 | None = None
    egress_kbit: int | None = None  # what the container may send
    netns: str = ""  # path of a caller's namespace, which is never made or removed here
    inode: int = 0  # of that
    routes: tuple[Hop, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkState:
    """An interface as the kernel has it."""

    up: bool
    mtu: int
    mac: str


@dataclass(frozen=True, slots=True)
class WireView:
    """What there is of a wire. `addresses` are those inside, as "10.0.0.5/24"; `gateways` of its default routes."""

    outer: LinkState | None = None  # the host's end
    inner: LinkState | None = None  # the container's
    addresses: frozenset[str] = frozenset()
    gateways: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace that exists: where it is bound, and its inode."""

    name: str
    path: str
    inode: int


@dataclass(frozen=True, slots=True)
class SwitchPort:
    """A port of the bridge, with the sender addresses ("" for none) that may come in by it, and its limits.

    `leaving`: its DEL has begun. What it has it keeps, flow by flow, as long as the switch has the port. `netns` (our
    namespace's name, or a caller's path) and `generation` (of its addresses, IPv4 first) tell who looks at the switch.
    """

    name: str
    vlan: int
    ofport: int
    mac: str
    ip: str
    attachment: str
    container: str
    ip6: str = ""
    bandwidth: Bandwidth = NO_LIMITS
    leaving: bool = False
    netns: str = ""
    generation: str = ""


@dataclass(frozen=True, slots=True)
class PortView:
    """A port as the switch has it. `ofport` is None before the switch took it, `error` says why it did not."""

    name: str
    vlan: int | None
    ofport: int | None
    attachment: str
    container: str = ""
    error: str | None = None
    bandwidth: Bandwidth = NO_LIMITS
    netns: str = ""
    generation: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question to a VLAN: does any station answer for this address? Asked in the name of a MAC."""

    vlan: int
    mac: str
    address: str


@dataclass(frozen=True, slots=True)
class SwitchReport:
    """What a doctor wants to know of the switch. `uplinks` are those that it has and that work.

    `missing` are cookies of wanted rules that it has not, or otherwise; `surplus` flows of ours that none wants,
    `foreign` those of others, as text.
    """

    ports: tuple[PortView, ...]
    uplinks: frozenset[str]
    missing: tuple[int, ...] = ()
    surplus: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


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
    """What of ours the kernel has: namespaces, and the host's ends of links; which of these are `down`."""

    namespaces: frozenset[str]
    links: frozenset[str]
    down: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Actual:
    """What of this cluster exists on the host, whoever made it."""

    network: NetworkView = NetworkView(frozenset(), frozenset())
    ports: tuple[PortView, ...] = ()
    registered: tuple[tuple[str, str], ...] = ()  # (container id, namespace)
    absent: frozenset[str] = frozenset()  # attachments whose caller's namespace is not where it was

    def with_ports(self, ports: tuple[PortView, ...]) -> Actual:
        """The same with other ports."""
        return replace(self, ports=ports)


class Life(StrEnum):
    """How far a container has come, as the engine tells."""

    ABSENT = "absent"
    CREATED = "created"  # it never ran
    RUNNING = "running"
    ENDED = "ended"


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


class RegistrationSpec(BaseModel):
    """The body of a registration: the engine's container id; the generation must be the attachment's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    container_id: str = Field(pattern=ENGINE_ID.pattern)
    generation: int = Field(0, ge=0)
