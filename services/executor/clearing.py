"""Clears away what attempts and dead executors leave: leave to start, container, network, in this order."""

from __future__ import annotations

from collections.abc import Callable

from libs.common.clock import Clock
from libs.common.errors import NotFound
from libs.common.telemetry import Log
from services.executor import moves as m
from services.executor.model import Attempt, AttemptId, Phase, Ref
from services.executor.patience import Patience
from services.executor.ports import Engine, Network


class Clearing:
    """One executor's. `may_go` says whether how its runs ended is known elsewhere than in an attempt's container."""

    def __init__(
        self,
        engine: Engine,
        network: Network,
        may_go: Callable[[AttemptId], bool],
        patience: Patience,
        *,
        keep_s: float,
        clock: Clock,
        log: Log,
    ) -> None:
        self._engine = engine
        self._network = network
        self._may_go = may_go
        self._patience = patience
        self._keep_s = keep_s
        self._clock = clock
        self._log = log

    async def revoke(self, a: Attempt) -> m.Input:
        """Nobody may start it any more."""
        await self._revoke(Ref(a.container))
        return m.Revoked()

    async def remove(self, a: Attempt) -> m.Input:
        """On a full disk it waits for Mesos, or for room: only the container may be able to tell how its runs ended.

        Not for ever, as it may be what the disk is full of.
        """
        give_up, failures = self._clock.monotonic() + self._keep_s, 0
        while not self._may_go(a.id):
            if self._clock.monotonic() > give_up:
                self._log.error("removed, and its end is not written", container=a.container)
                break
            failures += 1
            await self._patience.pause(failures)
        for spoilt in a.spoilt:
            await self._end_leftover(Ref(a.container, spoilt))
        ref = Ref(a.container, a.container_id)
        if not a.started_at:  # of one that was seen to run the engine knows all that does
            await self._end_half_started(ref)
        await self._remove(ref)
        return m.Removed()

    async def clear(self, a: Attempt) -> m.Input:
        """The newest spoilt container of the attempt goes, and all that runs of it; its network stays."""
        ref = Ref(a.container, a.spoilt[-1])
        await self._revoke(ref)
        await self._end_leftover(ref)
        await self._remove(ref)
        return m.Cleared()

    async def detach(self, a: Attempt) -> m.Input:
        """Its address may go."""
        await self._detach(Ref(a.container))
        return m.Detached()

    async def discard(self, ref: Ref) -> None:
        """Clear away a container that nobody wants, in the order that keeps it from coming back."""
        await self._revoke(ref)
        await self._end_half_started(ref)
        await self._remove(ref)
        await self._detach(ref)

    async def _revoke(self, ref: Ref) -> None:
        await self._patience.surely("revoke", ref.name, lambda: self._network.revoke(ref.name))

    async def _remove(self, ref: Ref) -> None:
        await self._patience.surely("remove", ref.name, lambda: self._engine.remove(ref))

    async def _end_half_started(self, ref: Ref) -> None:
        async def once() -> None:
            try:
                view = await self._engine.inspect(ref)
            except NotFound:
                await self._end(ref)
                return
            if view.phase is Phase.CREATED:  # or so the engine thinks
                await self._end(Ref(view.name, view.id))

        await self._patience.surely("clear", ref.name, once)

    async def _end_leftover(self, ref: Ref) -> None:
        await self._patience.surely("clear", ref.name, lambda: self._end(ref))

    async def _end(self, ref: Ref) -> None:
        if await self._engine.end_leftover(ref):
            self._log.warning(
                "ended what the engine knew nothing of", container=ref.name, id=ref.id
            )

    async def _detach(self, ref: Ref) -> None:
        await self._patience.surely("detach", ref.name, lambda: self._network.detach(ref.name))
