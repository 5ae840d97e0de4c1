"""Group commit of what is heard of instances: the events of many instances become one round trip to the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from libs.common.clock import Clock
from libs.common.errors import GantryError, Unavailable
from services.deployer.model import Instance
from services.deployer.observe import ObservedEvent, observe
from services.deployer.store import Kept, Repository, write_of

BATCH = 1000
TRIES = 5


@dataclass(frozen=True, slots=True)
class Heard:
    """An event that waits to be folded in, and who waits for that."""

    event: ObservedEvent
    sequence: int
    saved: asyncio.Future[None]


class Observations:
    """Folds events into instances' documents, as many at a time as have come."""

    def __init__(
        self, repo: Repository, clock: Clock, on_change: Callable[[Sequence[Instance]], None]
    ) -> None:
        self._repo = repo
        self._clock = clock
        self._on_change = on_change
        self._waiting: list[Heard] = []
        self._wake = asyncio.Event()

    async def note(self, event: ObservedEvent, sequence: int) -> None:
        """Returns when the event is in its instance's document. Raises Unavailable."""
        saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(Heard(event, sequence, saved))
        self._wake.set()
        await saved

    async def run(self) -> None:
        """Save until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                await self._commit(batch)

    async def _commit(self, batch: Sequence[Heard]) -> None:
        try:
            changed = await self._save(batch)
        except GantryError as error:
            for each in batch:
                if not each.saved.done():
                    each.saved.set_exception(error)
            return
        for each in batch:
            if not each.saved.done():
                each.saved.set_result(None)
        if changed:
            self._on_change(changed)

    async def _save(self, batch: Sequence[Heard]) -> list[Instance]:
        by_instance: dict[str, list[Heard]] = {}
        for each in batch:
            by_instance.setdefault(each.event.instance, []).append(each)
        changed: list[Instance] = []
        for _ in range(TRIES):
            kept = await self._repo.get_instances(list(by_instance))
            # What has no document (any more) is nobody's: nothing to keep, nothing to decide.
            after = {name: self._fold(kept[name], by_instance[name]) for name in kept}
            moved = [name for name in kept if after[name] is not kept[name].value]
            writes = [write_of(name, kept[name], after[name]) for name in moved]
            results = await self._repo.save_instances(writes)
            changed += [after[name] for name, ok in zip(moved, results, strict=True) if ok]
            lost = [name for name, ok in zip(moved, results, strict=True) if not ok]
            if not lost:
                return changed
            by_instance = {name: by_instance[name] for name in lost}
        raise Unavailable(f"{len(by_instance)} instances are being changed all the time")

    def _fold(self, kept: Kept[Instance], heard: Sequence[Heard]) -> Instance:
        instance, now = kept.value, self._clock.now()
        for each in heard:
            instance = observe(instance, each.event, each.sequence, now)
        return instance
