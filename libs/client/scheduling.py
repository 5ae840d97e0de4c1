"""The scheduler's own standing at Mesos: the words of the public API, and the calls."""

from __future__ import annotations

from libs.client.model import View
from libs.client.transport import Transport, read


class SchedulerStatus(View):
    """Is the scheduler subscribed to Mesos, and as which framework.

    `removed`: Mesos has removed the framework for good, and its tasks with it; `alarm` is what Mesos said.
    """

    framework: str
    subscribed: bool
    removed: bool = False
    alarm: str = ""


class SchedulerCalls:
    """The calls, as `GantryClient.scheduling`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def status(self) -> SchedulerStatus:
        """How the scheduler stands with Mesos."""
        return read(SchedulerStatus, await self._transport.call("GET", "/v1/scheduler"))

    async def reregister(self) -> SchedulerStatus:
        """Have a removed framework begin anew, and place everything anew. Raises Conflict when it is not removed."""
        response = await self._transport.call("POST", "/v1/scheduler/reregister")
        return read(SchedulerStatus, response)
