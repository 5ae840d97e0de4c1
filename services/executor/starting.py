"""Starts containers, in the network that is registered for them."""

from __future__ import annotations

from collections.abc import Callable

from libs.common.errors import NotFound, Refused, Unavailable
from services.executor import containers
from services.executor import moves as m
from services.executor.config import ExecutorConfig
from services.executor.errors import HalfStarted
from services.executor.model import Attempt, AttemptId, Op, Phase, Ref
from services.executor.patience import Patience, Wanted
from services.executor.ports import Engine, Network


class Starting:
    """One executor's. `wants` tells whether an attempt waits for an operation still."""

    def __init__(
        self,
        engine: Engine,
        network: Network,
        wants: Callable[[AttemptId, Op], Wanted],
        patience: Patience,
        config: ExecutorConfig,
    ) -> None:
        self._engine = engine
        self._network = network
        self._wants = wants
        self._patience = patience
        self._config = config

    async def start(self, a: Attempt, again: bool) -> m.Input:
        """Look at its runtime, register, start. A registration is good for one try, so all are repeated.

        Before it is tried `again` a look must show that the engine did not die in the middle of the last try: there are
        engines that would end what they find of that, and start the app once more.
        """
        name = containers.hostname(a.payload.instance)
        hosts = containers.hosts_file(name, a.network.ip if a.network else "")
        ref, runtime = Ref(a.container, a.container_id), self._config.runtime
        certain = not again  # that it does not run

        async def once() -> m.Input:
            nonlocal certain
            view = await self._engine.inspect(ref)
            if view.runtime != runtime:
                return m.StartFailed(containers.wrong_runtime(view, runtime), certain)
            created = view.phase is Phase.CREATED
            if created and not certain and await self._engine.has_leftover(ref):
                return m.Spoilt("an earlier start of it was cut short")
            try:
                await self._network.register(a.container, a.container_id, a.generation)
            except NotFound:
                return m.Rewired(await self._network.attach(containers.attachment_of(a)))
            try:
                await self._engine.start(ref, hosts)
            except HalfStarted as error:
                return m.Spoilt(str(error))
            except Unavailable:
                certain = False
                raise
            return m.Started()

        try:
            return await self._patience.persist(
                once,
                deadline_s=self._config.engine_deadline_s,
                wanted=self._wants(a.id, Op.START),
            )
        except (Refused, Unavailable) as error:
            return m.StartFailed(f"the container did not start: {error}", certain)
