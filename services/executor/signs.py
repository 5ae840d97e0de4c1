"""The worker's signs of life for hostd, which tells the monitor of an executor that stands still or was started anew.

hostd may be away, or of a version that does not know the call: then there is nobody to tell, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import orjson

from libs.common.clock import Clock
from libs.common.errors import GantryError
from libs.common.http import ServiceClient
from libs.common.pids import pid_space
from services.executor.model import Identity

EVERY_S = 2.0
LATER_S = 30.0  # hostd does not know the call
TIMEOUT_S = 2.0
TAKEN_BACK_S = 1.0  # the supervisor waits for the worker's end


class Signs:
    """One worker's. `unheard_s` tells for how long its supervisor, a process, has not listened to it."""

    def __init__(
        self,
        client: ServiceClient,
        identity: Identity,
        worker: str,
        unheard_s: Callable[[], float],
        clock: Clock,
        supervisor: int = 0,
    ) -> None:
        self._client = client
        self._path = f"/v1/executors/{quote(identity.agent, safe='')}"
        self._who = {
            "run": identity.run,
            "worker": worker,
            "supervisor": supervisor,
            "pid_space": pid_space(),
        }
        self._worker = worker
        self._unheard_s = unheard_s
        self._clock = clock

    async def give(self) -> None:
        """One after the other, until cancelled."""
        while True:
            sign = {**self._who, "unheard_s": self._unheard_s()}
            known = await self._call("PUT", self._path, orjson.dumps(sign), TIMEOUT_S)
            await self._clock.sleep(EVERY_S if known else LATER_S)

    async def take_back(self) -> None:
        """The worker ends in order: nobody is to wait for more."""
        await self._call("DELETE", f"{self._path}/{self._worker}", b"", TAKEN_BACK_S)

    async def _call(self, method: str, path: str, body: bytes, timeout_s: float) -> bool:
        """False: hostd answers, but not to this."""
        try:
            answer = await self._client.call("hostd", method, path, body=body, timeout_s=timeout_s)
        except GantryError:
            return True
        return answer.status < 400 or answer.status >= 500
