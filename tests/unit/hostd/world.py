"""hostd's real service on a host of fakes, in virtual time, with what must never be true of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from libs.common.errors import GantryError, Unavailable
from libs.common.telemetry import Telemetry, make_log
from services.hostd.core import link_name
from services.hostd.model import AttachmentSpec, ContainerView, Phase, RegistrationSpec
from services.hostd.service import HostdService
from services.hostd.settings import HostdConfig
from tests.fakes.ipam import FakeIpam
from tests.fakes.network import FakeHost, StartRefused, fake_ports
from tests.simulation.loop import World

CLUSTER = "test"
T = TypeVar("T")


class Broken(AssertionError):
    """An invariant does not hold."""


class HostdWorld:
    """One host, one ipam, and one hostd at a time."""

    def __init__(self, world: World, **settings: object) -> None:
        self.world = world
        self.host = FakeHost(cluster=CLUSTER)
        self.ipam = FakeIpam(red=(100, "10.0.0.0/28"), blue=(200, "10.1.0.0/28"))
        self.settings = HostdConfig.model_validate({"ipam_wait_s": 2.0, **settings})
        self.service: HostdService | None = None
        self.hostds = 0
        self.break_service: Callable[[HostdService], None] = lambda _service: None
        self._task: asyncio.Task[None] | None = None
        self._calls: list[asyncio.Future[Any]] = []
        self._restarting = asyncio.Lock()
        self._containers = 0

    # -- hostd's life --------------------------------------------------------------------------------

    async def start(self, group: asyncio.TaskGroup) -> HostdService:
        """Begin the next life of hostd on the same host."""
        self.hostds += 1
        service = HostdService(
            CLUSTER,
            fake_ports(self.host, self.ipam),
            self.settings,
            data_dir=Path("/var/lib/gantry"),
            clock=self.world.clock,
            ids=self.world.ids,
            rng=self.world.rng,
            telemetry=Telemetry("hostd", make_log("hostd", level="critical")),
        )
        self.break_service(service)
        up = asyncio.Event()
        self._task = group.create_task(self._live(service, up))
        await up.wait()
        self.service = service
        return service

    async def _live(self, service: HostdService, up: asyncio.Event) -> None:
        async with service.running():
            up.set()
            await asyncio.Event().wait()

    async def crash(self) -> None:
        """End hostd in the middle of whatever it does; what it had in memory is gone."""
        task, self._task, self.service = self._task, None, None
        doomed = [*self._calls, *([task] if task else [])]
        for each in doomed:
            each.cancel()
        if doomed:
            await asyncio.wait(doomed)

    async def restart(self, group: asyncio.TaskGroup, after_s: float) -> None:
        """Crash, and come back after a while."""
        async with self._restarting:
            await self.crash()
            await self.world.clock.sleep(after_s)
            await self.start(group)

    async def _call(self, call: Callable[[HostdService], Coroutine[Any, Any, T]]) -> T:
        """A call that dies with the process that answers it."""
        if self.service is None:
            raise Unavailable("hostd is down")
        inner = asyncio.ensure_future(call(self.service))
        self._calls.append(inner)
        try:
            return await inner
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                raise
            raise Unavailable("hostd died") from None
        finally:
            self._calls.remove(inner)

    # -- what the executor does ----------------------------------------------------------------------

    def create(self, name: str) -> str:
        """A container in the engine; its id."""
        found = [each.id for each in self.host.containers.values() if each.name == name]
        if found:
            return found[0]
        self._containers += 1
        container_id = f"{self._containers:064x}"
        view = ContainerView(container_id, name, False, "gantry", 0, None)
        self.host.containers[container_id] = view
        return container_id

    def start_container(self, name: str) -> str:
        """`docker start`: "" or why the runtime refused."""
        container_id = self.create(name)
        if self.host.containers[container_id].running:
            return "it runs"
        try:
            namespace = self.host.claim(container_id)
        except StartRefused as error:
            return str(error)
        self.check_start(name, namespace.name)
        self.host.containers[container_id] = replace(
            self.host.containers[container_id], running=True, pid=7, netns_inode=namespace.inode
        )
        return ""

    def remove_container(self, name: str) -> None:
        """`docker rm -f`."""
        for each in list(self.host.containers.values()):
            if each.name == name:
                del self.host.containers[each.id]

    async def add(
        self,
        name: str,
        network: str = "red",
        generation: int = 1,
        sticky_key: str = "",
        **more: object,
    ) -> str:
        """ADD; the address."""
        content = {"instance": name, **more, "network": network, "generation": generation}
        spec = AttachmentSpec.model_validate({**content, "sticky_key": sticky_key})
        return (await self._call(lambda service: service.add(name, "eth0", spec))).ip

    async def register(self, name: str, generation: int = 1) -> None:
        """Give leave."""
        spec = RegistrationSpec(container_id=self.create(name), generation=generation)
        await self._call(lambda service: service.register(name, "eth0", spec))

    async def revoke(self, name: str) -> bool:
        """Take leave back."""
        return await self._call(lambda service: service.revoke(name, "eth0"))

    async def delete(self, name: str) -> bool:
        """DEL."""
        return await self._call(lambda service: service.delete(name, "eth0"))

    # -- what must hold ------------------------------------------------------------------------------

    def check_start(self, name: str, namespace: str) -> None:
        """A start may succeed only in the namespace of the container's own attachment, while that is there."""
        for each in self.host.attachments.values():
            if each.id == namespace and each.container == name:
                return
        raise Broken(f"{name} was started in {namespace}, which is not its own (any more)")

    def check(self) -> None:
        """At any time: whoever can send from an address has it from ipam, and no leave outlives its attachment.

        By a link that is down nobody sends, and a parked attachment's link is down.
        """
        owners: dict[tuple[int, str], str] = {}
        keys: dict[str, str] = {each.id: each.ipam_key for each in self.host.attachments.values()}
        for parked in self.host.attachments.values():
            link = link_name(CLUSTER, parked.id)
            if parked.phase is Phase.PARKED and link in self.host.links.keys() - self.host.down:
                raise Broken(f"{parked.id} is parked, and its link is up")
        for each in self.host.registrations.values():
            if each.namespace.name not in keys:
                raise Broken(f"leave to start in {each.namespace.name} outlives its attachment")
        for port in self.host.ports.values():
            if port.name not in self.host.links or port.name not in self.host.numbers:
                continue
            if port.name in self.host.down:
                continue
            holder = owners.setdefault((port.vlan, port.ip), port.attachment)
            if holder != port.attachment:
                raise Broken(f"{port.ip} is at two ports")
            key = keys.get(port.attachment)
            if key is None or self.ipam.addresses().get(key) != port.ip:
                raise Broken(f"{port.ip} was released while its port is there")

    def check_clean(self) -> None:
        """After everything was taken down: nothing of it is left anywhere."""
        host = self.host
        left = {
            "namespaces": host.namespaces,
            "links": host.links,
            "links that are down": host.down,
            "ports": host.ports,
            "registrations": host.registrations,
            "generations": host.generations,
            "attachments": host.attachments,
            "releases": host.releases,
            "addresses": self.ipam.addresses(),
            "rules": [cookie for cookie in host.rules if cookie & 0xFFFFFFFF],
        }
        rest = {what: things for what, things in left.items() if things}
        if rest:
            raise Broken(f"left over: {rest}")


async def retry(world: World, job: Callable[[], object], tries: int = 60) -> None:
    """Repeat a call until it succeeds, as the executor does."""
    for _ in range(tries):
        try:
            await job()  # type: ignore[misc]
        except Unavailable:
            await world.clock.sleep(0.5)
        else:
            return
    raise Broken("it never succeeds")


async def tolerate(job: Callable[[], object]) -> None:
    """A call that may fail."""
    try:
        await job()  # type: ignore[misc]
    except GantryError:
        pass


async def settled(world: World, seconds: float = 40.0) -> None:
    """Let the sweeps of so much time pass."""
    await world.clock.sleep(seconds)
