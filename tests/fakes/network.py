"""A host without a kernel: namespaces, links, a switch, the runtime's registry, hostd's disk, an engine.

`FakeHost` is the machine. It outlives hostd, so a test (or the simulation) kills one hostd and starts the next on
the same host. The adapters on it pass the contract suites of the real ones (`tests/contract/network/`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from libs.common.delivery import Delivery
from libs.common.errors import Conflict, GantryError, NotFound, Unavailable
from services.hostd import flows
from services.hostd.core import is_link_of
from services.hostd.model import (
    Attachment,
    ContainerView,
    Life,
    LinkCounters,
    LinkState,
    Namespace,
    NetworkView,
    PendingRelease,
    Registration,
    SwitchPort,
    Wire,
    WireView,
)
from services.hostd.ports import Change, LogQuery, Ports
from tests.fakes.disk import FakeDisk
from tests.fakes.ipam import FakeIpam
from tests.fakes.switch import FakeSwitch

HOST_INODE = 4026531840

Fault = Callable[[str], None]
"""Called at each step with its name; raises to make it fail, before or after the deed."""


class StartRefused(GantryError):
    """What the runtime shim says instead of starting a container."""


@dataclass
class FakeHost:
    """One machine: what is in its kernel, its switch, its /run and its disk.

    `callers` are namespaces that runtimes made, by path; `interfaces` what somebody else put into them.
    """

    cluster: str = "test"
    namespaces: dict[str, int] = field(default_factory=dict)  # name -> inode
    callers: dict[str, int] = field(default_factory=dict)  # path -> inode
    interfaces: set[tuple[str, str]] = field(default_factory=set)  # (path, interface)
    links: dict[str, tuple[str, str]] = field(default_factory=dict)  # link -> (namespace, ifname)
    down: set[str] = field(default_factory=set)  # links that are set down
    wires: dict[str, Wire] = field(default_factory=dict)  # namespace -> how it is wired
    ports: dict[str, SwitchPort] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)  # port -> the number it really has
    rules: dict[int, tuple[flows.Rule, ...]] = field(default_factory=dict)  # by cookie
    generations: dict[str, int] = field(default_factory=dict)
    registrations: dict[str, Registration] = field(default_factory=dict)
    attachments: dict[str, Attachment] = field(default_factory=dict)
    releases: dict[str, PendingRelease] = field(default_factory=dict)
    containers: dict[str, ContainerView] = field(default_factory=dict)  # by id
    ended: set[str] = field(default_factory=set)  # ids of those that ran
    logs: dict[str, list[bytes]] = field(default_factory=dict)
    outputs: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)  # (container, run)
    deliveries: dict[str, Delivery] = field(default_factory=dict)  # by attempt
    strangers: dict[str, str] = field(default_factory=dict)  # address -> whose MAC claims it
    disk: FakeDisk = field(default_factory=lambda: FakeDisk({}))
    switch_up: bool = True
    engine_up: bool = True
    engine_frozen: bool = False
    switch_epoch: int = 1
    fault: Fault = lambda _step: None
    _inodes: int = HOST_INODE
    _waiters: list[asyncio.Event] = field(default_factory=list)

    def step(self, name: str) -> None:
        """A point where a fault may strike."""
        self.fault(name)

    def new_inode(self) -> int:
        """An inode that no namespace ever had."""
        self._inodes += 1
        return self._inodes

    def restart_switch(self) -> None:
        """The switch process dies and comes back: ports come from its database, rules don't."""
        self.rules.clear()
        self.switch_up = True
        self.switch_epoch += 1
        for waiter in self._waiters:
            waiter.set()

    def reboot(self) -> None:
        """Everything that is not on disk is gone."""
        self.namespaces.clear()
        self.callers.clear()
        self.interfaces.clear()
        self.links.clear()
        self.down.clear()
        self.wires.clear()
        self.generations.clear()
        self.registrations.clear()
        self.ended |= {key for key, each in self.containers.items() if each.running}
        self.containers = {k: replace(c, running=False) for k, c in self.containers.items()}
        self.restart_switch()

    def bring_namespace(self, path: str) -> int:
        """A runtime makes a namespace."""
        self.callers[path] = self.new_inode()
        return self.callers[path]

    def drop_namespace(self, path: str) -> None:
        """A runtime removes its namespace, and the kernel what is in it."""
        del self.callers[path]
        self.interfaces = {each for each in self.interfaces if each[0] != path}
        gone = {name for name, wire in self.wires.items() if wire.netns == path}
        self.wires = {name: wire for name, wire in self.wires.items() if name not in gone}
        self.links = {link: end for link, end in self.links.items() if end[0] not in gone}

    def claim(self, container_id: str) -> Namespace:
        """What the runtime shim does at a start: use the registration up. Raises StartRefused."""
        registration = self.registrations.get(container_id)
        if registration is None:
            raise StartRefused(
                f"gantry-runc: no network namespace is registered for container {container_id[:12]}"
            )
        namespace = registration.namespace
        if self.generations.get(namespace.name) != registration.generation:
            raise StartRefused("gantry-runc: the registration is of an older generation")
        if self.namespaces.get(namespace.name) != namespace.inode:
            raise StartRefused("gantry-runc: the namespace is another one than the one registered")
        del self.registrations[container_id]
        return namespace

    def watch_switch(self) -> asyncio.Event:
        """An event that each restart of the switch sets."""
        waiter = asyncio.Event()
        waiter.set()
        self._waiters.append(waiter)
        return waiter


