"""Closing hosts for maintenance: what is asked, and how far it is."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from libs.client.model import View
from libs.client.transport import Transport, read
from libs.common.serve import segment
from libs.common.spec import Strict

MAX_DEADLINE_S = 30 * 86_400.0


class Cordon(Strict):
    """POST /v1/nodes/{host}/cordon."""

    reason: str = Field("", max_length=500, description="why, for those who look at the host")


class Drain(Cordon):
    """POST /v1/nodes/{host}/drain."""

    deadline_s: float = Field(
        0.0, ge=0, le=MAX_DEADLINE_S, description="by then it should be empty; 0: no deadline"
    )
    force: bool = Field(
        False, description="what is left at the deadline is stopped without regard to budgets"
    )

    @model_validator(mode="after")
    def _when(self) -> Self:
        if self.force and not self.deadline_s:
            raise ValueError("force needs deadline_s: the time after which nothing is spared")
        return self


class NodeDoor(View):
    """Is a host open, and what is left on it: instances by app. Times are Unix seconds."""

    hostname: str
    door: str
    reason: str = ""
    by: str = ""
    since: float = 0.0
    deadline_at: float | None = None
    force: bool = False
    drained_at: float | None = None
    overdue: bool = False
    left: dict[str, int] = {}


class MaintenanceCalls:
    """For admins of all business units. All methods raise the errors of `libs/common/errors`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def drain(self, host: str, wanted: Drain) -> NodeDoor:
        """Place nothing new on a host, and have its instances moved as their apps can spare them."""
        return await self._post(host, "drain", wanted)

    async def cordon(self, host: str, wanted: Cordon) -> NodeDoor:
        """Place nothing new on a host; who is there stays."""
        return await self._post(host, "cordon", wanted)

    async def undrain(self, host: str) -> NodeDoor:
        """Open a host again; who has yet to move stays."""
        return await self._post(host, "undrain", None)

    async def _post(self, host: str, what: str, wanted: Strict | None) -> NodeDoor:
        body = wanted.model_dump_json().encode() if wanted is not None else b""
        path = f"/v1/nodes/{segment(host)}/{what}"
        return read(NodeDoor, await self._transport.call("POST", path, body=body))
