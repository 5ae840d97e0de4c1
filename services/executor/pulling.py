"""Pulls images: a few at a time, each once for all who want it, with the registry login of whose it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from libs.common.errors import NotFound, Refused, Unavailable
from services.executor import moves as m
from services.executor.config import ExecutorConfig
from services.executor.janitor import Janitor
from services.executor.model import Attempt, Login
from services.executor.patience import Patience
from services.executor.ports import Engine


class Pulling:
    """One executor's. `login_of` is the account to pull with, None: as anybody; raises Refused, Unavailable."""

    def __init__(
        self,
        engine: Engine,
        janitor: Janitor,
        login_of: Callable[[Attempt], Awaitable[Login | None]],
        patience: Patience,
        config: ExecutorConfig,
    ) -> None:
        self._engine = engine
        self._janitor = janitor
        self._login_of = login_of
        self._patience = patience
        self._config = config
        self._slots = asyncio.Semaphore(config.pulls)
        self._under_way: dict[tuple[str, str], asyncio.Future[m.Pulled | m.PullFailed]] = {}

    async def pull(self, a: Attempt) -> m.Input:
        """Who wants an image that is being pulled waits for that pull, if its own business unit does it."""
        image, bu = a.payload.spec.image, a.payload.app.partition("/")[0]
        try:
            login = await self._login_of(a)
        except (Refused, Unavailable) as error:
            return m.PullFailed(f"image {image}: the registry login of {bu} can't be had: {error}")
        running = self._under_way.get((image, bu))
        if running is not None:
            return await asyncio.shield(running)
        future = self._under_way[image, bu] = asyncio.get_running_loop().create_future()
        result: m.Pulled | m.PullFailed = m.PullFailed(f"the pull of {image} was broken off")
        try:
            async with self._slots:
                await self._janitor.before_pull(image)
                result = await self._get(image, login)
            if isinstance(result, m.PullFailed) and login is None and a.payload.spec.registry_login:
                result = m.PullFailed(f"{result.message} ({bu} has no login there any more)")
        finally:
            del self._under_way[image, bu]
            future.set_result(result)
        return result

    async def _get(self, image: str, login: Login | None) -> m.Pulled | m.PullFailed:
        try:
            await self._patience.persist(
                lambda: self._engine.pull(image, login),
                deadline_s=self._config.engine_deadline_s,
                wanted=lambda: True,
            )
        except NotFound as error:
            return m.PullFailed(f"image {image} does not exist: {error}")
        except (Refused, Unavailable) as error:
            return m.PullFailed(f"image {image} can't be pulled: {error}")
        return m.Pulled()