class FakeNetns:
    """NetworkDriver on a FakeHost."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def ensure(self, wire: Wire) -> Namespace:
        """See NetworkDriver."""
        host = self._host
        host.step("netns.ensure")
        if wire.netns:
            return self._ensure_in(wire)
        inode = host.namespaces.setdefault(wire.namespace, 0) or host.new_inode()
        host.namespaces[wire.namespace] = inode
        host.links[wire.link] = (wire.namespace, wire.ifname)
        host.down.discard(wire.link)
        host.wires[wire.namespace] = wire
        host.step("netns.ensured")
        return Namespace(wire.namespace, f"/run/netns/{wire.namespace}", inode)

    def _ensure_in(self, wire: Wire) -> Namespace:
        host = self._host
        if host.callers.get(wire.netns) != wire.inode:
            raise Unavailable(f"{wire.netns} is not the container's namespace any more")
        others = {
            (known.netns, known.ifname)
            for name, known in host.wires.items()
            if name != wire.namespace and known.link in host.links
        }
        if (wire.netns, wire.ifname) in host.interfaces | others:
            raise Conflict(f"{wire.netns} has an interface {wire.ifname} already")
        host.links[wire.link] = (wire.namespace, wire.ifname)
        host.wires[wire.namespace] = wire
        host.step("netns.ensured")
        return Namespace(wire.namespace, wire.netns, wire.inode)

    async def inode_of(self, netns: str) -> int | None:
        """See NetworkDriver."""
        inode = self._host.callers.get(netns)
        if inode == HOST_INODE:
            raise Conflict(f"{netns} is the host's own network namespace")
        return inode

    async def complaints(self, wire: Wire) -> tuple[str, ...]:
        """See NetworkDriver."""
        if wire.link not in self._host.links:
            return (f"the interface {wire.ifname} is missing",)
        wired = self._host.wires[wire.namespace]
        return () if wired == wire else (f"{wire.ifname} is not the interface that was made",)

    async def find(self, namespace: str) -> Namespace | None:
        """See NetworkDriver."""
        inode = self._host.namespaces.get(namespace)
        return Namespace(namespace, f"/run/netns/{namespace}", inode) if inode else None

    async def remove_namespace(self, name: str) -> None:
        """See NetworkDriver."""
        host = self._host
        host.step("netns.remove")
        host.namespaces.pop(name, None)
        host.wires.pop(name, None)
        host.links = {link: end for link, end in host.links.items() if end[0] != name}
        host.down &= host.links.keys()

    async def set_down(self, link: str) -> bool:
        """See NetworkDriver."""
        host = self._host
        host.step("netns.down")
        if link not in host.links:
            return False
        host.down.add(link)
        host.step("netns.downed")
        return True

    async def remove_link(self, name: str) -> None:
        """See NetworkDriver."""
        self._host.links.pop(name, None)
        self._host.down.discard(name)

    async def view(self) -> NetworkView:
        """See NetworkDriver."""
        host = self._host
        host.step("netns.view")
        links = frozenset(link for link in host.links if is_link_of(host.cluster, link))
        return NetworkView(frozenset(host.namespaces), links, links & host.down)

    async def inspect(self, wire: Wire) -> WireView:
        """See NetworkDriver."""
        host = self._host
        outer = await self.link(wire.link)
        made = host.wires.get(wire.namespace)
        if made is None or outer is None:
            return WireView(outer)
        addresses = {f"{made.ip}/{made.prefix}"} if made.ip else set()
        gateways = {made.gateway}
        if made.ip6 is not None:
            addresses |= {f"{made.ip6.ip}/{made.ip6.prefix}", f"{flows.link_local(made.mac)}/64"}
            gateways.add(made.ip6.gateway)
        inner = LinkState(True, made.mtu, made.mac)
        return WireView(
            outer, inner, frozenset(addresses), frozenset(each for each in gateways if each)
        )

    async def link(self, name: str) -> LinkState | None:
        """See NetworkDriver."""
        if name not in self._host.links:
            return None
        made = self._host.wires.get(self._host.links[name][0])
        up = name not in self._host.down
        return LinkState(up, made.mtu if made else 1500, "0e:00:00:00:00:01")

    async def counters(self, link: str) -> LinkCounters | None:
        """See NetworkDriver."""
        return LinkCounters(0, 0, 0, 0, 0, 0) if link in self._host.links else None

    async def host_inode(self) -> int:
        """See NetworkDriver."""
        return HOST_INODE


class FakeRegistry:
    """Registry on a FakeHost."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def register(self, container_id: str, namespace: Namespace) -> Registration:
        """See Registry."""
        self._host.step("registry.register")
        generation = self._host.generations.setdefault(namespace.name, 1)
        registration = Registration(container_id, namespace, generation)
        self._host.registrations[container_id] = registration
        return registration

    async def revoke(self, container_id: str | None, namespace: str) -> bool:
        """See Registry."""
        self._host.step("registry.revoke")
        if namespace in self._host.generations:
            self._host.generations[namespace] += 1
        return self._host.registrations.pop(container_id or "", None) is not None

    async def forget(self, namespace: str) -> None:
        """See Registry."""
        self._host.generations.pop(namespace, None)

    async def registered(self) -> tuple[tuple[str, str], ...]:
        """See Registry."""
        found = self._host.registrations.items()
        return tuple(sorted((key, each.namespace.name) for key, each in found))


