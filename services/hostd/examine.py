"""Looking at everything the doctor judges by. Nothing here changes anything."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from libs.common.errors import Refused, Unavailable
from services.hostd import core, doctor
from services.hostd.model import Attachment, Phase, Probe, SwitchPort, SwitchReport, WireView
from services.hostd.ports import Ports
from services.hostd.table import Table

LOOK_TIMEOUT_S = 4.0  # the gateway itself waits five seconds


class Examiner:
    """Examines one host."""

    def __init__(self, owner: str, ports: Ports, table: Table, uplinks: Sequence[str]) -> None:
        self._owner = owner
        self._ports = ports
        self._table = table
        self._uplinks = uplinks

    async def diagnose(self, host: str, now: float) -> doctor.Diagnosis:
        """What is wrong with the host."""
        seen = await self.examine(now)
        return doctor.Diagnosis(
            host=host,
            at=now,
            attachments=len(seen.attachments),
            findings=doctor.diagnose(seen),
        )

    async def examine(self, now: float) -> doctor.Examined:
        """What is wanted and what is there; attachments that change meanwhile are left out."""
        before = self._settled()
        addressed = [each for each in before if each.phase is Phase.ADDRESSED and each.wired]
        switch = await self._switch()
        wires = await self._wires(addressed)
        uplinks = {name: await self._ports.network.link(name) for name in self._uplinks}
        claims = await self._claims(addressed) if isinstance(switch, SwitchReport) else {}
        ipam = await self._ipam()
        settled = {each.id: each for each in self._settled()}
        return doctor.Examined(
            owner=self._owner,
            now=now,
            attachments=[each for each in before if settled.get(each.id) == each],
            releases=list(self._table.releases.values()),
            switch=switch,
            wires=wires,
            uplinks=uplinks,
            claims=claims,
            ipam=ipam,
        )

    def _settled(self) -> list[Attachment]:
        """Those that no call is at work on. Parked ones are nobody's: of them only what is surplus would be told."""
        locks = self._table.locks
        every = (each for each in self._table.all() if each.parked_at is None)
        return [each for each in every if not locks.is_held(each.key)]

    def _wanted(self) -> list[SwitchPort]:
        return core.ports_of(self._owner, self._table.all())

    async def _switch(self) -> SwitchReport | str:
        if not self._ports.switch.is_connected():
            return "hostd has no connection to it"
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                return await self._ports.switch.inspect(self._wanted)
        except Unavailable as error:
            return str(error)
        except TimeoutError:
            return f"no answer in {LOOK_TIMEOUT_S:g} s"

    async def _wires(self, attachments: Sequence[Attachment]) -> dict[str, WireView]:
        found: dict[str, WireView] = {}

        async def one(attachment: Attachment) -> None:
            # One that goes while it is looked at says nothing.
            with suppress(Unavailable):
                wire = core.wire_of(self._owner, attachment)
                found[attachment.id] = await self._ports.network.inspect(wire)

        await asyncio.gather(*(one(each) for each in attachments))
        return found

    async def _claims(self, attachments: Sequence[Attachment]) -> Mapping[Probe, str]:
        probes = [probe for each in attachments for probe in core.probes_of(each)]
        try:
            return await self._ports.switch.probe(probes) if probes else {}
        except Unavailable:
            return {}  # the switch went meanwhile; its absence is told the next time

    async def _ipam(self) -> Mapping[str, frozenset[tuple[str, int]]] | str:
        try:
            return await self._ports.ipam.known()
        except (Refused, Unavailable) as error:
            return str(error)
