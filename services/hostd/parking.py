"""Parking: the wiring of a container that is gone waits for the one that takes its place.

A DEL of an attachment that keeps its address for a key sets the host's end of its link down, so that nobody answers for
the address, and tells ipam of the release; namespace, port and flows stay. An ADD for the same key that ipam gives the
same address takes them over as they are: same inode, same number, same rules with their ages and counters.

**Invariant**: a parked attachment's link is down and no leave is given for it; where it is not whole, another one gets
its address, or its time is up, it goes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from libs.common.backoff import Backoff
from libs.common.errors import Unavailable
from libs.common.waiting import set_or_due
from services.hostd import core
from services.hostd.model import Attachment, AttachmentSpec, Phase

if TYPE_CHECKING:
    from services.hostd.service import HostdService

MAX_PARKED = 128  # each costs a namespace and a port
RETRY = Backoff(0.5, 10.0)


class Parking:
    """The parked attachments of one HostdService."""

    def __init__(self, service: HostdService) -> None:
        self._service = service
        self._table = service.table
        self._network = service.ports.network
        self._clock = service.clock
        self._log = service.telemetry.log
        self._keep_s = service.settings.park_s
        self.most = MAX_PARKED
        self._wake = asyncio.Event()  # there is one more

    def _parked(self) -> list[Attachment]:
        """Those that wait, and those of them that are on their way out."""
        return [each for each in self._table.all() if each.parked_at is not None]

    # -- the DEL ---------------------------------------------------------------------------------------

    async def park(self, attachment: Attachment) -> bool:
        """Keep the wiring of an attachment whose DEL has begun and whose leave is revoked. Under its lock.

        False: it is not to be kept, or there is none.
        """
        if not self._keep_s or not core.is_parkable(attachment):
            return False
        if not await self._network.set_down(core.link_name(self._service.owner, attachment.id)):
            return False
        for each in self._parked():
            if core.are_kin(each.spec, attachment.spec):
                await self.end(each)
        now = self._clock.now()
        changes = {"ipam_key": "", "parked_at": now}
        parked = attachment.moved(Phase.PARKED).model_copy(update=changes)
        await self._service.let_go(attachment, parked)
        self._log.info("parked", container=attachment.container)
        self._wake.set()
        return True

    async def end(self, parked: Attachment) -> None:
        """Take it down, unless it went or was taken over meanwhile. Raises Unavailable."""
        async with self._table.locks.hold([parked.key]):
            present = self._table.get(parked.id)
            if present is not None and present.parked_at is not None:
                await self._service.finish(present)

    # -- the ADD ---------------------------------------------------------------------------------------

    async def supersede(self, container: str, spec: AttachmentSpec) -> None:
        """Do the DELs that are due of whoever had the key before: after a boot, or when they come late.

        Under no lock. Raises Unavailable, also when the engine can't be asked.
        """
        for each in self._table.all():
            named = each.container != container and each.parked_at is None
            if not named or not core.are_kin(each.spec, spec):
                continue
            async with self._table.locks.hold([each.key]):
                present = self._table.get(each.id)
                if present is None or present.phase not in (Phase.ADDRESSING, Phase.ADDRESSED):
                    continue
                life = await self._service.ports.engine.life(present.container)
                if core.is_over(present, spec, life, present.id in self._table.given_leave):
                    self._log.info("its successor came first", container=present.container)
                    await self._service.finish(present)

    async def resolve(self, newcomer: Attachment) -> None:
        """End what `newcomer` may have taken over, if nobody knows whether that was saved. Raises Unavailable.

        To be done before it asks for an address or goes, or it could come back after a crash beside itself.
        """
        for each in self._parked():
            if each.id in self._table.doubtful and core.are_kin(each.spec, newcomer.spec):
                await self.end(each)

    async def inherit(self, newcomer: Attachment) -> Attachment | None:
        """The attachment that `newcomer`, which was just given its address, has become by taking over a parked one.

        None: there was none. Whatever else is parked for its key, or with its address, is gone. Under newcomer's lock.
        """
        heir = None
        for each in self._parked():
            if core.are_kin(each.spec, newcomer.spec) and heir is None:
                heir = await self._take(each, newcomer)
                if heir is not None:
                    continue
            if core.are_kin(each.spec, newcomer.spec) or core.shares_address(each, newcomer):
                await self.end(each)
        return heir

    async def _take(self, parked: Attachment, newcomer: Attachment) -> Attachment | None:
        async with self._table.locks.hold([parked.key]):
            present = self._table.get(parked.id)
            if present is None or present.phase is not Phase.PARKED:
                return None
            if not core.may_inherit(present, newcomer) or not await self._is_whole(present):
                return None
            heir = await self._table.become(newcomer, core.heir_of(present, newcomer))
            self._log.info("taken over", container=heir.container, of=present.container)
            return heir

    async def _is_whole(self, parked: Attachment) -> bool:
        """After a boot there is no namespace; then all is made afresh."""
        link = core.link_name(self._service.owner, parked.id)
        found = await self._network.find(parked.id), await self._network.link(link)
        return None not in found

    # -- time ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take down those that nobody came for, until cancelled."""
        failures = 0
        while True:
            self._wake.clear()
            try:
                pause_s = await self._tend()
                failures = 0
            except Unavailable as error:
                failures += 1
                pause_s = RETRY.delay_s(failures, self._service.rng)
                self._log.warning("a parked attachment stays", reason=str(error))
            await set_or_due(self._wake, pause_s)

    async def _tend(self) -> float | None:
        """End those whose time is up, or that are too many; seconds until the next one's, None when none waits."""
        left = sorted(self._parked(), key=lambda each: each.parked_at or 0.0, reverse=True)
        for n, each in enumerate(left):
            # A clock that was set back must not keep it for longer.
            if n >= self.most or not 0 <= self._age_s(each) < self._keep_s:
                await self.end(each)
        waiting = [self._keep_s - self._age_s(each) for each in self._parked()]
        return max(0.0, min(waiting)) if waiting else None

    def _age_s(self, parked: Attachment) -> float:
        return self._clock.now() - (parked.parked_at or 0.0)
