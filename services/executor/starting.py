"""Starts containers, in the network that is registered for them, over the death of an engine in the middle of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from libs.common.delivery import Delivery
from libs.common.errors import NotFound, Refused, Unavailable
from libs.common.telemetry import Log
from services.executor import containers
from services.executor import moves as m
from services.executor.config import ExecutorConfig
from services.executor.errors import HalfStarted, NameTaken
from services.executor.model import Attempt, AttemptId, Identity, Leftover, Op, Ref
from services.executor.patience import Patience, Wanted
from services.executor.ports import Engine, Network

T = TypeVar("T")


class Starting:
    """One executor's. `deliver` gets an attempt's secrets, `wants` tells whether it waits for an operation still."""

    def __init__(
        self,
        engine: Engine,
        network: Network,
        deliver: Callable[[Attempt, Wanted], Awaitable[Delivery]],
        wants: Callable[[AttemptId, Op], Wanted],
        patience: Patience,
        *,
        identity: Identity,
        config: ExecutorConfig,
        log: Log,
    ) -> None:
        self._engine = engine
        self._network = network
        self._deliver = deliver
        self._wants = wants
        self._patience = patience
        self._identity = identity
        self._config = config
        self._log = log

    async def start(self, a: Attempt) -> m.Input:
        """Look at its runtime, register, start. A registration is good for one try, so all are repeated."""
        name = containers.hostname(a.payload.instance)
        hosts = containers.hosts_file(name, a.network.ip if a.network else "")
        ref, runtime = _ref(a), self._config.runtime
        certain = True  # that it does not run

        async def once() -> m.Input:
            nonlocal certain
            view = await self._engine.inspect(ref)
            if view.runtime != runtime:
                return m.StartFailed(containers.wrong_runtime(view, runtime), certain)
            try:
                await self._network.register(a.container, a.container_id, a.generation)
            except NotFound:
                return m.Rewired(await self._network.attach(containers.attachment_of(a)))
            try:
                await self._engine.start(ref, hosts)
            except HalfStarted as error:
                return await self._afresh(a, error)
            except Unavailable:
                certain = False
                raise
            return m.Started()

        try:
            return await self._persist(a, once)
        except (Refused, Unavailable) as error:
            return m.StartFailed(f"the container did not start: {error}", certain)

    async def _afresh(self, a: Attempt, error: HalfStarted) -> m.Input:
        """End what an engine that died has left of an earlier start; a fresh container takes the place.

        Not that of a run which may have begun: what it has done it would do twice. That is the end of its try.
        """
        ref = _ref(a)
        left = await self._persist(a, lambda: self._engine.end_leftover(ref))
        if left is Leftover.NONE:
            raise error
        self._log.warning(
            "the engine died while it started a container", container=a.container, left=left.value
        )
        if left is Leftover.BEGUN and a.payload.run is not None and a.pool is None:
            return m.StartFailed(
                "the engine died while it started it: how far it came is not known", certain=True
            )
        delivery = containers.NOTHING_DELIVERED
        if a.payload.spec.secrets and a.pool is None:
            delivery = await self._deliver(a, self._wants(a.id, Op.START))
        spec = containers.spec_of(a, self._identity, self._config, delivery)
        await self._persist(a, lambda: self._network.revoke(a.container))
        await self._persist(a, lambda: self._engine.remove(ref))
        try:
            return m.Remade(await self._persist(a, lambda: self._engine.create(spec)))
        except NameTaken:  # by ourselves, if an answer was lost
            view = await self._persist(a, lambda: self._engine.inspect(Ref(a.container)))
            return m.Remade(view.id)

    async def _persist(self, a: Attempt, call: Callable[[], Awaitable[T]]) -> T:
        return await self._patience.persist(
            call, deadline_s=self._config.engine_deadline_s, wanted=self._wants(a.id, Op.START)
        )


def _ref(a: Attempt) -> Ref:
    return Ref(a.container, a.container_id)
