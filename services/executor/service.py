"""The executor's worker: Mesos' events, the engine's events and results become inputs; core's actions are done.

It holds nothing that can't be found again in the journal and the engine, so it may be killed at any time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from pydantic import ValidationError

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.errors import GantryError, InvalidInput, Unavailable
from libs.common.task import TaskPayload
from libs.common.telemetry import Telemetry
from libs.common.waiting import TaskGroup
from libs.mesos import events as mesos_events
from libs.mesos.messages import TaskInfo, TaskStatus
from services.executor import core, sweep
from services.executor import moves as m
from services.executor.book import Book
from services.executor.config import ExecutorConfig
from services.executor.hands import Hands
from services.executor.janitor import Janitor
from services.executor.mesos import ahead_of, asked_anew, grace_of, payload_of, status_fields
from services.executor.model import (
    CLEANING,
    LABEL_PAYLOAD,
    LABEL_POOL,
    LABEL_RUN,
    Attempt,
    AttemptId,
    ContainerName,
    EngineEvent,
    Identity,
    Phase,
    Ref,
    State,
    Summary,
    TaskState,
)
from services.executor.ports import (
    Deliveries,
    Engine,
    ExecutorDriver,
    Inits,
    Journal,
    Network,
    Prober,
)
from services.executor.reporting import World, end_of, put_off
from services.executor.runs.keeper import Keeper
from services.executor.runs.pool import is_shared
from services.executor.updates import Updates

_BACKOFF = Backoff(0.1, 5.0)
_DRAIN_STEP_S = 0.1
_LOOK_BACK_S = 60.0  # more than the engine's clock and ours may differ; telling twice does no harm


class _Done(Exception):
    """SHUTDOWN has been carried out."""


class ExecutorService:
    """One worker. `run` ends when a SHUTDOWN was carried out; to crash it, cancel it."""

    def __init__(
        self,
        *,
        driver: ExecutorDriver,
        engine: Engine,
        network: Network,
        deliveries: Deliveries,
        prober: Prober,
        inits: Inits,
        journal: Journal,
        janitor: Janitor,
        clock: Clock,
        rng: random.Random,
        telemetry: Telemetry,
        config: ExecutorConfig,
        identity: Identity,
    ) -> None:
        self._driver = driver
        self._engine = engine
        self._clock = clock
        self._rng = rng
        self._log = log = telemetry.log
        self._config = config
        self._identity = identity
        self._book = Book(journal, log)
        self._janitor = janitor
        self._hands = Hands(
            self._book.get,
            engine,
            network,
            deliveries,
            prober,
            inits,
            lives=self._lives,
            clock=clock,
            rng=rng,
            telemetry=telemetry,
            config=config,
            identity=identity,
            janitor=janitor,
        )
        self._keeper = Keeper(self, self._book, inits, clock=clock, rng=rng, log=log, config=config)
        self._group: TaskGroup
        self._tasks: dict[AttemptId, dict[asyncio.Task[None], None]] = {}
        self._updates = Updates(driver, self._book, log, self._tidy)
        self._left: dict[AttemptId, None] = dict.fromkeys(self._book.attempts)  # to be recovered
        self._look = asyncio.Event()  # sweep now
        self._draining = False
        self._discarding: dict[ContainerName, None] = {}

    @property
    def attempts(self) -> dict[AttemptId, Attempt]:
        """What is known now."""
        return self._book.attempts

    async def run(self) -> None:
        """Work until SHUTDOWN. Raises BadCall or AccessDenied when the agent will not have us."""
        try:
            async with TaskGroup() as self._group:
                self._group.create_task(self._watch(), name="engine-events")
                self._group.create_task(self._recover_and_sweep(), name="sweep")
                self._group.create_task(self._keeper.run(), name="keeper")
                self._group.create_task(self._janitor.run(self._book.wanted_images), name="janitor")
                await self._serve()
        except* _Done:
            self._log.info("shut down")

    # -- Mesos -------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Handle the agent's events for ever: `_drain` ends it all."""
        while True:
            book = self._book
            async with self._driver.subscribe(
                book.unacknowledged_tasks, book.unacknowledged_updates
            ) as events:
                async for event in events:
                    self._handle(event)
            # The agent has been away for long: containers go on, and we wait for it all the same.
            await self._clock.sleep(_BACKOFF.max_s)

    def _handle(self, event: mesos_events.ExecutorEvent) -> None:
        match event:
            case mesos_events.Launch(task):
                self._launch(task)
            case mesos_events.LaunchGroup(tasks):
                for task in tasks:
                    self._refuse(task["task_id"]["value"], "task groups are not supported")
            case mesos_events.Kill(task_id, policy):
                self._kill(task_id, grace_of(policy))
            case mesos_events.Acknowledged(task_id, uuid):
                self._book.acknowledged(AttemptId(task_id), uuid)
                self._tidy(AttemptId(task_id))
            case mesos_events.Shutdown(""):
                # The subscription stays, or nobody would hear how the tasks end.
                if not self._draining:
                    self._draining = True
                    self._group.create_task(self._drain(), name="drain")
            case mesos_events.Shutdown(reason) | mesos_events.Disconnected(reason):
                self._log.warning("agent lost", reason=reason)
            case mesos_events.Message(data):
                for attempt in asked_anew(data):
                    if self._book.get(attempt) is not None:
                        self._feed(attempt, m.AskedAnew())
                ahead = ahead_of(data)
                if ahead and not self._janitor.no_room():
                    self._keeper.make_ready(ahead, self._identity.cluster)
            case mesos_events.Error(message):
                raise Unavailable(f"the agent ended the subscription: {message}")
            case mesos_events.ExecutorSubscribed():
                self._log.info("subscribed", attempts=len(self.attempts))
            case _:
                pass

    def _launch(self, task: TaskInfo) -> None:
        task_id = task["task_id"]["value"]
        if self._draining or self._book.get(AttemptId(task_id)) is not None:
            return
        try:
            payload = payload_of(task)
            ended = self._book.end_of(payload.instance) if payload.run and payload.adopt else None
            self._check(payload, ended)
        except InvalidInput as error:
            self._refuse(task_id, str(error))
            return
        if ended is not None:
            self._tell_again(task_id, ended)
            return
        if payload.cleanup:
            self._clean_up(task_id)
            return
        no_room = "" if payload.adopt else self._janitor.no_room()
        if no_room:
            self._put_off(payload, no_room)
            return
        step = core.launch(task_id, payload, self._world())
        self._book.open(step.attempt, task)
        self._log.info("launching", **_facts(step.attempt), adopt=payload.adopt)
        self._apply(step)

    def _check(self, payload: TaskPayload, ended: Attempt | None) -> None:
        """Raises InvalidInput for a task that must not be begun here."""
        if payload.cluster != self._identity.cluster:
            raise InvalidInput.of("data.cluster", "is not this executor's cluster")
        adopt = "" if ended is not None or is_shared(payload) else payload.adopt
        holder = self._book.of_container(ContainerName(adopt)) if adopt else None
        if holder is not None:
            raise InvalidInput.of("data.adopt", f"is the container of task {holder}")

    def _refuse(self, task_id: str, why: str) -> None:
        self._log.error("task refused", attempt=task_id, reason=why)
        fields = {"message": why, "reason": "REASON_TASK_INVALID"}
        self._send(AttemptId(task_id), self._driver.make_status(task_id, "TASK_ERROR", fields))

    def _clean_up(self, task_id: str) -> None:
        """We are here, which was the task: what is left of others waits for `orphan_grace_s`, and goes."""
        self._look.set()
        fields = {"message": "the executor looks after what is left on its host"}
        status = self._driver.make_status(task_id, TaskState.FINISHED.value, fields)
        self._send(AttemptId(task_id), status)

    def _tell_again(self, task_id: str, ended: Attempt) -> None:
        """The run that it is to take over is over, and the scheduler has not heard how: it is not to run again."""
        told = end_of(ended)
        self._log.info("told again", attempt=task_id, ended=ended.id, outcome=told.state.value)
        self._answer(task_id, told)

    def _put_off(self, payload: TaskPayload, why: str) -> None:
        """Nothing is wrong with the task; another host may have room for it."""
        self._log.warning("no room for a task", attempt=payload.attempt, reason=why)
        self._answer(payload.attempt, put_off(self._identity, why))

    def _answer(self, task_id: str, told: m.Report) -> None:
        """To a task of which nothing is begun."""
        status = self._driver.make_status(task_id, told.state.value, status_fields(told))
        self._send(AttemptId(task_id), status)

    def _kill(self, task_id: str, grace_s: float | None) -> None:
        attempt = AttemptId(task_id)
        if self._book.get(attempt) is None:
            fields = {"message": "the executor does not know this task"}
            status = self._driver.make_status(task_id, TaskState.LOST.value, fields)
            self._send(attempt, status)
            return
        self._feed(attempt, m.StopAsked(grace_s, "stopped"))

    def _send(self, attempt: AttemptId, status: TaskStatus) -> None:
        self._updates.send(attempt, status, self._group)

    async def _drain(self) -> None:
        """Stop everything within the agent's patience; when that is done and told, end the worker."""
        self._log.info("shutting down", attempts=len(self.attempts))
        patience_s = max(0.0, self._driver.shutdown_grace_s - self._config.shutdown_margin_s)
        self._keeper.draining = True
        for attempt in self.attempts.values():
            if attempt.pool is not None:
                continue  # it goes when it is empty
            grace_s = min(attempt.payload.spec.stop_grace_s, patience_s)
            self._feed(attempt.id, m.StopAsked(grace_s, "the executor was shut down"))
        deadline = self._clock.monotonic() + patience_s + self._config.engine_deadline_s
        while any(each.state is not State.DONE for each in self.attempts.values()) or self._updates:
            if self._clock.monotonic() > deadline:
                self._log.error("containers are left", attempts=len(self.attempts))
                break
            await self._clock.sleep(_DRAIN_STEP_S)
        raise _Done

    # -- the engine --------------------------------------------------------------------------

    async def _watch(self) -> None:
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
            self._feed(attempt, event)

    async def _recover_and_sweep(self) -> None:
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
            before = sweep.watched(self.attempts.values())
            listed = await self._list()
            world = self._world()
            found = sweep.compare(before, self.attempts, listed, strays, world, waiting)
            strays = found.strays
            for attempt in found.suspects:
                self._feed(attempt, m.Suspect())
            for each in found.discards:
                self._discard(each)
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
        known = {each.container for each in self.attempts.values()}
        for attempt in list(self._left):
            current = self._book.get(attempt)
            if current is not None and attempt in self._left:
                self._apply(core.recover(current, by_name.get(current.container), self._world()))
        self._left.clear()
        for each in listed:
            # A shared container is nobody's task: it is taken up whoever made it.
            ours = (
                LABEL_POOL in each.labels or each.labels.get(LABEL_RUN) == self._identity.run != ""
            )
            if ours and each.name not in known and each.phase is Phase.RUNNING:
                self._rebuild(each)
        self._keeper.recovered()

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
        step = core.rebuild(payload, seen)
        self._book.open(step.attempt, None)
        self._apply(step)

    # -- the machine -------------------------------------------------------------------------

    def _world(self) -> World:
        return World(self._config, self._identity, self._clock.now())

    # What the keeper of shared containers needs.

    def world(self) -> World:
        """See Machine."""
        return self._world()

    def feed(self, attempt: AttemptId, move: m.Input) -> None:
        """See Machine."""
        self._feed(attempt, move)

    def enter(self, step: m.Step) -> None:
        """See Machine."""
        self._book.open(step.attempt, None)
        self._apply(step)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Callable[[], object]:
        """See Machine."""
        return self._group.create_task(work, name=name).cancel

    def _lives(self, container: ContainerName) -> bool:
        owner = self._book.of_container(container)
        found = self._book.get(owner) if owner is not None else None
        return found is not None and found.state not in CLEANING

    def _feed(self, attempt: AttemptId, move: m.Input) -> None:
        current = self._book.get(attempt)
        if current is not None:
            self._apply(core.advance(current, move, self._world()))

    def _apply(self, step: m.Step) -> None:
        """Save first, then act."""
        attempt = step.attempt
        before = self._book.get(attempt.id)
        statuses = [  # to Mesos a shared container is nothing
            self._driver.make_status(attempt.id, action.state.value, status_fields(action))
            for action in step.actions
            if isinstance(action, m.Report) and attempt.pool is None
        ]
        self._book.save(attempt, statuses)
        if before is not None and before.state is not attempt.state:
            self._left.pop(attempt.id, None)
            self._note(attempt)
        self._hands.moved(attempt)
        for status in statuses:
            self._send(attempt.id, status)
        for action in step.actions:
            if isinstance(action, m.Discard):
                self._discard(action)
            elif not isinstance(action, m.Report):
                self._spawn(attempt.id, self._perform(attempt.id, action))
        if attempt.shared or attempt.pool is not None:
            self._keeper.moved(before, attempt)
        self._tidy(attempt.id)

    def _note(self, attempt: Attempt) -> None:
        over = State.REMOVING if attempt.shared else State.REVOKING
        if attempt.state is State.RUNNING:
            total_s = round(self._clock.now() - attempt.launched_at, 4)
            times = self._hands.times(attempt.id)
            self._log.info("running", **_facts(attempt), **times, total_s=total_s)
        elif attempt.state in (over, State.DONE) and attempt.outcome is not None:
            self._log.info(
                "ended" if attempt.state is over else "cleared away",
                **_facts(attempt),
                outcome=attempt.outcome.state.value,
                message=attempt.outcome.message,
            )

    def _tidy(self, attempt: AttemptId) -> None:
        """Forget an attempt of which nothing is left and that Mesos knows to be over."""
        if self._book.get(attempt) is None or not self._book.finished(attempt):
            return
        if attempt in self._updates:
            return
        self._book.drop(attempt)
        self._hands.times(attempt)
        current = asyncio.current_task()
        for task in self._tasks.pop(attempt, {}):
            if task is not current:
                task.cancel()

    def _spawn(self, attempt: AttemptId, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work, name=f"attempt:{attempt}")
        tasks = self._tasks.setdefault(attempt, {})
        tasks[task] = None
        task.add_done_callback(lambda done: tasks.pop(done, None))

    async def _perform(self, attempt: AttemptId, action: m.Action) -> None:
        """Do one action and feed back what came of it."""
        try:
            result = await self._hands.do(attempt, action)
            if result is not None:
                self._feed(attempt, result)
        except Exception as error:
            # One attempt that meets a bug must not end the worker of all the others, again and again.
            self._log.error("attempt broken", attempt=attempt, exc_info=error)
            self._feed(attempt, m.Broken(f"an error in the executor: {error!r}"))

    def _discard(self, what: m.Discard) -> None:
        if what.container in self._discarding:
            return
        self._discarding[what.container] = None
        self._log.warning("clearing away", container=what.container)
        self._group.create_task(self._discard_one(what), name=f"discard:{what.container}")

    async def _discard_one(self, what: m.Discard) -> None:
        try:
            await self._hands.discard(Ref(what.container, what.container_id))
        finally:
            del self._discarding[what.container]


def _facts(attempt: Attempt) -> dict[str, str]:
    """What log lines about an attempt say."""
    trace = attempt.payload.traceparent.split("-")
    return {
        "attempt": attempt.id,
        "container": attempt.container,
        "address": attempt.network.ip if attempt.network else "",
        **({"trace_id": trace[1]} if len(trace) == 4 else {}),
    }
