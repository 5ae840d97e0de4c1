"""The worker's signs of life: see supervisor.py, which kills a worker that gives none."""

from __future__ import annotations

import os
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


async def give(environ: MutableMapping[str, str], silent_s: float, clock: Clock) -> None:
    """Write a line a second until cancelled; each says for how many seconds the next may be waited for.

    Does nothing without a supervisor that listens. A loop that hangs gives no sign, either.
    """
    told = environ.pop(BEATS, "")
    if not told:
        return
    pipe = int(told)
    os.set_inheritable(pipe, False)
    os.set_blocking(pipe, False)
    line = f"{silent_s:g}\n".encode()
    try:
        while True:
            try:
                os.write(pipe, line)
            except (
                OSError
            ):  # it is full while the supervisor stands still; without one we are gone, too
                pass
            await clock.sleep(EVERY_S)
    finally:
        os.close(pipe)
