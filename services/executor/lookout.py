"""Looks at the engine: takes up what an earlier worker left, follows events, and compares all now and then."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.errors import GantryError, Unavailable
from libs.common.task import TaskPayload
from libs.common.telemetry import Log
from services.executor import core, sweep
from services.executor import moves as m
from services.executor.attempts import Attempts
from services.executor.book import Book
from services.executor.config import ExecutorConfig
from services.executor.model import (
    LABEL_PAYLOAD,
    LABEL_POOL,
    LABEL_RUN,
    AttemptId,
    EngineEvent,
    Identity,
    Phase,
    Summary,
)
from services.executor.ports import Engine

_BACKOFF = Backoff(0.1, 5.0)
_LOOK_BACK_S = 60.0  # more than the engine's clock and ours may differ; telling twice does no harm


class Lookout:
    """What the engine says reaches the attempts. `follow` and `sweep` are to run side by side."""

    def __init__(
        self,
        engine: Engine,
        attempts: Attempts,
        book: Book,
        on_recovered: Callable[[], None],
        *,
        clock: Clock,
        rng: random.Random,
        log: Log,
        config: ExecutorConfig,
        identity: Identity,
    ) -> None:
        self._engine = engine
        self._attempts = attempts
        self._book = book
        self._on_recovered = on_recovered
        self._clock = clock
        self._rng = rng
        self._log = log
        self._config = config
        self._identity = identity
        self._look = asyncio.Event()  # sweep now

    def look(self) -> None:
        """Compare soon."""
        self._look.set()

    async def follow(self) -> None:
        """Follow the engine's events; after a gap, look at everything."""
        since, failures = self._clock.now() - _LOOK_BACK_S, 0
        while True:
            try:
                async for event in self._engine.events(since):
                    failures = 0
                    since = max(since, event.at)
                    self._on_engine(event)
                reason = "it ended"
            except GantryError as error:
                reason = str(error)
            failures += 1
            if failures == 1:
                self._log.warning("engine's events cut", reason=reason)
            await self._clock.sleep(_BACKOFF.delay_s(failures, self._rng))
            self._look.set()

    def _on_engine(self, event: EngineEvent) -> None:
        attempt = self._book.of_container(event.name)
        if attempt is not None:
            self._attempts.feed(attempt, event)

    async def sweep(self) -> None:
        """Take up what an earlier worker left; then compare what should be with what is, now and then, for ever."""
        self._recover(await self._list())
        strays: frozenset[str] = frozenset()
        waiting: Mapping[str, float] = {}
        while True:
            try:
                async with asyncio.timeout(self._config.sweep_s):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            before = sweep.watched(self._book.attempts.values())
            listed = await self._list()
            world = self._attempts.world()
            found = sweep.compare(before, self._book.attempts, listed, strays, world, waiting)
            strays = found.strays
            for attempt in found.suspects:
                self._attempts.feed(attempt, m.Suspect())
            for each in found.discards:
                self._attempts.discard(each)
            if found.waiting.keys() - waiting.keys():
                names = [each.name for each in found.orphans]
                self._log.warning("containers wait to be adopted", containers=names)
            waiting = found.waiting

    async def _list(self) -> tuple[Summary, ...]:
        failures = 0
        while True:
            try:
                return await self._engine.containers()
            except Unavailable as error:
                failures += 1
                self._log.warning("engine's list failed", error=str(error))
                await self._clock.sleep(_BACKOFF.delay_s(failures, self._rng))

    def _recover(self, listed: tuple[Summary, ...]) -> None:
        """Take up what an earlier worker left. What has moved since by an event is not touched."""
        by_name = {each.name: each for each in listed}
        # A run that was launched meanwhile may be said to have been in one.
        known = {each.container for each in self._book.attempts.values() if not each.shared}
        for a in self._attempts.inherited():
            seen = by_name.get(a.container)
            self._attempts.apply(core.recover(a, seen, self._attempts.world()))
        for each in listed:
            # A shared container is nobody's task: it is taken up whoever made it.
            ours = (
                LABEL_POOL in each.labels or each.labels.get(LABEL_RUN) == self._identity.run != ""
            )
            if ours and each.name not in known and each.phase is Phase.RUNNING:
                self._rebuild(each)
        self._on_recovered()

    def _rebuild(self, seen: Summary) -> None:
        try:
            payload = TaskPayload.model_validate_json(
                seen.labels.get(LABEL_PAYLOAD, ""), extra="ignore"
            )
        except ValidationError:
            self._log.error("a container's labels are spoilt", container=seen.name)
            return
        if self._book.get(AttemptId(payload.attempt)) is not None:
            return
        self._attempts.enter(core.rebuild(payload, seen))
