"""Namespace, link, port and flows of an attachment: made, and taken down. Ports go to the switch in batches."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.telemetry import Telemetry
from services.hostd import core
from services.hostd.batch import Batcher
from services.hostd.model import Attachment, PortView, SwitchPort
from services.hostd.ports import Ports
from services.hostd.table import Table

NUMBER_TRIES = 5
# Each change of its ports makes the switch look at all of them: leaving ports wait for company, nobody waits for them.
UNPLUG_LINGER_S = 0.5


class Wiring:
    """Of one host. All calls are made under the attachment's lock, while `jobs` run."""

    def __init__(
        self,
        owner: str,
        table: Table,
        ports: Ports,
        clock: Clock,
        telemetry: Telemetry,
        *,
        batch: int,
    ) -> None:
        self._owner = owner
        self._table = table
        self._ports = ports
        self._telemetry = telemetry
        self._plugs: Batcher[SwitchPort, PortView] = Batcher(
            ports.switch.ensure, clock, limit=batch
        )
        self._unplugs: Batcher[str, None] = Batcher(
            self._remove_ports, clock, linger_s=UNPLUG_LINGER_S, limit=batch
        )

    def jobs(self) -> Iterable[Coroutine[Any, Any, None]]:
        """The loops; none ends by itself."""
        return self._plugs.run(), self._unplugs.run()

    async def wire(self, attachment: Attachment) -> Attachment:
        """Have namespace, link, port and flows of an attachment that has its address. Raises Unavailable."""
        if attachment.id in self._table.ready or not attachment.wired:
            return attachment
        with self._telemetry.span("hostd.namespace"):
            namespace = await self._ports.network.ensure(core.wire_of(self._owner, attachment))
        with self._telemetry.span("hostd.port"):
            attachment = await self._plug(attachment)
        self._table.ready[attachment.id] = namespace
        return attachment

    async def take_down(self, attachment: Attachment) -> None:
        """Have none of it: the port first. A caller's namespace is its own. Raises Unavailable."""
        await self._unplugs.submit(core.link_name(self._owner, attachment.id))
        if attachment.caller is None:
            await self._ports.network.remove_namespace(attachment.id)  # the link goes with it
        else:
            await self._ports.network.remove_link(core.link_name(self._owner, attachment.id))
        await self._ports.registry.forget(attachment.id)

    async def _plug(self, attachment: Attachment) -> Attachment:
        for _ in range(NUMBER_TRIES):
            view = await self._plugs.submit(core.port_of(self._owner, attachment))
            if view.error is None:
                return attachment
            if view.ofport is None or view.ofport == attachment.ofport:
                break
            attachment = await self._renumber(attachment)
        raise Unavailable(f"the switch did not take {view.name}: {view.error}")

    async def _renumber(self, attachment: Attachment) -> Attachment:
        """The number belongs to a port that is not ours: take another one."""
        assert attachment.ofport is not None
        await self._unplugs.submit(core.link_name(self._owner, attachment.id))
        number = self._table.reserve_ofport(beyond=attachment.ofport)
        try:
            return await self._table.put(attachment.model_copy(update={"ofport": number}))
        finally:
            self._table.unreserve_ofport(number)

    async def _remove_ports(self, names: Sequence[str]) -> Sequence[None]:
        await self._ports.switch.remove(names)
        return [None] * len(names)
