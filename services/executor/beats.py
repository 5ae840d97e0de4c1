"""The worker's signs of life: see supervisor.py, which kills a worker that gives none."""

from __future__ import annotations

import array
import fcntl
import os
import termios
from collections.abc import Mapping, MutableMapping
from contextlib import suppress

from libs.common.clock import Clock
from services.executor.supervisor import BEATS

EVERY_S = 1.0
BEGIN_S = 300.0
"""So long a worker may take until it gives signs of its own accord: reading its journal, on a busy machine."""


def begin(environ: Mapping[str, str]) -> None:
    """The first sign, before anything can hang."""
    told = environ.get(BEATS, "")
    if told:
        with suppress(OSError):
            os.write(int(told), f"{BEGIN_S:g}\n".encode())


class Beats:
    """A line a second; each says for how many seconds the next may be waited for.

    Without a supervisor that listens there are none. A loop that hangs gives no sign, either.
    """

    def __init__(self, environ: MutableMapping[str, str], silent_s: float, clock: Clock) -> None:
        self._line = f"{silent_s:g}\n".encode()
        self._clock = clock
        told = environ.pop(BEATS, "")
        self._pipe = int(told) if told else -1
        if told:
            os.set_inheritable(self._pipe, False)
            os.set_blocking(self._pipe, False)

    async def give(self) -> None:
        """Write until cancelled."""
        while self._pipe >= 0:
            try:
                os.write(self._pipe, self._line)
            except (
                OSError
            ):  # it is full while the supervisor stands still; without one we are gone, too
                pass
            await self._clock.sleep(EVERY_S)

    def unheard_s(self) -> float:
        """For how long the supervisor has read nothing, by the lines that lie in the pipe; a full one holds hours."""
        if self._pipe < 0:
            return 0.0
        left = array.array("i", [0])
        fcntl.ioctl(self._pipe, termios.FIONREAD, left)
        return left[0] // len(self._line) * EVERY_S

    def close(self) -> None:
        """No more of them."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
