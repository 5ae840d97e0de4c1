"""Trying again what a peer can't do now: within a deadline and as long as it is wanted, or until it is done."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.errors import Refused, Unavailable
from libs.common.telemetry import Log
from services.executor.model import ContainerName

T = TypeVar("T")
BACKOFF = Backoff(0.1, 5.0)

Wanted = Callable[[], bool]
"""Does the attempt still want what is being tried?"""


class Patience:
    """One executor's."""

    def __init__(self, *, clock: Clock, rng: random.Random, log: Log) -> None:
        self._clock = clock
        self._rng = rng
        self._log = log

    async def pause(self, failures: int) -> None:
        """Wait, the longer the more failures there were."""
        await self._clock.sleep(BACKOFF.delay_s(failures, self._rng))

    async def persist(
        self, call: Callable[[], Awaitable[T]], *, deadline_s: float, wanted: Wanted
    ) -> T:
        """The call's result; what is Unavailable is tried again until the deadline. Raises the last error."""
        give_up = self._clock.monotonic() + deadline_s
        failures = 0
        while True:
            try:
                return await call()
            except Unavailable as error:
                failures += 1
                pause_s = BACKOFF.delay_s(failures, self._rng)
                if self._clock.monotonic() + pause_s > give_up or not wanted():
                    raise
                self._log.debug("trying again", failures=failures, error=str(error))
                await self._clock.sleep(pause_s)

    async def surely(
        self, what: str, container: ContainerName, call: Callable[[], Awaitable[None]]
    ) -> None:
        """A clean-up has no deadline: what is left over would cost an address or a name for ever."""
        failures = 0
        while True:
            try:
                return await call()
            except (Refused, Unavailable) as error:
                failures += 1
                if failures in (1, 10, 100):
                    self._log.warning(f"{what} failed", container=container, error=str(error))
                await self.pause(failures)
