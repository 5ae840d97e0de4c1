"""Asking the wire whether an address is somebody else's, before a container uses it.

The question takes three tries of 100 ms and costs a start nothing but what the engine needs less than that to make the
container: it is asked while that is made, and its answer waited for before leave to start is given. Callers of CNI ask
for no leave; their ADD waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

from libs.common.errors import Unavailable
from libs.common.telemetry import Telemetry
from libs.common.waiting import TaskGroup
from services.hostd import core
from services.hostd.model import Attachment, AttachmentId, Probe
from services.hostd.ports import SwitchDriver

Policy = Literal["off", "first_use", "always"]
FIRST_GENERATION = 1


class ConflictProbes:
    """The questions under way, at most one an attachment. They are asked while `run` runs."""

    def __init__(self, switch: SwitchDriver, policy: Policy, telemetry: Telemetry) -> None:
        self._switch = switch
        self._policy = policy
        self._log = telemetry.log
        self._wanted: asyncio.Queue[tuple[tuple[Probe, ...], asyncio.Future[Mapping[Probe, str]]]]
        self._wanted = asyncio.Queue()
        self._asked: dict[AttachmentId, asyncio.Future[Mapping[Probe, str]]] = {}

    async def run(self) -> None:
        """Ask what is to be asked, until cancelled."""
        async with TaskGroup() as group:
            while True:
                group.create_task(self._ask(*await self._wanted.get()))

    def begin(self, attachment: Attachment) -> None:
        """Ask about the addresses that an attachment was just given, if the policy says so."""
        address = attachment.address
        if address is None or self._policy == "off":
            return
        generations = {part.address: part.generation for part in address.parts()}
        probes = tuple(
            probe
            for probe in core.probes_of(attachment)
            if self._policy == "always" or generations[probe.address] == FIRST_GENERATION
        )
        if probes:
            self.forget(attachment.id)
            future: asyncio.Future[Mapping[Probe, str]] = asyncio.get_running_loop().create_future()
            self._asked[attachment.id] = future
            self._wanted.put_nowait((probes, future))

    async def ask(self, attachment: Attachment) -> Mapping[Probe, str]:
        """Who else has these addresses, if the policy says so; waits for the answer. Nothing is kept of it."""
        self.begin(attachment)
        try:
            return await self.claims(attachment.id)
        finally:
            self.forget(attachment.id)

    async def claims(self, attachment: AttachmentId) -> Mapping[Probe, str]:
        """Who else has the attachment's addresses; waits for the answer. Nothing when nobody asked."""
        future = self._asked.get(attachment)
        return await asyncio.shield(future) if future is not None else {}

    def forget(self, attachment: AttachmentId) -> None:
        """The answer is of no interest any more."""
        self._asked.pop(attachment, None)

    async def _ask(
        self, probes: tuple[Probe, ...], future: asyncio.Future[Mapping[Probe, str]]
    ) -> None:
        found: Mapping[Probe, str] = {}
        try:
            found = await self._switch.probe(probes)
        except Unavailable as error:
            # No start shall fail for want of an answer: the address is ipam's to give.
            self._log.warning("addresses could not be probed", reason=str(error))
        finally:
            if not future.done():
                future.set_result(found)
