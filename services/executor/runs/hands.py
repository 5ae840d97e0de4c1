"""Carries out what runs in shared containers need; each ends in the input that `runs.core` waits for."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.delivery import Delivery
from libs.common.errors import NotFound, Refused, Unavailable
from services.executor import containers
from services.executor import moves as m
from services.executor.config import ExecutorConfig
from services.executor.model import Attempt, AttemptId, ContainerName, Ref, State
from services.executor.ports import Engine, Inits
from services.executor.runs import chronos, shared
from services.executor.runs.model import ImageConfig, TaskStart

_READ_S = 10.0  # for what a run wrote: its end is told without it rather than later
_BACKOFF = Backoff(0.05, 1.0)


class RunHands:
    """The outside of runs. `secrets_of` tells a run's, and may ask for them; `lives` whether a container does.

    `is_saved` says whether the journal has an attempt as it is.
    """

    def __init__(
        self,
        engine: Engine,
        inits: Inits,
        secrets_of: Callable[[Attempt], Awaitable[Delivery]],
        lives: Callable[[ContainerName], bool],
        know: Callable[[AttemptId], Attempt | None],
        is_saved: Callable[[AttemptId], bool],
        *,
        clock: Clock,
        rng: random.Random,
        config: ExecutorConfig,
    ) -> None:
        self._engine = engine
        self._inits = inits
        self._secrets_of = secrets_of
        self._lives = lives
        self._know = know
        self._is_saved = is_saved
        self._clock = clock
        self._rng = rng
        self._config = config
        self._images: dict[str, ImageConfig] = {}

    async def do(self, a: Attempt, action: m.Action) -> m.Input | None:
        """One action of a run's."""
        match action:
            case m.BeginTask():
                return await self._begin(a)
            case m.KillTask(name, grace_s):
                await self._kill(a, name, grace_s)
            case m.ForgetTask():
                return await self._forget(a)
            case m.ReadOutput():
                return await self._read(a)
        return None

    async def _begin(self, a: Attempt) -> m.Input | None:
        """Tried as long as it is to start: an init starts what it is asked twice only once."""
        failures = 0
        while (now := self._know(a.id)) is not None and now.state is State.STARTING:
            try:
                await self._start(a)
                return None
            except Refused as error:
                return m.TaskLost(f"it did not start: {error}", started=False)
            except Unavailable:
                failures += 1
                await self._clock.sleep(_BACKOFF.delay_s(failures, self._rng))
        return None

    async def _start(self, a: Attempt) -> None:
        delivery = containers.NOTHING_DELIVERED
        if a.payload.spec.secrets:
            delivery = await self._secrets_of(a)
        image = await self._image(a.payload.spec.image)
        await self._inits.start(a.container, task_of(a, image, self._config, delivery))

    async def _image(self, name: str) -> ImageConfig:
        """It is by digest: what is known of it stays true."""
        if name not in self._images:
            if len(self._images) > 1000:
                self._images.clear()
            self._images[name] = await self._engine.image_config(name)
        return self._images[name]

    async def _kill(self, a: Attempt, name: str, grace_s: float) -> None:
        """What gets lost is asked for again when it is due."""
        try:
            signal = name or (await self._image(a.payload.spec.image)).stop_signal
            await self._inits.kill(a.container, a.task or a.id, signal, grace_s)
        except (Refused, Unavailable):
            return

    async def _forget(self, a: Attempt) -> m.Input:
        """Tried until it is done or the container is gone: a later try must not find this one's end.

        On a full disk the init is the only one who would tell the next worker: it keeps the end until that is saved.
        """
        failures = 0
        while self._lives(a.container):
            try:
                if self._is_saved(a.id):
                    await self._inits.forget(a.container, a.task or a.id)
                    break
            except (Refused, Unavailable):
                pass
            failures += 1
            await self._clock.sleep(_BACKOFF.delay_s(failures, self._rng))
        return m.Removed()

    async def _read(self, a: Attempt) -> m.Input:
        give_up, failures = self._clock.monotonic() + _READ_S, 0
        while True:
            try:
                return m.OutputRead(await self._engine.output(Ref(a.container, a.container_id)))
            except NotFound:
                return m.OutputRead("")
            except Unavailable:
                failures += 1
                if self._clock.monotonic() > give_up:
                    return m.OutputRead("")
                await self._clock.sleep(_BACKOFF.delay_s(failures, self._rng))


def task_of(
    a: Attempt, image: ImageConfig, config: ExecutorConfig, delivery: Delivery
) -> TaskStart:
    """What the init is to start: as the engine would, by the image's settings and the spec's over them."""
    spec, run = a.payload.spec, a.payload.run
    given = {name: value for name, _, value in (each.partition("=") for each in image.env)}
    secrets = {each.env: each.content.decode() for each in delivery.secrets if each.env}
    own = {"HOSTNAME": shared.hostname_of(a.container, a.payload.cluster)}
    variables = {**own, **given, **spec.env, **chronos.variables(a.payload), **secrets}
    return TaskStart(
        task=a.task or a.id,
        command=spec.command if spec.command is not None else image.command,
        user=spec.user if spec.user is not None else image.user,
        directory=image.directory,
        env=tuple(f"{name}={value}" for name, value in sorted(variables.items())),
        limits=containers.limits(spec, config),
        timeout_s=run.timeout_s if run else 0.0,
        grace_s=spec.stop_grace_s,
        stop_signal=image.stop_signal,
    )
