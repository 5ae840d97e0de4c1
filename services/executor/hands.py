"""Carries out actions on the engine, hostd and health checks; each ends in the input that core waits for.

What a peer can't do now is tried again with a back-off, within a deadline or as long as the attempt wants it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from libs.common.clock import Clock
from libs.common.delivery import Delivery
from libs.common.errors import Conflict, NotFound, Refused, TooMany, Unavailable
from libs.common.telemetry import Telemetry
from services.executor import containers
from services.executor import moves as m
from services.executor.clearing import Clearing
from services.executor.config import ExecutorConfig
from services.executor.containers import generation_of
from services.executor.errors import ImageMissing, NameTaken
from services.executor.janitor import Janitor
from services.executor.model import (
    CLEANING,
    LABEL_INSTANCE,
    LAUNCHING,
    Attachment,
    AttachmentSpec,
    Attempt,
    AttemptId,
    ContainerName,
    Identity,
    Login,
    Op,
    Phase,
    ProbeTarget,
    Ref,
    State,
    View,
)
from services.executor.patience import BACKOFF, Patience, Wanted
from services.executor.ports import Deliveries, Engine, Inits, Network, Prober
from services.executor.pulling import Pulling
from services.executor.runs.hands import RunHands
from services.executor.starting import Starting

T = TypeVar("T")
# An address may be on its way back from the instance that is being replaced.
_ADDRESS_WAIT_S = 5.0


class Hands:
    """The outside of one executor. `know` tells what is known of an attempt now."""

    def __init__(
        self,
        know: Callable[[AttemptId], Attempt | None],
        engine: Engine,
        network: Network,
        deliveries: Deliveries,
        prober: Prober,
        inits: Inits,
        *,
        lives: Callable[[ContainerName], bool],
        holder: Callable[[ContainerName], AttemptId | None],
        is_saved: Callable[[AttemptId], bool],
        may_go: Callable[[AttemptId], bool],
        clock: Clock,
        rng: random.Random,
        telemetry: Telemetry,
        config: ExecutorConfig,
        identity: Identity,
        janitor: Janitor,
    ) -> None:
        self._know = know
        self._engine = engine
        self._network = network
        self._deliveries = deliveries
        self._delivered: dict[AttemptId, Delivery] = {}  # nowhere else, and no longer than needed
        self._prober = prober
        self._clock = clock
        self._rng = rng
        self._log = telemetry.log
        self._telemetry = telemetry
        self._config = config
        self._identity = identity
        self._attaching = asyncio.Semaphore(config.attaches)
        self._patience = patience = Patience(clock=clock, rng=rng, log=telemetry.log)
        self._pulling = Pulling(engine, janitor, self._login, patience, config)
        self._clearing = Clearing(
            engine, network, may_go, patience,
            keep_s=config.orphan_grace_s, clock=clock, log=telemetry.log,
        )  # fmt: skip
        self._starting = Starting(engine, network, self._wants, patience, config)
        self._slots = asyncio.Semaphore(config.launches)
        self._holding: dict[AttemptId, None] = {}  # attempts that have a launch slot
        self._took: dict[AttemptId, dict[str, float]] = {}
        self._holder = holder
        self._runs = RunHands(
            engine,
            inits,
            self._secrets_of,
            lives,
            know,
            is_saved,
            clock=clock,
            rng=rng,
            config=config,
        )

    async def do(self, attempt: AttemptId, action: m.Action) -> m.Input | None:
        """Carry out one action (not a Report); None when nothing waits for it."""
        if isinstance(action, m.Create):
            await self._timed(attempt, "queued", self._take_slot(attempt))
        if isinstance(action, m.Inspect | m.Wake | m.Probe) and action.after_s > 0:
            await self._clock.sleep(action.after_s)
        a = self._know(attempt)
        if a is None:
            return None
        try:
            return await self._do(a, action)
        except Unavailable:
            now = self._know(attempt)
            if now is not None and now.state not in CLEANING:
                raise
            return None  # it is being cleared away meanwhile: nobody waits for an answer

    async def _do(self, a: Attempt, action: m.Action) -> m.Input | None:
        match action:
            case m.Wake():
                return m.Due()
            case m.BeginTask() | m.KillTask() | m.ForgetTask() | m.ReadOutput():
                return await self._runs.do(a, action)
            case m.Probe(index):
                return await self._probe(a, index) if a.state is State.RUNNING else None
            case m.Signal(name):
                await self._signal(a, name)
                return None
            case m.Find():
                return await self._found(a)
            case m.Start(again):
                return await self._timed(a.id, "start", self._starting.start(a, again))
            case m.Inspect():
                view = await self._timed(a.id, "inspect", self._look(a))
                return m.Inspected(view)
        work = {
            m.Fetch: self._fetch,
            m.Create: self._create,
            m.Pull: self._pulling.pull,
            m.Attach: self._attach,
            m.Revoke: self._clearing.revoke,
            m.Remove: self._clearing.remove,
            m.Clear: self._clearing.clear,
            m.Detach: self._clearing.detach,
        }[type(action)]
        return await self._timed(a.id, type(action).__name__.lower(), work(a))

    async def _timed(self, attempt: AttemptId, what: str, work: Awaitable[T]) -> T:
        started = self._clock.monotonic()
        known = self._know(attempt)
        traceparent = known.payload.traceparent if known else ""
        with self._telemetry.span(f"executor {what}", traceparent, attempt=attempt):
            result = await work
        took_s = round(self._clock.monotonic() - started, 4)
        self._took.setdefault(attempt, {})[f"{what}_s"] = took_s
        return result

    def times(self, attempt: AttemptId) -> dict[str, float]:
        """Seconds that its actions took, once."""
        return self._took.pop(attempt, {})

    async def _take_slot(self, attempt: AttemptId) -> None:
        """At most `launches` are between create and started: those begun are finished first."""
        if attempt not in self._holding:
            await self._slots.acquire()
            self._holding[attempt] = None

    def moved(self, a: Attempt) -> None:
        """To be told of each change: gives back the slot of one that does not launch (for now), forgets secrets."""
        if a.state is not State.PREPARING and not (a.shared and a.state is State.STARTING):
            self._delivered.pop(a.id, None)
        launching = a.state in LAUNCHING and Op.PULL not in a.busy
        if not launching and a.id in self._holding:
            del self._holding[a.id]
            self._slots.release()

    async def discard(self, ref: Ref) -> None:
        """See Clearing."""
        await self._clearing.discard(ref)

    def _wants(self, attempt: AttemptId, op: Op) -> Wanted:
        def wanted() -> bool:
            a = self._know(attempt)
            if a is None or a.state in CLEANING or op not in a.busy:
                return False
            return a.stop is None or a.state not in LAUNCHING

        return wanted

    async def _fetch(self, a: Attempt) -> m.Input:
        spec, wanted = a.payload.spec, self._wants(a.id, Op.FETCH)
        try:
            delivery = await self._deliver(a, wanted)
            wrong = containers.not_as_asked(spec, delivery)
        except (Refused, Unavailable) as error:
            wrong = str(error)
        if wrong:
            names = ", ".join(dict.fromkeys(ref.name for ref in spec.secrets))
            return m.FetchFailed(f"secrets {names} can't be had: {wrong}")
        if wanted():
            self._delivered[a.id] = delivery
        return m.Fetched()

    async def _secrets_of(self, a: Attempt) -> Delivery:
        """A run's, that starts in a shared container: fetched again when a worker before us had them."""
        if a.id not in self._delivered:
            self._delivered[a.id] = await self._deliver(a, lambda: True)
        return self._delivered[a.id]

    async def _deliver(self, a: Attempt, wanted: Wanted) -> Delivery:
        return await self._patience.persist(
            lambda: self._deliveries.of_attempt(a.pool.sponsor if a.pool else a.id),
            deadline_s=self._config.secrets_deadline_s,
            wanted=wanted,
        )

    async def _login(self, a: Attempt) -> Login | None:
        """See Pulling."""
        if not a.payload.spec.registry_login:
            return None
        if a.pool is not None and not a.pool.sponsor:
            raise Refused("it is not made for a run that could be told it")
        delivery = self._delivered.get(a.id) or await self._deliver(a, self._wants(a.id, Op.PULL))
        login = delivery.login
        return Login(login.user, login.password) if login is not None else None

    async def _create(self, a: Attempt) -> m.Input:
        wanted = self._wants(a.id, Op.CREATE)
        if not wanted():
            return m.CreateFailed("not wanted any more")
        delivery = self._delivered.get(a.id, containers.NOTHING_DELIVERED)
        spec = containers.spec_of(a, self._identity, self._config, delivery)
        try:
            return m.Created(
                await self._patience.persist(
                    lambda: self._engine.create(spec),
                    deadline_s=self._config.engine_deadline_s,
                    wanted=wanted,
                )
            )
        except NameTaken:
            return m.Found(await self._look(a))
        except ImageMissing as error:
            return m.CreateFailed(str(error), image_missing=True)
        except (Refused, Unavailable) as error:
            return m.CreateFailed(f"the container can't be created: {error}")

    async def _found(self, a: Attempt) -> m.Input:
        view = await self._find(a)
        if view is None or view.phase is not Phase.CREATED:
            return m.Found(view)
        ref = Ref(view.name, view.id)
        return m.Found(view, await self._engine_says(a, lambda: self._engine.has_leftover(ref)))

    async def _find(self, a: Attempt) -> View | None:
        """The container to adopt, or the newest of its instance's that runs and that nobody has.

        An executor that adopted, found nothing and began anew may have died before it could tell.
        """
        named = await self._look(a)
        if named is not None and named.phase is Phase.RUNNING:
            return named
        listed = await self._engine_says(a, self._engine.containers)
        running = [each for each in listed if each.phase is Phase.RUNNING]
        mine = [each for each in running if each.labels.get(LABEL_INSTANCE) == a.payload.instance]
        for each in sorted(mine, key=lambda each: each.created_at, reverse=True):
            view = await self._look_at(a, Ref(each.name, each.id))
            if view is None or view.phase is not Phase.RUNNING or self._holder(view.name):
                continue
            if named is not None and generation_of(view) <= generation_of(named):
                continue
            if not containers.foreign(view, a.payload, self._identity, adopt=True):
                return view
        return named

    async def _look(self, a: Attempt) -> View | None:
        """The container, None when there is none."""
        return await self._look_at(a, Ref(a.container, a.container_id))

    async def _look_at(self, a: Attempt, ref: Ref) -> View | None:
        try:
            return await self._engine_says(a, lambda: self._engine.inspect(ref))
        except NotFound:
            return None

    async def _engine_says(self, a: Attempt, call: Callable[[], Awaitable[T]]) -> T:
        """Tried as long as the attempt lives."""

        def lives() -> bool:
            now = self._know(a.id)
            return now is not None and now.state not in CLEANING

        return await self._patience.persist(call, deadline_s=math.inf, wanted=lives)

    async def _attach(self, a: Attempt) -> m.Input:
        wanted = self._wants(a.id, Op.ATTACH)
        spec = containers.attachment_of(a)
        until = self._clock.monotonic() + _ADDRESS_WAIT_S
        failures = 0
        while True:
            try:
                return m.Attached(
                    await self._patience.persist(
                        lambda: self._wire(spec),
                        deadline_s=self._config.network_deadline_s,
                        wanted=wanted,
                    )
                )
            except (TooMany, Conflict) as error:
                failures += 1
                pause_s = BACKOFF.delay_s(failures, self._rng)
                if self._clock.monotonic() + pause_s > until or not wanted():
                    return m.AttachFailed(f"network {spec.network}: {error}")
                await self._clock.sleep(pause_s)
            except (Refused, Unavailable) as error:
                return m.AttachFailed(f"network {spec.network}: {error}")

    async def _wire(self, spec: AttachmentSpec) -> Attachment:
        async with self._attaching:
            return await self._network.attach(spec)

    async def _signal(self, a: Attempt, name: str) -> None:
        """What fails is repeated when it is due again."""

        def wanted() -> bool:
            now = self._know(a.id)
            return now is not None and now.state is State.STOPPING

        try:
            await self._patience.persist(
                lambda: self._engine.signal(Ref(a.container, a.container_id), name),
                deadline_s=self._config.engine_deadline_s,
                wanted=wanted,
            )
        except (Refused, Unavailable) as error:
            self._log.warning("signal failed", attempt=a.id, signal=name, error=str(error))

    async def _probe(self, a: Attempt, index: int) -> m.Input:
        if a.network is None:
            raise ValueError(f"{a.id} has no network")
        target = ProbeTarget(a.container_id, a.network.ip, a.network.namespace)
        return m.Probed(index, await self._prober.probe(target, a.payload.spec.health[index]))
