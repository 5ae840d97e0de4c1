"""Clears away what attempts and dead executors leave: leave to start, container, network, in this order."""

from __future__ import annotations

from collections.abc import Callable

from services.executor import moves as m
from services.executor.model import Attempt, AttemptId, Ref
from services.executor.patience import Patience
from services.executor.ports import Engine, Network


class Clearing:
    """One executor's. `is_saved` says whether whoever follows it would find how an attempt ended."""

    def __init__(
        self,
        engine: Engine,
        network: Network,
        is_saved: Callable[[AttemptId], bool],
        patience: Patience,
    ) -> None:
        self._engine = engine
        self._network = network
        self._is_saved = is_saved
        self._patience = patience

    async def revoke(self, a: Attempt) -> m.Input:
        """Nobody may start it any more."""
        await self._revoke(Ref(a.container))
        return m.Revoked()

    async def remove(self, a: Attempt) -> m.Input:
        """On a full disk a run's container is the only one who would tell the next executor how it ended."""
        failures = 0
        ended = a.payload.run is not None and a.outcome is not None and a.outcome.dead
        while ended and not self._is_saved(a.id):
            failures += 1
            await self._patience.pause(failures)
        await self._remove(Ref(a.container, a.container_id))
        return m.Removed()

    async def detach(self, a: Attempt) -> m.Input:
        """Its address may go."""
        await self._detach(Ref(a.container))
        return m.Detached()

    async def discard(self, ref: Ref) -> None:
        """Clear away a container that nobody wants, in the order that keeps it from coming back."""
        await self._revoke(ref)
        await self._remove(ref)
        await self._detach(ref)

    async def _revoke(self, ref: Ref) -> None:
        await self._patience.surely("revoke", ref.name, lambda: self._network.revoke(ref.name))

    async def _remove(self, ref: Ref) -> None:
        await self._patience.surely("remove", ref.name, lambda: self._engine.remove(ref))

    async def _detach(self, ref: Ref) -> None:
        await self._patience.surely("detach", ref.name, lambda: self._network.detach(ref.name))
