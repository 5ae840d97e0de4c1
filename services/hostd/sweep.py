"""What keeps a host true without being asked: reconcile, restore flows, replay releases, look after containers.

Events (a restart of the switch, a DEL) only wake these loops; each looks at what there is and decides from that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from libs.common.backoff import Backoff
from libs.common.errors import GantryError, Refused, Unavailable
from libs.common.waiting import TaskGroup
from services.hostd import core
from services.hostd.model import (
    Actual,
    Attachment,
    AttachmentId,
    ContainerView,
    Namespace,
    Phase,
)

if TYPE_CHECKING:
    from services.hostd.service import HostdService

PARALLEL = 16
RETRY = Backoff(0.2, 10.0)
LIVE_REPORT_S = 60.0


class Sweeper:
    """The background work of one HostdService."""

    def __init__(self, service: HostdService) -> None:
        self._service = service
        self._table = service.table
        self._ports = service.ports
        self._settings = service.settings
        self._clock = service.clock
        self._log = service.telemetry.log
        self._suspects: dict[str, str] = {}  # container -> why it looked wrong the last time
        self._lost: frozenset[str] = frozenset()  # whose namespace is no more; they await a DEL
        self._orphans: dict[str, float] = {}  # attachment -> when its container was first missed
        self._mended = service.telemetry.counter(
            "hostd_mended_total", "Differences between desired and actual that were mended", "kind"
        )
        self._killed = service.telemetry.counter(
            "hostd_intruders_killed_total", "Containers killed for running where they must not"
        )
        self._gauge = service.telemetry.gauge("hostd_attachments", "Attachments, by phase", "phase")
        self._pending = service.telemetry.gauge(
            "hostd_pending_releases", "Addresses ipam has yet to be told are free"
        )

    def jobs(self) -> Iterable[Coroutine[Any, Any, None]]:
        """The loops; none ends by itself."""
        settings = self._settings
        return (
            self._follow_switch(),
            self._replay_releases(),
            self._every(settings.reconcile_s, self.reconcile, "reconcile"),
            self._every(settings.watch_s, self.watch, "watch"),
            self._every(settings.disk_s, self._service.disks.look, "disks"),
            self._every(LIVE_REPORT_S, self._report_live, "report"),
        )

    async def _every(self, period_s: float, job: Callable[[], Awaitable[None]], what: str) -> None:
        failures = 0
        while True:
            try:
                await job()
                failures = 0
            except GantryError as error:
                failures += 1
                self._log.warning("sweep failed", what=what, reason=str(error))
            pause_s = RETRY.delay_s(failures, self._service.rng) if failures else period_s
            await self._clock.sleep(min(period_s, pause_s))

    # -- the switch ------------------------------------------------------------------------------------

    async def _follow_switch(self) -> None:
        """A switch that was started anew has no flows: give them back at once, then look at the rest."""
        while True:
            await self._ports.switch.restarted()
            try:
                await self.restore_flows()
                self._log.info("flows restored")
                await self.reconcile()
            except Unavailable as error:
                self._log.warning("flows not restored yet", reason=str(error))

    async def restore_flows(self) -> None:
        """Have the flows of every attachment with an address, also of those that are parked or being taken down.

        A DEL under way may end in parking, and its flows must not be younger then.
        """
        await self._ports.switch.restore_flows(
            lambda: core.ports_of(self._service.owner, self._present())
        )

    def _present(self) -> list[Attachment]:
        return [each for each in self._table.all() if each.wired and each.id not in self._lost]

    # -- reconcile ---------------------------------------------------------------------------------------

    async def reconcile(self) -> None:
        """Compare desired and actual, mend the difference. Raises Unavailable; what could be done is done."""
        seen_ready = frozenset(self._table.ready)
        actual = Actual(
            await self._ports.network.view(),
            await self._ports.switch.view(),
            await self._ports.registry.registered(),
            await self._absent(),
        )
        if self._service.forgetful:
            await self._refuse_to_forget(actual)
        self._lost = core.lost(self._service.owner, self._table.all(), actual)
        plan = core.plan(self._service.owner, self._table.all(), actual)
        if plan:
            self._log.info("mending", **{name: len(getattr(plan, name)) for name in plan.__slots__})
        for container_id, namespace in plan.revoke:
            await self._ports.registry.revoke(container_id, namespace)
        await self._ports.switch.remove(plan.remove_ports)
        for name in plan.remove_namespaces:
            await self._ports.network.remove_namespace(name)
            await self._ports.registry.forget(name)
        for link in plan.remove_links:
            await self._ports.network.remove_link(link)
        self._count(plan)
        broken = sorted({*plan.wire, *plan.ports, *plan.up})
        await self._adopt(actual, broken)
        await self._together(self._finish, plan.finish)
        await self._together(self._unpark, plan.unpark)
        await self._together(lambda each: self._mend(each, seen_ready, plan), broken)
        # Also rules that somebody deleted, or that a change broken off half-way left behind.
        await self.restore_flows()
        self._service.swept = True

    async def _refuse_to_forget(self, actual: Actual) -> None:
        """A state that knows nothing of what runs here was lost, or is another's: nobody is ended for that.

        Raises Unavailable.
        """
        inodes = set()
        for name in sorted(actual.network.namespaces - {each.id for each in self._table.all()}):
            namespace = await self._ports.network.find(name)
            if namespace is not None:
                inodes.add(namespace.inode)
        views = await self._ports.engine.containers() if inodes else ()
        names = [each.name for each in views if each.running and each.netns_inode in inodes]
        self._service.unknown = ""
        if names:
            self._service.unknown = (
                f"the state knows nothing of {len(names)} containers that run here, such as {names[0]}: "
                "put it back, or set hostd.start_empty to end them"
            )
            raise Unavailable(self._service.unknown)

    async def _absent(self) -> frozenset[str]:
        """Attachments whose caller's namespace is gone: after a boot, or because its DEL has yet to come."""
        found = []
        for each in self._table.all():
            caller = each.caller
            if caller is None or not caller.netns:
                continue
            if await self._ports.network.inode_of(caller.netns) != caller.inode:
                found.append(each.id)
                self._table.ready.pop(each.id, None)
        return frozenset(found)

    async def _together(self, job: Callable[[str], Awaitable[None]], names: Iterable[str]) -> None:
        limit = asyncio.Semaphore(PARALLEL)
        failures: list[Unavailable] = []

        async def one(name: str) -> None:
            async with limit:
                try:
                    await job(name)
                except Unavailable as error:
                    failures.append(error)

        async with TaskGroup() as group:
            for name in names:
                group.create_task(one(name))
        if failures:
            raise failures[0]

    async def _finish(self, name: str) -> None:
        attachment = self._table.get(AttachmentId(name))
        if attachment is None:
            return
        async with self._table.locks.hold([attachment.key]):
            present = self._table.get(attachment.id)
            if present is not None and present.phase is Phase.RELEASING:
                await self._service.finish(present)

    async def _unpark(self, name: str) -> None:
        attachment = self._table.get(AttachmentId(name))
        if attachment is not None:
            await self._service.parking.end(attachment)

    async def _mend(self, name: str, seen_ready: frozenset[str], plan: core.Plan) -> None:
        attachment = self._table.get(AttachmentId(name))
        if attachment is None:
            return
        async with self._table.locks.hold([attachment.key]):
            present = self._table.get(attachment.id)
            if present is None or present.phase is not Phase.ADDRESSED:
                return
            if present.id in self._table.ready and present.id not in seen_ready:
                return  # an ADD finished it after we looked
            self._table.ready.pop(present.id, None)
            if name in plan.wire:
                # A port keeps its number and no error when its link vanished: it must be made anew.
                await self._ports.switch.remove([core.link_name(self._service.owner, present.id)])
            try:
                await self._service.wiring.wire(present)
            except (
                Refused
            ) as error:  # the caller's namespace is not as it was: one attachment's trouble
                reason = str(error)
                self._log.warning("not mended", container=present.container, reason=reason)

    async def _adopt(self, actual: Actual, broken: Collection[str]) -> None:
        """What was made before this process began, and is as it should be, is ready."""
        for attachment in self._present():
            settled = attachment.id in self._table.ready or attachment.id in broken
            if attachment.phase is not Phase.ADDRESSED or settled:
                continue
            caller = attachment.caller
            if caller is not None:
                if attachment.id not in actual.absent:
                    found = Namespace(attachment.id, caller.netns, caller.inode)
                    self._table.ready.setdefault(attachment.id, found)
                continue
            own = await self._ports.network.find(attachment.id)
            as_before = self._table.get(attachment.id) == attachment
            if own is not None and as_before and attachment.id in actual.network.namespaces:
                self._table.ready.setdefault(attachment.id, own)

    def _count(self, plan: core.Plan) -> None:
        for name in plan.__slots__:
            if amount := len(getattr(plan, name)):
                self._mended.labels(name).inc(amount)
        every = self._table.all()
        for phase in Phase:
            self._gauge.labels(phase).set(sum(each.phase is phase for each in every))

    # -- releases ----------------------------------------------------------------------------------------

    async def _replay_releases(self) -> None:
        failures = 0
        while True:
            self._service.release_wanted.clear()
            self._pending.set(len(self._table.releases))
            try:
                await self._together(self._release, sorted(self._table.releases))
                failures = 0
                self._pending.set(len(self._table.releases))
                await self._service.release_wanted.wait()
            except Unavailable as error:
                failures += 1
                waiting = len(self._table.releases)
                self._log.warning("releases wait for ipam", count=waiting, reason=str(error))
                await self._clock.sleep(RETRY.delay_s(failures, self._service.rng))

    async def _release(self, ipam_key: str) -> None:
        pending = self._table.releases.get(ipam_key)
        if pending is not None:
            await self._service.release(pending)

    async def _report_live(self) -> None:
        every = self._table.all()
        known = [each for each in every if each.ipam_key]
        keys = {each.ipam_key for each in known} | set(self._table.releases)
        await self._ports.ipam.report_live(sorted(keys), known)

    # -- containers --------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Kill containers that run where they must not; collect attachments whose container is gone."""
        before = self._table.all()
        containers = await self._ports.engine.containers()
        await self._kill_intruders(containers)
        await self._collect_orphans(before, containers)

    async def _kill_intruders(self, containers: tuple[ContainerView, ...]) -> None:
        inodes: dict[str, int | None] = {}
        for each in (a for a in self._table.all() if a.parked_at is None):
            namespace = self._table.ready.get(each.id)
            inodes[each.container] = namespace.inode if namespace else None
        found = core.intruders(containers, inodes, self._service.host_inode, self._settings.runtime)
        suspects = {each.container: each.reason for each in found}
        for one in found:
            sure = self._suspects.get(one.container) == one.reason and not self._service.forgetful
            if one.at_once or sure:
                self._log.error("killing an intruder", container=one.container, reason=one.reason)
                await self._ports.engine.kill(one.container)
                self._killed.inc()
        self._suspects = suspects

    def _grace_s(self, attachment: Attachment) -> float:
        """Who was never given leave to start has no container yet, perhaps: its image is on the way."""
        if attachment.id in self._table.given_leave:
            return self._settings.orphan_grace_s
        return max(self._settings.launch_grace_s, self._settings.orphan_grace_s)

    async def _collect_orphans(
        self, before: list[Attachment], containers: tuple[ContainerView, ...]
    ) -> None:
        now, grace_s = self._clock.now(), self._settings.orphan_grace_s
        # Only what was there before we asked the engine: a later one's container may be newer than its answer.
        missed = core.orphans(before, containers, now, self._grace_s)
        self._orphans = {name: self._orphans.get(name, now) for name in sorted(missed)}
        for name, since in self._orphans.items():
            attachment = self._table.get(AttachmentId(name))
            if attachment is None or now - since < grace_s:
                continue
            async with self._table.locks.hold([attachment.key]):
                present = self._table.get(attachment.id)
                # A container that took over meanwhile, or came back, has its own time.
                if present != attachment or await self._ports.engine.exists(present.container):
                    continue
                self._log.warning("collecting an orphan", container=attachment.container)
                await self._service.finish(present)
