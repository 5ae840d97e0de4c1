"""A standby reads what the leader has stored, again and again, so that it has next to nothing to load when it leads.

What it holds is only ever a head start: the new leader looks at all versions once more, after its epoch has ended all
other writes, and reads what it does not have in the stored version. Nothing is decided on anything older.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from libs.common.errors import GantryError
from libs.common.runtime import Runtime
from libs.common.waiting import TaskGroup, lasting
from services.scheduler.store import Memory

EVERY_S, LONGEST_S = 5.0, 60.0
"""The pause between two looks at the store."""
PAUSES = 19
"""A pause is as many times as long as the look before it, within LONGEST_S: of the time, looks take a twentieth."""


@asynccontextmanager
async def warm(rt: Runtime, memory: Memory) -> AsyncIterator[None]:
    """Meanwhile the memory is kept as the store is. Not before the loop's next turn: who leads at once loads once."""

    async def work() -> None:
        await lasting(keep_warm(rt, memory))

    async with TaskGroup() as group:
        warming = group.create_task(work())
        yield
        warming.cancel()


async def keep_warm(rt: Runtime, memory: Memory) -> None:
    """Until cancelled. A store that can't be read, or not by this release, is the leader's trouble: see `_loaded`."""
    clock, log = rt.clock, rt.telemetry.log
    told, collections = "", None
    while True:
        began = clock.monotonic()
        try:
            if (
                collections is None
            ):  # opening one sees to its indexes, which is for who leads: once is enough
                collections = await Memory.collections(rt.store)
            read = await memory.refresh(*collections, clock)
        except (GantryError, LookupError, TypeError, ValueError) as error:
            if told != "away":
                log.warning("a standby can't read the store", error=repr(error))
            told = "away"
        else:
            if told != "warm":
                count = len(memory.instances)
                log.info("a standby is warm", instances=count, jobs=len(memory.jobs), read=read)
            told = "warm"
        took_s = clock.monotonic() - began
        await clock.sleep(min(max(EVERY_S, PAUSES * took_s), LONGEST_S))
