"""Attachments come and go: ADD, registration, revocation, DEL. What keeps them true is in `sweep.py`, what of them
outlives a DEL in `parking.py`, how they come to an address in `addressing.py`.

Each step is saved before the next one acts, and each can be repeated; so whatever is broken off is taken up again
by the caller's retry, or by the sweep.

**Invariant**: a container may start only between a registration and its one use, and an address is released only after
the registration was revoked and the port is gone, or its link is down.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from libs.common.clock import Clock, Ids
from libs.common.errors import Conflict, InvalidInput, NotFound, Refused, Stale, Unavailable
from libs.common.telemetry import Telemetry
from libs.common.waiting import TaskGroup
from services.hostd import core
from services.hostd.addressing import Addressing
from services.hostd.answers import AttachmentView, view_of
from services.hostd.disks import Disks
from services.hostd.executors import Executors
from services.hostd.model import (
    CONTAINER,
    IFNAME,
    Attachment,
    AttachmentId,
    AttachmentSpec,
    Caller,
    Namespace,
    PendingRelease,
    Phase,
    Probe,
    RegistrationSpec,
)
from services.hostd.parking import Parking
from services.hostd.ports import Ports
from services.hostd.probing import ConflictProbes
from services.hostd.pulse import Pulse
from services.hostd.settings import HostdConfig
from services.hostd.sweep import Sweeper
from services.hostd.table import Table
from services.hostd.wiring import Wiring

STICKY_RELEASE_S = 1.0


class HostdService:
    """The attachments of one cluster on one host. Work is done while `running` is entered."""

    def __init__(
        self,
        owner: str,
        ports: Ports,
        settings: HostdConfig,
        *,
        data_dir: Path,
        clock: Clock,
        ids: Ids,
        rng: random.Random,
        telemetry: Telemetry,
    ) -> None:
        self.owner = owner  # whose names its links and ports bear; see HostdConfig.owner
        self.ports = ports
        self.settings = settings
        self.clock = clock
        self.rng = rng
        self.telemetry = telemetry
        self.table = Table(ports.state, clock)
        self.disks = Disks(
            ports.engine, ports.measure, (data_dir, *settings.disks), settings, telemetry
        )
        self.host_inode = 0
        self.swept = False  # has a reconcile succeeded?
        self.unknown = ""  # why it must not begin empty, if it has begun so
        self._began_empty = False
        self.release_wanted = asyncio.Event()
        self._ids = ids
        self._add_seconds = telemetry.histogram("hostd_add_seconds", "Time of an ADD")
        self._probes = ConflictProbes(ports.switch, settings.conflict_probe, telemetry)
        self.addressing = Addressing(self, self._probes)
        self.wiring = Wiring(owner, self.table, ports, clock, telemetry, batch=settings.batch)
        self.parking = Parking(self)
        self.pulse = Pulse(ports, settings.watch_s, clock, telemetry.log)
        self.executors = Executors(settings.executor_silent_s, clock, telemetry.log)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load what is saved, then do the work of the background until left."""
        await self.table.load()
        self._began_empty = not self.table.all() and not self.settings.start_empty
        for container_id, namespace in await self.ports.registry.registered():
            if self.table.get(AttachmentId(namespace)) is not None:
                self.table.registered[AttachmentId(namespace)] = container_id
                self.table.given_leave.add(AttachmentId(namespace))
        self.host_inode = await self.ports.network.host_inode()
        sweeper = Sweeper(self)
        async with TaskGroup() as group:
            jobs = (
                self.ports.switch.run(),
                self.table.run(),
                *self.wiring.jobs(),
                self.parking.run(),
                self._probes.run(),
                self.pulse.run(),
                self.executors.run(),
                *sweeper.jobs(),
            )
            tasks = [group.create_task(job) for job in jobs]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    @property
    def forgetful(self) -> bool:
        """It has begun with no state, and not looked yet whether anything here should be in that."""
        return self._began_empty and not self.swept

    def not_ready(self) -> str:
        """Why an ADD could not succeed now, "" when it could."""
        if not self.ports.switch.is_connected():
            return "no connection to Open vSwitch"
        if self.swept:
            return ""
        return self.unknown or "the first reconcile has not succeeded yet"

    # -- ADD -----------------------------------------------------------------------------------------

    async def add(
        self, container: str, ifname: str, spec: AttachmentSpec, caller: Caller | None = None
    ) -> AttachmentView:
        """Have the interface. The same call again gives the same answer, or goes on where it was broken off.

        Raises Stale (a lower generation than known), Conflict, what ipam refuses with, and Unavailable.
        """
        _check_names(container, ifname)
        started = self.clock.monotonic()
        if caller is None:
            await self.parking.supersede(container, spec)
        async with self.table.locks.hold([(container, ifname)]):
            attachment = await self._begin(container, ifname, spec, caller)
            if attachment.phase is Phase.ADDRESSING:
                with self.telemetry.span("hostd.address"):
                    attachment = await self.addressing.address(attachment)
            attachment = await self.wiring.wire(attachment)
        took_s = self.clock.monotonic() - started
        self._add_seconds.observe(took_s)
        view = self.view(attachment)
        self.telemetry.log.info(
            "attached", container=container, network=view.network, ip=view.ip, ms=int(1000 * took_s)
        )
        return view

    async def _begin(
        self, container: str, ifname: str, spec: AttachmentSpec, caller: Caller | None
    ) -> Attachment:
        known = self.table.find(container, ifname)
        if known is not None and known.phase is Phase.RELEASING:
            await self.finish(known)
            known = None
        if known is not None:
            return await self._again(known, spec, caller)
        id_ = AttachmentId(self._ids.short())
        return await self.table.put(
            Attachment(
                id=id_,
                container=container,
                ifname=ifname,
                ipam_key=core.ipam_key(id_, container, ifname, caller),
                spec=spec,
                phase=Phase.ADDRESSING,
                created_at=self.clock.now(),
                caller=caller,
            )
        )

    async def _again(
        self, known: Attachment, spec: AttachmentSpec, caller: Caller | None
    ) -> Attachment:
        if spec.generation < known.spec.generation:
            raise Stale(
                f"{known.container} is of generation {known.spec.generation}, not {spec.generation}"
            )
        field = "caller" if known.caller != caller else core.differs(known.spec, spec)
        if field is not None:
            raise Conflict(
                f"{known.container} has an attachment with another {field}: DEL it first"
            )
        if spec.generation == known.spec.generation and known.id not in self.table.doubtful:
            return known
        if known.phase is Phase.ADDRESSING:
            await self.parking.resolve(known)  # else both might be on disk, should we die then
        if (spec.mtu, spec.bandwidth) != (known.spec.mtu, known.spec.bandwidth):
            self.table.ready.pop(known.id, None)  # its wire and its port must learn them
        return await self.table.put(known.model_copy(update={"spec": spec}))

    # -- registration --------------------------------------------------------------------------------

    async def register(self, container: str, ifname: str, spec: RegistrationSpec) -> AttachmentView:
        """Give leave for one start. Raises NotFound, Stale (not the attachment's generation), Unavailable."""
        async with self.table.locks.hold([(container, ifname)]):
            attachment = self.table.find(container, ifname)
            if attachment is None or attachment.phase is Phase.RELEASING or attachment.caller:
                raise NotFound(f"{container} has no attachment {ifname}")
            if spec.generation != attachment.spec.generation:
                raise Stale(
                    f"{container} is of generation {attachment.spec.generation}, not {spec.generation}"
                )
            claims = await self._probes.claims(attachment.id)
            if claims:
                await self._give_up(attachment, claims)
            namespace = await self._present_namespace(attachment)
            before = self.table.registered.get(attachment.id)
            if before not in (None, spec.container_id):
                await self._revoke(attachment)
            await self.ports.registry.register(spec.container_id, namespace)
            self.table.registered[attachment.id] = spec.container_id
            self.table.given_leave.add(attachment.id)
            return self.view(attachment)

    async def _give_up(self, attachment: Attachment, claims: Mapping[Probe, str]) -> None:
        """Let go of an address that another station has. Raises NotFound: the caller may ADD again and gets another."""
        await self._revoke(attachment)
        await self.wiring.take_down(attachment)
        # Saved first: whoever dies between this and ipam's answer asks ipam, and the wire, again.
        await self.table.put(core.unaddressed(attachment))
        self.table.ready.pop(attachment.id, None)
        self._probes.forget(attachment.id)
        for probe, by in claims.items():
            self.telemetry.log.warning("an address is used by another", ip=probe.address, mac=by)
            await self.ports.ipam.conflict(attachment, probe.address, by)
        raise NotFound(f"{attachment.container} gave up an address that another has: ADD it again")

    async def _present_namespace(self, attachment: Attachment) -> Namespace:
        known = self.table.ready.get(attachment.id)
        if known is None or await self.ports.network.find(attachment.id) != known:
            self.table.ready.pop(attachment.id, None)
            raise Unavailable(f"{attachment.container} is not wired: ADD it again")
        return known

    async def revoke(self, container: str, ifname: str) -> bool:
        """Take leave back. False: it was used, or there was none; only then may the container run."""
        async with self.table.locks.hold([(container, ifname)]):
            attachment = self.table.find(container, ifname)
            return attachment is not None and await self._revoke(attachment)

    async def _revoke(self, attachment: Attachment) -> bool:
        container_id = self.table.registered.get(attachment.id)
        revoked = await self.ports.registry.revoke(container_id, attachment.id)
        self.table.registered.pop(attachment.id, None)
        return revoked

    # -- DEL -----------------------------------------------------------------------------------------

    async def delete(self, container: str, ifname: str) -> bool:
        """Have no such interface. False: there was none."""
        async with self.table.locks.hold([(container, ifname)]):
            attachment = self.table.find(container, ifname)
            if attachment is not None:
                await self.finish(attachment)
        # A sticky one's heir may ask for it at once, on another host: ipam hears before, also if others took it down.
        key = attachment.ipam_key if attachment else core.ipam_key("", container, ifname, None)
        pending = self.table.releases.get(key)
        if pending is not None and pending.spec.sticky_key:
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(STICKY_RELEASE_S):
                    await self.release(pending)
        return attachment is not None

    async def finish(self, attachment: Attachment) -> None:
        """Take an attachment down, in this order: leave, port, namespace; then the address may go. Under its lock.

        One that keeps its address for a successor is parked instead.
        """
        if attachment.phase is Phase.ADDRESSING:
            await self.parking.resolve(attachment)
        if attachment.phase is not Phase.RELEASING:
            attachment = await self.table.put(attachment.moved(Phase.RELEASING))
        await self._revoke(attachment)
        self._probes.forget(attachment.id)
        if await self.parking.park(attachment):
            return
        await self.wiring.take_down(attachment)
        await self.let_go(attachment)
        self.telemetry.log.info("detached", container=attachment.container)

    async def let_go(self, attachment: Attachment, parked: Attachment | None = None) -> None:
        """Forget an attachment, or keep it as it is `parked`; its address is to be released."""
        release = core.release_of(attachment, self.clock.now())
        async with self.table.locks.hold([release_key(attachment.ipam_key)]):
            if parked is None:
                await self.table.drop(attachment, release)
            else:
                await self.table.park(parked, release)
        self.release_wanted.set()

    async def release(self, pending: PendingRelease) -> None:
        """Tell ipam of a release, and forget it. Raises Unavailable; what ipam refuses is done with."""
        async with self.table.locks.hold([release_key(pending.ipam_key)]):
            if self.table.releases.get(pending.ipam_key) != pending:
                return
            try:
                await self.ports.ipam.release(pending)
            except Refused as error:
                self.telemetry.log.warning(
                    "ipam refused a release", attachment=pending.ipam_key, reason=str(error)
                )
            await self.table.released(pending)

    # -- looking -------------------------------------------------------------------------------------

    def get(self, container: str, ifname: str) -> AttachmentView:
        """One attachment. Raises NotFound."""
        attachment = self.table.find(container, ifname)
        if attachment is None:
            raise NotFound(f"{container} has no attachment {ifname}")
        return self.view(attachment)

    def view(self, attachment: Attachment) -> AttachmentView:
        """An attachment as callers see it."""
        return view_of(attachment, self.table, self.owner, self.host_inode)


def release_key(ipam_key: str) -> tuple[str, str]:
    """The lock under which a pending release comes and goes; no container has an empty name."""
    return ("", ipam_key)


def _check_names(container: str, ifname: str) -> None:
    if CONTAINER.fullmatch(container) is None:
        raise InvalidInput.of("container", "is not a container's name", "letters, digits, . _ -")
    if IFNAME.fullmatch(ifname) is None:
        raise InvalidInput.of(
            "ifname", "is not an interface's name", "e.g. eth0, at most 15 characters"
        )
