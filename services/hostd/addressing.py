"""How an attachment comes to its address: ipam gives one, and nobody else on the wire has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from libs.common.backoff import Backoff
from libs.common.errors import Conflict, InvalidInput, Refused, Unavailable
from services.hostd import core
from services.hostd.model import Address, Attachment, PendingRelease, Phase
from services.hostd.probing import ConflictProbes

if TYPE_CHECKING:
    from services.hostd.service import HostdService

IPAM_BACKOFF = Backoff(0.05, 1.0)
CONFLICT_TRIES = 4
T = TypeVar("T")


class Addressing:
    """Of one host. All calls are made under the attachment's lock."""

    def __init__(self, service: HostdService, probes: ConflictProbes) -> None:
        self._service = service
        self._probes = probes
        self._table = service.table
        self._log = service.telemetry.log

    async def address(self, attachment: Attachment) -> Attachment:
        """The attachment with its address, and the number of its port, saved.

        Raises what ipam refuses with, InvalidInput (the MTU does not fit), Conflict (others have it), Unavailable; then
        it is gone, but for the last.
        """
        await self._service.parking.resolve(attachment)
        given = await self._given(attachment)
        if attachment.caller is not None:
            # Its container starts when its runtime likes: nobody asks for leave, so this is the time to look.
            for _ in range(CONFLICT_TRIES):
                if not await self._is_anothers(given):
                    break
                given = await self._given(attachment)
            else:
                await self._service.let_go(given)
                raise Conflict(f"others have the {CONFLICT_TRIES} addresses that ipam gave")
        addressed = await self._service.parking.inherit(given) or await self._number(given)
        if attachment.caller is None:
            self._probes.begin(addressed)
        return addressed

    async def _given(self, attachment: Attachment) -> Attachment:
        """The attachment with ipam's address, not saved yet. Raises Refused, and Unavailable."""
        try:
            address = await self._ask_ipam(attachment)
        except Refused:
            await self._table.drop(attachment, None)
            raise
        given = attachment.model_copy(update={"address": address})
        if reason := core.unfit(given):
            await self._service.let_go(given)
            raise InvalidInput.of("mtu", reason, "at least 1280, or a network without IPv6")
        return given

    async def _is_anothers(self, given: Attachment) -> bool:
        """Has another station the address? Then ipam is told so. Raises Refused: no other will do; and Unavailable."""
        claims = await self._probes.ask(given)
        try:
            for probe, by in claims.items():
                self._log.warning("an address is used by another", ip=probe.address, mac=by)
                if given.given is not None:
                    raise Conflict(f"{probe.address} is used by {by}")
                await self._patiently(
                    partial(self._service.ports.ipam.conflict, given, probe.address, by)
                )
        except Refused:
            await self._service.let_go(given)
            raise
        return bool(claims)

    async def _number(self, attachment: Attachment) -> Attachment:
        number = self._table.reserve_ofport()
        try:
            changes = {"ofport": number}
            return await self._table.put(
                attachment.moved(Phase.ADDRESSED).model_copy(update=changes)
            )
        finally:
            self._table.unreserve_ofport(number)

    async def _ask_ipam(self, attachment: Attachment) -> Address:
        if attachment.given is not None:
            return attachment.given

        async def once() -> Address:
            for pending in self._about_to_go(attachment):
                await self._service.release(pending)
            return await self._service.ports.ipam.allocate(attachment)

        return await self._patiently(once)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """A call of ipam, which may be away for `ipam_wait_s`. Raises Unavailable, and as the call."""
        give_up_at = self._service.clock.monotonic() + self._service.settings.ipam_wait_s
        failures = 0
        while True:
            try:
                return await call()
            except Unavailable:
                failures += 1
                pause_s = IPAM_BACKOFF.delay_s(failures, self._service.rng)
                if self._service.clock.monotonic() + pause_s > give_up_at:
                    raise
            await self._service.clock.sleep(pause_s)

    def _about_to_go(self, attachment: Attachment) -> list[PendingRelease]:
        """What ipam still holds under this key must not be handed out as the new one; what it holds for who had the
        address before must be free to be."""
        spec = attachment.spec
        return [
            each
            for key, each in sorted(self._table.releases.items())
            if key == attachment.ipam_key or core.are_kin(each.spec, spec)
        ]