class FakeState:
    """StateStore on a FakeHost: what is saved survives hostd."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def load(self) -> tuple[list[Attachment], list[PendingRelease]]:
        """See StateStore."""
        host = self._host
        return (
            [host.attachments[key] for key in sorted(host.attachments)],
            [host.releases[key] for key in sorted(host.releases)],
        )

    async def save(self, changes: Sequence[Change]) -> None:
        """See StateStore."""
        self._host.step("state.save")
        for change in changes:
            if isinstance(change, Attachment):
                self._host.attachments[change.id] = change
            elif isinstance(change, PendingRelease):
                self._host.releases[change.ipam_key] = change
            elif change[0] == "attachment":
                self._host.attachments.pop(change[1], None)
            else:
                self._host.releases.pop(change[1], None)
        self._host.step("state.saved")


class FakeEngine:
    """Engine on a FakeHost's containers."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self.killed: list[str] = []

    async def ping(self) -> None:
        """See Engine."""
        self._arrive()
        while self._host.engine_frozen:
            await asyncio.sleep(0.1)

    async def containers(self) -> tuple[ContainerView, ...]:
        """See Engine."""
        self._arrive()
        return tuple(self._host.containers[key] for key in sorted(self._host.containers))

    async def exists(self, container: str) -> bool:
        """See Engine."""
        self._arrive()
        return self._find(container) is not None

    async def life(self, container: str) -> Life:
        """See Engine."""
        self._arrive()
        found = self._find(container)
        if found is None:
            return Life.ABSENT
        if found.running:
            return Life.RUNNING
        return Life.ENDED if found.id in self._host.ended else Life.CREATED

    async def root(self) -> Path:
        """See Engine."""
        self._arrive()
        return Path("/engine")

    async def kill(self, container: str) -> None:
        """See Engine."""
        self._arrive()
        found = self._find(container)
        if found is not None and found.running:
            self.killed.append(found.id)
            self._host.ended.add(found.id)
            self._host.containers[found.id] = replace(found, running=False, netns_inode=None, pid=0)

    async def stats(self, container: str) -> Mapping[str, Any]:
        """See Engine."""
        self._arrive()
        if self._find(container) is None:
            raise NotFound(f"no container {container}")
        return {"cpu_ns": 0, "mem_bytes": 0, "mem_limit_bytes": 0, "pids": 1}

    async def logs(self, container: str, query: LogQuery) -> AsyncIterator[bytes]:
        """See Engine."""
        self._arrive()
        found = self._find(container)
        if found is None:
            raise NotFound(f"no container {container}")
        lines = self._host.logs.get(found.id, [])
        return _give(lines if query.tail is None else lines[len(lines) - query.tail :])

    def _arrive(self) -> None:
        if not self._host.engine_up:
            raise Unavailable("Docker can't be reached")

    def _find(self, container: str) -> ContainerView | None:
        every = self._host.containers.values()
        return next((each for each in every if container in (each.id, each.name)), None)


class FakeDeliveries:
    """See DeliveryPort: what the host's `deliveries` has by attempt."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def of_attempt(self, attempt: str) -> Delivery:
        """See DeliveryPort."""
        if attempt not in self._host.deliveries:
            raise NotFound(f"no attempt {attempt!r} is placed here")
        return self._host.deliveries[attempt]


async def _give(lines: list[bytes]) -> AsyncIterator[bytes]:
    for line in lines:
        yield line


class FakeOutputs:
    """Runs' output. See OutputPort."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def of_run(self, container: str, run: str, query: LogQuery) -> AsyncIterator[bytes]:
        """See OutputPort."""
        lines = self._host.outputs.get((container, run))
        if lines is None:
            raise NotFound(f"{run} does not run in there")
        return _give(lines if query.tail is None else lines[len(lines) - query.tail :])


def fake_ports(host: FakeHost, ipam: FakeIpam) -> Ports:
    """All ports of one hostd process on a host."""
    return Ports(
        network=FakeNetns(host),
        switch=FakeSwitch(host),
        registry=FakeRegistry(host),
        state=FakeState(host),
        ipam=ipam,
        engine=FakeEngine(host),
        outputs=FakeOutputs(host),
        deliveries=FakeDeliveries(host),
        measure=host.disk.measure,
    )
