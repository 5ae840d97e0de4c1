"""Whether what a host stands on answers: who lost it, or finds it frozen, can't start anything, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.telemetry import Log
from libs.common.waiting import TaskGroup
from services.hostd.ports import Ports

ANSWER_S = 3.0


class Pulse:
    """Asks switch and engine each `period_s` whether they answer."""

    def __init__(self, ports: Ports, period_s: float, clock: Clock, log: Log) -> None:
        self._asked = {"Open vSwitch": ports.switch.ping, "the engine": ports.engine.ping}
        self._period_s = period_s
        self._clock = clock
        self._log = log
        self._silent: dict[str, str] = {}

    @property
    def missing(self) -> str:
        """Who did not answer when last asked, and how; "" when all did."""
        return "; ".join(f"{name}: {reason}" for name, reason in sorted(self._silent.items()))

    async def run(self) -> None:
        """Ask until cancelled."""
        async with TaskGroup() as group:
            for name, ask in self._asked.items():
                group.create_task(self._keep_asking(name, ask))

    async def _keep_asking(self, name: str, ask: Callable[[], Awaitable[None]]) -> None:
        while True:
            reason = await _why_not(ask)
            before = self._silent.pop(name, "")
            if reason:
                self._silent[name] = reason
            if bool(reason) != bool(before):
                self._log.warning("silent" if reason else "answers again", who=name, reason=reason)
            await self._clock.sleep(self._period_s)


async def _why_not(ask: Callable[[], Awaitable[None]]) -> str:
    try:
        async with asyncio.timeout(ANSWER_S):
            await ask()
    except TimeoutError:
        return f"no answer within {ANSWER_S:g} s"
    except Unavailable as error:
        return str(error)
    return ""
